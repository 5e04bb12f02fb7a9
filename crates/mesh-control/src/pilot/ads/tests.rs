//! Real gRPC over connections in memory, whose other end is who a test says it is.

mod hostile;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use mesh_identity::Peer;
use mesh_model::{Health, Workload};
use mesh_proto::envoy::config::cluster::v3::Cluster;
use mesh_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use mesh_proto::envoy::config::core::v3::Node;
use mesh_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mesh_proto::envoy::service::discovery::v3::DiscoveryRequest;
use mesh_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::mesh::agent::v1::agents_server::AgentsServer;
use mesh_proto::mesh::agent::v1::{AgentMessage, ConfigDump, agent_message, pilot_message};
use tonic::Code;
use tonic::service::RoutesBuilder;

use super::client::{ClientError, DeltaClient, Held};
use super::*;
use crate::pilot::registry::AgentsService;
use crate::pilot::resource::{Layer, Resource};
use crate::pilot::session::State;
use crate::pilot::testing::{Agent, Dialer};

/// Pilot's services without a publisher: tests publish themselves.
struct World {
    registry: AgentRegistry,
    views: Views,
    sessions: Sessions,
    dialer: Dialer,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    fn new() -> Self {
        let registry = AgentRegistry::new();
        let views = Views::new();
        views.trust();
        let stop = CancellationToken::new();
        let ads = AdsService::new(registry.clone(), views.clone(), stop.clone());
        let sessions = ads.sessions();
        let agents = AgentsService::new(registry.clone(), stop.clone());
        let mut routes = RoutesBuilder::default();
        routes
            .add_service(AgentsServer::new(agents))
            .add_service(ads);
        let dialer = Dialer::serve(routes.routes(), &stop);
        tokio::spawn(registry.clone().expire(stop.clone()));
        Self {
            registry,
            views,
            sessions,
            dialer,
            _stop: stop.drop_guard(),
        }
    }

    /// Registers a workload of `default/web`.
    async fn register(&self, id: &str) -> Agent {
        self.try_register(&workload(id), &web()).await.unwrap()
    }

    async fn try_register(&self, workload: &Workload, peer: &Peer) -> Result<Agent, Status> {
        Agent::register(self.dialer.channel(peer), workload).await
    }

    async fn connect(&self, id: &str, held: Held) -> DeltaClient {
        DeltaClient::connect(self.dialer.channel(&web()), id, held)
            .await
            .unwrap()
    }

    /// Publishes a mesh of so many services, each `bytes` large.
    fn publish(&self, id: &str, services: usize, salt: u64, bytes: usize) {
        let mut shared = Layer::default();
        let clusters = (0..services).map(|number| {
            let name = format!("outbound|80||s{number}");
            let cluster = Cluster {
                name: name.clone(),
                alt_stat_name: format!("{salt}{}", "x".repeat(bytes)),
                cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
                ..Cluster::default()
            };
            Resource::encode(&name, &cluster)
        });
        shared
            .set(ResourceType::Cluster, clusters.collect())
            .unwrap();
        let endpoints = (0..services).map(|number| {
            let cluster_name = format!("outbound|80||s{number}");
            let endpoints = ClusterLoadAssignment {
                cluster_name: cluster_name.clone(),
                ..ClusterLoadAssignment::default()
            };
            Resource::encode(&cluster_name, &endpoints)
        });
        shared
            .set(ResourceType::Endpoint, endpoints.collect())
            .unwrap();
        let snapshot = Snapshot {
            shared: Arc::new(shared),
            own: Arc::default(),
        };
        self.views.publish(&id.parse().unwrap(), snapshot);
    }
}

fn web() -> Peer {
    Peer::Workload("spiffe://cluster.local/ns/default/sa/web".parse().unwrap())
}

fn other() -> Peer {
    Peer::Workload(
        "spiffe://cluster.local/ns/default/sa/other"
            .parse()
            .unwrap(),
    )
}

