//! A control plane in a process of its own: what it uses can be told from what its clients use.
//!
//! It is the assembly that `mesh server` runs, over the same TLS, with first trust and all.

use std::env;
use std::future::Future;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mesh_control::ca::Lifetimes;
use mesh_control::server::{self, Listen, ServerConfig};
use mesh_control::store::StoreConfig;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A control plane; ends when dropped.
pub(crate) struct Plane {
    process: Child,
    home: TempDir,
    /// Where its roles listen.
    pub(crate) listen: Listen,
}

/// What the process of the server is told.
#[derive(Deserialize, Serialize)]
struct Order {
    home: PathBuf,
    address: IpAddr,
    roles: String,
    etcd: Option<String>,
}

/// Holds the order, and says to this program that it is the server.
const ORDER: &str = "MESH_BENCH_SERVER";

/// Between two questions whether it is ready.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs `measure`, or the server if that is what this process was started for.
pub(crate) fn run<F: Future<Output = ()>>(measure: impl FnOnce() -> F) {
    // The first provider that is installed is what kube takes; there is one in the tree.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match env::var(ORDER) {
        Ok(order) => runtime.block_on(serve(serde_json::from_str(&order).unwrap())),
        Err(_) => runtime.block_on(measure()),
    }
    // Whoever reads standard input does so until its end, which a failure does not wait for.
    runtime.shutdown_background();
}

/// Serves until standard input ends, which it does with the process that measures.
async fn serve(order: Order) {
    let config = ServerConfig {
        roles: order.roles.parse().unwrap(),
        listen: Listen::at(order.address),
        advertise: Vec::new(),
        store: match order.etcd {
            Some(url) => StoreConfig::etcd(vec![url]),
            None => StoreConfig::file(order.home.join("store.redb")),
        },
        home: order.home,
        kubeconfig: None,
        trust_domain: None,
        lifetimes: Lifetimes::default(),
    };
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        ended = server::run(config, CancellationToken::new()) => ended.unwrap(),
        _ = end => {}
    }
}

impl Plane {
    /// Starts these roles on a new home, with the file store or this etcd, and waits until ready.
    pub(crate) async fn start(roles: &str, etcd: Option<String>) -> Self {
        let home = TempDir::new().unwrap();
        // A loopback address of its own: the usual ports are free there.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = IpAddr::from(Ipv4Addr::new(127, a | 0x40, b, c));
        let order = Order {
            home: home.path().to_owned(),
            address,
            roles: roles.to_owned(),
            etcd,
        };
        let process = Command::new(env::current_exe().unwrap())
            .env(ORDER, serde_json::to_string(&order).unwrap())
            .stdin(Stdio::piped())
            // Standard output is for measures.
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut plane = Self {
            process,
            home,
            listen: Listen::at(address),
        };
        while !is_ready(plane.listen.metrics).await {
            assert!(
                plane.process.try_wait().unwrap().is_none(),
                "the server ended"
            );
            sleep(PAUSE).await;
        }
        plane
    }

    /// A client of its API that may do everything.
    pub(crate) async fn admin(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.home.path().join("kubeconfig")).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        Client::try_from(config.unwrap()).unwrap()
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = "GET /ready HTTP/1.1\r\nhost: mesh\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask.await.unwrap_or(false)
}
