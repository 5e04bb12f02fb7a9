//! A service account of the mesh, and how a workload of it comes to certificates.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_control::server::rendezvous::{Rendezvous, Service};
use mesh_identity::ca_client::CertificateRequest;
use mesh_identity::{CaClient, Credentials, Key, Proof, Token, Trust};
use mesh_model::{SpiffeId, TrustDomain};
use serde_json::json;

/// An account and where its mesh is.
#[derive(Clone)]
pub(crate) struct Account {
    /// Who its workloads are.
    pub(crate) identity: SpiffeId,
    /// How they show it at first.
    pub(crate) by_token: Proof,
    /// The replicas of the CA.
    pub(crate) cas: Vec<SocketAddr>,
}

impl Account {
    /// Makes account `web` of namespace `default`, and a join token of it.
    pub(crate) async fn create(admin: &Client) -> Self {
        let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
        let account = serde_json::from_value(json!({ "metadata": { "name": "web" } })).unwrap();
        let params = PostParams::default();
        accounts.create(&params, &account).await.unwrap();
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec!["mesh-ca".to_owned()]),
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer: TokenRequest = accounts
            .create_subresource("token", "web", &params, &request)
            .await
            .unwrap();
        let mesh = Rendezvous::read(admin).await.unwrap();
        Self {
            identity: "spiffe://cluster.local/ns/default/sa/web".parse().unwrap(),
            by_token: Proof::Token {
                token: Token::new(&answer.status.unwrap().token.unwrap()),
                trust: Trust::Pinned(mesh.roots.fingerprints()),
            },
            cas: mesh.addresses(Service::Ca).unwrap(),
        }
    }

    /// Asks the CA for a certificate of a key, and checks it, as an agent does.
    pub(crate) async fn ask(&self, proof: Proof, key: &Key) -> Credentials {
        let request = CertificateRequest {
            addresses: self.cas.clone(),
            proof,
            identity: self.identity.clone(),
            ttl: Duration::from_secs(3600),
        };
        CaClient::new(TrustDomain::default())
            .request_certificate(&request, key, SystemTime::now())
            .await
            .unwrap()
    }
}
