//! When renewal happens, and a CA on loopback that answers as it is told.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use mesh_proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use proptest::prelude::*;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::*;
use crate::testing::{Authority, Leaf};
use crate::tls::Clients;
use crate::transport::{HandshakeLimits, TlsIncoming};
use crate::{Connection, Peer, ServerTls};

const CA: &str = "spiffe://cluster.local/ns/mesh-system/sa/ca";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

// === When ===

proptest! {
    #[test]
    fn renewal_is_due_between_40_and_60_percent_of_life(
        life in 1_u64..10_000_000,
        passed in 0_u64..20_000_000,
        jitter in -2.0_f64..2.0,
    ) {
        let from = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let life = Duration::from_secs(life);
        let now = from + Duration::from_secs(passed);
        let due = next_renewal(from, from + life, now, jitter);
        prop_assert!(due >= now);
        if now < from + life.mul_f64(0.4) {
            prop_assert!(due >= from + life.mul_f64(0.399_999));
            prop_assert!(due <= from + life.mul_f64(0.600_001));
        }
    }

    #[test]
    fn retries_slow_down_and_stay_within_the_life_that_is_left(
        failures in 0_u32..100,
        left in 0_u64..10_000_000,
        jitter in -2.0_f64..2.0,
    ) {
        let left = Duration::from_secs(left);
        let delay = retry_delay(failures, left, jitter);
        prop_assert!(delay >= MIN_PAUSE);
        prop_assert!(delay <= MAX_RETRY.mul_f64(1.25));
        if left > Duration::from_secs(5) {
            prop_assert!(delay < left / 2);
        }
    }
}

#[test]
fn jitter_of_the_system_is_spread_over_its_range() {
    let jitter = random_jitter();
    let drawn: Vec<f64> = (0..1000).map(|_| jitter()).collect();
    assert!(drawn.iter().all(|number| (-1.0..=1.0).contains(number)));
    assert!(drawn.iter().any(|number| *number < -0.5));
    assert!(drawn.iter().any(|number| *number > 0.5));
}

// === A CA that does as it is told ===

/// What the CA saw of one call.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Call {
    peer: Peer,
    token: Option<String>,
}

#[derive(Clone)]
struct FakeCa {
    authority: Arc<Authority>,
    /// Whom to issue for, or what to answer instead.
    answer: Arc<Mutex<Result<Leaf, Status>>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl FakeCa {
    fn new(leaf: Leaf) -> Self {
        Self {
            authority: Arc::new(Authority::new()),
            answer: Arc::new(Mutex::new(Ok(leaf))),
            calls: Arc::default(),
        }
    }

    fn answer(&self, answer: Result<Leaf, Status>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    async fn serve(&self, tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let clients = Clients::Anybody { users: None };
        let tls = ServerTls::new(self.authority.store(CA), clients).sending_roots();
        let incoming = TlsIncoming::new(listener, tls, HandshakeLimits::default());
        let service = IstioCertificateServiceServer::new(self.clone());
        tasks.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        address
    }

    fn join(&self, address: SocketAddr, token: Option<PathBuf>) -> TokenFile {
        TokenFile {
            path: token,
            addresses: vec![address],
            roots: self.authority.bundle().fingerprints(),
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for FakeCa {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let connection = request.extensions().get::<Connection>().unwrap();
        let token = request.metadata().get("authorization");
        self.calls.lock().unwrap().push(Call {
            peer: connection.peer.clone(),
            token: token.map(|value| value.to_str().unwrap().to_owned()),
        });
        let leaf = self.answer.lock().unwrap().clone()?;
        let csr = request.into_inner().csr;
        let (_, pem) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        let public_key = csr.certification_request_info.subject_pki.raw;
        let chain = self.authority.sign(public_key, &leaf);
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: vec![chain.to_pem(), self.authority.bundle().to_pem()],
        }))
    }
}

fn unstarted(source: TokenFile) -> Renewal {
    Renewal {
        identity: WEB.parse().unwrap(),
        ttl: Duration::from_secs(3600),
        store: CredentialStore::empty(),
        directory: None,
        source: Box::new(source),
        clock: system_clock(),
        jitter: Box::new(|| 0.0),
    }
}

fn token_file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "secret\n").unwrap();
    (directory, path)
}

