//! Whatever the mesh, Envoy can take the snapshot, and equal meshes have equal ones.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::unreachable, reason = "reached, it fails the test")]
#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_control::pilot::mesh::{Config, Mesh};
use mesh_control::pilot::resource::{Layer, ResourceType};
use mesh_control::pilot::snapshot;
use mesh_model::istio::{IstioKind, IstioObject, check};
use mesh_model::{Explicit, Health, Mode, Problem, Workload, virtual_address};
use mesh_proto::envoy::config::cluster::v3::Cluster;
use mesh_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mesh_proto::envoy::config::listener::v3::{FilterChain, Listener, filter};
use mesh_proto::envoy::config::route::v3::RouteConfiguration;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use mesh_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::{Message, Name};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// Both ways in which calls come to a proxy.
const MODES: [Mode; 2] = [Mode::Transparent, Mode::Explicit];

/// What a mesh is made from.
#[derive(Clone, Debug)]
struct Input {
    workloads: Vec<(Workload, Health)>,
    objects: Vec<Value>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn envoy_can_take_any_snapshot(input in input()) {
        let mesh = input.mesh();
        for namespace in ["shop", "front"] {
            let namespace = namespace.parse().unwrap();
            let layers = MODES.map(|mode| (mode, snapshot::shared(&mesh, &namespace, mode)));
            for (_, shared) in &layers {
                check_listeners(shared);
                check_routes(shared);
                check_endpoints(shared);
            }
            for (workload, _) in mesh.workloads() {
                let mut layers = layers.iter();
                let (_, shared) = layers.find(|(mode, _)| *mode == workload.mode()).unwrap();
                let own = snapshot::own(&mesh, workload);
                check_listeners(&own);
                for kind in ResourceType::ALL {
                    let names: BTreeSet<_> = shared.of(kind).iter().map(|it| &it.name).collect();
                    prop_assert!(own.of(kind).iter().all(|it| !names.contains(&it.name)));
                }
            }
        }
    }

