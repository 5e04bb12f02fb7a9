//! Sidecar injection: what comes out, and what is refused.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use mesh_model::{Protocol, SidecarConfig, WorkloadPort};
use proptest::prelude::*;

use super::*;
use crate::{Addresses, Check, Condition, UnitSpec, order};

const TOKEN: &str = "eyJhbGciOi-join-token";

fn application() -> Application {
    let parse = "web".parse().unwrap();
    let mut application = Application::new(
        "shop".parse().unwrap(),
        parse,
        "till".parse().unwrap(),
        ["web", "-v"],
    );
    application.services = vec![service("web", &[port("http", 8080, 9080, Protocol::Http)])];
    application.labels = [("version".to_owned(), "v1".to_owned())].into();
    application
}

fn service(name: &str, ports: &[WorkloadPort]) -> WorkloadService {
    WorkloadService {
        name: name.parse().unwrap(),
        ports: ports.to_vec(),
    }
}

fn port(name: &str, number: u16, target: u16, protocol: Protocol) -> WorkloadPort {
    WorkloadPort {
        name: name.to_owned(),
        number,
        target,
        inside: None,
        protocol,
    }
}

fn facts() -> MeshFacts {
    MeshFacts {
        trust_domain: TrustDomain::default(),
        pilots: vec!["10.213.0.1:15012".parse().unwrap()],
        cas: vec!["10.213.0.1:15012".parse().unwrap()],
        root_hashes: vec!["00ff".to_owned()],
        image: None,
        mesh: "/usr/bin/mesh".into(),
        envoy: None,
        network: "mesh".parse().unwrap(),
        resolver: Resolver::Servers {
            seen: vec!["10.213.0.1".parse().unwrap()],
            upstream: vec!["192.0.2.53:53".parse().unwrap()],
        },
        certificate_ttl_seconds: Some(60),
    }
}

fn units(injected: &InjectedGroup) -> Vec<UnitSpec> {
    let token = JoinToken::new(TOKEN);
    injected
        .units(&Place {
            directory: Path::new("/var/lib/mesh/engine/groups/g/files"),
            addresses: Addresses {
                v4: Ipv4Addr::new(10, 213, 3, 4),
                v6: Ipv6Addr::new(0xfd6d, 0, 0, 0, 0, 0, 0, 7),
                gateways: (Ipv4Addr::new(10, 213, 0, 1), Ipv6Addr::LOCALHOST),
            },
            token: &token,
        })
        .unwrap()
}

fn refusal(application: &Application) -> String {
    inject(application, &facts()).unwrap_err().to_string()
}

#[test]
fn the_application_starts_after_its_sidecar_is_ready_and_that_beside_who_watches_the_rules() {
    let injected = inject(&application(), &facts()).unwrap();
    let units = units(&injected);
    let [rules, sidecar, app] = units.as_slice() else {
        panic!("{units:?}");
    };
    assert!(sidecar.after.is_empty() && rules.after.is_empty());
    assert_eq!(app.after[0].unit, sidecar.name);
    assert_eq!(app.after[0].condition, Condition::Ready);
    let ready = &sidecar.readiness.as_ref().unwrap().check;
    let expected = Check::Http {
        port: 15021,
        path: "/ready".to_owned(),
    };
    assert_eq!(*ready, expected);
    assert_eq!(
        (sidecar.uid, sidecar.gid, sidecar.capabilities.len()),
        (1337, 1337, 0)
    );
    assert_eq!(rules.capabilities, [Capability::NetAdmin].into());
}

#[test]
fn the_sidecar_is_told_what_it_needs_in_a_file_of_its_own() {
    let injected = inject(&application(), &facts()).unwrap();
    let units = units(&injected);
    let file = &units[1].files[0];
    assert_eq!((file.mode, file.uid, file.gid), (0o600, 1337, 1337));
    let path = file.path.display().to_string();
    assert_eq!(
        units[1].command,
        ["/usr/bin/mesh", "--verbose", "agent", "--config", &path]
    );
    let config: SidecarConfig = serde_json::from_slice(&file.contents.0).unwrap();
    assert_eq!(config.workload.id.as_str(), "shop/web");
    assert_eq!(config.workload.addresses.len(), 2);
    assert_eq!(config.workload.services, application().services);
    assert_eq!(config.token_file.as_ref(), Some(&units[1].files[1].path));
    assert!(
        units[1]
            .directories
            .iter()
            .any(|it| it.path == config.state_dir && it.mode == 0o700)
    );
    let watched = config.rules_verdict.unwrap().display().to_string();
    assert!(units[0].command.contains(&watched));
}

