//! The aggregated discovery service, delta only: sessions on HTTP/2 streams.
//!
//! A stream is served by the task that writes it and nothing is computed ahead: while a client does
//! not read, its session sees neither requests nor snapshots, holds at most what it was about to
//! send, and nobody waits for it.

#[cfg(any(test, feature = "test-util"))]
pub mod client;
mod codec;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use mesh_model::{SpiffeId, WorkloadId};
use mesh_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tower::Service;
use tracing::{debug, info};

use self::codec::DeltaCodec;
use super::caller;
use super::publisher::Views;
use super::registry::AgentRegistry;
use super::resource::{ResourceType, Snapshot};
use super::session::{self, Session, TypeStatus};

/// Serves `envoy.service.discovery.v3.AggregatedDiscoveryService`.
#[derive(Clone, Debug)]
pub struct AdsService {
    inner: Arc<Inner>,
}

/// The sessions of open streams, for those who look inside.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    by_workload: Arc<Mutex<ByWorkload>>,
}

/// A workload has a stream for its proxy, and may have one for its agent.
type ByWorkload = HashMap<WorkloadId, Vec<Weak<Mutex<Session>>>>;

#[derive(Debug)]
struct Inner {
    registry: AgentRegistry,
    views: Views,
    sessions: Sessions,
    stop: CancellationToken,
    /// Number of the next stream; begins anywhere, so that nonces of an earlier process are
    /// foreign.
    next_stream: AtomicU64,
}

/// One stream.
struct AdsStream {
    workload: WorkloadId,
    session: Arc<Mutex<Session>>,
    inbound: Streaming<DeltaDiscoveryRequest>,
    view: watch::Receiver<Option<Snapshot>>,
    trusted: watch::Receiver<bool>,
    stop: CancellationToken,
    /// Responses to be sent before anything else happens.
    queue: VecDeque<session::Response>,
    /// Since when the session keeps something back.
    waiting: Option<Instant>,
}

/// How long a client may take to say who it is; long, since a thousand may come at once.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a stream waits for the registration of its workload, which an agent makes on another
/// stream at the same time.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long changes wait for acknowledgements that Envoy withholds: a cluster that has its
/// endpoints and secrets is acknowledged within milliseconds, a stuck one must not stop the rest.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a request: a client that comes back names all that it has, about 100 bytes each.
const MAX_REQUEST: usize = 16 * 1024 * 1024;

// === impl AdsService ===

impl AdsService {
    /// Serves `views` to the workloads of `registry`; streams end when `stop` is cancelled.
    pub fn new(registry: AgentRegistry, views: Views, stop: CancellationToken) -> Self {
        Self {
            inner: Arc::new(Inner {
                registry,
                views,
                sessions: Sessions::default(),
                stop,
                next_stream: AtomicU64::new(RandomState::new().build_hasher().finish()),
            }),
        }
    }

    /// The sessions of its streams.
    pub fn sessions(&self) -> Sessions {
        self.inner.sessions.clone()
    }
}

impl NamedService for AdsService {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<Body>> for AdsService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            if request.uri().path() != DELTA_PATH {
                let status = Status::unimplemented(
                    "only `DeltaAggregatedResources` is served; set `api_type: DELTA_GRPC`",
                );
                return Ok(status.into_http());
            }
            let mut grpc =
                Grpc::new(DeltaCodec).apply_max_message_size_config(Some(MAX_REQUEST), None);
            Ok(grpc.streaming(Open { inner }, request).await)
        })
    }
}

/// Opens streams, in the form that tonic calls.
struct Open {
    inner: Arc<Inner>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<session::Response, Status>> + Send>>;

impl StreamingService<DeltaDiscoveryRequest> for Open {
    type Response = session::Response;
    type ResponseStream = Responses;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Responses>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let stream = inner.open(request).await?;
            let responses = stream::unfold(Some(stream), |stream| async {
                let mut stream = stream?;
                match stream.next().await {
                    Ok(Some(response)) => Some((Ok(response), Some(stream))),
                    Ok(None) => None,
                    Err(status) => Some((Err(status), None)),
                }
            });
            Ok(Response::new(Box::pin(responses) as Responses))
        })
    }
}

// === impl Inner ===

