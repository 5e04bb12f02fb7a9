//! Calls to an address that the application knows by itself: the proxy asks for its cluster.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use mesh_control::pilot::ads::AdsService;
use mesh_control::pilot::mesh::Mesh;
use mesh_control::pilot::publisher::Views;
use mesh_control::pilot::registry::{AgentRegistry, AgentsService};
use mesh_control::pilot::resource::{Layer, Snapshot};
use mesh_control::pilot::snapshot;
use mesh_identity::{Connection, Peer};
use mesh_model::{Mode, Workload};
use mesh_proto::envoy::config::core::v3::{DataSource, data_source};
use mesh_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use mesh_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use mesh_proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use mesh_proto::google::protobuf::Any;
use mesh_proto::mesh::agent::v1::agents_client::AgentsClient;
use mesh_proto::mesh::agent::v1::agents_server::AgentsServer;
use mesh_proto::mesh::agent::v1::{AgentMessage, PilotMessage, Register, agent_message};
use prost::{Message as _, Name as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapRequestLayer;

use super::bootstrap::Secrets;
use super::certificate::Authority;
use super::namespace::PROXY;
use super::world::{PATIENCE, World, mesh_of};
use super::{API, WEB};

/// Pilot and agent in one: the sidecar's ADS and secrets at a unix socket.
pub(crate) struct Plane {
    dir: TempDir,
    node: String,
    views: Views,
    /// Serves for as long as this lives.
    _runtime: Runtime,
    /// Keeps the view before Envoy asks for it.
    _view: watch::Receiver<Option<Snapshot>>,
    _registration: (mpsc::Sender<AgentMessage>, Streaming<PilotMessage>),
}

/// Certificate, key and roots, as an agent serves them.
#[derive(Clone)]
struct Agent {
    secrets: Secrets,
}

/// A server whose host leads from other ports to its own, one of whose ports is one of HTTP too,
/// and an address at which somebody is known to be at a port that is not called here.
const CATALOGUE: &str = r#"
- id: shop/web-1
  namespace: shop
  service_account: web
  addresses: CLIENT
- id: shop/api-1
  namespace: shop
  service_account: ACCOUNT
  addresses: SERVER
  services:
  - name: api
    ports:
    - {name: http, number: 80, target: 24080, inside: 8080, protocol: http}
    - {name: tcp, number: 3306, target: 24306, inside: 3306, protocol: tcp}
    - {name: static, number: 8081, target: 8081, protocol: http}
- id: shop/far-1
  namespace: shop
  service_account: far
  addresses: [OUTSIDE]
  services:
  - name: far
    ports: [{name: tcp, number: 3306, target: 24307, inside: 3306, protocol: tcp}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secret, namespace: shop}
spec:
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {paths: [/secret], ports: ["8080"]}}]
"#;

/// Whoever runs as `account` at the server.
fn catalogue(account: &str) -> String {
    CATALOGUE.replace("ACCOUNT", account)
}

#[test]
fn a_call_to_an_address_of_the_catalogue_is_carried_by_mutual_tls() {
    let world = World::start_asking(&catalogue("api"));
    world
        .server
        .serve_http(std::net::Ipv6Addr::UNSPECIFIED, 8080);
    world
        .server
        .serve_http(std::net::Ipv6Addr::UNSPECIFIED, 8081);
    world
        .server
        .serve_lines(std::net::Ipv6Addr::UNSPECIFIED, 3306);
    for (dialed, inside) in [(24080, 8080), (24306, 3306)] {
        let (client, server) = (&world.client.machine, &world.server.machine);
        client.map_port(server, dialed, inside);
    }
    for address in world.server.machine.addresses() {
        for (port, path) in [(24080, "/mapped"), (8081, "/static")] {
            let answer = world.get(address, port, "whoever", path);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains(&format!(";URI={WEB}\r\n")), "{answer}");
        }
        let refused = world.get(address, 24080, "whoever", "/secret");
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
        let answer = world.say(address, 24306, "again\n").unwrap();
        assert!(answer.ends_with("6\nagain\n"), "{answer}");
        let source = world.client.log(|entry| entry.peer == API);
        assert_eq!(
            (source.log.as_str(), source.service.as_str()),
            ("outbound", "api.shop.mesh")
        );
        let destination = world.server.log(|entry| entry.peer == WEB);
        assert_eq!(destination.log, "inbound");
    }
}

