//! A small Pilot: real TLS, registration, and delta ADS of resources that a test sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use mesh_identity::tls::Clients;
use mesh_identity::transport::{HandshakeLimits, TlsIncoming};
use mesh_identity::{CredentialStore, ServerTls};
use mesh_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use mesh_proto::mesh::agent::v1::agents_server::{Agents, AgentsServer};
use mesh_proto::mesh::agent::v1::{
    AgentMessage, AskConfigDump, Health, PilotMessage, Registered, agent_message, pilot_message,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Type URL, then name.
pub(crate) type Resources = BTreeMap<String, BTreeMap<String, Resource>>;

/// What the Pilot saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Health, each time an agent told it.
    pub(crate) health: Vec<Health>,
    /// Resources sent since it started, without those of the agent itself.
    pub(crate) sent: usize,
    /// Versions that Envoy's first requests named, by type.
    pub(crate) resumed: BTreeMap<String, BTreeMap<String, String>>,
    /// Reasons of refusals.
    pub(crate) refused: Vec<String>,
    /// The last configuration dump.
    pub(crate) dump: Option<String>,
}

/// A running Pilot; dropping it is its death.
pub(crate) struct Pilot {
    pub(crate) seen: Arc<Mutex<Seen>>,
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Service {
    resources: watch::Receiver<Resources>,
    seen: Arc<Mutex<Seen>>,
}

impl Pilot {
    pub(crate) fn start(
        address: SocketAddr,
        store: CredentialStore,
        resources: watch::Receiver<Resources>,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let seen = Arc::default();
        let service = Service {
            resources,
            seen: Arc::clone(&seen),
        };
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let tls = ServerTls::new(store, Clients::Workloads);
            let incoming = TlsIncoming::new(listener, tls, HandshakeLimits::default());
            tonic::transport::Server::builder()
                .add_service(AggregatedDiscoveryServiceServer::new(service.clone()))
                .add_service(AgentsServer::new(service))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            seen,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        // Connections end without a word, as those of a killed process do.
        self.runtime.take().unwrap().shutdown_background();
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for Service {
    type ConnectStream = ResponseStream<PilotMessage>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let seen = Arc::clone(&self.seen);
        let mut messages = request.into_inner();
        tokio::spawn(async move {
            let say = |message| {
                sender.send(Ok(PilotMessage {
                    message: Some(message),
                }))
            };
            while let Ok(Some(message)) = messages.message().await {
                let health = match message.message.unwrap() {
                    agent_message::Message::Register(register) => {
                        let told = say(pilot_message::Message::Registered(Registered {}));
                        assert!(told.is_ok());
                        register.health
                    }
                    agent_message::Message::Health(health) => health,
                    agent_message::Message::ConfigDump(dump) => {
                        let json = String::from_utf8_lossy(&dump.json).into_owned();
                        seen.lock().unwrap().dump = Some(json);
                        continue;
                    }
                };
                let health = Health::try_from(health).unwrap();
                seen.lock().unwrap().health.push(health);
                if health == Health::Healthy {
                    let ask = AskConfigDump { request: 1 };
                    assert!(say(pilot_message::Message::AskConfigDump(ask)).is_ok());
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            receiver,
        ))))
    }
}

#[derive(Default)]
struct TypeState {
    wildcard: bool,
    names: BTreeSet<String>,
    last: BTreeMap<String, String>,
    told_absent: BTreeSet<String>,
    answered: bool,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = ResponseStream<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ResponseStream<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut requests = request.into_inner();
        let mut resources = self.resources.clone();
        let seen = Arc::clone(&self.seen);
        tokio::spawn(async move {
            let mut types: BTreeMap<String, TypeState> = BTreeMap::new();
            let mut nonce = 0;
            loop {
                let now = resources.borrow_and_update().clone();
                for (type_url, state) in &mut types {
                    if let Some(response) = state.due(type_url, &now, &mut nonce) {
                        if !type_url.ends_with(".Name") {
                            seen.lock().unwrap().sent += response.resources.len();
                        }
                        if sender.send(Ok(response)).is_err() {
                            return;
                        }
                    }
                }
                tokio::select! {
                    request = requests.message() => {
                        let Ok(Some(request)) = request else { return };
                        take(&mut types, request, &seen);
                    }
                    changed = resources.changed() => if changed.is_err() { return },
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            receiver,
        ))))
    }
}

fn take(
    types: &mut BTreeMap<String, TypeState>,
    request: DeltaDiscoveryRequest,
    seen: &Mutex<Seen>,
) {
    let first = !types.contains_key(&request.type_url);
    let state = types.entry(request.type_url.clone()).or_default();
    if first {
        state.wildcard = request.resource_names_subscribe.is_empty();
        state.last.clone_from(&request.initial_resource_versions);
        seen.lock()
            .unwrap()
            .resumed
            .insert(request.type_url.clone(), request.initial_resource_versions);
    }
    if let Some(error) = request.error_detail {
        seen.lock().unwrap().refused.push(error.message);
    }
    for name in request.resource_names_subscribe {
        if !first {
            state.last.remove(&name);
        }
        state.told_absent.remove(&name);
        state.names.insert(name);
    }
    for name in request.resource_names_unsubscribe {
        state.names.remove(&name);
        state.last.remove(&name);
    }
}

impl TypeState {
    fn due(
        &mut self,
        type_url: &str,
        all: &Resources,
        nonce: &mut u64,
    ) -> Option<DeltaDiscoveryResponse> {
        let nothing = BTreeMap::new();
        let all = all.get(type_url).unwrap_or(&nothing);
        let resources: Vec<_> = all
            .values()
            .filter(|one| self.wildcard || self.names.contains(&one.name))
            .filter(|one| self.last.get(&one.name) != Some(&one.version))
            .cloned()
            .collect();
        let mut removed: Vec<_> = self
            .last
            .keys()
            .filter(|name| !all.contains_key(*name))
            .cloned()
            .collect();
        for name in &self.names {
            if !all.contains_key(name) && self.told_absent.insert(name.clone()) {
                removed.push(name.clone());
            }
        }
        self.last.retain(|name, _| all.contains_key(name));
        for one in &resources {
            self.last.insert(one.name.clone(), one.version.clone());
        }
        let first = self.wildcard && !std::mem::replace(&mut self.answered, true);
        if resources.is_empty() && removed.is_empty() && !first {
            return None;
        }
        *nonce += 1;
        Some(DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            resources,
            removed_resources: removed,
            nonce: nonce.to_string(),
            ..Default::default()
        })
    }
}
