//! A swarm of proxies against a control plane in a process of its own, over mutual TLS: time until
//! all are in sync, memory per client, how soon a change has reached the last of them and what it
//! costs, and what is sent to those who come back. Before that, in process, what an endpoint change
//! costs where applications call addresses of nodes themselves.
//!
//! `cargo xtask bench ads`. `CLIENTS` sets how many proxies and services there are (1,000); each
//! service has two endpoints. Every client checks each version that it is sent against the hash of
//! the content, and in the end each name; one that lacks a resource fails the run.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed measurement"
)]

#[path = "shared/account.rs"]
mod account;
#[path = "ads/address.rs"]
mod address;
#[path = "shared/plane.rs"]
mod plane;
#[path = "shared/report.rs"]
mod report;
#[path = "ads/swarm.rs"]
mod swarm;

use std::env;
use std::time::{Duration, Instant};

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use mesh_control::pilot::resource::ResourceType;
use mesh_control::server::Role;
use mesh_identity::{ClientTls, CredentialStore, Key};
use mesh_model::TrustDomain;
use mesh_proto::mesh::agent::v1::Health;
use serde_json::json;
use tokio::time::sleep;

use account::Account;
use plane::Plane;
use report::{measure, percentile, progress};
use swarm::{Agent, Pilot, Swarm};

/// Rounds of changes of one workload's health: enough for a hundredth to be one of them.
const ENDPOINT_CHANGES: u32 = 100;
const ROUTE_CHANGES: u32 = 20;

/// Quiet before each change, so that each is published for itself.
const QUIET: Duration = Duration::from_millis(300);

/// How long those who came back are listened to before they are told something new.
const LISTEN: Duration = Duration::from_secs(2);

fn main() {
    plane::run(async || {
        let clients = env::var("CLIENTS").map_or(1000, |text| text.parse().unwrap());
        progress(&format!(
            "applications call some of {clients} addresses of nodes"
        ));
        address::run(clients);
        run(clients).await;
    });
}

async fn run(clients: u32) {
    let plane = Plane::start("api,ca,pilot", None).await;
    let admin = plane.admin().await;
    let account = Account::create(&admin).await;
    let key = Key::generate().unwrap();
    let own = CredentialStore::new(account.ask(account.by_token.clone(), &key).await);
    let pilot = Pilot {
        address: plane.listen.grpc,
        tls: ClientTls::mutual(own, Role::Pilot.identity(&TrustDomain::default())),
    };
    let idle = plane.memory();
    measure("memory of the server, nobody there", idle, "B", None);

    progress(&format!("{clients} workloads register"));
    let agents = Agent::register_all(&pilot, clients).await;
    // The gate is open and every service has its addresses when the first one knows them all.
    drop(Swarm::connect(&pilot, clients, 1).await);

    progress(&format!("{clients} clients connect"));
    let (memory, work) = (plane.memory(), plane.work());
    let began = Instant::now();
    let mut swarm = Swarm::connect(&pilot, clients, clients).await;
    let took = began.elapsed();
    let work = work.seconds();
    swarm.check();
    let memory = (plane.memory() - memory) / f64::from(clients);
    let each = |bytes: u64| float(bytes) / f64::from(clients);
    measure("bytes per client", each(swarm.bytes()), "B", None);
    for kind in ResourceType::ALL {
        let name = format!("bytes per client, {kind:?}");
        measure(&name, each(swarm.bytes_of(kind)), "B", None);
    }
    measure("in sync, last client", took.as_secs_f64(), "s", None);
    let name = "in sync, CPU of the server";
    measure(name, work, "s", None);
    measure("memory per client", memory, "B", None);
    let all = plane.memory();
    measure("memory of the server, all there", all, "B", None);

    change_endpoint(&plane, &mut swarm, &agents).await;
    change_route(&plane, &admin, &mut swarm).await;
    come_back(&plane, &pilot, swarm, &agents).await;
}

