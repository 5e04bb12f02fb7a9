//! Real Envoy as a client of delta ADS: what a session sends is what Envoy needs, in that order.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mesh_control::pilot::ads::{AdsService, Sessions};
use mesh_control::pilot::publisher::Views;
use mesh_control::pilot::registry::{AgentRegistry, AgentsService};
use mesh_control::pilot::resource::{Layer, Resource, ResourceType, Snapshot};
use mesh_control::pilot::session::{State, TypeStatus};
use mesh_identity::{Connection, Peer};
use mesh_model::WorkloadId;
use mesh_proto::envoy::config::cluster::v3::Cluster;
use mesh_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use mesh_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use mesh_proto::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
    socket_address,
};
use mesh_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use mesh_proto::envoy::config::listener::v3::filter::ConfigType;
use mesh_proto::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use mesh_proto::envoy::config::route::v3::route::Action;
use mesh_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use mesh_proto::envoy::config::route::v3::route_match::PathSpecifier;
use mesh_proto::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use mesh_proto::envoy::extensions::filters::http::router::v3::Router;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter,
};
use mesh_proto::google::protobuf::Any;
use mesh_proto::mesh::agent::v1::agents_client::AgentsClient;
use mesh_proto::mesh::agent::v1::agents_server::AgentsServer;
use mesh_proto::mesh::agent::v1::{AgentMessage, PilotMessage, Register, Workload, agent_message};
use prost::Name;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Endpoint as Dial, Server};
use tower::util::MapRequestLayer;

const WORKLOAD: &str = "default/web-1";
const SOON: Duration = Duration::from_secs(20);

/// A mesh of a few services, as the sessions see it.
#[derive(Clone, Default)]
struct Mesh {
    /// Services, each with a salt for its cluster, and one for its endpoints.
    services: Vec<(String, u64, u64)>,
    /// To which services the route leads; the first one that exists takes everything.
    route_to: Option<String>,
    /// Bytes that each cluster carries for nothing.
    ballast: usize,
    /// Whether a second listener is there that Envoy cannot take.
    has_bad_listener: bool,
}

/// A server of ADS on loopback.
struct Plane {
    address: SocketAddr,
    door: std::net::TcpListener,
    views: Views,
    sessions: Sessions,
    stop: CancellationToken,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    /// Keeps the view before Envoy asks for it.
    _view: watch::Receiver<Option<Snapshot>>,
    _registration: (mpsc::Sender<AgentMessage>, Streaming<PilotMessage>),
}

struct Envoy {
    process: Child,
    _home: TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Plane {
    /// Serves who connects to `door`, which stays open when this ends: an address that is given
    /// back may not be had again at once.
    async fn start(door: std::net::TcpListener) -> Self {
        let listener = TcpListener::from_std(door.try_clone().unwrap()).unwrap();
        let address = door.local_addr().unwrap();
        let stop = CancellationToken::new();
        let registry = AgentRegistry::new();
        let views = Views::new();
        views.trust();
        let ads = AdsService::new(registry.clone(), views.clone(), stop.clone());
        let sessions = ads.sessions();
        let agents = AgentsService::new(registry, stop.clone());
        let identity = "spiffe://cluster.local/ns/default/sa/web".parse().unwrap();
        let connection = Connection {
            peer: Peer::Workload(identity),
            remote: address,
            certificate: None,
        };
        let server = Server::builder()
            .layer(MapRequestLayer::new(
                move |mut request: http::Request<_>| {
                    request.extensions_mut().insert(connection.clone());
                    request
                },
            ))
            .add_service(AgentsServer::new(agents))
            .add_service(ads)
            .serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                stop.clone().cancelled_owned(),
            );
        let server = tokio::spawn(server);
        Self {
            server,
            address,
            door,
            _view: views.subscribe(&id()),
            views,
            sessions,
            stop,
            _registration: register(address).await,
        }
    }

    /// Ends every stream, and gives back where the next one can serve.
    async fn stop(self) -> std::net::TcpListener {
        self.stop.cancel();
        self.server.await.unwrap().unwrap();
        self.door
    }

    fn publish(&self, mesh: &Mesh) {
        let snapshot = Snapshot {
            shared: Arc::new(mesh.layer()),
            own: Arc::default(),
        };
        self.views.publish(&id(), snapshot);
    }

    fn status(&self, kind: ResourceType) -> Option<TypeStatus> {
        let all = self.sessions.status(&id());
        all.into_iter().find(|status| status.kind == kind)
    }

