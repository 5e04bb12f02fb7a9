//! What engines are asked for.

use std::net::Ipv4Addr;

use super::read;
use crate::compose::{FileProblems, Plan, PlanOptions};
use crate::{Attachment, Capability, Check, Condition, RestartPolicy};

fn plan(text: &str) -> Result<Plan, FileProblems> {
    read(text)?.plan(&PlanOptions::new("c.yaml", "/srv"))
}

/// What is said about a service, and the place of `«` in it.
fn refused(service: &str) -> (String, String) {
    let text = format!("services:\n  web: {{image: a, {service}}}\n  db: {{image: b}}\n");
    let line = text.lines().nth(1).unwrap();
    let column = line.find('«').map_or(3, |at| at + 1);
    let said = plan(&text.replace('«', "")).unwrap_err().to_string();
    (said, format!("c.yaml:2:{column}: services.web"))
}

#[test]
fn a_service_becomes_a_group_with_a_unit() {
    let plan = plan(
        "services:
  my_web:
    image: shop/web:1
    command: [serve]
    environment: {A: b}
    networks: {net: {ipv4_address: 10.9.0.5, aliases: [www]}}
    ports: ['8080-8081:80-81', '53:53/udp']
    healthcheck: {test: [CMD, check], interval: 5s}
    restart: unless-stopped
    hostname: front
    labels: {mesh.inject: 'true'}
networks: {net: {ipam: {config: [{subnet: 10.9.0.0/16}]}}}
",
    )
    .unwrap();
    assert_eq!(plan.networks.len(), 1);
    assert_eq!(plan.networks[0].v4.to_string(), "10.9.0.0/16");
    assert!(plan.networks[0].check().0.is_empty());
    let group = &plan.groups[0].group;
    assert_eq!(group.name.as_str(), "my-web");
    assert_eq!(
        group.attachment,
        Attachment::Network("net".parse().unwrap())
    );
    assert_eq!(group.address, Some(Ipv4Addr::new(10, 9, 0, 5)));
    assert_eq!(group.aliases, ["my_web", "www"]);
    assert_eq!(group.hostname.as_deref(), Some("front"));
    assert_eq!(group.labels["mesh.inject"], "true");
    let ports: Vec<_> = group.ports.iter().map(|it| (it.host, it.group)).collect();
    assert_eq!(ports, [(8080, 80), (8081, 81), (53, 53)]);
    let unit = &plan.groups[0].units[0];
    assert!(unit.check().0.is_empty());
    assert_eq!(
        (unit.command.len(), unit.arguments.as_slice()),
        (0, &["serve".to_owned()][..])
    );
    assert!(unit.image_user && unit.working_directory.as_os_str().is_empty());
    assert_eq!(unit.capabilities, Capability::of_a_server());
    assert_eq!(unit.restart, RestartPolicy::Always);
    let readiness = unit.readiness.as_ref().unwrap();
    assert_eq!(readiness.check, Check::Command(vec!["check".to_owned()]));
    assert_eq!(readiness.interval.as_secs(), 5);
    assert_eq!(
        plan.images().into_iter().collect::<Vec<_>>(),
        ["shop/web:1"]
    );
}

#[test]
fn an_entry_point_takes_the_command_as_arguments() {
    let plan = plan(
        "services: {a: {image: i, entrypoint: [/run, x], command: y z, user: 7, cap_drop: [ALL]}}",
    )
    .unwrap();
    let unit = &plan.groups[0].units[0];
    assert_eq!(unit.command, ["/run", "x", "y", "z"]);
    assert!(unit.arguments.is_empty() && unit.capabilities.is_empty());
    assert_eq!((unit.uid, unit.gid, unit.image_user), (7, 0, false));
}

#[test]
fn services_start_after_those_they_depend_on() {
    let plan = plan(
        "services:
  a: {image: i, depends_on: {b: {condition: service_healthy}, c: {condition: service_started}}}
  b: {image: i, depends_on: [d], healthcheck: {test: x}}
  c: {image: i}
  d: {image: i}
",
    )
    .unwrap();
    let order: Vec<_> = plan.steps.iter().map(|it| it.service.as_str()).collect();
    assert_eq!(order, ["c", "d", "b", "a"]);
    let last = &plan.steps[3].after;
    assert_eq!(last.len(), 2);
    assert_eq!(
        (last[0].unit.as_str(), last[0].condition),
        ("b", Condition::Ready)
    );
}

#[test]
fn services_can_share_a_network_namespace() {
    let plan = plan(
        "services:
  web: {image: i, ports: ['80:80']}
  logs: {image: l, network_mode: 'service:web', depends_on: [web]}
  more: {image: m, network_mode: 'service:logs'}
  top: {image: t, network_mode: host}
",
    )
    .unwrap();
    let groups: Vec<_> = plan
        .groups
        .iter()
        .map(|it| (it.group.name.as_str(), it.units.len()))
        .collect();
    assert_eq!(groups, [("top", 1), ("web", 3)]);
    assert_eq!(plan.groups[0].group.attachment, Attachment::Host);
    let logs = &plan.groups[1].units[0];
    assert_eq!(
        (logs.name.as_str(), logs.after[0].unit.as_str()),
        ("logs", "web")
    );
}