#[test]
fn an_address_where_no_sidecar_is_is_called_as_before() {
    let world = World::start_asking(&catalogue("api"));
    let [plain, _] = world.server.machine.outside;
    world.server.serve_lines(plain, 5432);
    let answer = world.say(plain.into(), 5432, "again\n").unwrap();
    assert!(answer.ends_with("\nagain\n"), "{answer}");
    let log = world.client.log(|entry| entry.log == "outbound");
    assert_eq!((log.peer.as_str(), log.service.as_str()), ("", ""));
}

#[test]
fn whoever_comes_to_an_address_is_who_new_calls_accept() {
    let world = World::start_asking(&catalogue("other"));
    world
        .server
        .serve_lines(std::net::Ipv6Addr::UNSPECIFIED, 3306);
    world
        .client
        .machine
        .map_port(&world.server.machine, 24306, 3306);
    let address = world.server.machine.v4.into();
    let call = || world.say(address, 24306, "again\n").unwrap_or_default();
    // Who answers is known as `other` when Envoy starts, whatever Pilot says of it.
    assert_eq!(call(), "hello ::ffff:127.0.0.6\nagain\n");
    for (account, is_answered) in [("api", false), ("other", true)] {
        world.publish(&catalogue(account));
        let began = Instant::now();
        while call().is_empty() == is_answered {
            assert!(
                began.elapsed() < PATIENCE,
                "it is not `{account}` that is called"
            );
            sleep(Duration::from_millis(5));
        }
    }
}

/// What Pilot relies on when it takes the cluster of an address away: Envoy does not ask for it
/// again, and takes it unasked.
#[test]
fn who_waits_at_an_address_that_was_taken_away_is_carried_once_somebody_is_there() {
    let world = World::start_asking(&catalogue("api"));
    let (client, server) = (&world.client, &world.server.machine);
    world
        .server
        .serve_http(std::net::Ipv6Addr::UNSPECIFIED, 8080);
    client.machine.map_port(server, 24080, 8080);
    let address = server.v4.into();
    let answer = world.get(address, 24080, "whoever", "/first");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    world.plane.as_ref().unwrap().take_away();
    let began = Instant::now();
    while client.clusters().contains("direct|") {
        assert!(began.elapsed() < PATIENCE, "it was not taken away");
        sleep(Duration::from_millis(5));
    }
    let mut waiting = world.connect(address, 24080);
    world.publish(&catalogue("api"));
    assert_eq!(waiting.get("whoever", "/second"), 200);
}

// === impl World ===

impl World {
    /// Has the client's Pilot say what it would if the mesh were another.
    fn publish(&self, yaml: &str) {
        let mesh = mesh_of(yaml, &self.client.machine, &self.server.machine);
        self.plane.as_ref().unwrap().publish(&mesh);
    }
}

// === impl Plane ===

impl Plane {
    /// Serves what a workload of a mesh gets for asking.
    pub(crate) fn start(mesh: &Mesh, workload: &Workload, authority: &Authority) -> Self {
        let dir = TempDir::new().unwrap();
        let identity = workload.identity(&mesh.trust_domain);
        let secrets = authority.issue(&identity.to_string(), dir.path());
        let socket = dir.path().join("agent");
        let runtime = Runtime::new().unwrap();
        let registry = AgentRegistry::new();
        let views = Views::new();
        views.trust();
        let stop = CancellationToken::new();
        let ads = AdsService::new(registry.clone(), views.clone(), stop.clone());
        let agents = AgentsService::new(registry, stop);
        let connection = Connection {
            peer: Peer::Workload(identity),
            remote: ([127, 0, 0, 1], 1).into(),
            certificate: None,
        };
        let listener = {
            let _runtime = runtime.enter();
            UnixListener::bind(&socket).unwrap()
        };
        let know = MapRequestLayer::new(move |mut request: http::Request<_>| {
            request.extensions_mut().insert(connection.clone());
            request
        });
        let server = Server::builder()
            .layer(know)
            .add_service(AgentsServer::new(agents))
            .add_service(SecretDiscoveryServiceServer::new(Agent { secrets }))
            .add_service(ads)
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(&socket, Some(PROXY), Some(PROXY)).unwrap();
        let plane = Self {
            node: workload.id.to_string(),
            _view: views.subscribe(&workload.id),
            views,
            _registration: runtime.block_on(register(socket, workload)),
            _runtime: runtime,
            dir,
        };
        plane.publish(mesh);
        plane
    }