fn workload(id: &str) -> Workload {
    Workload {
        id: id.parse().unwrap(),
        namespace: "default".parse().unwrap(),
        service_account: "web".parse().unwrap(),
        addresses: vec!["10.213.0.2".parse().unwrap()],
        labels: BTreeMap::new(),
        services: Vec::new(),
        explicit: None,
        sidecar: mesh_model::Sidecar::Present,
        capture: mesh_model::Capture::default(),
        gateway: false,
    }
}

fn has_all(services: usize) -> impl Fn(&Held) -> bool {
    move |held| {
        held.versions(ResourceType::Cluster).len() == services
            && held.versions(ResourceType::Endpoint).len() == services
    }
}

#[tokio::test(start_paused = true)]
async fn a_registered_workload_is_told_what_it_is_to_have() {
    let world = World::new();
    let _agent = world.register("default/web-1").await;
    let mut client = world.connect("default/web-1", Held::default()).await;
    world.publish("default/web-1", 300, 1, 1000);
    client.until(has_all(300)).await.unwrap();
    assert!(client.received.responses > 5, "large answers come in parts");
    assert_eq!(client.received.resources, 600);

    world.publish("default/web-1", 301, 1, 1000);
    client.until(has_all(301)).await.unwrap();
    assert_eq!(client.received.resources, 602, "only what is new is sent");
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_unchanged_is_sent_nothing() {
    let world = World::new();
    let _agent = world.register("default/web-1").await;
    let mut client = world.connect("default/web-1", Held::default()).await;
    world.publish("default/web-1", 10, 1, 1);
    client.until(has_all(10)).await.unwrap();

    let mut client = world.connect("default/web-1", client.disconnect()).await;
    world.publish("default/web-1", 11, 1, 1);
    client.until(has_all(11)).await.unwrap();
    assert_eq!(client.received.resources, 2);
}

#[tokio::test(start_paused = true)]
async fn a_workload_is_told_only_to_who_registered_it() {
    let world = World::new();
    let _agent = world.register("default/web-1").await;
    let refused = DeltaClient::connect(
        world.dialer.channel(&other()),
        "default/web-1",
        Held::default(),
    );
    let refused = refused.await.unwrap_err().to_string();
    assert_eq!(refused, "the stream was refused");

    for (peer, node, code) in [
        (other(), "default/web-1", Code::PermissionDenied),
        (web(), "default/web-2", Code::FailedPrecondition),
        (web(), "Web", Code::InvalidArgument),
        (Peer::None, "default/web-1", Code::Unauthenticated),
    ] {
        let node = Node {
            id: node.to_owned(),
            ..Node::default()
        };
        let request = DeltaDiscoveryRequest {
            node: Some(node),
            ..DeltaDiscoveryRequest::default()
        };
        let mut client = AggregatedDiscoveryServiceClient::new(world.dialer.channel(&peer));
        let answer = client.delta_aggregated_resources(stream::iter([request]));
        assert_eq!(answer.await.unwrap_err().code(), code, "{peer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_waits_a_while_for_the_registration_that_comes_with_it() {
    let world = World::new();
    let connecting = world.connect("default/web-1", Held::default());
    let registering = async {
        tokio::time::sleep(REGISTRATION_TIMEOUT / 2).await;
        world.register("default/web-1").await
    };
    let (mut client, _agent) = tokio::join!(connecting, registering);
    world.publish("default/web-1", 1, 1, 1);
    client.until(has_all(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn state_of_the_world_is_not_served() {
    let world = World::new();
    let mut client = AggregatedDiscoveryServiceClient::new(world.dialer.channel(&web()));
    let request = stream::iter([DiscoveryRequest::default()]);
    let status = client
        .stream_aggregated_resources(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("DELTA_GRPC"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_keeps_nobody_waiting_and_misses_nothing_in_the_end() {
    let world = World::new();
    let _agent = world.register("default/web-1").await;
    let _other = world.register("default/web-2").await;
    let mut stalled = world.connect("default/web-1", Held::default()).await;
    let mut reader = world.connect("default/web-2", Held::default()).await;
    let rounds = 50;
    for salt in 1..=rounds {
        for id in ["default/web-1", "default/web-2"] {
            world.publish(id, 20, salt, 20_000);
        }
        let before = reader.received.resources;
        while reader.received.resources < before + 20 {
            reader.next().await.unwrap();
        }
    }
    reader.until(has_all(20)).await.unwrap();
    let wanted = reader.held().versions(ResourceType::Cluster).clone();
    stalled
        .until(|held| *held.versions(ResourceType::Cluster) == wanted)
        .await
        .unwrap();
    let rounds_seen = stalled.received.resources / 20;
    assert!(
        rounds_seen < rounds / 2,
        "{rounds_seen} of {rounds} rounds were kept for it"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_refused_stands_in_its_status() {
    let world = World::new();
    let _agent = world.register("default/web-1").await;
    let mut client = world.connect("default/web-1", Held::default()).await;
    world.publish("default/web-1", 1, 1, 1);
    client.refuse("no such transport socket").await.unwrap();
    let id = "default/web-1".parse().unwrap();
    let mut status = world.sessions.status(&id);
    while status.iter().all(|status| status.state != State::Rejected) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        status = world.sessions.status(&id);
    }
    assert_eq!(status[0].error, "no such transport socket");
    drop(client);
    while !world.sessions.status(&id).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_registration_ends_the_stream() {
    let world = World::new();
    let agent = world.register("default/web-1").await;
    let mut client = world.connect("default/web-1", Held::default()).await;
    drop(agent);
    let id = "default/web-1".parse().unwrap();
    while world.registry.find(&id).is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.views.close(&id);
    let ended = client.next().await.unwrap_err();
    let ClientError::Refused(status) = ended else {
        panic!("{ended}")
    };
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test(start_paused = true)]
async fn an_agent_registers_only_what_its_certificate_says() {
    let world = World::new();
    let refused = world
        .try_register(&workload("default/web-1"), &other())
        .await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("sa/web") && refused.message().contains("sa/other"));

    let mut wrong = workload("default/web-1");
    wrong.addresses.clear();
    let refused = world.try_register(&wrong, &web()).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("addresses"), "{refused}");
    assert!(world.registry.list(None).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_registers_again_takes_over_and_its_health_counts_at_once() {
    let world = World::new();
    let mut first = world.register("default/web-1").await;
    let second = world.register("default/web-1").await;
    let ended = first.answers.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Aborted);
    second
        .messages
        .send(AgentMessage {
            message: Some(agent_message::Message::Health(2)),
        })
        .await
        .unwrap();
    let id = "default/web-1".parse().unwrap();
    let mut changes = crate::pilot::registry::Registry::changes(&world.registry);
    while world.registry.find(&id).unwrap().health != Health::Unhealthy {
        changes.changed().await.unwrap();
    }
    assert_eq!(world.registry.find(&id).unwrap().agent_version, "1.2.3");
}

#[tokio::test(start_paused = true)]
async fn a_dump_is_asked_of_the_agent_and_comes_back() {
    let world = World::new();
    let mut agent = world.register("default/web-1").await;
    let id = "default/web-1".parse().unwrap();
    let asked = AtomicUsize::new(0);
    let agent = async {
        loop {
            let message = agent.answers.message().await.unwrap().unwrap().message;
            let Some(pilot_message::Message::AskConfigDump(ask)) = message else {
                panic!("{message:?}")
            };
            let dump = ConfigDump {
                request: ask.request,
                json: "{}".into(),
                error: ["", "Envoy is not running"][asked.fetch_add(1, Ordering::Relaxed)]
                    .to_owned(),
            };
            agent
                .messages
                .send(AgentMessage {
                    message: Some(agent_message::Message::ConfigDump(dump)),
                })
                .await
                .unwrap();
        }
    };
    let asking = async {
        let dump = world.registry.config_dump(&id).await;
        assert_eq!(dump.unwrap(), "{}");
        let failed = world.registry.config_dump(&id).await.unwrap_err();
        assert!(
            failed.to_string().contains("Envoy is not running"),
            "{failed}"
        );
    };
    tokio::select! {
        () = agent => {}
        () = asking => {}
    }
}
