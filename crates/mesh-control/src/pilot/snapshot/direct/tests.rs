//! Who is called at an address, and which addresses are listened for.

use mesh_model::istio::{IstioKind, IstioObject, check};
use mesh_model::{Mode, Workload, virtual_address};
use mesh_proto::envoy::config::cluster::v3::Cluster;
use mesh_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use mesh_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::pilot::mesh::Config;
use crate::pilot::resource::{Layer, ResourceType};
use crate::pilot::snapshot;

/// A workload of account `account` that is called at `address`, port 24080, which leads to 8080.
fn mapped(id: &str, account: &str, address: &str) -> Workload {
    let port =
        json!({"name": "http", "number": 80, "target": 24080, "inside": 8080, "protocol": "http"});
    workload(id, account, address, &port)
}

fn workload(id: &str, account: &str, address: &str, port: &Value) -> Workload {
    serde_json::from_value(json!({
        "id": id,
        "namespace": "shop",
        "service_account": account,
        "addresses": [address],
        "services": [{ "name": account, "ports": [port] }],
    }))
    .unwrap()
}

fn without_sidecar(workload: Workload) -> Workload {
    Workload {
        sidecar: mesh_model::Sidecar::Absent,
        ..workload
    }
}

fn object(kind: &str, spec: &Value) -> IstioObject {
    let kind = IstioKind::ALL
        .into_iter()
        .find(|it| it.as_str() == kind)
        .unwrap();
    let object = json!({
        "apiVersion": format!("{}/v1", kind.group()),
        "kind": kind.as_str(),
        "metadata": {"namespace": "shop", "name": "one"},
        "spec": spec,
    });
    let checked = check(kind, &object);
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    checked.object.unwrap()
}

fn assemble(mut config: Config, workloads: &[(Workload, Health)]) -> Mesh {
    let hosts = Mesh::assemble(&config, workloads).unaddressed;
    config.virtual_addresses = virtual_address::allocate(&BTreeMap::new(), &hosts).addresses;
    Mesh::assemble(&config, workloads)
}

fn healthy(workloads: impl IntoIterator<Item = Workload>) -> Mesh {
    let workloads: Vec<_> = workloads
        .into_iter()
        .map(|workload| (workload, Health::Healthy))
        .collect();
    assemble(Config::default(), &workloads)
}

fn layer(mesh: &Mesh) -> Layer {
    snapshot::shared(mesh, &"shop".parse().unwrap(), Mode::Transparent)
}

fn directory(mesh: &Mesh) -> Arc<Directory> {
    layer(mesh).direct.unwrap()
}

fn cluster(mesh: &Mesh, name: &str) -> Cluster {
    let known = directory(mesh).cluster(name);
    let resource = known.or_else(|| passing(name, false)).unwrap();
    let response = DeltaDiscoveryResponse::decode(&resource.entry[..]).unwrap();
    let any = response.resources[0].resource.clone().unwrap();
    let cluster = Cluster::decode(any.value).unwrap();
    assert_eq!((&*resource.name, cluster.name.as_str()), (name, name));
    cluster
}

/// Whether a cluster accepts the account over mutual TLS, or lets pass what comes.
fn accepts(cluster: &Cluster, account: &str) -> bool {
    let socket = cluster.transport_socket.as_ref();
    let text = socket.map(|socket| format!("{socket:?}"));
    text.is_some_and(|text| text.contains(&format!("spiffe://cluster.local/ns/shop/sa/{account}")))
}

fn passes(cluster: &Cluster) -> bool {
    cluster.transport_socket.is_none()
        && cluster.cluster_discovery_type
            == Some(ClusterDiscoveryType::Type(
                DiscoveryType::OriginalDst.into(),
            ))
}

