//! The relay of ADS: Envoy's stream on one side, Pilot's on the other, and the accepted configuration between.
//!
//! [`session`] decides; here its messages are moved, streams are opened, and the file is written.

mod accepted;
mod file;
mod session;

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::envoy::config::core::v3::Node;
use mesh_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_proto::mesh::agent::v1::Name;
use prost::Name as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use xxhash_rust::xxh3::xxh3_64;

use crate::backoff::Backoff;
use crate::names::NameTable;
use session::{Input, Output, Session};

/// Replicas of Pilot that hold our registration, and the way to each.
pub(crate) type Registered = BTreeMap<SocketAddr, Channel>;

/// A stream that Envoy opened.
#[derive(Debug)]
pub(crate) struct EnvoyConnection {
    /// What Envoy says.
    pub(crate) requests: Streaming<DeltaDiscoveryRequest>,
    /// What it is told.
    pub(crate) responses: mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>,
}

/// What the relay is made of.
#[derive(Debug)]
pub(crate) struct Relay {
    /// What Pilot is told that this proxy is.
    pub(crate) node: Node,
    /// Where the accepted configuration is kept.
    pub(crate) file: PathBuf,
    /// How long changes are gathered before they are written.
    pub(crate) persist_after: Duration,
    /// Envoy's streams; a new one replaces the one before.
    pub(crate) envoys: mpsc::Receiver<EnvoyConnection>,
    /// Where ADS may be opened.
    pub(crate) pilots: watch::Receiver<Registered>,
    /// Where the name table is told.
    pub(crate) names: watch::Sender<Arc<NameTable>>,
    /// Where the replica that gives ADS is told.
    pub(crate) source: watch::Sender<Option<SocketAddr>>,
    /// From then on the accepted configuration stays as it is: a leaving Envoy gives up what it had.
    pub(crate) freeze: CancellationToken,
}

/// The stream to Pilot.
enum Pilot {
    /// None; not before then.
    Away(Instant),
    Opening(Opening),
    Open(Open),
}

struct Opening {
    address: SocketAddr,
    not_after: Instant,
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    answer: Pin<Box<dyn Future<Output = Result<Streaming<DeltaDiscoveryResponse>, Status>> + Send>>,
}

struct Open {
    address: SocketAddr,
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

/// The running relay.
struct Running {
    relay: Relay,
    session: Session,
    envoy: Option<EnvoyConnection>,
    pilot: Pilot,
    backoff: Backoff,
    /// The replica that failed last; another one is preferred.
    failed: Option<SocketAddr>,
    /// When the accepted configuration is to be written.
    persist_at: Option<Instant>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "an event is taken as soon as it is there; boxing each would cost more than the move"
)]
enum Event {
    Envoy(EnvoyConnection),
    Request(Option<DeltaDiscoveryRequest>),
    Open(SocketAddr, Channel),
    Opened(Result<Streaming<DeltaDiscoveryResponse>, Status>),
    Response(Result<Option<DeltaDiscoveryResponse>, Status>),
    Persist,
    Freeze,
}

impl Relay {
    /// Relays until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let accepted = file::load(&self.file, &self.node.id);
        let session = Session::new(self.node.clone(), accepted);
        let mut running = Running {
            relay: self,
            session,
            envoy: None,
            pilot: Pilot::Away(Instant::now()),
            backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
            failed: None,
            persist_at: None,
        };
        running.tell_names(false);
        loop {
            let event = tokio::select! {
                event = running.next_event() => event,
                () = stop.cancelled() => break,
            };
            running.take(event).await;
        }
        if running.persist_at.is_some() {
            running.persist().await;
        }
    }
}