#[test]
fn an_explicit_application_has_no_rules_no_right_and_is_told_of_its_sidecar() {
    let mut application = application();
    application.mode = Mode::Explicit;
    application.upstreams = vec!["db.data:6379=[::1]:16379".parse().unwrap()];
    application.environment = [("NO_PROXY".to_owned(), "example.com".to_owned())].into();
    let injected = inject(&application, &facts()).unwrap();
    assert_eq!(injected.policy, None);
    let units = units(&injected);
    let [sidecar, app] = units.as_slice() else {
        panic!("{units:?}");
    };
    assert!(sidecar.after.is_empty() && app.after[0].unit == sidecar.name);
    assert!(units.iter().all(|unit| unit.capabilities.is_empty()));
    assert_eq!(app.environment["HTTP_PROXY"], "http://127.0.0.1:15002");
    assert_eq!(app.environment["NO_PROXY"], "example.com");
    assert_eq!(app.environment["MESH_UPSTREAM_ADDR_DB_DATA"], "[::1]:16379");
    let config: SidecarConfig = serde_json::from_slice(&sidecar.files[0].contents.0).unwrap();
    assert_eq!(config.rules_verdict, None);
    let explicit = config.workload.explicit.unwrap();
    assert_eq!(explicit.inbound, [(9080, 15100)].into());
    application.mode = Mode::Transparent;
    assert_eq!(
        refusal(&application),
        "upstreams: `1` is not none but in explicit mode: elsewhere services are called by their names"
    );
}

#[test]
fn a_gateway_is_a_proxy_that_may_bind_low_ports_and_nothing_else() {
    let mut application = application();
    application.mode = Mode::Gateway;
    let refused = refusal(&application);
    assert!(
        refused.contains("command") && refused.contains("services"),
        "{refused}"
    );
    application.command.clear();
    application.services.clear();
    let mut facts = facts();
    facts.root_hashes = vec!["0f".repeat(32)];
    let injected = inject(&application, &facts).unwrap();
    assert_eq!(injected.policy, None);
    let units = units(&injected);
    let [sidecar] = units.as_slice() else {
        panic!("{units:?}");
    };
    assert_eq!(sidecar.capabilities, [Capability::NetBindService].into());
    assert_eq!(sidecar.uid, 1337);
    let config: SidecarConfig = serde_json::from_slice(&sidecar.files[0].contents.0).unwrap();
    assert!(config.workload.gateway && config.rules_verdict.is_none());
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn the_policy_that_is_watched_is_the_one_that_is_applied() {
    let injected = inject(&application(), &facts()).unwrap();
    let units = units(&injected);
    let written: Policy = serde_json::from_slice(&units[0].files[0].contents.0).unwrap();
    assert_eq!(Some(written), injected.policy);
    assert_eq!((units[0].files[0].uid, units[0].files[0].mode), (0, 0o600));
}

#[test]
fn a_group_is_called_as_its_application_and_says_which_namespace_when_that_matters() {
    let mut application = application();
    assert_eq!(
        inject(&application, &facts()).unwrap().group.name.as_str(),
        "web.shop"
    );
    application.namespace = "default".parse().unwrap();
    let group = inject(&application, &facts()).unwrap().group;
    assert_eq!(group.name.as_str(), "web");
    assert_eq!(group.labels[LABEL_NAMESPACE], "default");
    assert_eq!(group.dns.unwrap().search, ["default.mesh"]);
    application.name = "control-plane".parse().unwrap();
    assert_eq!(
        refusal(&application),
        "name: `control-plane` is not a name that the control plane does not use"
    );
}

#[test]
fn what_goes_round_or_against_the_sidecar_is_refused_all_at_once() {
    let mut application = application();
    application.uid = 1337;
    application.gid = 1337;
    application.services = vec![
        service("web", &[port("http", 80, 15006, Protocol::Http)]),
        service(
            "web",
            &[
                port("a", 81, 90, Protocol::Http),
                port("a", 81, 90, Protocol::Tcp),
            ],
        ),
    ];
    let problems = inject(&application, &facts()).unwrap_err();
    let paths: Vec<_> = problems
        .0
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "uid",
            "gid",
            "services[0].ports[0].target",
            "services[1].name",
            "services[1].ports[1].name",
            "services[1].ports[1].number",
            "services[1].ports[1].target",
        ]
    );
}

/// On Docker, rules and sidecar run in the image of the mesh, beside Docker's resolver.
#[test]
fn what_differs_on_docker_is_the_image_and_whom_names_are_asked_of() {
    let mut on_docker = facts();
    on_docker.image = Some("mesh:1".to_owned());
    on_docker.resolver = Resolver::Docker;
    let mut application = application();
    application.image = Some("shop/web:7".to_owned());
    application.command.clear();
    let injected = inject(&application, &on_docker).unwrap();
    assert_eq!(
        injected.policy,
        Some(policy_beside_resolver(&redirect::sidecar_policy()))
    );
    let dns = injected.group.dns.clone().unwrap();
    assert_eq!(
        (dns.servers, dns.search),
        (vec![], vec!["shop.mesh".to_owned()])
    );
    let units = units(&injected);
    let images: Vec<_> = units
        .iter()
        .map(|it| it.image.as_deref().unwrap())
        .collect();
    assert_eq!(images, ["mesh:1", "mesh:1", "shop/web:7"]);
    assert!(units[2].command.is_empty());
    let config: SidecarConfig = serde_json::from_slice(&units[1].files[0].contents.0).unwrap();
    assert_eq!(config.upstream_dns, ["127.0.0.11:53".parse().unwrap()]);
    let written: Policy = serde_json::from_slice(&units[0].files[0].contents.0).unwrap();
    assert_eq!(Some(written), injected.policy);
}