    #[test]
    fn the_order_of_inputs_does_not_matter(
        input in input(),
        order in vec(any::<Index>(), 24),
    ) {
        let mut other = input.clone();
        for (place, index) in order.iter().enumerate() {
            let (workloads, objects) = (other.workloads.len(), other.objects.len());
            if workloads > 0 {
                other.workloads.swap(place % workloads, index.index(workloads));
            }
            if objects > 0 {
                other.objects.swap(place % objects, index.index(objects));
            }
        }
        let (one, other) = (input.mesh(), other.mesh());
        prop_assert_eq!(&one.warnings, &other.warnings);
        for namespace in ["shop", "front"] {
            let namespace = namespace.parse().unwrap();
            for mode in MODES {
                let layers = [&one, &other].map(|mesh| snapshot::shared(mesh, &namespace, mode));
                same(&layers)?;
            }
        }
        for (workload, _) in one.workloads() {
            same(&[&one, &other].map(|mesh| snapshot::own(mesh, workload)))?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_layer_made_from_the_one_before_is_the_same(
        input in input(),
        change in change(),
        places in vec(any::<Index>(), 1..3),
    ) {
        let config = input.config();
        let before = Mesh::assemble(&config, &input.workloads);
        let mut workloads = input.workloads.clone();
        for place in places.iter().filter(|_| !input.workloads.is_empty()) {
            change.apply(&mut workloads, place.index(input.workloads.len()));
        }
        let mesh = Mesh::assemble(&config, &workloads);
        for namespace in ["shop", "front"] {
            let namespace = namespace.parse().unwrap();
            for mode in MODES {
                let old = snapshot::shared(&before, &namespace, mode);
                let quick = snapshot::shared_after(&mesh, &namespace, mode, &before, &old);
                same(&[quick, snapshot::shared(&mesh, &namespace, mode)])?;
            }
        }
    }
}

/// What happens to a workload.
#[derive(Clone, Copy, Debug)]
enum Change {
    Readiness,
    Addresses,
    Labels,
    Account,
    Departure,
}

fn same([one, other]: &[Layer; 2]) -> Result<(), TestCaseError> {
    for kind in ResourceType::ALL {
        prop_assert_eq!(one.of(kind), other.of(kind));
    }
    prop_assert_eq!(&one.direct, &other.direct);
    Ok(())
}

/// Addresses and chains are what Envoy takes: each once.
fn check_listeners(layer: &Layer) {
    let routes: BTreeSet<_> = layer
        .of(ResourceType::Route)
        .iter()
        .map(|it| &*it.name)
        .collect();
    let mut addresses = BTreeSet::new();
    for listener in messages::<Listener>(layer, ResourceType::Listener) {
        let others = listener
            .additional_addresses
            .iter()
            .map(|other| &other.address);
        for address in [&listener.address].into_iter().chain(others) {
            assert!(
                addresses.insert(format!("{address:?}")),
                "{address:?} twice"
            );
        }
        let mut names = BTreeSet::new();
        let mut matches = BTreeSet::new();
        for chain in &listener.filter_chains {
            assert!(names.insert(chain.name.clone()), "{} twice", chain.name);
            let matching = format!("{:?}", chain.filter_chain_match);
            assert!(
                matches.insert(matching),
                "{} matches as another",
                chain.name
            );
        }
        for chain in listener
            .filter_chains
            .iter()
            .chain(&listener.default_filter_chain)
        {
            for name in named_routes(chain) {
                assert!(routes.contains(name.as_str()), "no routes {name}");
            }
        }
    }
}

fn named_routes(chain: &FilterChain) -> Vec<String> {
    let configs = chain
        .filters
        .iter()
        .filter_map(|filter| match &filter.config_type {
            Some(filter::ConfigType::TypedConfig(any)) => Some(any),
            _ => None,
        });
    configs
        .filter(|any| any.type_url == HttpConnectionManager::type_url())
        .map(|any| HttpConnectionManager::decode(&any.value[..]).unwrap())
        .filter_map(|manager| match manager.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => Some(rds.route_config_name),
            _ => None,
        })
        .collect()
}

/// Names of virtual hosts and the names that they answer to: some, and each once.
fn check_routes(layer: &Layer) {
    for routes in messages::<RouteConfiguration>(layer, ResourceType::Route) {
        let mut names = BTreeSet::new();
        let mut domains = BTreeSet::new();
        for host in &routes.virtual_hosts {
            assert!(
                names.insert(&host.name),
                "{} twice in {}",
                host.name,
                routes.name
            );
            assert!(!host.domains.is_empty());
            for domain in &host.domains {
                assert!(!domain.is_empty());
                assert!(
                    domains.insert(domain.to_lowercase()),
                    "{domain} in {}",
                    routes.name
                );
            }
        }
    }
}

/// Every cluster that waits for endpoints has some, were it none, and nobody else has.
fn check_endpoints(layer: &Layer) {
    let waiting: BTreeSet<_> = messages::<Cluster>(layer, ResourceType::Cluster)
        .into_iter()
        .filter(|cluster| cluster.eds_cluster_config.is_some())
        .map(|cluster| cluster.name)
        .collect();
    let given: BTreeSet<_> = messages::<ClusterLoadAssignment>(layer, ResourceType::Endpoint)
        .into_iter()
        .map(|assignment| assignment.cluster_name)
        .collect();
    assert_eq!(waiting, given);
}

fn messages<M: Message + Name + Default>(layer: &Layer, kind: ResourceType) -> Vec<M> {
    let resources = layer.of(kind).iter();
    resources
        .map(|resource| {
            let response = DeltaDiscoveryResponse::decode(&resource.entry[..]).unwrap();
            let any = response.resources[0].resource.clone().unwrap();
            assert_eq!(any.type_url, kind.url());
            M::decode(&any.value[..]).unwrap()
        })
        .collect()
}

// === impl Input ===

impl Input {
    fn mesh(&self) -> Mesh {
        Mesh::assemble(&self.config(), &self.workloads)
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        for object in &self.objects {
            add(&mut config, object);
        }
        let hosts = Mesh::assemble(&config, &self.workloads).unaddressed;
        config.virtual_addresses = virtual_address::allocate(&BTreeMap::new(), &hosts).addresses;
        config
    }
}

// === impl Change ===

impl Change {
    fn apply(self, workloads: &mut Vec<(Workload, Health)>, place: usize) {
        let Some((workload, health)) = workloads.get_mut(place) else {
            return;
        };
        match self {
            Self::Readiness if *health == Health::Healthy => *health = Health::Unhealthy,
            Self::Readiness => *health = Health::Healthy,
            Self::Addresses => workload.addresses = vec![[10, 0, 0, 9].into()],
            Self::Labels => {
                workload.labels = [("version".to_owned(), "v1".to_owned())].into();
            }
            Self::Account => workload.service_account = "three".parse().unwrap(),
            Self::Departure => drop(workloads.remove(place)),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    select(vec![
        Change::Readiness,
        Change::Addresses,
        Change::Labels,
        Change::Account,
        Change::Departure,
    ])
}

fn add(config: &mut Config, object: &Value) {
    match read(object).unwrap() {
        IstioObject::VirtualService(object) => config.virtual_services.push(Arc::new(object)),
        IstioObject::DestinationRule(object) => config.destination_rules.push(Arc::new(*object)),
        IstioObject::ServiceEntry(object) => config.service_entries.push(Arc::new(object)),
        IstioObject::PeerAuthentication(object) => {
            config.peer_authentications.push(Arc::new(object));
        }
        other => unreachable!("{:?} is not made here", other.kind()),
    }
}

fn read(object: &Value) -> Result<IstioObject, Vec<Problem>> {
    let kind = IstioKind::ALL
        .into_iter()
        .find(|kind| object["kind"] == kind.as_str());
    let checked = check(kind.unwrap(), object);
    checked
        .object
        .filter(|_| checked.problems.is_empty())
        .ok_or(checked.problems)
}

fn input() -> impl Strategy<Value = Input> {
    let object = prop_oneof![
        virtual_service(),
        destination_rule(),
        service_entry(),
        peer_authentication(),
    ]
    .prop_filter("the API takes it", |object| read(object).is_ok());
    (vec(workload(), 0..6), vec(object, 0..10)).prop_map(|(mut workloads, mut objects)| {
        // Ids and names are unique, as the registry and the API have it.
        for (number, (workload, _)) in workloads.iter_mut().enumerate() {
            let id = format!("{}/w-{number}", workload.namespace);
            workload.id = id.parse().unwrap();
        }
        for (number, object) in objects.iter_mut().enumerate() {
            object["metadata"]["name"] = json!(format!("object-{number}"));
        }
        Input { workloads, objects }
    })
}

fn namespace() -> impl Strategy<Value = &'static str> {
    select(vec!["shop", "front", "istio-system"])
}

fn host() -> impl Strategy<Value = &'static str> {
    select(vec![
        "web",
        "api",
        "web.shop.mesh",
        "api.front.svc.cluster.local",
        "web.shop",
        "*.shop.mesh",
        "*.example.com",
        "a.example.com",
        "b.example.com",
        "Web.Shop.mesh",
        "front",
    ])
}

fn number() -> impl Strategy<Value = u16> {
    select(vec![80, 81, 443, 9080, 3306, 15001, 15006, 15090])
}

fn workload() -> impl Strategy<Value = (Workload, Health)> {
    let port = (
        number(),
        number(),
        select(vec!["http", "http2", "grpc", "tcp", "tls"]),
    );
    let ports = vec(port, 0..4);
    let services = vec((select(vec!["web", "api", "db"]), ports), 0..3);
    let addresses = select(vec![
        json!([]),
        json!(["10.0.0.1"]),
        json!(["fd00::1"]),
        json!(["fd00::2", "10.0.0.2"]),
    ]);
    let labels = select(vec![
        json!({}),
        json!({"version": "v1"}),
        json!({"version": "v2"}),
    ]);
    let account = select(vec!["one", "two"]);
    let place = (select(vec!["shop", "front"]), account, addresses, labels);
    let upstreams = vec(
        select(vec![
            "web:80",
            "api.front:9080",
            "db:3306",
            "example.com:443",
            "nobody:81",
        ]),
        0..4,
    );
    let explicit = proptest::option::of(upstreams);
    (place, services, explicit, any::<bool>()).prop_map(|((namespace, account, addresses, labels), services, explicit, healthy)| {
        let services: Vec<_> = services
            .into_iter()
            .map(|(name, ports)| {
                let ports: Vec<_> = ports
                    .into_iter()
                    .map(|(number, target, protocol)| {
                        json!({"name": protocol, "number": number, "target": target, "protocol": protocol})
                    })
                    .collect();
                json!({"name": name, "ports": ports})
            })
            .collect();
        let workload = json!({
            "id": "x",
            "namespace": namespace,
            "service_account": account,
            "addresses": addresses,
            "labels": labels,
            "services": services,
        });
        let mut workload: Workload = serde_json::from_value(workload).unwrap();
        workload.explicit = explicit.map(|upstreams| {
            let upstreams: Vec<_> = upstreams.iter().map(|text| text.parse().unwrap()).collect();
            Explicit::new(&workload.services, &upstreams)
        });
        let health = if healthy { Health::Healthy } else { Health::Starting };
        (workload, health)
    })
}

fn object(kind: &str, namespace: &str, spec: impl Into<Value>) -> Value {
    let spec: Value = spec.into();
    let group = IstioKind::ALL
        .into_iter()
        .find(|known| known.as_str() == kind)
        .unwrap()
        .group();
    json!({
        "apiVersion": format!("{group}/v1"),
        "kind": kind,
        "metadata": { "namespace": namespace },
        "spec": spec,
    })
}

fn export_to() -> impl Strategy<Value = Value> {
    select(vec![
        json!([]),
        json!(["."]),
        json!(["*"]),
        json!(["front"]),
    ])
}

fn virtual_service() -> impl Strategy<Value = Value> {
    let matching = select(vec![
        json!([]),
        json!([{"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/b"}, "port": 80}]),
        json!([{"sourceNamespace": "front"}]),
        json!([{"sourceLabels": {"app": "web"}}]),
    ]);
    let subset = select(vec!["", "v1", "none"]);
    let rules = vec((matching, host(), subset), 1..4);
    (
        namespace(),
        vec(host(), 1..3),
        rules,
        export_to(),
        any::<bool>(),
    )
        .prop_map(|(namespace, hosts, rules, export_to, http)| {
            let rules: Vec<_> = rules
                .into_iter()
                .map(|(matching, host, subset)| {
                    let route = json!([{"destination": {"host": host, "subset": subset}}]);
                    let matching = if http {
                        matching
                    } else {
                        json!([{"port": 3306}])
                    };
                    json!({"match": matching, "route": route})
                })
                .collect();
            let kind = if http { "http" } else { "tcp" };
            let spec = json!({"hosts": hosts, kind: rules, "exportTo": export_to});
            object("VirtualService", namespace, spec)
        })
}

