//! Two API servers on one etcd, found as a service of a real Nomad.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use mesh_control::api::bootstrap::Authority;
use mesh_control::store::{EtcdTls, StoreConfig};
use mesh_nomad::client::Register;
use mesh_nomad::instances::Following;
use serde_json::json;

use super::lab::{job, until, with_agent};
use super::server::{Server, kubeconfig};

/// An etcd on loopback; killed when dropped.
struct Etcd(Child);

impl Etcd {
    fn start(home: &Path) -> Self {
        let log = fs::File::create(home.join("log")).unwrap();
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(home.join("data"))
            .args(["--listen-client-urls", CLIENT_URL])
            .args(["--advertise-client-urls", CLIENT_URL])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(process.unwrap_or_else(|error| panic!("the nomad ring needs `etcd` in PATH: {error}")))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

const CLIENT_URL: &str = "http://127.0.0.1:2379";

/// An API server at an address, on the etcd.
fn api(home: &Path, address: SocketAddr, metrics: u16) -> Server {
    Server::start(home, "api", |config| {
        config.listen.api = vec![address];
        config.listen.metrics.set_port(metrics);
        config.api_names = vec!["mesh-api".to_owned()];
        config.store = StoreConfig::etcd(vec![CLIENT_URL.to_owned()], EtcdTls::default());
    })
}

/// Makes something that needs an address of the mesh, and waits until Pilot has given it one.
async fn pilot_works(client: &Client, name: &str) {
    let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "ServiceEntry");
    let resource = ApiResource::from_gvk_with_plural(&kind, "serviceentries");
    let entries: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let host = format!("{name}.example.com");
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": { "name": name },
        "spec": {
            "hosts": [host], "resolution": "STATIC", "location": "MESH_EXTERNAL",
            "ports": [{ "number": 80, "name": "http", "protocol": "HTTP" }],
            "endpoints": [{ "address": "192.0.2.1" }],
        },
    });
    let entry = serde_json::from_value(entry).unwrap();
    let params = PostParams::default();
    entries.create(&params, &entry).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "mesh-system");
    until(&format!("pilot has given {host} an address"), || async {
        let record = maps.get("virtual-addresses").await.ok()?;
        record.data?.remove(&host)
    })
    .await;
}

#[test]
fn roles_go_on_with_whichever_api_server_is_left() {
    with_agent(false, |mut lab| async move {
        let directory = tempfile::tempdir().unwrap();
        let home = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.join("pki")).unwrap();
            path
        };
        let etcd = home("etcd");
        let _etcd = Etcd::start(&etcd);

        // Nomad gives each replica a port; the servers are here, where a test can end them.
        let replicas = job("mesh-api", 2);
        let how = Register::default();
        lab.client.register_job(&replicas, &how).await.unwrap();
        let following = Following::new(lab.client.clone(), "default", "mesh-api");
        let places: Vec<SocketAddr> = until("both replicas are registered", || async {
            let found = following.ask().await.ok()?;
            (found.addresses.len() == 2).then(|| found.addresses.into_iter().collect())
        })
        .await;

        // Both begin together on an empty store, with one CA between them.
        let (one, two, rest) = (home("one"), home("two"), home("rest"));
        Authority::prepare(&one).unwrap();
        for file in ["pki/api-ca.crt", "pki/api-ca.key"] {
            fs::copy(one.join(file), two.join(file)).unwrap();
        }
        let first = api(&one, places[0], 16014);
        let second = api(&two, places[1], 16015);
        first.ready("api").await;
        second.ready("api").await;
        let (by_first, by_second) = (
            kubeconfig(&one, "kubeconfig").await,
            kubeconfig(&two, "kubeconfig").await,
        );
        let key = |client: &Client| {
            let secrets: Api<Secret> = Api::namespaced(client.clone(), "mesh-system");
            async move { secrets.get("mesh-token-key").await.unwrap().data }
        };
        assert_eq!(key(&by_first).await, key(&by_second).await, "one key signs");

        for file in ["ca.kubeconfig", "pilot.kubeconfig"] {
            fs::copy(one.join(file), rest.join(file)).unwrap();
        }
        let start_rest = || {
            let following = following.clone().kept_in(rest.join("api-service.json"));
            Server::start(&rest, "ca,pilot", |config| {
                config.api_service = Some(following);
            })
        };
        let roles = start_rest();
        roles.ready("pilot").await;
        pilot_works(&by_first, "both").await;

        first.stop().await;
        pilot_works(&by_second, "second").await;
        let first = api(&one, places[0], 16014);
        first.ready("api").await;
        second.stop().await;
        pilot_works(&by_first, "first").await;

        // Nomad's servers away: the roles start with what they knew.
        roles.stop().await;
        lab.kill();
        let roles = start_rest();
        roles.ready("pilot").await;
        pilot_works(&by_first, "outage").await;
        roles.stop().await;
        first.stop().await;
    });
}