#[test]
fn a_container_of_others_is_joined_and_gets_no_application_unit() {
    let mut application = application();
    application.command.clear();
    application.runner = Runner::Container {
        id: "c0ffee".to_owned(),
    };
    let injected = inject(&application, &facts()).unwrap();
    let expected = Attachment::Container {
        id: "c0ffee".to_owned(),
        network: "mesh".parse().unwrap(),
    };
    assert_eq!(injected.group.attachment, expected);
    // What its resolver configuration says is not ours to say.
    assert_eq!(injected.group.dns, None);
    let names: Vec<_> = units(&injected)
        .iter()
        .map(|it| it.name.to_string())
        .collect();
    assert_eq!(names, ["rules", "sidecar"]);

    application.runner = Runner::Joining;
    let injected = inject(&application, &facts()).unwrap();
    let network = Attachment::Network("mesh".parse().unwrap());
    assert_eq!(
        (&injected.group.attachment, units(&injected).len()),
        (&network, 2)
    );
}

#[test]
fn a_mesh_without_addresses_or_roots_is_refused() {
    let mut facts = facts();
    facts.pilots.clear();
    facts.root_hashes.clear();
    facts.mesh = "mesh".into();
    let problems = inject(&application(), &facts).unwrap_err();
    let paths: Vec<_> = problems
        .0
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(paths, ["mesh.pilots", "mesh.root_hashes", "mesh.mesh"]);
}

fn any_application() -> impl Strategy<Value = Application> {
    let number = prop_oneof![1_u16..=65535, 14990_u16..=15100];
    let protocol = prop_oneof![Just(Protocol::Http), Just(Protocol::Tcp)];
    let port = ("[a-z]{1,3}", number.clone(), number, protocol)
        .prop_map(|(name, number, target, protocol)| port(&name, number, target, protocol));
    let services = proptest::collection::vec(
        ("[a-z]{1,3}", proptest::collection::vec(port, 0..4))
            .prop_map(|(name, ports)| service(&name, &ports)),
        0..3,
    );
    let id = prop_oneof![0_u32..3000, Just(1337_u32)];
    ("[a-z]{1,8}", "[a-z]{1,8}", services, id.clone(), id).prop_map(
        |(name, namespace, services, uid, gid)| {
            let mut application = application();
            application.name = name.parse().unwrap();
            application.namespace = namespace.parse().unwrap();
            application.services = services;
            application.uid = uid;
            application.gid = gid;
            application
        },
    )
}

proptest! {
    #[test]
    fn injection_is_a_function_and_keeps_its_promises(application in any_application()) {
        let first = inject(&application, &facts());
        prop_assert_eq!(&first, &inject(&application, &facts()));
        let ports = application.services.iter().flat_map(|service| &service.ports);
        let takes_ours = application.uid == 1337
            || application.gid == 1337
            || ports.into_iter().any(|port| (15000..=15090).contains(&port.target));
        let Ok(injected) = first else {
            return Ok(());
        };
        prop_assert!(!takes_ours);
        let units = units(&injected);
        prop_assert_eq!(&units, &self::units(&injected));
        let names: Vec<_> = order(&units).unwrap().iter().map(|it| it.name.to_string()).collect();
        prop_assert_eq!(names, ["rules", "sidecar", "app"]);
        prop_assert!(units.iter().all(|unit| unit.check().0.is_empty()));
        // What the owner asked for is what runs.
        let app = &units[2];
        prop_assert_eq!(&app.command, &application.command);
        prop_assert_eq!((app.uid, app.gid), (application.uid, application.gid));
        prop_assert!(app.files.is_empty());
        // The token is in its file and nowhere else.
        let holders: Vec<_> = units
            .iter()
            .flat_map(|unit| &unit.files)
            .filter(|file| file.contents.0.windows(TOKEN.len()).any(|it| it == TOKEN.as_bytes()))
            .collect();
        prop_assert_eq!(holders.len(), 1);
        prop_assert_eq!((holders[0].uid, holders[0].mode), (1337, 0o600));
        let shown = format!("{injected:?}{units:?}");
        prop_assert!(!shown.contains(TOKEN));
    }

    #[test]
    fn two_applications_never_share_a_group(
        (a, b) in ("[a-z]{1,3}(-[a-z]{1,2})?", "[a-z]{1,3}|default"),
        (c, d) in ("[a-z]{1,3}(-[a-z]{1,2})?", "[a-z]{1,3}|default"),
    ) {
        let name = |name: &str, namespace: &str| {
            Name::of_workload(&name.parse().unwrap(), &namespace.parse().unwrap())
        };
        prop_assert_eq!((&a, &b) == (&c, &d), name(&a, &b) == name(&c, &d));
    }
}
