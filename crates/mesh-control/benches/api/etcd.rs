//! A real etcd with its usual settings, on a loopback address of its own.

use std::env;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mesh_control::store::{EtcdTls, StoreConfig, open};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::plane::DISK;

/// A running etcd; killed when dropped.
pub(crate) struct Etcd {
    process: Child,
    address: Ipv4Addr,
    _home: TempDir,
}

impl Etcd {
    /// Starts one on an empty directory and waits until it answers.
    pub(crate) async fn start() -> Self {
        let home = TempDir::new_in(DISK).unwrap();
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, a | 0x20, b, c);
        let (client, peer) = (client_url(address), format!("http://{address}:2380"));
        let process = Command::new(env::var_os("ETCD_BIN").unwrap_or_else(|| "etcd".into()))
            .arg("--data-dir")
            .arg(home.path().join("data"))
            .args(["--name", "a", "--initial-cluster", &format!("a={peer}")])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--logger", "zap"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Self {
            process,
            address,
            _home: home,
        };
        let store = open(&StoreConfig::etcd(vec![etcd.url()], EtcdTls::default()))
            .await
            .unwrap();
        let answered = async {
            while store.revision().await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), answered).await.unwrap();
        etcd
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        client_url(self.address)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn client_url(address: Ipv4Addr) -> String {
    format!("http://{address}:2379")
}
