//! What a workload needs to join: where the control plane is, whom to trust at first, and a token.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use kube::Client;
use mesh_identity::TrustBundle;
use mesh_model::{Namespace, ServiceAccount, TrustDomain};
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::Failure;

/// The audience of join tokens.
const AUDIENCE: &str = "mesh-ca";

/// Where the control plane is and whom to trust at first, as it publishes it itself.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Facts {
    /// The trust domain of the mesh.
    pub(crate) trust_domain: TrustDomain,
    /// SHA-256 of each root's DER, in hex.
    pub(crate) root_hashes: Vec<String>,
    /// Replicas of the CA.
    pub(crate) cas: Vec<SocketAddr>,
    /// Replicas of Pilot.
    pub(crate) pilots: Vec<SocketAddr>,
    /// The roots themselves.
    #[serde(skip)]
    pub(crate) roots: TrustBundle,
}

/// Reads the ConfigMap `mesh` of `mesh-system`.
pub(crate) async fn facts(client: &Client) -> Result<Facts, Failure> {
    let request = Request::get("/api/v1/namespaces/mesh-system/configmaps/mesh")
        .body(Vec::new())
        .map_err(|error| Failure::of(&error))?;
    let map: Value = client.request(request).await.map_err(|error| {
        Failure::doing("asking the API server where the control plane is", &error)
            .with_hint("is the CA running? it publishes the ConfigMap `mesh` in `mesh-system`")
    })?;
    parse(map.get("data").unwrap_or(&Value::Null))
}

fn parse(data: &Value) -> Result<Facts, Failure> {
    let text = |key: &str| {
        data.get(key).and_then(Value::as_str).ok_or_else(|| {
            Failure::new(format!("ConfigMap `mesh` has no `{key}` yet"))
                .with_hint("CA and Pilot write it when they start; see `mesh status`")
        })
    };
    let wrong = |key: &str, error: &dyn std::error::Error| {
        Failure::doing(format!("ConfigMap `mesh`, `{key}`"), error)
    };
    let addresses = |key: &str| {
        text(key)?
            .split(',')
            .map(|part| part.trim().parse().map_err(|error| wrong(key, &error)))
            .collect::<Result<Vec<SocketAddr>, _>>()
    };
    let roots =
        TrustBundle::from_pem(text("roots.pem")?).map_err(|error| wrong("roots.pem", &error))?;
    Ok(Facts {
        trust_domain: text("trustDomain")?
            .parse()
            .map_err(|e| wrong("trustDomain", &e))?,
        root_hashes: roots
            .fingerprints()
            .iter()
            .map(ToString::to_string)
            .collect(),
        cas: addresses("ca.addresses")?,
        pilots: addresses("pilot.addresses")?,
        roots,
    })
}

/// Asks the API server for a join token of an account (TokenRequest).
pub(crate) async fn token(
    client: &Client,
    namespace: &Namespace,
    account: &ServiceAccount,
    ttl: Duration,
) -> Result<String, Failure> {
    let asked = ask_token(client, namespace, account, ttl).await;
    asked.map_err(|error| Failure::doing(doing(namespace, account), &error))?
}

/// The same, and nothing where the API server does not know the account.
pub(crate) async fn token_if_known(
    client: &Client,
    namespace: &Namespace,
    account: &ServiceAccount,
    ttl: Duration,
) -> Result<Option<String>, Failure> {
    match ask_token(client, namespace, account, ttl).await {
        Ok(token) => token.map(Some),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(Failure::doing(doing(namespace, account), &error)),
    }
}

fn doing(namespace: &Namespace, account: &ServiceAccount) -> String {
    format!("asking for a join token of account {account} in namespace {namespace}")
}

async fn ask_token(
    client: &Client,
    namespace: &Namespace,
    account: &ServiceAccount,
    ttl: Duration,
) -> Result<Result<String, Failure>, kube::Error> {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": [AUDIENCE], "expirationSeconds": ttl.as_secs() },
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    let answer: Value = client.request(request).await?;
    let token = answer.pointer("/status/token").and_then(Value::as_str);
    let missing = || {
        let doing = doing(namespace, account);
        Failure::new(format!("{doing}: the answer holds no token"))
    };
    Ok(token.map(str::to_owned).ok_or_else(missing))
}

/// Makes the namespace and the account where they are missing; true if something was made.
pub(crate) async fn ensure_account(
    client: &Client,
    namespace: &Namespace,
    account: &ServiceAccount,
) -> Result<bool, Failure> {
    let namespaces = (
        "/api/v1/namespaces".to_owned(),
        "Namespace",
        namespace.as_str(),
    );
    let accounts = (
        format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
        "ServiceAccount",
        account.as_str(),
    );
    let mut made = false;
    for (path, kind, name) in [namespaces, accounts] {
        let body = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } });
        made |= ensure(client, path, &body).await?;
    }
    Ok(made)
}

/// Lets the account of a gateway, and Pilot for it, read the Secrets of its namespace, and makes
/// what is missing for that; a Role of the same name that is there stays, however narrow. True if
/// something was made.
pub(crate) async fn ensure_gateway(
    client: &Client,
    namespace: &Namespace,
    account: &ServiceAccount,
) -> Result<bool, Failure> {
    let mut made = ensure_account(client, namespace, account).await?;
    let group = "rbac.authorization.k8s.io";
    let api = format!("/apis/{group}/v1/namespaces/{namespace}");
    let name = format!("mesh-gateway-{account}");
    let role = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "Role",
        "metadata": { "name": name },
        "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"] }],
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "RoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": group, "kind": "Role", "name": name },
        "subjects": [
            { "kind": "ServiceAccount", "name": account, "namespace": namespace },
            { "apiGroup": group, "kind": "User", "name": "mesh:pilot" },
        ],
    });
    for (plural, body) in [("roles", role), ("rolebindings", binding)] {
        made |= ensure(client, format!("{api}/{plural}"), &body).await?;
    }
    Ok(made)
}

/// Makes an object unless there is one of its name; true if it was made.
async fn ensure(client: &Client, path: String, body: &Value) -> Result<bool, Failure> {
    let text = |pointer| {
        let found = body.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_default()
    };
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .map_err(|error| Failure::of(&error))?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
        Err(error) => {
            let doing = format!("making {} {}", text("/kind"), text("/metadata/name"));
            Err(Failure::doing(doing, &error))
        }
    }
}
