//! A swarm of proxies against Pilot and its API server, which run in a process of their own:
//! time until all are in sync, memory per client, latency of one endpoint's change, and what is
//! sent to those who come back.
//!
//! `cargo bench -p mesh-control --features test-util --bench ads`; `CLIENTS` sets how many proxies
//! and services there are (1,000). Every client checks each name and hash that it is sent, and one
//! that misses a resource never gets in sync, which fails the run.
//! Prints one JSON object.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed measurement"
)]
#![expect(clippy::print_stdout, reason = "the result goes to standard output")]

use std::env;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use mesh_control::api::{ApiConfig, ApiServer};
use mesh_control::pilot::Pilot;
use mesh_control::pilot::ads::client::{DeltaClient, Held};
use mesh_control::pilot::resource::ResourceType;
use mesh_control::store::{self, StoreConfig};
use mesh_identity::{Connection, Peer};
use mesh_proto::mesh::agent::v1::agents_client::AgentsClient;
use mesh_proto::mesh::agent::v1::{
    AgentMessage, Health, PilotMessage, Register, Workload, WorkloadPort, WorkloadService,
    agent_message,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::service::RoutesBuilder;
use tonic::transport::{Channel, Endpoint, Server};
use tower::util::MapRequestLayer;

/// Says to this program that it is the server.
const ROLE: &str = "MESH_BENCH_ROLE";
const PUSHES: usize = 50;
/// Whoever is not in sync by then misses something.
const TOO_LONG: Duration = Duration::from_secs(300);

struct Plane {
    process: Child,
    address: SocketAddr,
}

/// The registration of a workload, as long as it lives.
struct Agent {
    messages: mpsc::Sender<AgentMessage>,
    _answers: Streaming<PilotMessage>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn main() {
    // The first provider that is installed is what kube takes; there is one in the tree.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if env::var_os(ROLE).is_some() {
        runtime.block_on(serve());
    } else {
        let clients = env::var("CLIENTS").map_or(1000, |text| text.parse().unwrap());
        runtime.block_on(measure(clients));
    }
}

/// Runs API server and Pilot until standard input ends.
async fn serve() {
    let home = TempDir::new().unwrap();
    let stop = CancellationToken::new();
    let store = store::open(&StoreConfig::file(home.path().join("store.redb")))
        .await
        .unwrap();
    let config = ApiConfig::new((Ipv4Addr::LOCALHOST, 0).into(), home.path(), store);
    let _api = ApiServer::start(config, stop.clone()).await.unwrap();
    let client = async |name: &str| {
        let kubeconfig = Kubeconfig::read_from(home.path().join(name)).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        Client::try_from(config.unwrap()).unwrap()
    };
    let maps: Api<ConfigMap> = Api::namespaced(client("kubeconfig").await, "mesh-system");
    let mesh =
        json!({ "metadata": { "name": "mesh" }, "data": { "trustDomain": "cluster.local" } });
    let mesh = serde_json::from_value(mesh).unwrap();
    maps.create(&PostParams::default(), &mesh).await.unwrap();

    let pilot = Pilot::new(client("pilot.kubeconfig").await, stop.clone());
    let mut routes = RoutesBuilder::default();
    pilot.add_services(&mut routes);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connection = Connection {
        peer: Peer::Workload("spiffe://cluster.local/ns/default/sa/web".parse().unwrap()),
        remote: address,
        certificate: None,
    };
    let layer = MapRequestLayer::new(move |mut request: http::Request<_>| {
        request.extensions_mut().insert(connection.clone());
        request
    });
    let server = Server::builder()
        .layer(layer)
        .add_routes(routes.routes())
        .serve_with_incoming(TcpListenerStream::new(listener));
    println!("{address}");
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        _ = server => {}
        () = pilot.run() => {}
        _ = end => {}
    }
}

