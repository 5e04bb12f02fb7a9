//! Services, entries and policies, resolved against each other.

use std::net::{IpAddr, Ipv4Addr};

use mesh_model::istio::peer_authentication::MutualTlsMode;
use mesh_model::istio::{IstioKind, IstioObject, check};
use mesh_model::virtual_address;
use serde_json::{Value, json};

use super::*;

fn workload(id: &str, service: &str, port: u16, protocol: &str) -> (Workload, Health) {
    let (namespace, _) = id.split_once('/').unwrap();
    let workload = json!({
        "id": id,
        "namespace": namespace,
        "service_account": "one",
        "addresses": ["10.0.0.1"],
        "services": [{
            "name": service,
            "ports": [{"name": "port", "number": port, "target": port, "protocol": protocol}],
        }],
    });
    (serde_json::from_value(workload).unwrap(), Health::Healthy)
}

fn config(objects: &[(&str, &str, &str, Value)]) -> Config {
    let mut config = Config::default();
    for (kind, namespace, name, spec) in objects {
        let kind = IstioKind::ALL
            .into_iter()
            .find(|it| it.as_str() == *kind)
            .unwrap();
        let object = json!({
            "apiVersion": format!("{}/v1", kind.group()),
            "kind": kind.as_str(),
            "metadata": {"namespace": namespace, "name": name},
            "spec": spec,
        });
        let checked = check(kind, &object);
        assert!(checked.problems.is_empty(), "{:?}", checked.problems);
        match checked.object.unwrap() {
            IstioObject::VirtualService(it) => config.virtual_services.push(Arc::new(it)),
            IstioObject::DestinationRule(it) => config.destination_rules.push(Arc::new(*it)),
            IstioObject::ServiceEntry(it) => config.service_entries.push(Arc::new(it)),
            IstioObject::PeerAuthentication(it) => {
                config.peer_authentications.push(Arc::new(it));
            }
            other => panic!("{:?} has no place here", other.kind()),
        }
    }
    config
}

fn assemble(mut config: Config, workloads: &[(Workload, Health)]) -> Mesh {
    let hosts = Mesh::assemble(&config, workloads).unaddressed;
    config.virtual_addresses = virtual_address::allocate(&BTreeMap::new(), &hosts).addresses;
    Mesh::assemble(&config, workloads)
}

fn entry<'a>(mesh: &'a Mesh, host: &str) -> &'a Entry {
    &mesh.entries[&host.parse::<Host>().unwrap()]
}

fn warnings(mesh: &Mesh) -> Vec<String> {
    mesh.warnings.iter().map(ToString::to_string).collect()
}

fn static_entry(host: &str, address: &str) -> Value {
    json!({
        "hosts": [host],
        "resolution": "STATIC",
        "ports": [{"name": "tcp", "number": 5432, "protocol": "TCP"}],
        "addresses": [address],
        "endpoints": [{"address": "192.0.2.1"}],
    })
}

#[test]
fn a_service_is_all_who_declare_it() {
    let mesh = assemble(
        Config::default(),
        &[
            workload("shop/b", "web", 80, "http"),
            workload("shop/a", "web", 80, "http"),
            workload("front/a", "web", 80, "http"),
        ],
    );
    let service = &entry(&mesh, "web.shop.mesh").service;
    let ids: Vec<_> = service
        .endpoints
        .iter()
        .map(|it| it.workload.clone().unwrap())
        .collect();
    assert_eq!(ids, ["shop/a".parse().unwrap(), "shop/b".parse().unwrap()]);
    assert_eq!(service.identities.len(), 1);
    assert_eq!(mesh.entries.len(), 2);
    assert!(mesh.warnings.is_empty());
}

#[test]
fn a_host_without_addresses_waits_outside() {
    let mesh = Mesh::assemble(&Config::default(), &[workload("shop/a", "web", 80, "http")]);
    assert!(mesh.entries.is_empty());
    assert_eq!(
        mesh.unaddressed,
        BTreeSet::from(["web.shop.mesh".parse().unwrap()])
    );
}

#[test]
fn the_smaller_id_says_what_is_spoken_on_a_port() {
    let mesh = assemble(
        Config::default(),
        &[
            workload("shop/b", "web", 80, "http"),
            workload("shop/a", "web", 80, "tcp"),
        ],
    );
    let service = &entry(&mesh, "web.shop.mesh").service;
    assert_eq!(service.ports[&80].protocol, mesh_model::Protocol::Tcp);
    assert_eq!(service.endpoints[0].ports, BTreeMap::from([(80, 80)]));
    assert!(service.endpoints[1].ports.is_empty());
    let warnings = warnings(&mesh);
    assert!(
        warnings[0].starts_with("workload shop/b: port 80 of service `web`"),
        "{warnings:?}"
    );
}

#[test]
fn ports_of_the_sidecar_are_nobodys() {
    let mesh = assemble(
        Config::default(),
        &[workload("shop/a", "web", 15006, "http")],
    );
    assert!(entry(&mesh, "web.shop.mesh").service.ports.is_empty());
    assert!(warnings(&mesh)[0].contains("one of the sidecar's own"));
}

