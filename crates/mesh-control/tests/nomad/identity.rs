//! The CA and the identities that a real Nomad signs.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use mesh_control::server::rendezvous::{Rendezvous, Service};
use mesh_identity::ca_client::CertificateRequest;
use mesh_identity::{
    CaClient, CredentialStore, Credentials, Key, Proof, RequestError, Token, Trust,
};
use mesh_model::TrustDomain;
use mesh_nomad::client::Stop;
use mesh_nomad::files::{Brought, VariableFiles};
use mesh_nomad::model::Job;
use mesh_nomad::model::variable::Variable;
use serde_json::json;
use tonic::Code;

use super::lab::{Lab, until, with_agent};
use super::server::{Server, kubeconfig};

/// A job whose task `mesh-proxy` has what injection gives it, beside another with the same token.
fn meshed(id: &str, account: Option<&str>) -> Job {
    let identity = |name: &str, audience: &str| json!({ "Name": name, "Audience": [audience], "File": true, "TTL": 3_600_000_000_000_u64 });
    let task = |name: &str, role: Option<&str>| {
        json!({
            "Name": name, "Driver": "raw_exec", "KillTimeout": 100_000_000,
            "Config": { "command": "/bin/sleep", "args": ["100000"] },
            "Meta": role.map(|role| json!({ "mesh.role": role })),
            "Identities": [identity("mesh", "mesh-ca"), identity("other", "somebody")],
            "Resources": { "CPU": 20, "MemoryMB": 16 },
            "LogConfig": { "MaxFiles": 1, "MaxFileSizeMB": 1 },
        })
    };
    serde_json::from_value(json!({
        "ID": id, "Name": id, "Type": "service", "Datacenters": ["*"],
        "Meta": account.map(|account| json!({ "mesh.service_account": account })),
        "TaskGroups": [{
            "Name": "app", "Count": 1, "EphemeralDisk": { "SizeMB": 20 },
            "Tasks": [task("mesh-proxy", Some("proxy")), task("main", None)],
        }],
    }))
    .unwrap()
}

/// The file of a token, as the agent that made it sees it.
fn token(lab: &Lab, allocation: &str, task: &str, name: &str) -> Token {
    let inside = lab.inside().unwrap();
    let path = lab.task_directory(allocation, task);
    let path = path.join(format!("secrets/nomad_{name}.jwt"));
    let path = PathBuf::from(format!("/proc/{inside}/root{}", path.display()));
    Token::new(&std::fs::read_to_string(path).unwrap())
}

/// A workload's way to the CA.
struct Caller {
    found: Rendezvous,
}

impl Caller {
    async fn new(client: &Client) -> Self {
        Self {
            found: Rendezvous::read(client).await.unwrap(),
        }
    }

    async fn ask(&self, proof: Proof, identity: &str) -> Result<Credentials, RequestError> {
        let request = CertificateRequest {
            addresses: self.found.addresses(Service::Ca).unwrap(),
            proof,
            identity: identity.parse().unwrap(),
            ttl: Duration::ZERO,
        };
        let key = Key::generate().unwrap();
        CaClient::new(TrustDomain::default())
            .request_certificate(&request, &key, SystemTime::now())
            .await
    }

    async fn join(&self, token: Token, identity: &str) -> Result<Credentials, RequestError> {
        let trust = Trust::Pinned(self.found.roots.fingerprints());
        self.ask(Proof::Token { token, trust }, identity).await
    }

    async fn renew(&self, with: &Credentials) -> Result<Credentials, RequestError> {
        let identity = with.identity().to_string();
        let store = CredentialStore::new(with.clone());
        self.ask(Proof::Current(store), &identity).await
    }
}

#[track_caller]
fn refused(result: Result<Credentials, RequestError>, with: Code) -> String {
    match result {
        Err(RequestError::Refused { code, message, .. }) if code == with => message,
        other => panic!("expected {with:?}, found {other:?}"),
    }
}

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
const ADMIN: &str = "spiffe://cluster.local/ns/default/sa/admin";