#[test]
fn a_prefix_keeps_projects_apart() {
    let mut options = PlanOptions::new("c.yaml", "/srv");
    options.prefix = Some("shop".parse().unwrap());
    let plan = read("services: {web: {image: i}}")
        .unwrap()
        .plan(&options)
        .unwrap();
    assert_eq!(plan.groups[0].group.name.as_str(), "shop.web");
    assert_eq!(plan.networks[0].name.as_str(), "shop.default");
}

#[test]
fn what_no_engine_does_is_told_with_its_place() {
    for (service, expected) in [
        ("privileged: «true", ".privileged: no unit has every right"),
        ("volumes: [«/a]", ".volumes: volumes without a name"),
        ("cap_add: [«ALL]", ".cap_add: no unit has every capability"),
        ("user: 5, cap_add: [«CHOWN]", ".cap_add: only user 0"),
        (
            "restart: «on-failure:3",
            ".restart: restarts are not counted",
        ),
        ("ports: [«'80']", ".ports: `80/tcp` names no port"),
        ("network_mode: host, ports: [«'80:80']", ".ports: "),
        ("network_mode: 'service:web'", ": services use each other's"),
        ("network_mode: 'service:db', hostname: «x", ".hostname: "),
        (
            "depends_on: [web]",
            ".depends_on: services wait for each other: `web`",
        ),
        (
            "depends_on: {«db: {condition: service_healthy}}",
            ".depends_on.db: service `db` has no `healthcheck`",
        ),
        (
            "networks: {default: {ipv4_address: «1.2.3.4}}",
            ".networks.default.ipv4_address: ",
        ),
        (
            "networks: {default: {ipv6_address: «'::1'}}",
            ".networks.default.ipv6_address: ",
        ),
        ("dns_search: [x]", ".dns_search: "),
        (
            "ports: [«'1-5000:1-5000']",
            ".ports: the file publishes more",
        ),
    ] {
        let (said, place) = refused(service);
        let expected = format!("{place}{expected}");
        assert!(said.starts_with(&expected), "{said}\nis not\n{expected}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn mounts_are_directories_of_the_machine() {
    let text = "services: {a: {image: i, volumes: ['./x/../y:/y:ro', '/etc/z:/z', data:/data, more:/more]}}\nvolumes: {data: , more: {name: kept}}";
    let mut options = PlanOptions::new("c.yaml", "/srv/shop");
    options.volumes = Some("/var/lib/volumes".into());
    let plan = read(text).unwrap().plan(&options).unwrap();
    let mounts = &plan.groups[0].units[0].mounts;
    let sources: Vec<_> = mounts
        .iter()
        .map(|it| it.source.to_str().unwrap())
        .collect();
    let expected = [
        "/srv/shop/y",
        "/etc/z",
        "/var/lib/volumes/data",
        "/var/lib/volumes/kept",
    ];
    assert_eq!(sources, expected);
    assert!(mounts[0].read_only && !mounts[1].read_only);
    assert_eq!(plan.volumes.len(), 2);
    for name in ["..", "a/b", "/etc", ".", "a/", ""] {
        let text = text.replace("kept", &format!("'{name}'"));
        let found = read(&text).unwrap().plan(&options).unwrap_err().to_string();
        assert!(found.contains("makes no name of a directory"), "{found}");
    }
    let found = read(text)
        .unwrap()
        .plan(&PlanOptions::new("c.yaml", "/"))
        .unwrap_err();
    assert_eq!(found.problems.len(), 2);
}

#[test]
fn networks_cannot_be_the_same_or_of_others() {
    let text = |networks: &str| {
        let text = format!("services: {{a: {{image: i}}}}\nnetworks:\n{networks}");
        plan(&text).unwrap_err().to_string()
    };
    assert!(
        text("  n: {external: true}").starts_with("c.yaml:3:3: networks.n: networks of others")
    );
    let twice = text(
        "  n: {ipam: {config: [{subnet: 10.9.0.0/16}]}}\n  m: {ipam: {config: [{subnet: 10.9.8.0/24}]}}",
    );
    assert!(
        twice.starts_with("c.yaml:3:3: networks.n: name, bridge or subnets"),
        "{twice}"
    );
    assert!(text("  n: {name: 'A b'}").contains("makes no name"));
    assert!(text("  n: {ipam: {config: [{subnet: 10.0.0.0/30}]}}").contains("/8 to /28"));
}

#[test]
fn names_that_differ_only_in_letters_that_are_lost_are_refused() {
    let found = plan("services: {a_b: {image: i}, a-b: {image: i}}")
        .unwrap_err()
        .to_string();
    assert!(
        found.contains("its name is that of service `a-b`"),
        "{found}"
    );
}
