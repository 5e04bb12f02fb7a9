//! The CA end to end over loopback: real TLS, real gRPC, an API that answers as a test says.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use kube::Client;
use kube::client::Body;
use mesh_identity::ca_client::CertificateRequest;
use mesh_identity::tls::Clients;
use mesh_identity::transport::{HandshakeLimits, TlsIncoming, channel};
use mesh_identity::{
    CaClient, ClientTls, CredentialStore, Credentials, Key, Proof, RequestError, ServerTls, Token,
    Trust,
};
use mesh_model::{SpiffeId, TrustDomain};
use mesh_proto::istio::v1::auth::IstioCertificateRequest;
use mesh_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::Code;

use super::*;

const CA: &str = "spiffe://cluster.local/ns/mesh-system/sa/ca";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// The API as far as the CA asks it: tokens by whose they are, accounts that exist, secrets.
#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    tokens: BTreeMap<String, String>,
    accounts: Vec<String>,
    secret: Option<Value>,
    is_down: bool,
    asked: Vec<String>,
}

impl FakeApi {
    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { api.answer(request).await }
        });
        Client::new(service, "default")
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    async fn answer(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Full<bytes::Bytes>>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = parts.uri.path().to_owned();
        let mut world = self.world();
        world.asked.push(format!("{} {path}", parts.method));
        if world.is_down {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let (status, answer) = match (parts.method, path.as_str()) {
            (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews") => {
                let mut review: Value = serde_json::from_slice(&body).unwrap();
                let user = world.tokens.get(review["spec"]["token"].as_str().unwrap());
                assert_eq!(review["spec"]["audiences"], json!(["mesh-ca"]));
                review["status"] = match user {
                    Some(user) => json!({
                        "authenticated": true,
                        "audiences": ["mesh-ca"],
                        "user": {"username": user},
                    }),
                    None => json!({"authenticated": false}),
                };
                (StatusCode::CREATED, review)
            }
            (Method::GET, "/api/v1/namespaces/mesh-system/secrets/mesh-ca") => {
                match &world.secret {
                    Some(secret) => (StatusCode::OK, secret.clone()),
                    None => (StatusCode::NOT_FOUND, failure(404, "NotFound")),
                }
            }
            (Method::POST, "/api/v1/namespaces/mesh-system/secrets") => {
                if world.secret.is_some() {
                    (StatusCode::CONFLICT, failure(409, "AlreadyExists"))
                } else {
                    let secret: Value = serde_json::from_slice(&body).unwrap();
                    world.secret = Some(secret.clone());
                    (StatusCode::CREATED, secret)
                }
            }
            (Method::GET, path) if world.accounts.iter().any(|account| account == path) => (
                StatusCode::OK,
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}}),
            ),
            _ => (StatusCode::NOT_FOUND, failure(404, "NotFound")),
        };
        let body = Full::new(answer.to_string().into());
        Ok(Response::builder().status(status).body(body).unwrap())
    }
}

fn failure(code: u16, reason: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code, "reason": reason, "message": "no",
    })
}

/// A CA on loopback.
struct Mesh {
    api: FakeApi,
    address: SocketAddr,
    trust: Trust,
    _tasks: JoinSet<()>,
}

impl Mesh {
    async fn new() -> Self {
        let api = FakeApi::default();
        {
            let mut world = api.world();
            world.tokens = BTreeMap::from([
                ("good".into(), "system:serviceaccount:shop:web".into()),
                ("human".into(), "alice".into()),
            ]);
            world.accounts = vec!["/api/v1/namespaces/shop/serviceaccounts/web".into()];
        }
        let client = api.client();
        let root = Root::load_or_create(&client, SystemTime::now())
            .await
            .unwrap();
        let issuer: Arc<dyn Issuer> = Arc::new(RootIssuer::new(root));
        let trust = Trust::Pinned(issuer.roots().fingerprints());

        let key = Key::generate().unwrap();
        let order = Order {
            key: csr::PublicKey::of_request(&key.csr().unwrap()).unwrap(),
            identity: CA.parse().unwrap(),
            subject: None,
            ttl: Duration::from_secs(3600),
            now: SystemTime::now(),
        };
        let chain = issuer.issue(&order).await.unwrap();
        let own = Credentials::new(key, chain, issuer.roots()).unwrap();
        let clients = Clients::Anybody { users: None };
        let tls = ServerTls::new(CredentialStore::new(own), clients).sending_roots();

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TlsIncoming::new(listener, tls, HandshakeLimits::default());
        let service = CertificateService::new(issuer, Lifetimes::default()).guarded(
            client,
            TrustDomain::default(),
            None,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            api,
            address,
            trust,
            _tasks: tasks,
        }
    }

    fn token(&self, token: &str) -> Proof {
        Proof::Token {
            token: Token::new(token),
            trust: self.trust.clone(),
        }
    }

    async fn request(&self, proof: Proof, identity: &str) -> Result<Credentials, RequestError> {
        let request = CertificateRequest {
            addresses: vec![self.address],
            proof,
            identity: identity.parse().unwrap(),
            ttl: Duration::from_secs(1800),
        };
        let key = Key::generate().unwrap();
        CaClient::new(TrustDomain::default())
            .request_certificate(&request, &key, SystemTime::now())
            .await
    }