    /// Waits until a type stands as `wanted` says.
    async fn until(&self, kind: ResourceType, wanted: impl Fn(&TypeStatus) -> bool) -> TypeStatus {
        let began = Instant::now();
        loop {
            let status = self.status(kind);
            if let Some(status) = status.filter(&wanted) {
                return status;
            }
            assert!(
                began.elapsed() < SOON,
                "waited too long: {:?}",
                self.sessions.status(&id())
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until Envoy has accepted so many resources of each type.
    async fn synced(&self, clusters: usize, listeners: usize) {
        for (kind, resources) in [
            (ResourceType::Cluster, clusters),
            (ResourceType::Endpoint, clusters),
            (ResourceType::Listener, listeners),
            (ResourceType::Route, 1),
        ] {
            self.until(kind, |status| {
                status.state == State::Synced && status.resources == resources
            })
            .await;
        }
    }
}

async fn register(address: SocketAddr) -> (mpsc::Sender<AgentMessage>, Streaming<PilotMessage>) {
    let channel = Dial::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let (messages, outbound) = mpsc::channel(1);
    let workload = Workload {
        id: WORKLOAD.to_owned(),
        namespace: "default".to_owned(),
        service_account: "web".to_owned(),
        addresses: vec!["10.0.0.1".to_owned()],
        ..Workload::default()
    };
    let register = Register {
        workload: Some(workload),
        health: 1,
        version: String::new(),
    };
    let message = Some(agent_message::Message::Register(register));
    messages.send(AgentMessage { message }).await.unwrap();
    let answers = AgentsClient::new(channel)
        .connect(ReceiverStream::new(outbound))
        .await
        .unwrap();
    (messages, answers.into_inner())
}

impl Envoy {
    fn start(plane: SocketAddr) -> Self {
        let home = TempDir::new().unwrap();
        let admin = home.path().join("admin");
        let bootstrap = serde_json::json!({
            "node": { "id": WORKLOAD, "cluster": "web" },
            "admin": { "address": { "pipe": { "path": admin } } },
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{ "envoy_grpc": { "cluster_name": "pilot" } }],
                },
                "cds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
                "lds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
            },
            "static_resources": { "clusters": [{
                "name": "pilot",
                "type": "STATIC",
                "connect_timeout": "1s",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": { "http2_protocol_options": {} },
                    },
                },
                "load_assignment": { "cluster_name": "pilot", "endpoints": [{ "lb_endpoints": [{
                    "endpoint": { "address": { "socket_address": {
                        "address": plane.ip().to_string(), "port_value": plane.port(),
                    } } },
                }] }] },
            }] },
        });
        let path = home.path().join("bootstrap.json");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(bootstrap.to_string().as_bytes()).unwrap();
        let envoy = std::env::var_os("ENVOY_BIN").unwrap_or_else(|| "envoy".into());
        let process = Command::new(envoy)
            .arg("--config-path")
            .arg(&path)
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--log-level",
                "error",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("Envoy is in ENVOY_BIN or PATH");
        Self {
            process,
            _home: home,
        }
    }
}

impl Mesh {
    fn of(services: usize) -> Self {
        let services = (0..services).map(|number| (format!("s{number}"), 0, 0));
        Self {
            services: services.collect(),
            route_to: Some("s0".to_owned()),
            ..Self::default()
        }
    }

    fn layer(&self) -> Layer {
        let mut layer = Layer::default();
        let clusters = self.services.iter().map(|(name, salt, _)| {
            let cluster = Cluster {
                name: name.clone(),
                alt_stat_name: format!("{name}_{salt}{}", "x".repeat(self.ballast)),
                cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
                eds_cluster_config: Some(EdsClusterConfig {
                    eds_config: Some(ads()),
                    ..EdsClusterConfig::default()
                }),
                ..Cluster::default()
            };
            Resource::encode(name, &cluster)
        });
        layer
            .set(ResourceType::Cluster, clusters.collect())
            .unwrap();
        let endpoints = self.services.iter().map(|(name, _, salt)| {
            let endpoint = Endpoint {
                address: Some(socket(1024 + u32::try_from(*salt).unwrap())),
                ..Endpoint::default()
            };
            let assignment = ClusterLoadAssignment {
                cluster_name: name.clone(),
                endpoints: vec![LocalityLbEndpoints {
                    lb_endpoints: vec![LbEndpoint {
                        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                        ..LbEndpoint::default()
                    }],
                    ..LocalityLbEndpoints::default()
                }],
                ..ClusterLoadAssignment::default()
            };
            Resource::encode(name, &assignment)
        });
        layer
            .set(ResourceType::Endpoint, endpoints.collect())
            .unwrap();
        let mut listeners = vec![Resource::encode("http", &listener("http"))];
        if self.has_bad_listener {
            let bad = Listener {
                filter_chains: Vec::new(),
                ..listener("bad")
            };
            listeners.push(Resource::encode("bad", &bad));
            listeners.push(Resource::encode("good", &listener("good")));
        }
        layer.set(ResourceType::Listener, listeners).unwrap();
        let routes = vec![Resource::encode("routes", &self.routes())];
        layer.set(ResourceType::Route, routes).unwrap();
        layer
    }

