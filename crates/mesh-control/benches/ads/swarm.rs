//! The proxies and agents of the swarm.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mesh_control::pilot::ads::client::{ClientError, DeltaClient, Held};
use mesh_control::pilot::resource::ResourceType;
use mesh_identity::ClientTls;
use mesh_identity::transport::connect as connect_by_tls;
use mesh_model::virtual_address;
use mesh_proto::mesh::agent::v1::agents_client::AgentsClient;
use mesh_proto::mesh::agent::v1::{
    AgentMessage, Health, PilotMessage, Register, Workload, WorkloadPort, WorkloadService,
    agent_message,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Whoever does not have something by then misses it.
const TOO_LONG: Duration = Duration::from_secs(300);

/// Before a client that was turned away comes again.
const RETRY: Duration = Duration::from_millis(100);

/// Agents that register at the same time.
const AT_ONCE: usize = 64;

/// Where Pilot is, and how to call it.
#[derive(Clone)]
pub(crate) struct Pilot {
    pub(crate) address: SocketAddr,
    pub(crate) tls: ClientTls,
}

/// The registration of a workload, as long as it lives.
pub(crate) struct Agent {
    messages: mpsc::Sender<AgentMessage>,
    _answers: Streaming<PilotMessage>,
}

/// Proxies with their streams open, and how many services each must know.
pub(crate) struct Swarm {
    clients: Vec<(u32, DeltaClient)>,
    services: u32,
}

impl Pilot {
    async fn dial(&self) -> Result<Channel, Status> {
        connect_by_tls(self.address, self.tls.clone())
            .await
            .map_err(|error| Status::from_error(error.into()))
    }
}

/// Whether a call got no answer, as opposed to a refusal: a server under load turns handshakes
/// away, which the client sees when it connects or when it calls.
fn is_unanswered(status: &Status) -> bool {
    if status.code() == Code::Unavailable {
        return true;
    }
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::transport::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

// === impl Agent ===

impl Agent {
    /// Registers `count` healthy workloads that serve two services each, so that each of `count`
    /// services has two endpoints.
    pub(crate) async fn register_all(pilot: &Pilot, count: u32) -> Vec<Self> {
        let mut agents = BTreeMap::new();
        let mut coming = JoinSet::new();
        for number in 0..count {
            if coming.len() == AT_ONCE {
                agents.extend(coming.join_next().await.map(Result::unwrap));
            }
            let pilot = pilot.clone();
            let workload = workload(number, count);
            coming.spawn(async move { (number, Self::register(&pilot, workload).await) });
        }
        agents.extend(coming.join_all().await);
        agents.into_values().collect()
    }

    /// Registers a workload; comes again when it is turned away, as agents do.
    async fn register(pilot: &Pilot, workload: Workload) -> Self {
        loop {
            match Self::attempt(pilot, workload.clone()).await {
                Ok(agent) => return agent,
                Err(status) if is_unanswered(&status) => sleep(RETRY).await,
                Err(status) => panic!("a registration was refused: {status}"),
            }
        }
    }

    async fn attempt(pilot: &Pilot, workload: Workload) -> Result<Self, Status> {
        let register = Register {
            workload: Some(workload),
            health: Health::Healthy.into(),
            version: String::new(),
        };
        let (messages, outbound) = mpsc::channel(1);
        let message = Some(agent_message::Message::Register(register));
        messages.send(AgentMessage { message }).await.unwrap();
        let mut client = AgentsClient::new(pilot.dial().await?);
        let answers = client.connect(ReceiverStream::new(outbound)).await?;
        Ok(Self {
            messages,
            _answers: answers.into_inner(),
        })
    }

    /// Tells how its workload is.
    pub(crate) async fn report(&self, health: Health) {
        let message = Some(agent_message::Message::Health(health.into()));
        self.messages.send(AgentMessage { message }).await.unwrap();
    }
}

/// Workload `number`, which serves the service of its number and the next one's.
fn workload(number: u32, count: u32) -> Workload {
    let [_, high, middle, low] = number.to_be_bytes();
    let service = |number: u32| WorkloadService {
        name: format!("s{number}"),
        ports: vec![WorkloadPort {
            name: "http".to_owned(),
            number: 80,
            target: 8080,
            inside: 0,
            protocol: "http".to_owned(),
        }],
    };
    Workload {
        id: format!("default/web-{number}"),
        namespace: "default".to_owned(),
        service_account: "web".to_owned(),
        addresses: vec![Ipv4Addr::new(10, high, middle, low).to_string()],
        services: vec![service(number), service((number + 1) % count)],
        explicit: None,
        gateway: false,
        ..Workload::default()
    }
}

// === impl Swarm ===

impl Swarm {
    /// Connects so many clients at once; each has everything when this ends.
    pub(crate) async fn connect(pilot: &Pilot, services: u32, clients: u32) -> Self {
        let in_sync = move |held: &Held| {
            held.versions(ResourceType::Name).len() == services as usize
                && held.versions(ResourceType::Endpoint).len() == services as usize
                && held.versions(ResourceType::Listener).len() > 2
                && held.missing() == 0
        };
        let clients = (0..clients).map(|number| (number, Held::default()));
        let clients = all(clients, |(number, held)| {
            let pilot = pilot.clone();
            async move {
                let mut client = open(&pilot, number, held).await;
                client.until(in_sync).await.unwrap();
                (number, client)
            }
        });
        Self {
            clients: clients.await,
            services,
        }
    }

    /// Cuts every connection and connects again with what each client has.
    pub(crate) async fn reconnect(self, pilot: &Pilot) -> Self {
        let clients = self.clients.into_iter();
        let held: Vec<_> = clients
            .map(|(number, client)| (number, client.disconnect()))
            .collect();
        let clients = all(held, |(number, held)| {
            let pilot = pilot.clone();
            async move { (number, open(&pilot, number, held).await) }
        });
        Self {
            clients: clients.await,
            services: self.services,
        }
    }

    /// Waits until each has another version of a resource than it has now.
    pub(crate) async fn changed(&mut self, kind: ResourceType, name: &str) {
        let clients = std::mem::take(&mut self.clients);
        self.clients = all(clients, |(number, mut client)| {
            let name = name.to_owned();
            async move {
                let old = client.held().versions(kind).get(&name).cloned();
                let changed = |held: &Held| held.versions(kind).get(&name) != old.as_ref();
                client.until(changed).await.unwrap();
                (number, client)
            }
        })
        .await;
    }

    /// Waits until each has everything that was due to it on account of what it said.
    pub(crate) async fn settle(&mut self) {
        let clients = std::mem::take(&mut self.clients);
        self.clients = all(clients, async |(number, mut client)| {
            client.settle().await.unwrap();
            (number, client)
        })
        .await;
    }

    /// Looks for every service at every client, and for what one has otherwise than the first.
    pub(crate) fn check(&self) {
        let (_, first) = self.clients.first().unwrap();
        let first = first.held();
        for (number, client) in &self.clients {
            let held = client.held();
            assert_eq!(held.missing(), 0, "client {number} was not told everything");
            for service in (0..self.services).map(|service| format!("s{service}.default.mesh")) {
                let cluster = format!("outbound|80||{service}");
                for (kind, name) in [
                    (ResourceType::Cluster, &cluster),
                    (ResourceType::Endpoint, &cluster),
                    (ResourceType::Name, &service),
                ] {
                    let version = held.versions(kind).get(name);
                    assert!(version.is_some(), "client {number} lacks {kind:?} `{name}`");
                    let expected = first.versions(kind).get(name);
                    assert_eq!(version, expected, "client {number} has another `{name}`");
                }
            }
            let routes = outbound_routes(held);
            assert_eq!(
                routes,
                outbound_routes(first),
                "client {number} has other routes"
            );
            assert_eq!(routes.len(), usize::from(virtual_address::BUCKETS) + 1);
        }
    }

    /// The name of the `RouteConfiguration` that holds a service of port 80: where its address is.
    pub(crate) fn route_of(host: &str) -> String {
        format!("80/{}", virtual_address::bucket(&host.parse().unwrap()))
    }

    /// How many clients there are.
    pub(crate) fn len(&self) -> u64 {
        self.clients.len() as u64
    }

    /// Bytes of the responses that came.
    pub(crate) fn bytes(&self) -> u64 {
        let received = self.clients.iter().map(|(_, client)| client.received);
        received.map(|received| received.bytes).sum()
    }

    /// Bytes that came, by type.
    pub(crate) fn bytes_of(&self, kind: ResourceType) -> u64 {
        let received = self.clients.iter().map(|(_, client)| client.received);
        let of_type = received.filter_map(|received| received.by_type.get(kind.index()).copied());
        of_type.sum()
    }

    /// Resources that came.
    pub(crate) fn resources(&self) -> u64 {
        let received = self.clients.iter().map(|(_, client)| client.received);
        received.map(|received| received.resources).sum()
    }

    /// Bytes of what the first client asked with when it connected.
    pub(crate) fn asked_bytes(&self) -> u64 {
        let first = self.clients.first();
        first.map_or(0, |(_, client)| client.asked_bytes)
    }
}

/// Versions of the routes of port 80, which all clients share; each has others for what comes to it.
fn outbound_routes(held: &Held) -> Vec<(&String, &String)> {
    let routes = held.versions(ResourceType::Route).iter();
    routes.filter(|(name, _)| name.starts_with("80/")).collect()
}

/// Opens the stream of a proxy that has `held`; comes again when it is turned away, as agents do.
async fn open(pilot: &Pilot, number: u32, held: Held) -> DeltaClient {
    let id = format!("default/web-{number}");
    loop {
        let attempt = async {
            let channel = pilot.dial().await.map_err(Box::new)?;
            DeltaClient::connect(channel, &id, held.clone()).await
        };
        match attempt.await {
            Ok(client) => return client,
            Err(ClientError::Refused(status)) if is_unanswered(&status) => sleep(RETRY).await,
            Err(error) => panic!("client {number} was refused: {error}"),
        }
    }
}

/// Has all of them do something at the same time, each within [`TOO_LONG`].
async fn all<T, U: Send + 'static, F: Future<Output = U> + Send + 'static>(
    clients: impl IntoIterator<Item = T>,
    act: impl Fn(T) -> F,
) -> Vec<U> {
    let mut tasks = JoinSet::new();
    for client in clients {
        let task = act(client);
        tasks.spawn(async move { timeout(TOO_LONG, task).await.unwrap() });
    }
    tasks.join_all().await
}