#[tokio::test]
async fn a_workload_joins_by_token_and_renews_by_certificate() {
    let ca = FakeCa::new(Leaf::of(WEB));
    let mut tasks = JoinSet::new();
    let address = ca.serve(&mut tasks).await;
    let (_directory, token) = token_file();
    let renewal = unstarted(ca.join(address, Some(token)));

    let joined = renewal.attempt().await.unwrap();
    assert_eq!(joined.identity().to_string(), WEB);
    renewal.store.publish(joined.clone());
    let renewed = renewal.attempt().await.unwrap();

    assert_ne!(joined.serial(), renewed.serial());
    assert_ne!(joined.key().public_key(), renewed.key().public_key());
    let by_token = Call {
        peer: Peer::None,
        token: Some("Bearer secret".to_owned()),
    };
    let by_certificate = Call {
        peer: Peer::Workload(WEB.parse().unwrap()),
        token: None,
    };
    assert_eq!(ca.calls(), [by_token, by_certificate]);
}

#[tokio::test]
async fn a_refused_renewal_falls_back_to_the_token() {
    let ca = FakeCa::new(Leaf::of(WEB));
    let mut tasks = JoinSet::new();
    let address = ca.serve(&mut tasks).await;
    let (_directory, token) = token_file();
    let renewal = unstarted(ca.join(address, Some(token)));
    // Of a mesh that was set up anew since: the CA does not know this root.
    renewal.store.publish(Authority::new().credentials(WEB));
    assert!(renewal.attempt().await.is_ok());
    let last = ca.calls().pop().unwrap();
    assert_eq!(last.token.as_deref(), Some("Bearer secret"));
}

/// A token that somebody renews.
struct Renewed(TokenFile);

impl JoinSource for Renewed {
    fn addresses(&self) -> JoinFuture<'_, Vec<SocketAddr>> {
        self.0.addresses()
    }

    fn ticket(&self) -> JoinFuture<'_, Ticket> {
        self.0.ticket()
    }

    fn is_renewed(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_token_that_is_renewed_comes_before_the_certificate() {
    let ca = FakeCa::new(Leaf::of(WEB));
    let mut tasks = JoinSet::new();
    let address = ca.serve(&mut tasks).await;
    let (_directory, token) = token_file();
    let mut renewal = unstarted(ca.join(address, None));
    renewal.source = Box::new(Renewed(ca.join(address, Some(token.clone()))));
    renewal.store.publish(ca.authority.credentials(WEB));

    renewal.attempt().await.unwrap();
    let tokens: Vec<_> = ca.calls().into_iter().map(|call| call.token).collect();
    assert_eq!(tokens, [Some("Bearer secret".to_owned())]);

    // Without a token that can be read, the certificate still holds.
    std::fs::remove_file(&token).unwrap();
    renewal.attempt().await.unwrap();
    let last = ca.calls().pop().unwrap();
    assert_eq!(last.peer, Peer::Workload(WEB.parse().unwrap()));

    // When both fail, what was said of the token counts.
    std::fs::write(&token, "secret").unwrap();
    ca.answer(Err(Status::permission_denied("not you")));
    let error = renewal.attempt().await.unwrap_err().to_string();
    assert!(error.ends_with("refuses: not you"), "{error}");
    assert_eq!(ca.calls().len(), 4);
}

#[tokio::test]
async fn without_token_and_certificate_there_is_no_way_in() {
    let ca = FakeCa::new(Leaf::of(WEB));
    let mut tasks = JoinSet::new();
    let address = ca.serve(&mut tasks).await;
    let error = unstarted(ca.join(address, None))
        .attempt()
        .await
        .unwrap_err();
    assert!(matches!(error, RenewalError::Join(JoinError::NoToken)));
    assert_eq!(ca.calls(), []);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let ca = FakeCa::new(Leaf::of(WEB));
    let mut tasks = JoinSet::new();
    let address = ca.serve(&mut tasks).await;
    // It has an address, and does not listen there.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let nobody = closed.local_addr().unwrap();
    let (_directory, token) = token_file();
    let mut source = ca.join(address, Some(token));
    source.addresses.insert(0, nobody);
    assert!(unstarted(source.clone()).attempt().await.is_ok());

    source.addresses = vec![nobody];
    let error = unstarted(source).attempt().await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("no CA answered: {nobody}: ")),
        "{error}"
    );
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_refused() {
    let ca = FakeCa::new(Leaf::of(WEB));
    let mut tasks = JoinSet::new();
    let address = ca.serve(&mut tasks).await;
    let (_directory, token) = token_file();
    let renewal = unstarted(ca.join(address, Some(token)));

    ca.answer(Ok(Leaf::of("spiffe://cluster.local/ns/shop/sa/admin")));
    let error = renewal.attempt().await.unwrap_err().to_string();
    assert!(error.contains("sa/admin`, expected `spiffe://cluster.local/ns/shop/sa/web`"));

    let past = Leaf {
        not_after: SystemTime::now() - Duration::from_secs(1),
        ..Leaf::of(WEB)
    };
    ca.answer(Ok(past));
    let error = renewal.attempt().await.unwrap_err();
    assert!(error.to_string().contains("does not hold"), "{error}");

    ca.answer(Err(Status::permission_denied("not you")));
    let error = renewal.attempt().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the CA at {address} refuses: not you")
    );
}