fn destination_rule() -> impl Strategy<Value = Value> {
    let policy = select(vec![
        json!({"loadBalancer": {"simple": "RANDOM"}}),
        json!({"tls": {"mode": "DISABLE"}}),
        json!({"tls": {"mode": "SIMPLE"}}),
        json!({"loadBalancer": {"simple": "PASSTHROUGH"}}),
    ]);
    (namespace(), host(), policy, export_to()).prop_map(|(namespace, host, policy, export_to)| {
        let subsets = json!([
            {"name": "v1", "labels": {"version": "v1"}},
            {"name": "v2", "labels": {"version": "v2"}, "trafficPolicy": policy},
        ]);
        let spec = json!({"host": host, "subsets": subsets, "exportTo": export_to});
        object("DestinationRule", namespace, spec)
    })
}

fn service_entry() -> impl Strategy<Value = Value> {
    let protocol = select(vec!["HTTP", "TCP", "TLS", "GRPC"]);
    let shape = select(vec![
        json!({"resolution": "NONE"}),
        json!({"resolution": "STATIC", "endpoints": [{"address": "192.0.2.1"}]}),
        json!({"resolution": "STATIC", "location": "MESH_INTERNAL",
               "workloadSelector": {"labels": {"version": "v1"}}}),
        json!({"resolution": "DNS", "endpoints": [{"address": "c.example.com"}]}),
    ]);
    let addresses = select(vec![
        json!([]),
        json!(["192.0.2.7"]),
        json!(["192.0.2.7", "2001:db8::8"]),
        json!(["0.0.0.0", "240.240.1.1", "::1"]),
    ]);
    (
        namespace(),
        host(),
        number(),
        protocol,
        shape,
        addresses,
        export_to(),
    )
        .prop_map(
            |(namespace, host, number, protocol, mut shape, addresses, export_to)| {
                shape["hosts"] = json!([host]);
                shape["ports"] = json!([{"name": "port", "number": number, "protocol": protocol}]);
                shape["addresses"] = addresses;
                shape["exportTo"] = export_to;
                object("ServiceEntry", namespace, shape)
            },
        )
}

fn peer_authentication() -> impl Strategy<Value = Value> {
    let mode = || select(vec!["STRICT", "PERMISSIVE", "DISABLE", "UNSET"]);
    let namespace = select(vec!["shop", "front"]);
    (namespace, mode(), mode(), number()).prop_map(|(namespace, whole, mode, port)| {
        let spec = json!({
            "selector": {"matchLabels": {"version": "v1"}},
            "mtls": {"mode": whole},
            "portLevelMtls": {port.to_string(): {"mode": mode}},
        });
        object("PeerAuthentication", namespace, spec)
    })
}
