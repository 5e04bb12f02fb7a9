//! A control plane in this process, in the network of a lab.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mesh_control::ca::Lifetimes;
use mesh_control::server::{Listen, ServerConfig, ServerError};
use mesh_control::store::StoreConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::lab::until;

/// Some roles, and the task that runs them.
pub(crate) struct Server {
    home: PathBuf,
    metrics: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ServerError>>,
}

impl Server {
    /// Starts roles on loopback with a file as the store, unless `change` says otherwise.
    pub(crate) fn start(home: &Path, roles: &str, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let day = Duration::from_secs(24 * 3600);
        let mut config = ServerConfig {
            roles: roles.parse().unwrap(),
            home: home.to_owned(),
            listen: Listen {
                // Nobody else is in this network.
                api: vec![at(6443)],
                grpc: at(15012),
                mixer: at(15011),
                metrics: at(15014),
            },
            advertise: Vec::new(),
            api_names: Vec::new(),
            store: StoreConfig::file(home.join("store.redb")),
            kubeconfig: None,
            trust_domain: None,
            lifetimes: Lifetimes::new(day, Duration::from_secs(60), day).unwrap(),
            nomad: None,
            api_service: None,
        };
        change(&mut config);
        let stop = CancellationToken::new();
        Self {
            home: config.home.clone(),
            metrics: config.listen.metrics,
            running: tokio::spawn(mesh_control::server::run(config, stop.clone())),
            stop,
        }
    }

    /// Waits until a role is of use.
    pub(crate) async fn ready(&self, role: &str) {
        let wanted = format!(r#""{role}":"ready""#);
        until(&format!("{role} is ready"), || async {
            assert!(!self.running.is_finished(), "the control plane ended");
            let said = get(self.metrics, "/ready").await?;
            said.contains(&wanted).then_some(())
        })
        .await;
    }

    /// Ends it. The writer of a store's file ends on a thread of its own, which only matters to who
    /// goes on within the same process.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        let store = self.home.join("store.redb");
        if store.exists() {
            until("the store is let go", || async {
                redb::Database::open(&store).ok().map(drop)
            })
            .await;
        }
    }
}

/// What a port of metrics and readiness answers.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let asked = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await.ok()?;
    Some(said)
}

/// A client of the API by a kubeconfig of a home.
pub(crate) async fn kubeconfig(home: &Path, file: &str) -> Client {
    let read = Kubeconfig::read_from(home.join(file)).unwrap();
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}
