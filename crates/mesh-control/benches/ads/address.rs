//! What an endpoint change costs proxies whose applications call addresses of nodes themselves, by
//! how many addresses they called: in process, without a wire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mesh_control::pilot::mesh::{Config, Mesh, OutboundPolicy};
use mesh_control::pilot::resource::{Layer, ResourceType, Snapshot};
use mesh_control::pilot::session::{Request, Session};
use mesh_control::pilot::snapshot;
use mesh_model::{Health, Mode, Namespace, Workload, virtual_address};
use serde_json::json;

use crate::report::{measure, percentile};

/// Allocations on each node.
const ON_A_NODE: u32 = 20;
/// Addresses that a proxy's application called.
const CALLED: [u32; 3] = [0, 1, 10];
const ROUNDS: u32 = 50;

/// The workloads of a mesh, and what its proxies are to have.
struct Plane {
    workloads: Vec<(Workload, Health)>,
    config: Config,
    mesh: Mesh,
    shared: Arc<Layer>,
}

/// Measures so many endpoints.
pub(crate) fn run(endpoints: u32) {
    // The same where no address may be called.
    let mut bare = Plane::new(endpoints, OutboundPolicy::RegistryOnly);
    let made = (0..ROUNDS).map(|round| {
        bare.change_health(round);
        bare.make()
    });
    let mut made: Vec<_> = made.collect();
    made.sort_by(f64::total_cmp);
    let without = "addresses of nodes: health elsewhere, the layer without any, p50";
    measure(without, percentile(&made, 50), "ms", None);

    let mut plane = Plane::new(endpoints, OutboundPolicy::AllowAny);
    let mut sessions = CALLED.map(|called| session(&plane, called));
    for (what, change) in [
        (
            "health elsewhere",
            Plane::change_health as fn(&mut Plane, u32),
        ),
        ("another allocation there", Plane::replace),
    ] {
        let mut made = Vec::new();
        let mut told = CALLED.map(|_| (Vec::new(), 0));
        for round in 0..ROUNDS {
            change(&mut plane, round);
            made.push(plane.make());
            for (session, (took, bytes)) in sessions.iter_mut().zip(&mut told) {
                let began = Instant::now();
                let responses = session.publish(plane.snapshot());
                took.push(began.elapsed().as_secs_f64() * 1e6);
                let of_clusters = responses
                    .iter()
                    .filter(|response| response.type_url == ResourceType::Cluster.url());
                *bytes += of_clusters
                    .flat_map(|response| &response.entries)
                    .map(bytes::Bytes::len)
                    .sum::<usize>();
                for response in responses {
                    let verdict = Request {
                        type_url: response.type_url.into_owned(),
                        nonce: response.nonce,
                        ..Request::default()
                    };
                    drop(session.receive(verdict).unwrap());
                }
            }
        }
        made.sort_by(f64::total_cmp);
        let name = format!("addresses of nodes: {what}, the layer, p50");
        measure(&name, percentile(&made, 50), "ms", Some(without));
        for (called, (mut took, bytes)) in CALLED.into_iter().zip(told) {
            took.sort_by(f64::total_cmp);
            let who = format!("addresses of nodes: {what}, a proxy that called {called}");
            measure(&format!("{who}, p50"), percentile(&took, 50), "us", None);
            let bytes = f64::from(u32::try_from(bytes).unwrap()) / f64::from(ROUNDS);
            measure(&format!("{who}, clusters"), bytes, "B", None);
        }
    }
}

/// A proxy that has everything, and the clusters of the first addresses.
fn session(plane: &Plane, called: u32) -> Session {
    let mut session = Session::new(0, true);
    drop(session.publish(plane.snapshot()));
    let ask = |kind: ResourceType, subscribe: Vec<String>| Request {
        type_url: kind.url().to_owned(),
        subscribe,
        ..Request::default()
    };
    let names = (0..called).map(|number| {
        let (address, port) = place(number);
        format!("direct|{port}||{address}")
    });
    let all = ["*".to_owned()].into_iter().chain(names).collect();
    let kinds = [ResourceType::Endpoint, ResourceType::Listener];
    let requests = kinds.map(|kind| ask(kind, vec!["*".to_owned()]));
    for request in [ask(ResourceType::Cluster, all)]
        .into_iter()
        .chain(requests)
    {
        let mut rest = session.receive(request).unwrap();
        while let Some(response) = rest.pop() {
            let verdict = Request {
                type_url: response.type_url.into_owned(),
                nonce: response.nonce,
                ..Request::default()
            };
            rest.extend(session.receive(verdict).unwrap());
        }
    }
    session
}

/// Where a workload is called.
fn place(number: u32) -> (String, u32) {
    let node = number / ON_A_NODE;
    (
        format!("10.20.{}.{}", node / 250, node % 250 + 1),
        20_000 + number % ON_A_NODE,
    )
}

fn workload(number: u32, instance: u32) -> (Workload, Health) {
    let (address, port) = place(number);
    let service = format!("s{}", (number + instance) % 500);
    let workload = json!({
        "id": format!("default/{number}-{instance}"),
        "namespace": "default",
        "service_account": service,
        "addresses": [address],
        "services": [{ "name": service, "ports": [{
            "name": "http", "number": 80, "target": port, "inside": 8080, "protocol": "http",
        }] }],
    });
    (serde_json::from_value(workload).unwrap(), Health::Healthy)
}

fn namespace() -> Namespace {
    "default".parse().unwrap()
}

impl Plane {
    fn new(endpoints: u32, outbound: OutboundPolicy) -> Self {
        let workloads: Vec<_> = (0..endpoints).map(|number| workload(number, 0)).collect();
        let mut config = Config {
            outbound,
            ..Config::default()
        };
        let hosts = Mesh::assemble(&config, &workloads).unaddressed;
        config.virtual_addresses = virtual_address::allocate(&BTreeMap::new(), &hosts).addresses;
        let mesh = Mesh::assemble(&config, &workloads);
        let shared = snapshot::shared(&mesh, &namespace(), Mode::Transparent);
        Self {
            shared: Arc::new(shared),
            workloads,
            config,
            mesh,
        }
    }

    /// The last workload, which nobody here calls.
    fn change_health(&mut self, round: u32) {
        let (_, health) = self.workloads.last_mut().unwrap();
        *health = if round.is_multiple_of(2) {
            Health::Unhealthy
        } else {
            Health::Healthy
        };
    }

    /// An allocation of another job takes the port of the first one, which all call that call any.
    fn replace(&mut self, round: u32) {
        *self.workloads.first_mut().unwrap() = workload(0, round + 1);
    }

    /// Makes what is shared; how many milliseconds it took.
    fn make(&mut self) -> f64 {
        let began = Instant::now();
        let mesh = Mesh::assemble(&self.config, &self.workloads);
        let mut layer = snapshot::shared_after(
            &mesh,
            &namespace(),
            Mode::Transparent,
            &self.mesh,
            &self.shared,
        );
        layer.share_with(&self.shared);
        let took = began.elapsed().as_secs_f64() * 1e3;
        self.mesh = mesh;
        self.shared = Arc::new(layer);
        took
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            shared: Arc::clone(&self.shared),
            own: Arc::default(),
        }
    }
}