#[test]
fn nobody_declares_hosts_of_another_namespace() {
    let config = config(&[
        (
            "ServiceEntry",
            "front",
            "full",
            static_entry("web.shop.mesh", "192.0.2.9"),
        ),
        (
            "ServiceEntry",
            "front",
            "short",
            static_entry("web.shop", "192.0.2.10"),
        ),
        (
            "ServiceEntry",
            "front",
            "unknown",
            static_entry("db.shop.mesh", "192.0.2.11"),
        ),
        (
            "ServiceEntry",
            "shop",
            "same",
            static_entry("web", "192.0.2.12"),
        ),
        (
            "ServiceEntry",
            "shop",
            "own",
            static_entry("db", "192.0.2.13"),
        ),
    ]);
    let mesh = assemble(config, &[workload("shop/a", "web", 80, "http")]);
    assert!(!entry(&mesh, "web.shop.mesh").foreign);
    assert!(entry(&mesh, "db.shop.mesh").foreign);
    assert_eq!(mesh.entries.len(), 2);
    assert_eq!(warnings(&mesh).len(), 4);
}

#[test]
fn the_older_object_has_the_host_and_the_address() {
    let mut config = config(&[
        (
            "ServiceEntry",
            "shop",
            "newer",
            static_entry("db.example.com", "192.0.2.9"),
        ),
        (
            "ServiceEntry",
            "shop",
            "older",
            static_entry("db.example.com", "192.0.2.10"),
        ),
        (
            "ServiceEntry",
            "shop",
            "newest",
            static_entry("other.example.com", "192.0.2.10"),
        ),
    ]);
    for (object, year) in config
        .service_entries
        .iter_mut()
        .zip(["2024", "2020", "2025"])
    {
        let time = format!("{year}-01-01T00:00:00Z");
        Arc::make_mut(object).metadata.creation_timestamp = Some(time);
    }
    let mesh = assemble(config, &[]);
    let own = [IpAddr::from(Ipv4Addr::new(192, 0, 2, 10))];
    assert_eq!(entry(&mesh, "db.example.com").own_addresses, own);
    assert!(entry(&mesh, "other.example.com").own_addresses.is_empty());
    assert_eq!(warnings(&mesh).len(), 2);
}

#[test]
fn what_is_not_exported_is_not_seen() {
    let mut hidden = static_entry("db.example.com", "192.0.2.9");
    hidden["exportTo"] = json!(["."]);
    let mesh = assemble(config(&[("ServiceEntry", "shop", "db", hidden)]), &[]);
    let seen = |namespace: &str| mesh.seen_from(&namespace.parse().unwrap()).count();
    assert_eq!((seen("shop"), seen("front")), (1, 0));
}

#[test]
fn routes_and_rules_are_found_by_exact_and_by_wide_names() {
    let route = json!([{"route": [{"destination": {"host": "web"}}]}]);
    let config = config(&[
        (
            "VirtualService",
            "shop",
            "wide",
            json!({"hosts": ["*.shop.mesh"], "http": route}),
        ),
        (
            "VirtualService",
            "shop",
            "exact",
            json!({"hosts": ["web"], "http": route}),
        ),
        (
            "VirtualService",
            "shop",
            "gateway",
            json!({"hosts": ["web"], "gateways": ["g"], "http": route}),
        ),
        (
            "VirtualService",
            "shop",
            "new",
            json!({"hosts": ["*.example.com"], "http": route}),
        ),
        (
            "DestinationRule",
            "shop",
            "wide",
            json!({"host": "*.local", "subsets": [{"name": "v1"}]}),
        ),
    ]);
    let workloads = [
        workload("shop/a", "web", 80, "http"),
        workload("shop/b", "api", 80, "http"),
    ];
    let mesh = assemble(config, &workloads);
    let from: Namespace = "shop".parse().unwrap();
    let host = |text: &str| text.parse::<Host>().unwrap();
    let found = |text: &str| {
        Some(
            mesh.virtual_service(&host(text), &from)?
                .metadata
                .name
                .clone(),
        )
    };
    assert_eq!(found("web.shop.mesh").as_deref(), Some("exact"));
    assert_eq!(found("api.shop.mesh").as_deref(), Some("wide"));
    assert_eq!(found("a.example.com").as_deref(), Some("new"));
    assert_eq!(found("example.com"), None);
    assert_eq!(
        mesh.destination_rules(&host("api.shop.mesh"), &from)
            .subsets()
            .len(),
        1
    );
    let routed: Vec<_> = mesh.routed_hosts(&from).collect();
    assert_eq!(routed, [host("*.example.com")]);
}

