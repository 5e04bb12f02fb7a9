//! Ring `nomad`: the control plane beside a real Nomad agent, which runs in namespaces of its own.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]
#![expect(
    clippy::print_stderr,
    reason = "who reads the log of a failed test must see this"
)]

#[path = "golden/allocation.rs"]
mod allocation;
#[expect(dead_code, reason = "only its way to show resources is of use here")]
#[path = "golden/case.rs"]
mod case;
#[path = "nomad/identity.rs"]
mod identity;
#[expect(dead_code, reason = "the tests of mesh-cli ask for more")]
#[path = "../../mesh-nomad/tests/nomad/lab.rs"]
mod lab;
#[path = "nomad/replicas.rs"]
mod replicas;
#[path = "nomad/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use mesh_control::pilot::mesh;
use mesh_control::pilot::registry::{
    AgentRegistry, CatalogueMetrics, JoinedRegistry, NomadRegistry, Registry as _,
};
use mesh_control::pilot::snapshot;
use mesh_model::Mode;
use mesh_nomad::client::Register;
use mesh_nomad::inject::{ModeChoice, Options, inject};
use mesh_nomad::model::Job;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use lab::{Lab, job, until, with_agent};
use server::{Server, get, kubeconfig};

/// The endpoints that proxies of namespace `default` get, by cluster.
fn endpoints(registry: &JoinedRegistry) -> BTreeMap<String, Vec<Value>> {
    let mesh = case::assemble(mesh::Config::default(), &registry.workloads());
    let namespace = "default".parse().unwrap();
    let layer = snapshot::shared(&mesh, &namespace, Mode::Transparent);
    let assignments = case::json(&layer).remove("endpoints").unwrap();
    let endpoints = assignments.into_iter().map(|(name, assignment)| {
        let localities = assignment["endpoints"].as_array().cloned();
        let localities = localities.unwrap_or_default();
        let endpoints = localities
            .iter()
            .flat_map(|locality| locality["lb_endpoints"].as_array().unwrap());
        let addresses =
            endpoints.map(|one| one["endpoint"]["address"]["socket_address"]["port_value"].clone());
        (name, addresses.collect())
    });
    endpoints.collect()
}

/// A job as somebody runs it who injected a sidecar, with tasks in its place that any machine can
/// run: an allocation of which one cannot start is gone before anybody sees it.
fn injected(id: &str) -> Job {
    let options = Options {
        mode: ModeChoice::Mode(mesh_nomad::sidecar::Mode::Explicit),
        ..Options::default()
    };
    let injected = inject(&job(id, 1), &options).unwrap().job;
    let mut injected = serde_json::to_value(&injected).unwrap();
    let tasks = injected["TaskGroups"][0]["Tasks"].as_array_mut().unwrap();
    let ours = |task: &&mut Value| task["Name"].as_str().unwrap().starts_with("mesh-");
    let ours: Vec<_> = tasks.iter_mut().filter(ours).collect();
    assert!(!ours.is_empty(), "nothing was injected");
    for task in ours {
        task["User"] = Value::Null;
        task["Config"] = json!({ "command": "/bin/sleep", "args": ["100000"] });
    }
    serde_json::from_value(injected).unwrap()
}

async fn register(lab: &Lab, job: &Job) {
    let registered = lab.client.register_job(job, &Register::default()).await;
    registered.unwrap();
}

#[test]
fn registrations_are_endpoints_and_outlive_their_server() {
    with_agent(false, |mut lab| async move {
        let nomad = NomadRegistry::start(lab.client.clone(), CatalogueMetrics::default());
        let agents = AgentRegistry::beside(Some(nomad.clone()));
        let joined = Arc::new(JoinedRegistry::new(agents, nomad.clone()));
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (joined, stop) = (Arc::clone(&joined), stop.clone());
            async move { joined.run(stop).await }
        });
        let web = lab.run(&job("web", 1)).await.remove(0);
        let web = lab.client.allocation(web.id.text()).await.unwrap().value;
        let given: Vec<_> = web.ports().iter().map(|port| port.value.value()).collect();
        register(&lab, &injected("front")).await;
        let web = "outbound|80||web.default.mesh";
        let front = "outbound|80||front.default.mesh";
        let known = until("both are known", || async {
            let known = endpoints(&joined);
            (known.contains_key(web) && known.contains_key(front)).then_some(known)
        })
        .await;
        assert_eq!(known[web], given, "at the port that Nomad gave");
        assert!(
            known[front].is_empty(),
            "its sidecar is not here: {known:?}"
        );

        lab.kill();
        let mut status = nomad.status();
        let is_away = status.wait_for(|status| status.failure.is_some()).await;
        assert!(is_away.unwrap().is_whole);
        assert_eq!(endpoints(&joined), known);
        stop.cancel();
        running.await.unwrap();
    });
}

#[test]
fn a_server_says_how_its_nomad_is() {
    with_agent(false, |mut lab| async move {
        lab.run(&job("web", 1)).await;
        let home = tempfile::tempdir().unwrap();
        let server = Server::start(home.path(), "api,ca,pilot", |config| {
            config.nomad = Some(lab.client.clone());
        });
        server.ready("pilot").await;
        let metrics = get(METRICS, "/metrics").await.unwrap();
        assert!(metrics.contains("mesh_nomad_instances 1\n"), "{metrics}");
        assert!(metrics.contains("mesh_nomad_readable 1\n"), "{metrics}");
        // What the catalogue lists is a service of the mesh, with an address.
        let client = kubeconfig(home.path(), "kubeconfig").await;
        let maps: Api<ConfigMap> = Api::namespaced(client, "mesh-system");
        until("the service has an address", || async {
            let record = maps.get("virtual-addresses").await.ok()?;
            record.data?.remove("web.default.mesh")
        })
        .await;

        lab.kill();
        let said = until("it says that Nomad is away", || async {
            let said = get(METRICS, "/ready").await?;
            said.contains("cannot be read").then_some(said)
        })
        .await;
        assert!(said.starts_with("HTTP/1.1 200"), "it is of use: {said}");
        server.stop().await;
    });
}

/// Where a server tells of itself.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15014);