#[test]
fn only_addresses_that_outlive_workloads_are_listened_for() {
    let own = json!({"name": "http", "number": 80, "target": 8080, "protocol": "http"});
    let mesh = healthy([
        mapped("shop/a", "a", "10.0.0.5"),
        workload("shop/b", "b", "10.1.0.1", &own),
        workload("shop/c", "c", "10.0.0.6", &own),
        without_sidecar(workload("shop/d", "d", "10.0.0.6", &own)),
        without_sidecar(mapped("shop/e", "e", "10.0.0.7")),
    ]);
    let nodes: Vec<_> = mesh.nodes.iter().map(ToString::to_string).collect();
    assert_eq!(nodes, ["10.0.0.5", "10.0.0.6"]);
    let matches = chains(&mesh)
        .into_iter()
        .filter_map(|chain| chain.filter_chain_match);
    let mut ranges: Vec<_> = matches
        .flat_map(|matching| matching.prefix_ranges)
        .map(|range| (range.address_prefix, range.prefix_len.unwrap().value))
        .collect();
    ranges.sort();
    assert_eq!(
        ranges,
        [("10.0.0.5".to_owned(), 32), ("10.0.0.6".to_owned(), 32)]
    );
    assert!(chains(&healthy([])).is_empty());
}

#[test]
fn a_node_stays_one_when_its_last_workload_leaves() {
    let before = healthy([mapped("shop/a", "a", "10.0.0.5")]);
    let mut mesh = healthy([mapped("shop/b", "b", "10.0.0.6")]);
    mesh.remember_nodes(&before);
    let nodes: Vec<_> = mesh.nodes.iter().map(ToString::to_string).collect();
    assert_eq!(nodes, ["10.0.0.5", "10.0.0.6"]);
    assert!(passes(&cluster(&mesh, "direct|24080||10.0.0.5")));

    let many = (0..=255).map(|last| {
        let (id, address) = (format!("shop/n{last}"), format!("10.9.0.{last}"));
        mapped(&id, "a", &address)
    });
    let mut last = healthy([mapped("shop/b", "b", "10.0.0.6")]);
    let mut many = healthy(many);
    many.remember_nodes(&mesh);
    last.remember_nodes(&many);
    assert_eq!(last.nodes.len(), 1, "so many are not remembered");
}

#[test]
fn who_has_a_sidecar_is_called_under_its_identity_and_named_as_its_service() {
    let mesh = healthy([mapped("shop/a", "api", "10.0.0.5")]);
    let cluster = cluster(&mesh, "direct|24080||10.0.0.5");
    assert!(accepts(&cluster, "api"), "{cluster:?}");
    let metadata = format!("{:?}", cluster.metadata);
    assert!(metadata.contains("api.shop.mesh"), "{metadata}");
    let place = format!("{:?}", cluster.load_assignment);
    assert!(
        place.contains("10.0.0.5") && place.contains("24080"),
        "{place}"
    );
}

#[test]
fn whoever_else_is_called_there_is_called_as_before() {
    let mesh = healthy([
        mapped("shop/a", "api", "10.0.0.5"),
        without_sidecar(mapped("shop/b", "old", "10.0.0.6")),
    ]);
    for name in [
        "direct|24081||10.0.0.5",
        "direct|8080||10.0.0.5",
        "direct|24080||10.0.0.6",
        "direct|24080||fd00::5",
    ] {
        assert!(passes(&cluster(&mesh, name)), "{name}");
    }
}

#[test]
fn names_that_envoy_does_not_make_are_of_no_address() {
    let directory = directory(&healthy([mapped("shop/a", "api", "10.0.0.5")]));
    for name in [
        "direct|024080||10.0.0.5",
        "direct|24080||10.0.0.5 ",
        "direct|24080|v1|10.0.0.5",
        "direct|80||fd00:0::5",
        "direct|80||[fd00::5]",
        "direct|65536||10.0.0.5",
        "direct|",
        "outbound|80||api.shop.mesh",
    ] {
        assert_eq!(directory.cluster(name), None, "{name}");
        assert_eq!(passing(name, false), None, "{name}");
    }
}

