//! The whole control plane in this process, on loopback, with the real API server and its RBAC.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use mesh_identity::ca_client::CertificateRequest;
use mesh_identity::{
    CaClient, ClientTls, CredentialStore, Credentials, Key, Proof, RequestError, Token, Trust,
};
use mesh_proto::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use mesh_proto::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use mesh_proto::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::Code;

use super::access::Access;
use super::rendezvous::{Rendezvous, Service};
use super::*;
use crate::mixer::sample::tests::{DETAILS, request};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A control plane of some roles, and the task that runs it.
struct Plane {
    listen: Listen,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), ServerError>>,
}

impl Plane {
    fn start(home: &TempDir, listen: Listen, roles: &str) -> Self {
        let short = Duration::from_secs(3600);
        let config = ServerConfig {
            roles: roles.parse().unwrap(),
            home: home.path().to_owned(),
            listen: listen.clone(),
            advertise: Vec::new(),
            api_names: Vec::new(),
            store: StoreConfig::file(home.path().join("store.redb")),
            kubeconfig: None,
            trust_domain: None,
            lifetimes: Lifetimes::new(short, Duration::from_secs(30), short).unwrap(),
            nomad: None,
            api_service: None,
        };
        let shutdown = CancellationToken::new();
        Self {
            listen,
            running: tokio::spawn(run(config, shutdown.clone())),
            shutdown,
        }
    }

    /// Asks `/ready` until it says yes; ends with the process if that comes first.
    async fn ready(&mut self) -> Value {
        loop {
            if self.running.is_finished() {
                let ended = (&mut self.running).await.unwrap();
                panic!("the control plane ended: {ended:?}");
            }
            if let Some((200, body)) = get(self.listen.metrics, "/ready").await {
                return serde_json::from_str(&body).unwrap();
            }
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) -> Result<(), ServerError> {
        self.shutdown.cancel();
        self.running.await.unwrap()
    }
}

/// The usual ports at a loopback address that no other test has: free ports of one address would
/// be taken by outgoing connections sooner or later.
fn place() -> Listen {
    static PLACES: AtomicU16 = AtomicU16::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let [_, place] = PLACES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Listen::at(Ipv4Addr::new(127, high | 0x80, low, place).into())
}

/// Status and body of a plain HTTP answer, if there is one.
async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: mesh\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}

/// Waits until the store's file is let go: its writer ends on a thread of its own, which only
/// matters to who goes on within the same process.
async fn closed(home: &TempDir) {
    while redb::Database::open(home.path().join("store.redb")).is_err() {
        tokio::task::yield_now().await;
    }
}

async fn admin(home: &TempDir) -> Access {
    Access::open(&home.path().join("kubeconfig"), None)
        .await
        .unwrap()
}

fn named<T>(name: &str) -> T
where
    T: serde::de::DeserializeOwned,
{
    serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
}

/// A join token of `shop/web`, as `mesh token create` gets it.
async fn token_of_web(admin: &Access) -> Token {
    let namespaces: Api<Namespace> = Api::all(admin.client.clone());
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.client.clone(), "shop");
    let params = PostParams::default();
    namespaces.create(&params, &named("shop")).await.unwrap();
    accounts.create(&params, &named("web")).await.unwrap();
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(vec!["mesh-ca".to_owned()]),
            expiration_seconds: Some(600),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer: TokenRequest = accounts
        .create_subresource("token", "web", &params, &request)
        .await
        .unwrap();
    Token::new(&answer.status.unwrap().token.unwrap())
}

