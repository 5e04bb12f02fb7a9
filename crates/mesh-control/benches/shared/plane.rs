//! A control plane in a process of its own: what it uses can be told from what its clients use.
//!
//! It is the assembly that `mesh server` runs, over the same TLS, with first trust and all.

use std::env;
use std::fs;
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
use mesh_control::store::{EtcdTls, StoreConfig};
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

/// What the processors spend on a process from some moment on.
pub(crate) struct Work {
    id: u32,
    before: Duration,
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

/// Where homes are: on the disk that the project is on, not in memory.
pub(crate) const DISK: &str = env!("CARGO_TARGET_TMPDIR");

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
        api_names: Vec::new(),
        store: match order.etcd {
            Some(url) => StoreConfig::etcd(vec![url], EtcdTls::default()),
            None => StoreConfig::file(order.home.join("store.redb")),
        },
        home: order.home,
        kubeconfig: None,
        trust_domain: None,
        lifetimes: Lifetimes::default(),
        nomad: None,
        api_service: None,
    };
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        ended = server::run(config, CancellationToken::new()) => ended.unwrap(),
        _ = end => {}
    }
}

// === impl Plane ===

impl Plane {
    /// Starts these roles on a new home, with the file store or this etcd, and waits until ready.
    pub(crate) async fn start(roles: &str, etcd: Option<String>) -> Self {
        let home = TempDir::new_in(DISK).unwrap();
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

    /// Begins to count what the processors spend on it.
    pub(crate) fn work(&self) -> Work {
        let id = self.process.id();
        Work {
            id,
            before: cpu(id),
        }
    }

    /// The bytes of memory that it has.
    pub(crate) fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        kibibytes.unwrap().parse::<f64>().unwrap() * 1024.0
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

// === impl Work ===

impl Work {
    /// The seconds since then.
    pub(crate) fn seconds(&self) -> f64 {
        cpu(self.id).saturating_sub(self.before).as_secs_f64()
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

/// The time that the processors spent on a process, its own and the kernel's for it.
fn cpu(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // proc(5): the name in brackets may hold anything; utime and stime are fields 14 and 15,
    // the 12th and 13th after it, in hundredths of a second.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