    /// The bare call, with any request and token.
    async fn call(&self, csr: &str, token: Option<&str>) -> Result<Vec<String>, tonic::Status> {
        let ca: SpiffeId = CA.parse().unwrap();
        let tls = ClientTls::anonymous(self.trust.clone(), ca);
        let mut client = IstioCertificateServiceClient::new(channel(self.address, tls));
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            ..IstioCertificateRequest::default()
        });
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let answer = client.create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }
}

#[track_caller]
fn assert_refused(result: Result<Credentials, RequestError>, with: Code) {
    match result.unwrap_err() {
        RequestError::Refused { code, .. } => assert_eq!(code, with),
        error => panic!("expected a refusal, found {error}"),
    }
}

#[tokio::test]
async fn a_workload_joins_and_renews() {
    let mesh = Mesh::new().await;
    let joined = mesh.request(mesh.token("good"), WEB).await.unwrap();
    let life = joined
        .not_after()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!((1700..=1800).contains(&life.as_secs()), "{life:?}");

    let store = CredentialStore::new(joined.clone());
    let renewed = mesh.request(Proof::Current(store), WEB).await.unwrap();
    assert_ne!(renewed.serial(), joined.serial());
    assert_eq!(renewed.identity(), joined.identity());
}

#[tokio::test]
async fn the_san_is_the_callers_whatever_the_request_says() {
    let mesh = Mesh::new().await;
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let admin = "spiffe://cluster.local/ns/mesh-system/sa/pilot";
    params.subject_alt_names = vec![
        SanType::URI(admin.try_into().unwrap()),
        SanType::DnsName("pilot.mesh-system.mesh".try_into().unwrap()),
    ];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&pair).unwrap().pem().unwrap();

    let chain = mesh.call(&csr, Some("good")).await.unwrap();
    let (chain, _) = mesh_identity::Chain::with_roots_from_pem(&chain.concat()).unwrap();
    assert_eq!(chain.leaf().identity().unwrap().to_string(), WEB);
    assert!(!chain.leaf().is_root());
}

#[tokio::test]
async fn who_proves_nothing_gets_nothing() {
    let mesh = Mesh::new().await;
    assert_refused(
        mesh.request(mesh.token("bad"), WEB).await,
        Code::Unauthenticated,
    );
    assert_refused(
        mesh.request(mesh.token("human"), WEB).await,
        Code::PermissionDenied,
    );
    let csr = Key::generate().unwrap().csr().unwrap();
    let error = mesh.call(&csr, None).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_token_of_nomads_is_shown_to_nobody() {
    let mesh = Mesh::new().await;
    let before = mesh.api.world().asked.len();
    // Its claims are `{"nomad_allocation_id":"x"}`.
    let token = "e30.eyJub21hZF9hbGxvY2F0aW9uX2lkIjoieCJ9.c2ln";
    let error = mesh.request(mesh.token(token), WEB).await.unwrap_err();
    assert!(
        error.to_string().contains("`mesh server --nomad`"),
        "{error}"
    );
    assert_eq!(mesh.api.world().asked.len(), before);
}

#[tokio::test]
async fn the_body_is_looked_at_only_after_the_caller() {
    let mesh = Mesh::new().await;
    let error = mesh.call("nonsense", Some("bad")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    let error = mesh.call("nonsense", Some("good")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let long = "x".repeat(1 << 20);
    let error = mesh.call(&long, Some("bad")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    let error = mesh.call(&long, Some("good")).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
}

#[tokio::test]
async fn renewal_ends_with_the_account_and_not_with_the_api() {
    let mesh = Mesh::new().await;
    let joined = mesh.request(mesh.token("good"), WEB).await.unwrap();
    let current = Proof::Current(CredentialStore::new(joined));

    mesh.api.world().is_down = true;
    assert!(mesh.request(current.clone(), WEB).await.is_ok());
    // A token needs the API: that is an outage, not a refusal.
    let error = mesh.request(mesh.token("good"), WEB).await.unwrap_err();
    assert!(matches!(error, RequestError::Unreachable { .. }), "{error}");

    mesh.api.world().is_down = false;
    mesh.api.world().accounts.clear();
    assert_refused(mesh.request(current, WEB).await, Code::PermissionDenied);
}

#[tokio::test]
async fn a_certificate_of_another_mesh_renews_nothing() {
    let mesh = Mesh::new().await;
    let stranger = mesh_identity::testing::Authority::new();
    let own = stranger.credentials(WEB);
    // It believes this CA; the CA does not believe it.
    let joined = mesh.request(mesh.token("good"), WEB).await.unwrap();
    let mixed = Credentials::new(
        own.key().clone(),
        own.chain().clone(),
        joined.bundle().clone(),
    );
    let current = Proof::Current(CredentialStore::new(mixed.unwrap()));
    let error = mesh.request(current, WEB).await.unwrap_err();
    assert!(matches!(error, RequestError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn two_cas_that_start_together_agree_on_one_root() {
    let api = FakeApi::default();
    let client = api.client();
    let now = SystemTime::now();
    let (one, two) = tokio::join!(
        Root::load_or_create(&client, now),
        Root::load_or_create(&client, now),
    );
    assert_eq!(one.unwrap().certificate(), two.unwrap().certificate());
    let created = |asked: &&String| asked.starts_with("POST");
    assert_eq!(api.world().asked.iter().filter(created).count(), 2);
}