/// Changes the health of one workload again and again.
async fn change_endpoint(plane: &Plane, swarm: &mut Swarm, agents: &[Agent]) {
    progress("the health of one workload changes");
    let agent = agents.first().unwrap();
    let mut latencies = Vec::new();
    let work = plane.work();
    for round in 0..ENDPOINT_CHANGES {
        sleep(QUIET).await;
        let began = Instant::now();
        agent.report(health_of(round)).await;
        swarm.changed(ResourceType::Endpoint, ENDPOINT).await;
        latencies.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let work = work.seconds();
    swarm.check();
    latencies.sort_by(f64::total_cmp);
    for share in [50, 99] {
        let name = format!("one endpoint change, to the last client, p{share}");
        measure(&name, percentile(&latencies, share), "ms", None);
    }
    let name = "one endpoint change, CPU of the server per client";
    let work = work * 1e6 / f64::from(ENDPOINT_CHANGES) / float(swarm.len());
    measure(name, work, "us", None);
}

/// Changes one `VirtualService` again and again; timed from the call of the API.
async fn change_route(plane: &Plane, admin: &Client, swarm: &mut Swarm) {
    progress("the routes of one service change");
    let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "VirtualService");
    let kind = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = Api::namespaced_with(admin.clone(), "default", &kind);
    let spec = |seconds: u32| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": { "name": "s0" },
            "spec": { "hosts": ["s0"], "http": [{
                "timeout": format!("{seconds}s"),
                "route": [{ "destination": { "host": "s0" } }],
            }]},
        })
    };
    let object = serde_json::from_value(spec(1000)).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
    let mut latencies = Vec::new();
    let name = Swarm::route_of("s0.default.mesh");
    swarm.changed(ResourceType::Route, &name).await;
    let (bytes, work) = (swarm.bytes(), plane.work());
    for round in 0..ROUTE_CHANGES {
        sleep(QUIET).await;
        let began = Instant::now();
        let patch = Patch::Merge(spec(round + 1));
        let params = PatchParams::default();
        api.patch("s0", &params, &patch).await.unwrap();
        swarm.changed(ResourceType::Route, &name).await;
        latencies.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let work = work.seconds();
    let bytes = swarm.bytes() - bytes;
    swarm.check();
    latencies.sort_by(f64::total_cmp);
    let rounds = float(swarm.len()) * f64::from(ROUTE_CHANGES);
    let name = "one changed route, API call to the last client, p50";
    measure(name, percentile(&latencies, 50), "ms", None);
    let name = "one changed route, bytes per client";
    measure(name, float(bytes) / rounds, "B", None);
    let name = "one changed route, CPU of the server per client";
    measure(name, work * 1e6 / rounds, "us", None);
}

/// Everybody loses the connection and comes back with what it has.
async fn come_back(plane: &Plane, pilot: &Pilot, swarm: Swarm, agents: &[Agent]) {
    progress("everybody comes back");
    let work = plane.work();
    let mut swarm = swarm.reconnect(pilot).await;
    swarm.settle().await;
    sleep(LISTEN).await;
    swarm.settle().await;
    let work = work.seconds();
    let (resources, bytes) = (swarm.resources(), swarm.bytes());
    measure("resources sent on resume", float(resources), "", None);
    measure("bytes sent on resume", float(bytes), "B", None);
    let name = "bytes of a client's question on resume";
    measure(name, float(swarm.asked_bytes()), "B", None);
    let name = "resume, CPU of the server per client";
    let clients = float(swarm.len());
    measure(name, work * 1e3 / clients, "ms", None);
    assert_eq!(resources, 0, "nothing changed meanwhile");

    // They are served again: silence was not for want of a session.
    let agent = agents.first().unwrap();
    agent.report(health_of(ENDPOINT_CHANGES)).await;
    swarm.changed(ResourceType::Endpoint, ENDPOINT).await;
    swarm.settle().await;
    swarm.check();
    // The workload serves two services.
    assert_eq!(swarm.resources(), 2 * swarm.len(), "one change came");
}

/// The endpoints that the first workload is among.
const ENDPOINT: &str = "outbound|80||s0.default.mesh";

fn health_of(round: u32) -> Health {
    if round.is_multiple_of(2) {
        Health::Unhealthy
    } else {
        Health::Healthy
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a measure is not exact to the byte"
)]
fn float(value: u64) -> f64 {
    value as f64
}
