//! A world for one test: CA, Pilot, and an agent with a real Envoy, all on loopback.

#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
#![expect(
    clippy::print_stderr,
    reason = "who reads the log of a failed test must see this"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_agent::{Agent, Ports, Timing};
use mesh_identity::testing::Authority;
use mesh_model::SidecarConfig;
use mesh_proto::envoy::service::discovery::v3::Resource;
use mesh_tests::port::free_address;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::ca::Ca;
use crate::pilot::{Pilot, Resources};
use crate::resource;

pub(crate) const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/web";
const PILOT: &str = "spiffe://cluster.local/ns/mesh-system/sa/pilot";
/// Everything here takes well under a second; a loaded machine takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) config: SidecarConfig,
    pub(crate) ports: Ports,
    /// Where Envoy listens for the test.
    pub(crate) listener: SocketAddr,
    pub(crate) resources: watch::Sender<Resources>,
    authority: Arc<Authority>,
    pilot_address: SocketAddr,
    ca_address: SocketAddr,
    directory: TempDir,
}

/// A running agent.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), mesh_agent::AgentError>>,
}

impl World {
    pub(crate) fn new() -> Self {
        // Shown when a test fails; every test of this process asks for it, the first one gets it.
        drop(
            tracing_subscriber::fmt()
                .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
                .with_test_writer()
                .try_init(),
        );
        let directory = TempDir::with_prefix("agent-").unwrap();
        let token = directory.path().join("token");
        fs::write(&token, "token").unwrap();
        let authority = Arc::new(Authority::new());
        let (pilot_address, ca_address) = (free_address(), free_address());
        let config = serde_json::from_value(serde_json::json!({
            "workload": {
                "id": "shop/web-1",
                "namespace": "shop",
                "service_account": "web",
                "addresses": ["192.0.2.1"],
            },
            "pilots": [pilot_address],
            "cas": [ca_address],
            "root_hashes": [authority.root().fingerprint().to_string()],
            "token_file": token,
            "state_dir": directory.path().join("state"),
            "envoy": envoy(),
        }))
        .unwrap();
        let listener = free_address();
        let (resources, _) = watch::channel(resource::served(listener, "one"));
        Self {
            config,
            ports: Ports {
                readiness: free_address().port(),
                dns: free_address().port(),
                envoy_metrics: free_address().port(),
            },
            listener,
            resources,
            authority,
            pilot_address,
            ca_address,
            directory,
        }
    }

    pub(crate) fn start_pilot(&self) -> Pilot {
        self.start_pilot_at(self.pilot_address)
    }

    /// One more replica, which the agent is to know.
    pub(crate) fn start_replica(&mut self) -> Pilot {
        let address = free_address();
        self.config.pilots.push(address);
        self.start_pilot_at(address)
    }

    fn start_pilot_at(&self, address: SocketAddr) -> Pilot {
        let store = self.authority.store(PILOT);
        Pilot::start(address, store, self.resources.subscribe())
    }

    pub(crate) fn start_ca(&self, life: Duration) -> Ca {
        Ca::start(self.ca_address, &self.authority, IDENTITY, life)
    }

    pub(crate) fn start_agent(&self) -> Running {
        let timing = Timing {
            drain: Duration::from_millis(100),
            ..Timing::default()
        };
        let stop = CancellationToken::new();
        let agent = Agent::new(self.config.clone())
            .with_ports(self.ports)
            .with_timing(timing);
        Running {
            task: tokio::spawn({
                let stop = stop.clone();
                async move {
                    let end = agent.run(stop).await;
                    if let Err(error) = &end {
                        eprintln!("the agent did not begin: {error}");
                    }
                    end
                }
            }),
            stop,
        }
    }

    /// Sets what the test's listener answers.
    pub(crate) fn serve(&self, body: &str) {
        self.resources
            .send_replace(resource::served(self.listener, body));
    }

    /// Puts one resource beside what is served, or in the place of its namesake.
    pub(crate) fn put(&self, (type_url, resource): (String, Resource)) {
        self.resources.send_modify(|resources| {
            let of_type = resources.entry(type_url).or_default();
            of_type.insert(resource.name.clone(), resource);
        });
    }

    pub(crate) fn state(&self, file: &str) -> PathBuf {
        self.config.state_dir.join(file)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn readiness(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.readiness))
    }

    pub(crate) async fn wait_ready(&self) {
        mesh_agent::wait_ready(self.readiness(), PATIENCE)
            .await
            .unwrap();
    }

    /// What the test's listener answers, if it answers.
    pub(crate) async fn call(&self) -> Option<String> {
        self.call_for("/").await
    }

    /// What it answers to a path.
    pub(crate) async fn call_for(&self, path: &str) -> Option<String> {
        let stream = TcpStream::connect(self.listener).await.ok()?;
        let answer = get(stream, path).await?;
        Some(answer.rsplit_once("\r\n\r\n")?.1.to_owned())
    }

    pub(crate) async fn admin(&self, path: &str) -> Option<String> {
        let stream = UnixStream::connect(self.state("admin.sock")).await.ok()?;
        get(stream, path).await
    }

    pub(crate) async fn metrics(&self, address: &str, path: &str) -> Option<String> {
        let stream = TcpStream::connect((address, self.ports.envoy_metrics)).await;
        get(stream.unwrap(), path).await
    }

    pub(crate) fn envoy_id(&self) -> Option<u32> {
        let text = fs::read_to_string(self.state("envoy.pid")).ok()?;
        let record: BTreeMap<String, u64> = serde_json::from_str(&text).unwrap();
        u32::try_from(record["id"]).ok()
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Waits until `look` finds something: a condition, never a time.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The whole answer to a request, if there is one.
pub(crate) async fn get(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    path: &str,
) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await.ok()?;
        answer.extend_from_slice(&buffer[..length]);
        // Envoy closes a second after its last byte.
        if length == 0 || is_complete(&answer) {
            return Some(String::from_utf8_lossy(&answer).into_owned());
        }
    }
}

fn is_complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.split_once("content-length: ").map(|(_, rest)| {
        let digits = rest.split("\r\n").next().unwrap();
        digits.parse::<usize>().unwrap()
    });
    match length {
        Some(length) => body.len() >= length,
        None => body.ends_with("0\r\n\r\n"),
    }
}

fn envoy() -> PathBuf {
    let named = std::env::var_os("ENVOY_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join("envoy"))
        .find(|path| path.is_file());
    named
        .or(found)
        .expect("these tests need Envoy 1.40: put `envoy` into PATH or name it in ENVOY_BIN")
}
