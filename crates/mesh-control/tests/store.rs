//! Ring `store`: the suite of the stores on a real etcd, and what only a cluster can do to a client.
//!
//! Needs `etcd` (3.4 or later) in PATH. Starts one process per test on loopback, in a directory of its own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed unwrap is a failed test"
)]

#[path = "store/suite.rs"]
mod suite;
#[path = "store/tls.rs"]
mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use mesh_control::ca::Lifetimes;
use mesh_control::server::{Listen, ServerConfig};
use mesh_control::store::{EtcdTls, StoreConfig, StoreError, open};
use mesh_tests::port::free_address;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use suite::{Shared, create, replay_equals_list, steps, take, update, value};

suite!(fresh());

/// A running etcd; killed when dropped.
struct Etcd {
    process: Child,
    client: SocketAddr,
    peer: SocketAddr,
    home: TempDir,
    /// Options for TLS; none without it.
    tls: Vec<String>,
}

impl Etcd {
    fn start() -> Self {
        Self::start_with(Vec::new())
    }

    fn start_with(tls: Vec<String>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (client, peer) = (free_address(), free_address());
        let process = spawn(home.path(), client, peer, &tls);
        Self {
            process,
            client,
            peer,
            home,
            tls,
        }
    }

    /// Ends the process as a crash would.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on the same addresses with what is on disk.
    fn restart(&mut self) {
        self.process = spawn(self.home.path(), self.client, self.peer, &self.tls);
    }

    /// Starts it again on the same addresses with nothing.
    fn restart_empty(&mut self) {
        self.home = tempfile::tempdir().unwrap();
        self.restart();
    }

    fn url(&self) -> String {
        url(self.client, &self.tls)
    }