impl Inner {
    /// Opens the stream of a registered workload; its first message has been taken then.
    async fn open(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<AdsStream, Status> {
        let identity = caller::workload(request.extensions())?;
        let mut inbound = request.into_inner();
        let first = timeout(NODE_TIMEOUT, inbound.message()).await;
        let first =
            first.map_err(|_elapsed| Status::deadline_exceeded("no first message came"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream has no message"))?;
        let node = first.node.as_ref().map_or("", |node| &node.id);
        let workload: WorkloadId = node
            .parse()
            .map_err(|problem| Status::invalid_argument(format!("node.id: {problem}")))?;
        self.authorize(&workload, &identity).await?;

        let trusted = self.views.trusted();
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let session = Session::new(id, *trusted.borrow());
        let session = Arc::new(Mutex::new(session));
        self.sessions.add(&workload, &session);
        let mut stream = AdsStream {
            view: self.views.subscribe(&workload),
            workload,
            session,
            inbound,
            trusted,
            stop: self.stop.clone(),
            queue: VecDeque::new(),
            waiting: None,
        };
        stream.view.mark_changed();
        stream.receive(first)?;
        debug!(workload = %stream.workload, "stream opened");
        Ok(stream)
    }

    /// Only the account that registered a workload is told its configuration.
    async fn authorize(&self, workload: &WorkloadId, identity: &SpiffeId) -> Result<(), Status> {
        let registered = timeout(REGISTRATION_TIMEOUT, self.registry.wait_for(workload)).await;
        let registered = registered.map_err(|_elapsed| {
            Status::failed_precondition(format!(
                "workload `{workload}` is not registered with this Pilot; \
                 an agent registers by `Agents/Connect` first"
            ))
        })?;
        if registered.identity != *identity {
            info!(%workload, owner = %registered.identity, caller = %identity, "stream refused");
            return Err(Status::permission_denied(format!(
                "workload `{workload}` is not registered by `{identity}`"
            )));
        }
        Ok(())
    }
}

// === impl AdsStream ===

impl AdsStream {
    /// The next response; takes requests and snapshots until there is one.
    async fn next(&mut self) -> Result<Option<session::Response>, Status> {
        loop {
            if let Some(response) = self.queue.pop_front() {
                return Ok(Some(response));
            }
            let expires = self.waiting.map(|since| since + PATIENCE);
            let is_trusted = *self.trusted.borrow();
            tokio::select! {
                () = self.stop.cancelled() => return Err(Status::unavailable("Pilot stops")),
                message = self.inbound.message() => match message? {
                    Some(message) => self.receive(message)?,
                    None => return Ok(None),
                },
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return Err(Status::failed_precondition(format!(
                            "the registration of workload `{}` has ended", self.workload,
                        )));
                    }
                    let snapshot = self.view.borrow_and_update().clone();
                    if let Some(snapshot) = snapshot {
                        self.act(|session| session.publish(snapshot));
                    }
                }
                changed = self.trusted.changed(), if !is_trusted => {
                    if changed.is_err() {
                        return Err(Status::unavailable("Pilot stops"));
                    }
                    if *self.trusted.borrow_and_update() {
                        self.act(Session::trust);
                    }
                }
                () = sleep_until(expires.unwrap_or_else(Instant::now)), if expires.is_some() => {
                    self.waiting = None;
                    self.act(Session::expire);
                }
            }
        }
    }

    fn receive(&mut self, message: DeltaDiscoveryRequest) -> Result<(), Status> {
        let request = session::Request::from(message);
        if let Some(error) = &request.error {
            info!(
                workload = %self.workload,
                kind = request.type_url,
                nonce = request.nonce,
                error,
                "configuration refused by proxy"
            );
        }
        let mut overload = None;
        self.act(|session| {
            session.receive(request).unwrap_or_else(|refused| {
                overload = Some(refused);
                Vec::new()
            })
        });
        match overload {
            Some(refused) => Err(Status::resource_exhausted(refused.to_string())),
            None => Ok(()),
        }
    }

    fn act(&mut self, act: impl FnOnce(&mut Session) -> Vec<session::Response>) {
        let mut session = lock(&self.session);
        self.queue.extend(act(&mut session));
        self.waiting = match (session.is_waiting(), self.waiting) {
            (true, None) => Some(Instant::now()),
            (true, since) => since,
            (false, _) => None,
        };
    }
}

// === impl Sessions ===

impl Sessions {
    /// How the types stand that the proxy and the agent of a workload asked for.
    ///
    /// A type that several streams asked for is told as the newest has it.
    pub fn status(&self, workload: &WorkloadId) -> Vec<TypeStatus> {
        let sessions: Vec<_> = {
            let all = self
                .by_workload
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let of_workload = all.get(workload).into_iter().flatten();
            of_workload.filter_map(Weak::upgrade).collect()
        };
        let mut types: [Option<TypeStatus>; ResourceType::ALL.len()] = Default::default();
        for session in sessions {
            for status in lock(&session).status() {
                if let Some(slot) = types.get_mut(status.kind.index()) {
                    *slot = Some(status);
                }
            }
        }
        types.into_iter().flatten().collect()
    }

    fn add(&self, workload: &WorkloadId, session: &Arc<Mutex<Session>>) {
        let mut all = self
            .by_workload
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Streams come at least as often as they go: their coming is the time to forget the gone.
        all.retain(|_, sessions| {
            sessions.retain(|session| session.strong_count() > 0);
            !sessions.is_empty()
        });
        all.entry(workload.clone())
            .or_default()
            .push(Arc::downgrade(session));
    }
}

fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

const DELTA_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

#[cfg(test)]
mod tests;