impl Running {
    /// Waits for what happens next; may be dropped while waiting, nothing is lost.
    async fn next_event(&mut self) -> Event {
        let envoy_is_slow = self.session.in_flight() >= IN_FLIGHT_MAX;
        let freezes = self.relay.freeze.is_cancelled();
        tokio::select! {
            Some(connection) = self.relay.envoys.recv() => Event::Envoy(connection),
            request = next_request(&mut self.envoy) => Event::Request(request),
            event = next_of_pilot(&mut self.pilot, &mut self.relay.pilots, self.failed, &self.relay.node.id),
                if !envoy_is_slow => event,
            () = wait_until(self.persist_at) => Event::Persist,
            () = self.relay.freeze.cancelled(), if !freezes => Event::Freeze,
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Envoy(connection) => {
                // The former stream is closed by dropping it.
                self.envoy = Some(connection);
                self.step(Input::EnvoyConnected);
            }
            Event::Request(Some(request)) => self.step(Input::FromEnvoy(request)),
            Event::Request(None) => {
                self.envoy = None;
                self.step(Input::EnvoyDisconnected);
            }
            Event::Open(address, channel) => self.open(address, channel),
            Event::Opened(Ok(responses)) => self.opened(responses),
            Event::Response(Ok(Some(response))) => {
                // A stream that brought something is a good one.
                self.backoff.reset();
                self.failed = None;
                self.step(Input::FromPilot(response));
            }
            Event::Response(Ok(None)) => self.lost(&Status::ok("closed by pilot")),
            Event::Opened(Err(status)) | Event::Response(Err(status)) => self.lost(&status),
            Event::Persist | Event::Freeze => self.persist().await,
        }
    }

    /// Begins a stream: the first requests are queued before Pilot answers the call,
    /// because a server may wait for them before it does.
    fn open(&mut self, address: SocketAddr, channel: Channel) {
        let (requests, queued) = mpsc::unbounded_channel();
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        let answer = async move {
            let response = client
                .delta_aggregated_resources(UnboundedReceiverStream::new(queued))
                .await?;
            Ok(response.into_inner())
        };
        self.pilot = Pilot::Opening(Opening {
            address,
            not_after: Instant::now() + OPEN_PATIENCE,
            requests,
            answer: Box::pin(answer),
        });
        self.step(Input::PilotConnected);
    }

    fn opened(&mut self, responses: Streaming<DeltaDiscoveryResponse>) {
        if let Pilot::Opening(opening) = std::mem::replace(&mut self.pilot, Pilot::away()) {
            let Opening {
                address, requests, ..
            } = opening;
            info!(pilot = %address, "configuration comes from pilot");
            self.relay.source.send_replace(Some(address));
            self.pilot = Pilot::Open(Open {
                address,
                requests,
                responses,
            });
        }
    }

    fn lost(&mut self, status: &Status) {
        let delay = self.backoff.next_delay();
        let former = std::mem::replace(&mut self.pilot, Pilot::Away(Instant::now() + delay));
        self.failed = former.address();
        self.relay.source.send_replace(None);
        warn!(
            pilot = former.address().map(tracing::field::display),
            code = ?status.code(),
            reason = status.message(),
            retry_in = ?delay,
            "no configuration from pilot, the accepted one holds"
        );
        self.step(Input::PilotDisconnected);
    }

    fn step(&mut self, input: Input) {
        for output in self.session.step(input) {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::ToEnvoy(response) => {
                debug!(
                    kind = short(&response.type_url),
                    resources = response.resources.len(),
                    removed = response.removed_resources.len(),
                    "to envoy"
                );
                // A closed stream is noticed where it is read.
                if let Some(envoy) = &self.envoy {
                    drop(envoy.responses.send(Ok(response)));
                }
            }
            Output::ToPilot(request) => {
                if let Some(requests) = self.pilot.requests() {
                    drop(requests.send(request));
                }
            }
            // An ending agent needs no more configuration.
            Output::RestartPilot if self.relay.freeze.is_cancelled() => {
                self.pilot = Pilot::Away(Instant::now() + RETRY_MAX);
            }
            Output::RestartPilot => self.pilot = Pilot::away(),
            Output::AcceptedChanged => self.plan_to_persist(),
            Output::NamesChanged => self.tell_names(true),
            Output::NotRelayed(type_url) => {
                warn!(
                    kind = short(&type_url),
                    "envoy asked for what is not relayed"
                );
            }
            Output::Refused { type_url, reason } => {
                warn!(
                    kind = short(&type_url),
                    reason, "envoy refused configuration"
                );
            }
        }
    }

    fn tell_names(&self, from_pilot: bool) {
        let mut names = self
            .session
            .accepted()
            .resources(&Name::type_url())
            .peekable();
        if from_pilot || names.peek().is_some() {
            self.relay
                .names
                .send_replace(Arc::new(NameTable::new(names)));
        }
    }

    fn plan_to_persist(&mut self) {
        if self.persist_at.is_none() && !self.relay.freeze.is_cancelled() {
            self.persist_at = Some(Instant::now() + self.relay.persist_after);
        }
    }