async fn ask(proof: Proof, cas: &[SocketAddr]) -> Result<Credentials, RequestError> {
    let request = CertificateRequest {
        addresses: cas.to_vec(),
        proof,
        identity: WEB.parse().unwrap(),
        ttl: Duration::from_secs(600),
    };
    let key = Key::generate().unwrap();
    CaClient::new(TrustDomain::default())
        .request_certificate(&request, &key, SystemTime::now())
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_roles_in_one_process_serve_a_workload() {
    let home = tempfile::tempdir().unwrap();
    let mut plane = Plane::start(&home, place(), "api,ca,pilot,mixer");
    let report = plane.ready().await;
    let roles = json!({"api": "ready", "ca": "ready", "pilot": "ready", "mixer": "ready"});
    assert_eq!(report["roles"], roles);

    let admin = admin(&home).await;
    let found = Rendezvous::read(&admin.client).await.unwrap();
    let cas = found.addresses(Service::Ca).unwrap();
    assert_eq!(cas, found.addresses(Service::Pilot).unwrap());
    let pins = Trust::Pinned(found.roots.fingerprints());
    let token = token_of_web(&admin).await;

    // Joins by token, renews by certificate.
    let by_token = Proof::Token { token, trust: pins };
    let joined = ask(by_token.clone(), &cas).await.unwrap();
    assert_eq!(joined.bundle(), &found.roots);
    let store = CredentialStore::new(joined);
    let renewed = ask(Proof::Current(store.clone()), &cas).await.unwrap();
    store.publish(renewed);

    // Pilot is another identity behind the same port, the Mixer one behind its own.
    let id = |role: Role| role.identity(&TrustDomain::default());
    let tls = ClientTls::mutual(store.clone(), id(Role::Pilot));
    tls.connect(cas[0]).await.unwrap();
    let mixer = found.addresses(Service::Mixer).unwrap()[0];
    let tls = ClientTls::mutual(store.clone(), id(Role::Mixer));
    let channel = mesh_identity::transport::channel(mixer, tls);
    let tags = [("peer", DETAILS), ("service", "details.shop.mesh")];
    let message = StreamAccessLogsMessage {
        identifier: Some(Identifier {
            log_name: "outbound".to_owned(),
            node: None,
        }),
        log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries {
            log_entry: vec![request(&tags, 200)],
        })),
    };
    AccessLogServiceClient::new(channel)
        .stream_access_logs(tokio_stream::iter([message]))
        .await
        .unwrap();
    let (_, metrics) = get(plane.listen.metrics, "/metrics").await.unwrap();
    let counted = metrics
        .lines()
        .find(|line| line.starts_with("istio_requests_total"))
        .unwrap();
    assert!(
        counted.contains(&format!("source_principal=\"{WEB}\"")),
        "{counted}"
    );

    // Without the account neither token nor certificate is worth anything.
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.client.clone(), "shop");
    accounts
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    for (proof, expected) in [
        (by_token, Code::Unauthenticated),
        (Proof::Current(store), Code::PermissionDenied),
    ] {
        match ask(proof, &cas).await.unwrap_err() {
            RequestError::Refused { code, .. } => assert_eq!(code, expected),
            error => panic!("expected a refusal, found {error}"),
        }
    }
    plane.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_apart_wait_for_each_other_and_come_back() {
    let home = tempfile::tempdir().unwrap();
    let listen = place();
    // Processes of one machine cannot share the port of metrics.
    let beside = |metrics| Listen {
        metrics,
        ..listen.clone()
    };
    let mut api = Plane::start(&home, beside(place().metrics), "api");
    api.ready().await;

    // The Mixer starts before the CA; it waits.
    let mut mixer = Plane::start(&home, beside(place().metrics), "mixer");
    let mut ca = Plane::start(&home, beside(place().metrics), "ca");
    ca.ready().await;
    mixer.ready().await;
    let admin = admin(&home).await;
    let before = Rendezvous::read(&admin.client).await.unwrap();

    // Both come back as the same, with the API gone while they start.
    ca.stop().await.unwrap();
    mixer.stop().await.unwrap();
    api.stop().await.unwrap();
    closed(&home).await;
    let mut ca = Plane::start(&home, beside(place().metrics), "ca");
    let mut api = Plane::start(&home, beside(place().metrics), "api");
    api.ready().await;
    ca.ready().await;
    let after = Rendezvous::read(&admin.client).await.unwrap();
    assert_eq!(before.roots, after.roots);
    ca.stop().await.unwrap();
    api.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_ca_may_read_the_root() {
    let home = tempfile::tempdir().unwrap();
    let mut plane = Plane::start(&home, place(), "api,ca");
    plane.ready().await;
    for (role, may) in [("ca", true), ("pilot", false), ("mixer", false)] {
        let path = home.path().join(format!("{role}.kubeconfig"));
        let access = Access::open(&path, None).await.unwrap();
        let secrets: Api<Secret> = Api::namespaced(access.client, "mesh-system");
        assert_eq!(secrets.get("mesh-ca").await.is_ok(), may, "{role}");
    }
    plane.stop().await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let home = tempfile::tempdir().unwrap();
    let listen = place();
    let _taken = TcpListener::bind(listen.metrics).unwrap();
    let plane = Plane::start(&home, listen.clone(), "mixer");
    let error = plane.running.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {} for metrics and readiness",
            listen.metrics
        )
    );
    assert!(error.hint().unwrap().contains("--listen"));
}

#[tokio::test]
async fn a_role_without_kubeconfig_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let plane = Plane::start(&home, place(), "ca");
    let error = plane.running.await.unwrap().unwrap_err();
    assert!(matches!(error, ServerError::Kubeconfig { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--kubeconfig"));
}