#[test]
fn the_ca_knows_the_proxies_of_nomad_and_nobody_else() {
    with_agent(false, |mut lab| async move {
        let home = tempfile::tempdir().unwrap();
        let server = Server::start(home.path(), "api,ca", |config| {
            config.nomad = Some(lab.client.clone());
        });
        server.ready("ca").await;
        let client = kubeconfig(home.path(), "kubeconfig").await;
        let caller = Caller::new(&client).await;
        let web = lab.run(&meshed("web", None)).await.remove(0);
        let web = web.id.text();

        let joined = caller
            .join(token(&lab, web, "mesh-proxy", "mesh"), WEB)
            .await;
        let joined = joined.unwrap();
        assert_eq!(joined.identity().to_string(), WEB);
        let subject = format!("nomad:{web}");
        assert_eq!(joined.leaf().common_name(), Some(subject.as_str()));
        let renewed = caller.renew(&joined).await.unwrap();
        assert_ne!(renewed.serial(), joined.serial());
        assert_eq!(renewed.leaf().common_name(), Some(subject.as_str()));

        // Another task of the same group, another audience, a token that somebody made.
        for other in [
            token(&lab, web, "main", "mesh"),
            token(&lab, web, "mesh-proxy", "other"),
            forged(&token(&lab, web, "mesh-proxy", "mesh")),
        ] {
            refused(caller.join(other, WEB).await, Code::Unauthenticated);
        }

        accounts_that_a_job_asks_for(&lab, &caller, &client).await;

        // The control plane goes: what a certificate says goes on.
        server.stop().await;
        let server = Server::start(home.path(), "api,ca", |config| {
            config.nomad = Some(lab.client.clone());
        });
        server.ready("ca").await;
        assert!(caller.renew(&renewed).await.is_ok());

        // An allocation that ended is nobody any more, whatever it shows.
        let stale = token(&lab, web, "mesh-proxy", "mesh");
        let shop = lab.run(&meshed("shop", None)).await.remove(0);
        let shop = token(&lab, shop.id.text(), "mesh-proxy", "mesh");
        let stopped = lab.client.stop_job("default", "web", Stop::default());
        stopped.await.unwrap();
        until("the allocation is not live", || async {
            let found = lab.client.allocation(web).await.ok()?.value;
            (!found.is_live()).then_some(())
        })
        .await;
        refused(caller.join(stale, WEB).await, Code::Unauthenticated);
        refused(caller.renew(&renewed).await, Code::Unauthenticated);

        // Without Nomad nobody new comes, and who is there goes on.
        let shop_identity = "spiffe://cluster.local/ns/default/sa/shop";
        let joined = caller.join(shop.clone(), shop_identity).await.unwrap();
        lab.kill();
        let error = caller.join(shop, shop_identity).await.unwrap_err();
        assert!(matches!(error, RequestError::Unreachable { .. }), "{error}");
        let renewed = caller.renew(&joined).await.unwrap();
        let life = renewed.not_after().duration_since(SystemTime::now());
        let life = life.unwrap();
        assert!(life <= Duration::from_secs(3600), "{life:?}");
        server.stop().await;
    });
}

/// The same claims under a signature of nobody's.
fn forged(token: &Token) -> Token {
    let (content, _) = token.reveal().rsplit_once('.').unwrap();
    Token::new(&format!("{content}.{}", "A".repeat(342)))
}

async fn accounts_that_a_job_asks_for(lab: &Lab, caller: &Caller, client: &Client) {
    let asking = lab.run(&meshed("asking", Some("admin"))).await.remove(0);
    let show = || token(lab, asking.id.text(), "mesh-proxy", "mesh");
    let said = refused(caller.join(show(), ADMIN).await, Code::PermissionDenied);
    assert!(
        said.contains("bind user `nomad:job:default:asking`") && said.contains("verb `use`"),
        "{said}"
    );

    let roles: Api<Role> = Api::namespaced(client.clone(), "default");
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), "default");
    let role = json!({
        "metadata": { "name": "as-admin" },
        "rules": [{
            "apiGroups": [""], "resources": ["serviceaccounts"],
            "resourceNames": ["admin"], "verbs": ["use"],
        }],
    });
    let binding = json!({
        "metadata": { "name": "as-admin" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "as-admin" },
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io", "kind": "User",
            "name": "nomad:job:default:asking",
        }],
    });
    let params = PostParams::default();
    let role = serde_json::from_value(role).unwrap();
    roles.create(&params, &role).await.unwrap();
    let binding = serde_json::from_value(binding).unwrap();
    bindings.create(&params, &binding).await.unwrap();
    let joined = until("the binding counts", || async {
        caller.join(show(), ADMIN).await.ok()
    })
    .await;
    assert!(caller.renew(&joined).await.is_ok());

    let params = DeleteParams::default();
    bindings.delete("as-admin", &params).await.unwrap();
    until(
        "the binding counts no more, nor does the certificate",
        || async { caller.renew(&joined).await.is_err().then_some(()) },
    )
    .await;
    refused(caller.renew(&joined).await, Code::PermissionDenied);
    refused(caller.join(show(), ADMIN).await, Code::PermissionDenied);
}

#[test]
fn files_come_from_a_variable_and_outlive_nomad() {
    with_agent(false, |mut lab| async move {
        let home = tempfile::tempdir().unwrap();
        let items = [("pki~api-ca.key", "key"), ("ca.kubeconfig", "{}")];
        let items = items.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let variable = Variable::new("nomad/jobs/mesh-ca", items);
        let written = lab.client.write_variable("default", &variable, None).await;
        written.unwrap();
        let files =
            |path: &str| VariableFiles::new(lab.client.clone(), "default", path, home.path());
        let missing = files("nomad/jobs/none").bring().await.unwrap_err();
        assert!(
            missing.hint().is_some() && !missing.is_transient(),
            "{missing}"
        );
        let there = files("nomad/jobs/mesh-ca");
        let brought = there.bring().await.unwrap();
        assert!(
            matches!(brought, Brought::Written { files: 2, .. }),
            "{brought:?}"
        );
        let key = home.path().join("pki/api-ca.key");
        assert_eq!(std::fs::read_to_string(&key).unwrap(), "key");

        lab.kill();
        let brought = there.bring().await.unwrap();
        assert!(
            matches!(brought, Brought::Kept { files: 2, .. }),
            "{brought:?}"
        );
        assert_eq!(std::fs::read_to_string(&key).unwrap(), "key");
    });
}