    fn routes(&self) -> RouteConfiguration {
        let cluster = self.route_to.clone().unwrap_or_default();
        let route = Route {
            r#match: Some(RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
                ..RouteMatch::default()
            }),
            action: Some(Action::Route(RouteAction {
                cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
                ..RouteAction::default()
            })),
            ..Route::default()
        };
        RouteConfiguration {
            name: "routes".to_owned(),
            virtual_hosts: vec![VirtualHost {
                name: "all".to_owned(),
                domains: vec!["*".to_owned()],
                routes: vec![route],
                ..VirtualHost::default()
            }],
            ..RouteConfiguration::default()
        }
    }
}

fn id() -> WorkloadId {
    WORKLOAD.parse().unwrap()
}

fn any<M: prost::Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec().into(),
    }
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: Some(mesh_proto::google::protobuf::Duration::default()),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn socket(port: u32) -> Address {
    let address = SocketAddress {
        address: Ipv4Addr::LOCALHOST.to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Address {
        address: Some(address::Address::SocketAddress(address)),
    }
}

/// A listener at any port that takes its routes from `routes`.
fn listener(name: &str) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(http_connection_manager::RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: "routes".to_owned(),
        })),
        http_filters: vec![HttpFilter {
            name: "router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(
                any(&Router::default()),
            )),
            ..HttpFilter::default()
        }],
        ..HttpConnectionManager::default()
    };
    Listener {
        name: name.to_owned(),
        address: Some(socket(0)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "http".to_owned(),
                config_type: Some(ConfigType::TypedConfig(any(&manager))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
}

/// Runs a test on a plane with an Envoy that has accepted `mesh`.
fn run<F>(mesh: &Mesh, test: impl FnOnce(Plane) -> F)
where
    F: Future<Output = ()>,
{
    Runtime::new().unwrap().block_on(async {
        let door = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        door.set_nonblocking(true).unwrap();
        let plane = Plane::start(door).await;
        plane.publish(mesh);
        let _envoy = Envoy::start(plane.address);
        plane.synced(mesh.services.len(), 1).await;
        test(plane).await;
    });
}

#[test]
fn a_mesh_that_comes_in_many_parts_is_taken_whole() {
    let mesh = Mesh {
        ballast: 2_000,
        ..Mesh::of(300)
    };
    run(&mesh, |plane| async move {
        let status = plane.status(ResourceType::Cluster).unwrap();
        assert_eq!(status.sent, 300, "each cluster once");
    });
}

#[test]
fn a_cluster_that_changes_does_not_stay_in_warming() {
    let mut mesh = Mesh::of(3);
    let before = mesh.clone();
    run(&before, |plane| async move {
        for salt in 1..5 {
            mesh.services[1].1 = salt;
            plane.publish(&mesh);
            let status = plane
                .until(ResourceType::Cluster, |status| {
                    status.state == State::Synced && status.sent == 3 + salt
                })
                .await;
            assert_eq!(status.resources, 3);
        }
        // Envoy says yes to a changed cluster only when it has endpoints for it.
        let endpoints = plane.status(ResourceType::Endpoint).unwrap();
        assert_eq!(endpoints.sent, 3 + 4);
    });
}

#[test]
fn a_service_is_exchanged_for_another() {
    let mut mesh = Mesh::of(2);
    let before = mesh.clone();
    run(&before, |plane| async move {
        mesh.services = vec![("s1".to_owned(), 0, 0), ("new".to_owned(), 0, 0)];
        mesh.route_to = Some("new".to_owned());
        plane.publish(&mesh);
        plane
            .until(ResourceType::Route, |status| status.sent == 2)
            .await;
        plane.synced(2, 1).await;
    });
}

#[test]
fn good_listeners_of_a_refused_response_are_taken() {
    let mut mesh = Mesh::of(1);
    let before = mesh.clone();
    run(&before, |plane| async move {
        mesh.has_bad_listener = true;
        plane.publish(&mesh);
        let status = plane
            .until(ResourceType::Listener, |status| {
                status.state == State::Rejected
            })
            .await;
        assert!(status.error.contains("bad"), "{status:?}");
        mesh.has_bad_listener = false;
        plane.publish(&mesh);
        plane.synced(1, 1).await;
    });
}

#[test]
fn who_comes_back_to_another_server_is_sent_what_changed_and_nothing_else() {
    let mut mesh = Mesh::of(50);
    let before = mesh.clone();
    run(&before, |plane| async move {
        let plane = Plane::start(plane.stop().await).await;
        plane.publish(&mesh);
        plane.synced(50, 1).await;
        for kind in ResourceType::ALL {
            let sent = plane.status(kind).map_or(0, |status| status.sent);
            assert_eq!(sent, 0, "{kind:?}");
        }

        let plane = Plane::start(plane.stop().await).await;
        mesh.services[7].1 = 1;
        mesh.services[8].2 = 1;
        plane.publish(&mesh);
        plane.synced(50, 1).await;
        let sent = |kind| plane.status(kind).unwrap().sent;
        assert_eq!(sent(ResourceType::Cluster), 1);
        assert_eq!(sent(ResourceType::Endpoint), 2, "the changed cluster's too");
        assert_eq!(sent(ResourceType::Listener), 0);
    });
}