    /// What is said from now on: clusters of addresses, and nothing else.
    fn publish(&self, mesh: &Mesh) {
        let id = self.node.parse().unwrap();
        let (workload, _) = mesh.workload(&id).unwrap();
        let all = snapshot::shared(mesh, &workload.namespace, Mode::Transparent);
        let mut shared = Layer::default();
        shared.direct = all.direct;
        self.say(shared);
    }

    /// Takes the clusters of all addresses away.
    fn take_away(&self) {
        self.say(Layer::default());
    }

    fn say(&self, shared: Layer) {
        let snapshot = Snapshot {
            shared: Arc::new(shared),
            own: Arc::default(),
        };
        self.views.publish(&self.node.parse().unwrap(), snapshot);
    }

    /// Has a proxy ask here.
    pub(crate) fn put_into(&self, bootstrap: &mut Value) {
        bootstrap["node"]["id"] = json!(self.node);
        let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
        bootstrap["dynamic_resources"] = json!({
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "agent" } }],
            },
            "cds_config": ads,
        });
        let agent = json!({
            "name": "agent",
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} },
                },
            },
            "load_assignment": { "cluster_name": "agent", "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": { "pipe": { "path": self.dir.path().join("agent") } } },
            }] }] },
        });
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut();
        clusters.unwrap().push(agent);
    }
}

async fn register(
    socket: PathBuf,
    workload: &Workload,
) -> (mpsc::Sender<AgentMessage>, Streaming<PilotMessage>) {
    let connect = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://pilot").connect_with_connector_lazy(connect);
    let (messages, outbound) = mpsc::channel(1);
    let addresses = workload.addresses.iter().map(ToString::to_string);
    let register = Register {
        workload: Some(mesh_proto::mesh::agent::v1::Workload {
            id: workload.id.to_string(),
            namespace: workload.namespace.to_string(),
            service_account: workload.service_account.to_string(),
            addresses: addresses.collect(),
            ..Default::default()
        }),
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

// === impl Agent ===

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Agent {
    type StreamSecretsStream = Answers<DiscoveryResponse>;
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_secrets(
        &self,
        requests: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let agent = self.clone();
        let answers = requests.into_inner().filter_map(move |request| {
            let names = request.ok()?.resource_names_subscribe;
            (!names.is_empty()).then(|| Ok(agent.answer(&names)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("delta only"))
    }
}

impl Agent {
    fn answer(&self, names: &[String]) -> DeltaDiscoveryResponse {
        let resources = names.iter().map(|name| Resource {
            name: name.clone(),
            version: "1".to_owned(),
            resource: Some(Any {
                type_url: Secret::type_url(),
                value: self.secret(name).encode_to_vec().into(),
            }),
            ..Default::default()
        });
        DeltaDiscoveryResponse {
            type_url: Secret::type_url(),
            resources: resources.collect(),
            nonce: "1".to_owned(),
            ..Default::default()
        }
    }

    fn secret(&self, name: &str) -> Secret {
        let Secrets { chain, key, roots } = &self.secrets;
        let kind = if name == "ROOTCA" {
            secret::Type::ValidationContext(CertificateValidationContext {
                trusted_ca: Some(read(roots)),
                ..Default::default()
            })
        } else {
            secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(read(chain)),
                private_key: Some(read(key)),
                ..Default::default()
            })
        };
        Secret {
            name: name.to_owned(),
            r#type: Some(kind),
        }
    }
}

fn read(file: &Path) -> DataSource {
    let bytes = fs::read(file).unwrap();
    DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(bytes.into())),
        ..Default::default()
    }
}