#[test]
fn who_is_called_in_plaintext_by_name_is_so_by_address() {
    let workloads = [(mapped("shop/a", "api", "10.0.0.5"), Health::Healthy)];
    let mut config = Config::default();
    let disable = json!({"mtls": {"mode": "DISABLE"}});
    match object("PeerAuthentication", &disable) {
        IstioObject::PeerAuthentication(it) => config.peer_authentications.push(Arc::new(it)),
        other => panic!("{other:?}"),
    }
    let mesh = assemble(config.clone(), &workloads);
    assert!(passes(&cluster(&mesh, "direct|24080||10.0.0.5")));

    for (mode, secured) in [
        ("ISTIO_MUTUAL", true),
        ("DISABLE", false),
        ("SIMPLE", false),
    ] {
        let rule = json!({"host": "api", "trafficPolicy": {"tls": {"mode": mode}}});
        let mut config = config.clone();
        match object("DestinationRule", &rule) {
            IstioObject::DestinationRule(it) => config.destination_rules.push(Arc::new(*it)),
            other => panic!("{other:?}"),
        }
        let mesh = assemble(config, &workloads);
        let cluster = cluster(&mesh, "direct|24080||10.0.0.5");
        assert_eq!(accepts(&cluster, "api"), secured, "{mode}");
        assert_eq!(passes(&cluster), !secured, "{mode}");
    }
}

#[test]
fn a_policy_that_lets_nobody_out_is_not_opened() {
    let config = Config {
        outbound: OutboundPolicy::RegistryOnly,
        ..Config::default()
    };
    let mesh = assemble(
        config,
        &[(mapped("shop/a", "api", "10.0.0.5"), Health::Healthy)],
    );
    assert!(chains(&mesh).is_empty());
    assert_eq!(layer(&mesh).direct, None);
}

#[test]
fn of_two_at_one_address_the_one_that_can_answer_is_called() {
    let [old, new] =
        ["a", "b"].map(|account| mapped(&format!("shop/{account}"), account, "10.0.0.5"));
    for (health, account) in [(Health::Unhealthy, "b"), (Health::Healthy, "a")] {
        let workloads = [(old.clone(), health), (new.clone(), Health::Healthy)];
        let mesh = assemble(Config::default(), &workloads);
        assert!(accepts(&cluster(&mesh, "direct|24080||10.0.0.5"), account));
    }
}

#[test]
fn a_change_elsewhere_leaves_what_was_made() {
    let one = mapped("shop/a", "a", "10.0.0.5");
    let before = healthy([one.clone(), mapped("shop/b", "b", "10.0.0.6")]);
    let old = layer(&before);
    let name = "direct|24080||10.0.0.5";
    let made = old.direct.as_ref().unwrap().cluster(name).unwrap();

    let after = healthy([one.clone(), mapped("shop/b", "c", "10.0.0.6")]);
    let mut new = layer(&after);
    new.share_with(&old);
    assert!(!new.is_same(&old));
    let again = new.direct.as_ref().unwrap().cluster(name).unwrap();
    assert_eq!(made.entry.as_ptr(), again.entry.as_ptr());

    let mut same = layer(&after);
    same.share_with(&new);
    assert!(same.is_same(&new));
}

#[test]
fn a_port_of_http_has_a_listener_of_the_address_itself() {
    let port = json!({"name": "http", "number": 8080, "target": 8080, "protocol": "http"});
    let mesh = healthy([
        workload("shop/a", "a", "10.0.0.5", &port),
        mapped("shop/b", "b", "10.0.0.5"),
    ]);
    let layer = layer(&mesh);
    let listeners = layer.of(ResourceType::Listener).iter();
    let names: Vec<_> = listeners
        .map(|listener| &*listener.name)
        .filter(|name| is_name(name))
        .collect();
    let [name] = names[..] else {
        panic!("one listener of 8080, none of 24080: {names:?}");
    };
    assert!(name.starts_with("direct|8080/"), "{name}");
}
