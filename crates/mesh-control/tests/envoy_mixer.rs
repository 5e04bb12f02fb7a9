//! A real Envoy sends its access logs to a real Mixer, and the metrics are what happened.
//!
//! Needs the Envoy binary (`ENVOY_BIN` or PATH).

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use mesh_control::mixer::{AccessLogs, Bounds, Metrics};
use mesh_identity::testing::Authority;
use mesh_identity::tls::Clients;
use mesh_identity::transport::{HandshakeLimits, TlsIncoming};
use mesh_identity::{Credentials, ServerTls};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const MIXER: &str = "spiffe://cluster.local/ns/mesh-system/sa/mixer";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const API: &str = "spiffe://cluster.local/ns/shop/sa/api";

/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Mixer, and an Envoy of `shop/web` that reports to it.
struct World {
    registry: Registry,
    http: SocketAddr,
    tcp: SocketAddr,
    _envoy: Child,
    _tasks: JoinSet<()>,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new();
        let directory = tempfile::tempdir().unwrap();
        write_credentials(directory.path(), &authority.credentials(WEB));

        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::new(Bounds::default(), &mut registry));
        let mut tasks = JoinSet::new();
        let mixer = serve_mixer(&authority, metrics, &mut tasks).await;
        let echo = serve_echo(&mut tasks).await;

        // Fixed ports at an address of this process: nobody else takes them meanwhile.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let own = IpAddr::from(Ipv4Addr::new(127, high | 0x80, low, 1));
        let (http, tcp) = (SocketAddr::new(own, 8080), SocketAddr::new(own, 9090));
        let config = bootstrap(directory.path(), mixer, echo, http, tcp);
        let file = directory.path().join("envoy.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(directory.path().join("envoy.log")).unwrap();
        let envoy = Command::new(envoy())
            .args(["--disable-hot-restart", "--concurrency", "1", "-c"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let world = Self {
            registry,
            http,
            tcp,
            _envoy: envoy,
            _tasks: tasks,
            directory,
        };
        world.wait_for_envoy().await;
        world
    }

    /// Until Envoy listens: the listener of connections comes last.
    async fn wait_for_envoy(&self) {
        let listening = async {
            while TcpStream::connect(self.http).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        if timeout(PATIENCE, listening).await.is_err() {
            let log = self.directory.path().join("envoy.log");
            panic!(
                "Envoy does not listen: {}",
                std::fs::read_to_string(log).unwrap()
            );
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The line of a metric once it has this value.
    async fn line(&self, metric: &str, value: &str) -> String {
        let (start, end) = (format!("{metric}{{"), format!("}} {value}"));
        let found = async {
            loop {
                let text = self.text();
                let mut lines = text.lines();
                if let Some(line) =
                    lines.find(|line| line.starts_with(&start) && line.ends_with(&end))
                {
                    return line.to_owned();
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| panic!("no `{metric}` of {value} in {}", self.text()))
    }
}

async fn serve_mixer(
    authority: &Authority,
    metrics: Arc<Metrics>,
    tasks: &mut JoinSet<()>,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = ServerTls::new(authority.store(MIXER), Clients::Workloads);
    let incoming = TlsIncoming::new(listener, tls, HandshakeLimits::default());
    let service = AccessLogs::new(metrics, CancellationToken::new()).into_server();
    tasks.spawn(async move {
        let mut server = tonic::transport::Server::builder();
        let router = server.add_service(service);
        router.serve_with_incoming(incoming).await.unwrap();
    });
    address
}

/// Sends back what it gets, until the other side has said all.
async fn serve_echo(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.shutdown().await.unwrap();
    });
    address
}

fn write_credentials(directory: &Path, own: &Credentials) {
    let files = [
        ("key.pem", own.key().to_pem()),
        ("chain.pem", own.chain().to_pem()),
        ("roots.pem", own.bundle().to_pem()),
    ];
    for (name, text) in files {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

fn envoy() -> PathBuf {
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::var_os("ENVOY_BIN")
        .map(PathBuf::from)
        .or_else(|| {
            env::split_paths(&paths)
                .map(|directory| directory.join("envoy"))
                .find(|path| path.is_file())
        })
        .filter(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no Envoy found: name it with ENVOY_BIN, or put it on PATH"))
}

/// What Pilot would configure, as far as logs go: the tags and names are those of its snapshots.
fn bootstrap(
    directory: &Path,
    mixer: SocketAddr,
    echo: SocketAddr,
    http: SocketAddr,
    tcp: SocketAddr,
) -> Value {
    let file = |name: &str| json!({ "filename": directory.join(name) });
    let address = |at: SocketAddr| json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } });
    let cluster = |name: &str, at: SocketAddr| {
        json!({
            "name": name, "type": "STATIC",
            "load_assignment": { "cluster_name": name, "endpoints": [{
                "lb_endpoints": [{ "endpoint": { "address": address(at) } }],
            }] },
        })
    };
    let mut to_mixer = cluster("mixer", mixer);
    to_mixer["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    });
    to_mixer["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",
                },
                "alpn_protocols": ["h2"],
                "tls_certificates": [
                    { "certificate_chain": file("chain.pem"), "private_key": file("key.pem") },
                ],
                "validation_context": {
                    "trusted_ca": file("roots.pem"),
                    "match_typed_subject_alt_names": [
                        { "san_type": "URI", "matcher": { "exact": MIXER } },
                    ],
                },
            },
        },
    });
    json!({
        "node": { "id": "shop/web-1", "cluster": "shop" },
        "static_resources": {
            "clusters": [to_mixer, cluster("echo", echo)],
            "listeners": [
                {
                    "name": "tcp", "address": address(tcp),
                    "filter_chains": [{ "filters": [{
                        "name": "tcp",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                            "stat_prefix": "tcp", "cluster": "echo",
                            "access_log": [log("envoy.access_loggers.tcp_grpc", "Tcp")],
                        },
                    }] }],
                },
                {
                    "name": "http", "address": address(http),
                    "filter_chains": [{ "filters": [{
                        "name": "http",
                        "typed_config": http_manager(),
                    }] }],
                },
            ],
        },
    })
}

