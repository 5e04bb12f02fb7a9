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
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": [AUDIENCE], "expirationSeconds": ttl.as_secs() },
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .map_err(|error| Failure::of(&error))?;
    let doing = format!("asking for a join token of account {account} in namespace {namespace}");
    let answer: Value = client
        .request(request)
        .await
        .map_err(|error| Failure::doing(&doing, &error))?;
    answer
        .pointer("/status/token")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| Failure::new(format!("{doing}: the answer holds no token")))
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
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|error| Failure::of(&error))?;
        match client.request::<Value>(request).await {
            Ok(_) => made = true,
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(Failure::doing(format!("making {kind} {name}"), &error)),
        }
    }
    Ok(made)
}