async fn measure(clients: usize) {
    let plane = Plane::start();
    let mut agents = Vec::new();
    for number in 0..clients {
        agents.push(Agent::register(plane.address, number).await);
    }
    // The gate is open and every service has its addresses when the first one knows them all.
    let in_sync = move |held: &Held| {
        held.versions(ResourceType::Name).len() == clients
            && held.versions(ResourceType::Endpoint).len() == clients
            && held.versions(ResourceType::Listener).len() > 2
            && held.missing() == 0
    };
    let mut first = connect(plane.address, 0, Held::default()).await;
    timeout(TOO_LONG, first.until(in_sync))
        .await
        .unwrap()
        .unwrap();
    let bytes = first.received.bytes;
    drop(first);
    let before = plane.resident();

    let began = Instant::now();
    let mut swarm = JoinSet::new();
    for number in 0..clients {
        let address = plane.address;
        swarm.spawn(async move {
            let mut client = connect(address, number, Held::default()).await;
            timeout(TOO_LONG, client.until(in_sync))
                .await
                .unwrap()
                .unwrap();
            (number, client)
        });
    }
    let swarm = swarm.join_all().await;
    let synced = began.elapsed();
    let per_client = plane.resident().saturating_sub(before) / clients as u64;

    let (swarm, mut latencies) = push(swarm, &agents).await;
    latencies.sort();
    let percentile = |share: usize| {
        let index = (latencies.len() * share / 100).min(latencies.len() - 1);
        latencies.get(index).unwrap().as_secs_f64() * 1e3
    };

    let mut returning = JoinSet::new();
    for (number, client) in swarm {
        let address = plane.address;
        returning.spawn(async move {
            let mut client = connect(address, number, client.disconnect()).await;
            // What comes within a second comes for having come back.
            drop(timeout(Duration::from_secs(1), client.until(|_| false)).await);
            client.received
        });
    }
    let received = returning.join_all().await;
    let resent: u64 = received.iter().map(|received| received.resources).sum();
    let resent_bytes: u64 = received.iter().map(|received| received.bytes).sum();
    let measures = [
        ("in sync, last client", synced.as_secs_f64() * 1e3, "ms"),
        ("bytes per client", as_number(bytes), "B"),
        ("memory per client", as_number(per_client), "B"),
        ("one endpoint change, p50", percentile(50), "ms"),
        ("one endpoint change, p99", percentile(99), "ms"),
        ("resources on resume", as_number(resent), ""),
        ("bytes on resume", as_number(resent_bytes), "B"),
    ];
    let measures: Vec<_> = measures
        .iter()
        .map(|(name, value, unit)| {
            json!({ "name": format!("ads, {clients} clients: {name}"), "value": value, "unit": unit })
        })
        .collect();
    println!("{}", json!({ "measures": measures }));
    assert_eq!(resent, 0, "nothing changed meanwhile");
}

/// Changes the health of one workload again and again; when each client knew of it.
async fn push(
    mut swarm: Vec<(usize, DeltaClient)>,
    agents: &[Agent],
) -> (Vec<(usize, DeltaClient)>, Vec<Duration>) {
    let name = "outbound|80||s0.default.mesh";
    let mut latencies = Vec::new();
    for round in 0..PUSHES {
        // Quiet before each, so that each is published for itself.
        sleep(Duration::from_millis(300)).await;
        let health = if round % 2 == 0 {
            Health::Unhealthy
        } else {
            Health::Healthy
        };
        let began = Instant::now();
        let message = Some(agent_message::Message::Health(health.into()));
        let agent = agents.first().unwrap();
        agent.messages.send(AgentMessage { message }).await.unwrap();
        let mut waiting = JoinSet::new();
        for (number, mut client) in swarm {
            waiting.spawn(async move {
                let old = client
                    .held()
                    .versions(ResourceType::Endpoint)
                    .get(name)
                    .cloned();
                let changed =
                    |held: &Held| held.versions(ResourceType::Endpoint).get(name) != old.as_ref();
                timeout(TOO_LONG, client.until(changed))
                    .await
                    .unwrap()
                    .unwrap();
                ((number, client), began.elapsed())
            });
        }
        let (clients, times): (Vec<_>, Vec<_>) = waiting.join_all().await.into_iter().unzip();
        swarm = clients;
        latencies.extend(times);
    }
    (swarm, latencies)
}

async fn connect(address: SocketAddr, number: usize, held: Held) -> DeltaClient {
    let id = format!("default/web-{number}");
    DeltaClient::connect(dial(address).await, &id, held)
        .await
        .unwrap()
}

async fn dial(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a measure is not exact to the byte"
)]
fn as_number(value: u64) -> f64 {
    value as f64
}

impl Plane {
    fn start() -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .env(ROLE, "server")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        Self {
            address: line.trim().parse().unwrap(),
            process,
        }
    }

    /// Bytes of memory that the server has.
    fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        kibibytes.unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Agent {
    /// Registers a healthy workload that serves a service of its own.
    async fn register(address: SocketAddr, number: usize) -> Self {
        let [.., high, low] = number.to_be_bytes();
        let service = WorkloadService {
            name: format!("s{number}"),
            ports: vec![WorkloadPort {
                name: "http".to_owned(),
                number: 80,
                target: 8080,
                protocol: "http".to_owned(),
            }],
        };
        let workload = Workload {
            id: format!("default/web-{number}"),
            namespace: "default".to_owned(),
            service_account: "web".to_owned(),
            addresses: vec![Ipv4Addr::new(10, 0, high, low).to_string()],
            services: vec![service],
            ..Workload::default()
        };
        let register = Register {
            workload: Some(workload),
            health: Health::Healthy.into(),
            version: String::new(),
        };
        let (messages, outbound) = mpsc::channel(1);
        let message = Some(agent_message::Message::Register(register));
        messages.send(AgentMessage { message }).await.unwrap();
        let mut client = AgentsClient::new(dial(address).await);
        let answers = client.connect(ReceiverStream::new(outbound)).await.unwrap();
        Self {
            messages,
            _answers: answers.into_inner(),
        }
    }
}