    async fn persist(&mut self) {
        self.persist_at = None;
        let bytes = self.session.accepted().encode(&self.relay.node.id);
        let path = self.relay.file.clone();
        let length = bytes.len();
        match tokio::task::spawn_blocking(move || file::save(&path, &bytes)).await {
            Ok(Ok(())) => debug!(bytes = length, "the accepted configuration was written"),
            Ok(Err(error)) => warn!(%error, "the accepted configuration cannot be written"),
            Err(error) => warn!(%error, "the accepted configuration was not written"),
        }
    }
}

impl Pilot {
    /// To be opened at once.
    fn away() -> Self {
        Self::Away(Instant::now())
    }

    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Away(_) => None,
            Self::Opening(opening) => Some(opening.address),
            Self::Open(open) => Some(open.address),
        }
    }

    fn requests(&self) -> Option<&mpsc::UnboundedSender<DeltaDiscoveryRequest>> {
        match self {
            Self::Away(_) => None,
            Self::Opening(opening) => Some(&opening.requests),
            Self::Open(open) => Some(&open.requests),
        }
    }
}

async fn next_request(envoy: &mut Option<EnvoyConnection>) -> Option<DeltaDiscoveryRequest> {
    let Some(envoy) = envoy else {
        return pending().await;
    };
    match envoy.requests.message().await {
        Ok(request) => request,
        Err(status) => {
            debug!(reason = status.message(), "envoy's stream broke");
            None
        }
    }
}

async fn next_of_pilot(
    pilot: &mut Pilot,
    pilots: &mut watch::Receiver<Registered>,
    failed: Option<SocketAddr>,
    seed: &str,
) -> Event {
    match pilot {
        Pilot::Away(not_before) => {
            sleep_until(*not_before).await;
            let chosen = pilots
                .wait_for(|registered| !registered.is_empty())
                .await
                .ok()
                .and_then(|registered| {
                    let address = choose(registered.keys().copied(), failed, seed)?;
                    Some((address, registered.get(&address)?.clone()))
                });
            match chosen {
                Some((address, channel)) => Event::Open(address, channel),
                // Nobody registers any more: the agent is ending.
                None => pending().await,
            }
        }
        Pilot::Opening(opening) => {
            tokio::select! {
                answer = &mut opening.answer => Event::Opened(answer),
                () = sleep_until(opening.not_after) => Event::Opened(Err(Status::deadline_exceeded("no answer to the call"))),
            }
        }
        Pilot::Open(open) => Event::Response(open.responses.message().await),
    }
}

/// One of the replicas: agents spread over them, each always in the same order,
/// and the one that failed last comes last.
fn choose(
    replicas: impl Iterator<Item = SocketAddr>,
    failed: Option<SocketAddr>,
    seed: &str,
) -> Option<SocketAddr> {
    replicas.max_by_key(|address| {
        let weight = xxh3_64(format!("{seed} {address}").as_bytes());
        (Some(*address) != failed, weight)
    })
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// The last part of a type URL.
fn short(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

/// The first attempt after a loss; the next replica is there already.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// A returning Pilot is found within this time.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Longer than Pilot takes to answer a call, however loaded.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// Responses that Envoy may owe an answer before no more is read from Pilot.
const IN_FLIGHT_MAX: usize = 1024;
/// The first sync of a large mesh may come in one message.
const MESSAGE_MAX: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replica_that_failed_is_chosen_last() {
        let replicas: Vec<SocketAddr> = (1..4)
            .map(|host| SocketAddr::from(([10, 0, 0, host], 15012)))
            .collect();
        let first = choose(replicas.iter().copied(), None, "shop/web-1").unwrap();
        let second = choose(replicas.iter().copied(), Some(first), "shop/web-1").unwrap();
        assert_ne!(first, second);
        let only = choose(std::iter::once(first), Some(first), "shop/web-1");
        assert_eq!(only, Some(first));
    }

    #[test]
    fn agents_spread_over_replicas() {
        let replicas: Vec<SocketAddr> = (1..4)
            .map(|host| SocketAddr::from(([10, 0, 0, host], 15012)))
            .collect();
        for replica in &replicas {
            let chosen = (0..100)
                .filter(|id| {
                    let id = format!("shop/web-{id}");
                    choose(replicas.iter().copied(), None, &id) == Some(*replica)
                })
                .count();
            assert!((15..=55).contains(&chosen), "{replica}: {chosen} of 100");
        }
    }
}