#[test]
fn ports_of_which_something_is_said_have_a_mode_of_their_own() {
    let config = config(&[
        (
            "PeerAuthentication",
            "istio-system",
            "mesh",
            json!({"mtls": {"mode": "STRICT"}}),
        ),
        (
            "PeerAuthentication",
            "shop",
            "port",
            json!({
                "selector": {"matchLabels": {"app": "web"}},
                "portLevelMtls": {"8080": {"mode": "DISABLE"}},
            }),
        ),
    ]);
    let (mut web, health) = workload("shop/a", "web", 80, "http");
    web.labels.insert("app".to_owned(), "web".to_owned());
    let mesh = assemble(config, &[(web.clone(), health)]);
    assert_eq!(mesh.mutual_tls(&web, 8080), MutualTlsMode::Disable);
    assert_eq!(mesh.mutual_tls_elsewhere(&web), MutualTlsMode::Strict);
    assert_eq!(mesh.ports_of_mutual_tls(&web), BTreeSet::from([8080]));
    web.labels.clear();
    assert!(mesh.ports_of_mutual_tls(&web).is_empty());
}

#[test]
fn a_workload_that_becomes_unready_changes_endpoints_only() {
    let workloads = [
        workload("shop/a", "web", 80, "http"),
        workload("shop/b", "api", 80, "http"),
    ];
    let route = json!([{"route": [{"destination": {"host": "web"}}]}]);
    let virtual_service = json!({"hosts": ["web"], "http": route});
    let mut config = config(&[("VirtualService", "shop", "web", virtual_service)]);
    let hosts = Mesh::assemble(&config, &workloads).unaddressed;
    config.virtual_addresses = virtual_address::allocate(&BTreeMap::new(), &hosts).addresses;
    let before = Mesh::assemble(&config, &workloads);
    let changed = |config: &Config, workloads: &[(Workload, Health)]| {
        let mesh = Mesh::assemble(config, workloads);
        let hosts = mesh.endpoints_changed(&before)?;
        Some(
            hosts
                .into_iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(changed(&config, &workloads), Some(vec![]));
    let mut unready = workloads.clone();
    unready[0].1 = Health::Unhealthy;
    assert_eq!(
        changed(&config, &unready),
        Some(vec!["web.shop.mesh".to_owned()])
    );
    let mut other = workloads.clone();
    other[0].0.service_account = "two".parse().unwrap();
    assert_eq!(
        changed(&config, &other),
        None,
        "who answers is in the cluster"
    );
    assert_eq!(changed(&config, &workloads[..1]), None, "a service is gone");
    config.virtual_services.clear();
    assert_eq!(changed(&config, &workloads), None, "a route is gone");
}

/// A port of the host leads to the application's own.
fn mapped(id: &str, target: u16) -> (Workload, Health) {
    let mut mapped = workload(id, "web", 80, "http");
    let port = &mut mapped.0.services[0].ports[0];
    (port.target, port.inside) = (target, Some(8080));
    mapped
}

#[test]
fn policies_know_a_port_by_the_applications_own_number() {
    let modes = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "mtls": {"mode": "STRICT"},
        "portLevelMtls": {"8080": {"mode": "DISABLE"}, "24411": {"mode": "PERMISSIVE"}},
    });
    let config = config(&[("PeerAuthentication", "shop", "web", modes)]);
    let mut web = mapped("shop/web", 24411);
    web.0.labels = [("app".to_owned(), "web".to_owned())].into();
    let mesh = assemble(config, &[web]);
    let endpoint = &entry(&mesh, "web.shop.mesh").service.endpoints[0];
    assert_eq!(endpoint.ports[&80], 8080);
    let (workload, _) = mesh.workload(endpoint.workload.as_ref().unwrap()).unwrap();
    assert_eq!(mesh.mutual_tls(workload, 8080), MutualTlsMode::Disable);
}

#[test]
fn another_port_of_the_host_is_another_endpoint() {
    let config = Config::default();
    let before = assemble(config.clone(), &[mapped("shop/web", 24411)]);
    let after = assemble(config, &[mapped("shop/web", 24412)]);
    let changed = after.endpoints_changed(&before).unwrap();
    assert_eq!(changed.len(), 1);
}

#[test]
fn nobody_must_answer_where_there_is_no_sidecar() {
    let mut plain = workload("shop/plain", "web", 80, "http");
    plain.0.sidecar = mesh_model::Sidecar::Absent;
    plain.0.service_account = "anybody".parse().unwrap();
    let with = workload("shop/with", "web", 80, "http");
    let mesh = assemble(Config::default(), &[plain, with.clone()]);
    let service = &entry(&mesh, "web.shop.mesh").service;
    assert_eq!(service.endpoints[0].identity, None);
    assert_eq!(service.identities, [with.0.identity(&mesh.trust_domain)]);
}

#[test]
fn a_workload_that_nobody_proved_has_a_service_and_no_endpoint() {
    let (mut web, _) = workload("shop/web", "web", 80, "http");
    web.addresses.clear();
    let mesh = assemble(Config::default(), &[(web, Health::Starting)]);
    let service = &entry(&mesh, "web.shop.mesh").service;
    assert!(service.ports.contains_key(&80));
    assert!(service.endpoints.is_empty() && service.identities.is_empty());
    assert_eq!(warnings(&mesh), [""; 0]);
}