    async fn store(&self, extra: &[String]) -> Shared {
        let mut endpoints = extra.to_vec();
        endpoints.push(self.url());
        let store = open(&StoreConfig::etcd(endpoints, EtcdTls::default()))
            .await
            .unwrap();
        eventually(&store).await;
        store
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // A process that a test has killed is gone already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn url(client: SocketAddr, tls: &[String]) -> String {
    let scheme = if tls.is_empty() { "http" } else { "https" };
    format!("{scheme}://{client}")
}

fn spawn(home: &Path, client: SocketAddr, peer: SocketAddr, tls: &[String]) -> Child {
    let (client, peer) = (url(client, tls), format!("http://{peer}"));
    Command::new("etcd")
        .arg("--data-dir")
        .arg(home.join("data"))
        .args(["--name", "a", "--initial-cluster", &format!("a={peer}")])
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--unsafe-no-fsync", "--logger", "zap"])
        .args(tls)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this ring needs `etcd` in PATH (Debian package etcd-server)")
}

/// Waits until the store answers.
async fn eventually(store: &Shared) {
    let begin = Instant::now();
    loop {
        match store.revision().await {
            Ok(_) | Err(StoreError::Rewound { .. }) => return,
            Err(error) if begin.elapsed() > Duration::from_secs(30) => panic!("{error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn fresh() -> (Shared, Etcd) {
    let etcd = Etcd::start();
    let store = etcd.store(&[]).await;
    (store, etcd)
}

/// The API as a role, whose store comes up later than itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_waits_for_a_store_that_is_away() {
    let mut etcd = Etcd::start();
    etcd.kill();
    let home = tempfile::tempdir().unwrap();
    let listen = Listen {
        api: vec![free_address()],
        grpc: free_address(),
        mixer: free_address(),
        metrics: free_address(),
    };
    let metrics = listen.metrics;
    let hour = Duration::from_secs(3600);
    let config = ServerConfig {
        roles: "api".parse().unwrap(),
        home: home.path().to_owned(),
        listen,
        advertise: Vec::new(),
        api_names: Vec::new(),
        store: StoreConfig::etcd(vec![etcd.url()], EtcdTls::default()),
        kubeconfig: None,
        trust_domain: None,
        lifetimes: Lifetimes::new(hour, hour, hour).unwrap(),
        nomad: None,
        api_service: None,
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(mesh_control::server::run(config, stop.clone()));
    until(metrics, "waiting for the store").await;
    assert!(!running.is_finished(), "it waits");
    etcd.restart();
    until(metrics, "HTTP/1.1 200").await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Waits until `/ready` says so.
async fn until(metrics: SocketAddr, words: &str) {
    let began = Instant::now();
    let mut said = String::new();
    while !said.contains(words) {
        assert!(began.elapsed() < Duration::from_secs(60), "it says {said}");
        tokio::task::yield_now().await;
        said.clear();
        if let Ok(mut stream) = TcpStream::connect(metrics).await {
            let asked = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(asked).await.unwrap();
            stream.read_to_string(&mut said).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_a_restart_of_etcd_and_misses_nothing() {
    let (store, mut etcd) = fresh().await;
    let first = create(&store, "a/x", "1").await;
    let mut watch = store.watch("a/", first).await.unwrap();
    let second = update(&store, "a/x", "2", first).await;
    assert_eq!(take(&mut watch, 1).await[0].revision, second);
    etcd.kill();
    let down = store.get("a/x").await.unwrap_err();
    assert!(matches!(down, StoreError::Unavailable { .. }), "{down}");
    etcd.restart();
    eventually(&store).await;
    let third = update(&store, "a/x", "3", second).await;
    let events = take(&mut watch, 1).await;
    assert_eq!(events[0].revision, third);
    assert_eq!(events[0].previous.as_deref(), Some(&b"2"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_went_back_forces_a_new_list() {
    let (store, mut etcd) = fresh().await;
    let mut last = create(&store, "a/x", "1").await;
    for round in 0..10 {
        last = update(&store, "a/x", &round.to_string(), last).await;
    }
    let mut watch = store.watch("a/", last).await.unwrap();
    etcd.kill();
    etcd.restart_empty();
    let ended = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
    let ended = ended.unwrap().unwrap().unwrap_err();
    assert!(matches!(ended, StoreError::Rewound { .. }), "{ended}");
    assert!(watch.next().await.is_none());
    // From here on the new history counts.
    eventually(&store).await;
    assert_eq!(store.get("a/x").await.unwrap(), None);
    create(&store, "a/x", "new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_finds_out_that_the_store_went_back() {
    let (store, mut etcd) = fresh().await;
    let mut last = create(&store, "a/x", "1").await;
    for round in 0..10 {
        last = update(&store, "a/x", &round.to_string(), last).await;
    }
    etcd.kill();
    etcd.restart_empty();
    let begin = Instant::now();
    let error = loop {
        match store.get("a/x").await {
            Err(StoreError::Unavailable { .. }) if begin.elapsed().as_secs() < 30 => {}
            other => break other.unwrap_err(),
        }
    };
    assert!(matches!(error, StoreError::Rewound { .. }), "{error}");
    assert_eq!(store.get("a/x").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_down_is_passed_over() {
    let etcd = Etcd::start();
    let dead = format!("http://{}", free_address());
    let store = etcd.store(&[dead]).await;
    let revision = create(&store, "a/x", "1").await;
    assert_eq!(value(&store, "a/x").await, "1");
    let mut watch = store.watch("a/", revision).await.unwrap();
    update(&store, "a/x", "2", revision).await;
    assert_eq!(take(&mut watch, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installations_with_other_prefixes_do_not_see_each_other() {
    let etcd = Etcd::start();
    let one = etcd.store(&[]).await;
    let mut config = StoreConfig::etcd(vec![etcd.url()], EtcdTls::default());
    config.prefix = "/other/".to_owned();
    let two = open(&config).await.unwrap();
    let start = two.revision().await.unwrap();
    let mut watch = two.watch("", start).await.unwrap();
    create(&one, "a/x", "1").await;
    assert_eq!(two.get("a/x").await.unwrap(), None);
    create(&two, "a/x", "2").await;
    let events = take(&mut watch, 1).await;
    assert_eq!(events[0].key, "a/x");
    assert_eq!(events[0].value.as_deref(), Some(&b"2"[..]));
}

#[test]
fn replaying_a_watch_over_a_list_gives_the_later_list() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (store, _etcd) = runtime.block_on(fresh());
    let config = Config {
        cases: 12,
        failure_persistence: None,
        ..Config::default()
    };
    let case = std::cell::Cell::new(0);
    TestRunner::new(config)
        .run(&steps(), |steps| {
            // One etcd for all cases, a prefix for each.
            case.set(case.get() + 1);
            let prefix = format!("case-{}/", case.get());
            runtime.block_on(replay_equals_list(&store, &steps, &prefix));
            Ok(())
        })
        .unwrap();
}