/// Answers `/` with 200 and everything else with 503.
fn http_manager() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
            { "match": { "path": "/" }, "direct_response": { "status": 200 } },
            { "match": { "prefix": "/" }, "direct_response": { "status": 503 } },
        ] }] },
        "http_filters": [{
            "name": "router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            },
        }],
        "access_log": [log("envoy.access_loggers.http_grpc", "Http")],
    })
}

/// A log of the calling side; the tags are texts here, since nothing is called over TLS.
fn log(name: &str, kind: &str) -> Value {
    let config = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.{kind}GrpcAccessLogConfig"),
        "common_config": {
            "log_name": "outbound",
            "transport_api_version": "V3",
            "grpc_service": { "envoy_grpc": { "cluster_name": "mixer" } },
            "buffer_flush_interval": "0.1s",
            "custom_tags": [
                { "tag": "peer", "literal": { "value": API } },
                { "tag": "service", "literal": { "value": "api.shop.mesh" } },
            ],
        },
    });
    json!({ "name": name, "typed_config": config })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_connections_are_counted_as_they_happened() {
    let world = World::new().await;
    for path in ["/", "/", "/", "/wrong"] {
        let mut stream = TcpStream::connect(world.http).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    let mut stream = TcpStream::connect(world.tcp).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"hello");

    let good = world.line("istio_requests_total", "3").await;
    for label in [
        "reporter=\"source\"",
        &format!("source_principal=\"{WEB}\""),
        &format!("destination_principal=\"{API}\""),
        "destination_service=\"api.shop.mesh\"",
        "request_protocol=\"http\"",
        "response_code=\"200\"",
        "connection_security_policy=\"mutual_tls\"",
    ] {
        assert!(good.contains(label), "{label} is not in {good}");
    }
    let bad = world.line("istio_requests_total", "1").await;
    assert!(bad.contains("response_code=\"503\""), "{bad}");
    world
        .line("istio_request_duration_milliseconds_count", "3")
        .await;
    for (metric, value) in [
        ("istio_tcp_connections_opened_total", "1"),
        ("istio_tcp_connections_closed_total", "1"),
        ("istio_tcp_received_bytes_total", "5"),
        ("istio_tcp_sent_bytes_total", "5"),
    ] {
        world.line(metric, value).await;
    }
}