#[tokio::test]
async fn the_loop_joins_keeps_renews_and_stops() {
    let ca = FakeCa::new(Leaf::of(WEB));
    let mut tasks = JoinSet::new();
    let address = ca.serve(&mut tasks).await;
    let (directory, token) = token_file();
    let kept = CredentialDirectory::new(directory.path().join("state"));
    let mut renewal = unstarted(ca.join(address, Some(token.clone())));
    renewal.directory = Some(kept.clone());
    // Past half of its life when it comes, so that it is due again after the shortest pause.
    let half_over = Leaf {
        not_before: SystemTime::now() - Duration::from_secs(100),
        not_after: SystemTime::now() + Duration::from_secs(8),
        ..Leaf::of(WEB)
    };
    ca.answer(Ok(half_over));
    let store = renewal.store.clone();
    let mut changes = store.subscribe();
    let stop = CancellationToken::new();
    let running = tokio::spawn(renewal.run(stop.clone()));

    changes.changed().await.unwrap();
    let first = changes.borrow_and_update().clone().unwrap();
    // The token is spent; the certificate is what renews.
    std::fs::remove_file(&token).unwrap();
    changes.changed().await.unwrap();
    let second = changes.borrow_and_update().clone().unwrap();
    assert_ne!(first.serial(), second.serial());
    assert_eq!(kept.load().unwrap().unwrap().serial(), second.serial());

    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_stored_certificate_is_used_before_anybody_is_asked() {
    let ca = FakeCa::new(Leaf::of(WEB));
    let directory = tempfile::tempdir().unwrap();
    let kept = CredentialDirectory::new(directory.path());
    let stored = ca.authority.credentials(WEB);
    kept.save(&stored).unwrap();

    let mut renewal = unstarted(ca.join((Ipv4Addr::LOCALHOST, 1).into(), None));
    renewal.directory = Some(kept.clone());
    let store = renewal.store.clone();
    let stop = CancellationToken::new();
    let running = tokio::spawn(renewal.run(stop.clone()));
    assert_eq!(store.ready().await.serial(), stored.serial());
    stop.cancel();
    running.await.unwrap();

    // Somebody else's is left alone.
    kept.save(&ca.authority.credentials(CA)).unwrap();
    let mut other = unstarted(ca.join((Ipv4Addr::LOCALHOST, 1).into(), None));
    other.directory = Some(kept);
    other.restore();
    assert!(other.store.current().is_none());
}

#[test]
fn a_token_shows_nothing_of_itself() {
    let token = Token::new(" secret\n");
    assert_eq!(token.reveal(), "secret");
    assert_eq!(format!("{token:?}"), "Token(..)");
}
