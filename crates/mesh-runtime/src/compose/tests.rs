//! What files are read as, and what is said about wrong ones.

mod hostile;
mod plan;
mod property;

use std::collections::BTreeMap;

use super::*;
use crate::{Capability, Condition, Protocol};

fn variables() -> BTreeMap<String, String> {
    [("TAG", "7"), ("PORT", "8080"), ("HOME", "/root")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn read(text: &str) -> Result<Compose, FileProblems> {
    Compose::read(text.as_bytes(), &Reading::new("c.yaml", &variables()))
}

/// One service, of which this is what is below its name.
fn service(body: &str) -> Result<Service, FileProblems> {
    let lines: Vec<_> = body.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!("services:\n  web:\n    image: a\n{}", lines.concat());
    let mut compose = read(&text)?;
    Ok(compose.services.remove("web").unwrap().value)
}

fn problems(text: &str) -> Vec<String> {
    let problems = read(text).unwrap_err().problems;
    problems.iter().map(ToString::to_string).collect()
}

fn values<T: Clone>(located: &[Located<T>]) -> Vec<T> {
    located.iter().map(|it| it.value.clone()).collect()
}

#[test]
fn maps_and_lists_mean_the_same() {
    let map = service(
        "environment: {A: 1, B: 'x=y', TAG: , NONE: }\nlabels: {l: v}\nnetworks: {default: }\ndepends_on: {web: {condition: service_started}}\ndns: 10.0.0.1",
    )
    .unwrap();
    let list = service(
        "environment: [A=1, B=x=y, TAG, NONE]\nlabels: [l=v]\nnetworks: [default]\ndepends_on: [web]\ndns: [10.0.0.1]",
    )
    .unwrap();
    assert_eq!(map, list);
    let expected = [("A", "1"), ("B", "x=y"), ("TAG", "7")];
    assert_eq!(
        map.environment,
        expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    );
}

#[test]
fn commands_are_lines_or_lists() {
    let line = service("command: serve --name 'a b' $$HOME\nentrypoint: [/bin/sh, -c]").unwrap();
    assert_eq!(
        values(&line.command.unwrap()),
        ["serve", "--name", "a b", "$HOME"]
    );
    assert_eq!(values(&line.entrypoint.unwrap()), ["/bin/sh", "-c"]);
    let numbers = service("command: [sleep, 1.10, 0x10, true, ~x, 'null']").unwrap();
    let words = values(&numbers.command.unwrap());
    assert_eq!(words, ["sleep", "1.10", "0x10", "true", "~x", "null"]);
    assert_eq!(service("command:").unwrap().command, None);
}

#[test]
fn scalars_keep_the_text_of_the_file() {
    let text = "image: a:${TAG}\nenvironment:\n  A: 1.10\n  B: 010\n  C: 1e3\n  D: yes\n  E: 12_000\n  F: 0x1F # said\n  G: True\n  H: .inf\n  I: 22:22\n  J: 2001-01-01\n  K: 99999999999999999999999";
    let found = service(&text.replace("image: a:${TAG}\n", ""))
        .unwrap()
        .environment;
    let said: Vec<_> = found.values().map(String::as_str).collect();
    let expected = [
        "1.10",
        "010",
        "1e3",
        "yes",
        "12_000",
        "0x1F",
        "True",
        ".inf",
        "22:22",
        "2001-01-01",
        "99999999999999999999999",
    ];
    assert_eq!(said, expected);
}

#[test]
fn ports_have_two_notations() {
    let short = service("ports: ['127.0.0.1:${PORT}:80', '90-91:90-91/udp', 70]").unwrap();
    let long = service(
        "ports:\n- {target: 80, published: 8080, host_ip: 127.0.0.1, mode: host}\n- {target: 90-91, published: '90-91', protocol: udp}\n- target: 70",
    )
    .unwrap();
    assert_eq!(short.ports, long.ports);
    assert_eq!(short.ports[1].value.protocol, Protocol::Udp);
}

#[test]
fn mounts_have_two_notations() {
    let text = |volumes: &str| {
        let text =
            format!("services: {{web: {{image: a, volumes: {volumes}}}}}\nvolumes: {{data: }}");
        read(&text).unwrap().services["web"].value.volumes.clone()
    };
    assert_eq!(
        text("['./a:/a:ro', 'data:/b', '/c']"),
        text(
            "[{type: bind, source: ./a, target: /a, read_only: true}, {type: volume, source: data, target: /b}, {type: volume, target: /c}]"
        )
    );
}

#[test]
fn health_checks_and_the_rest_are_typed() {
    let found = service(
        "healthcheck: {test: 'curl -f localhost', interval: 1m30s, retries: 3}\ncap_add: [NET_ADMIN, ALL]\nuser: '1000:7'\nrestart: on-failure:5\nstop_grace_period: 1.5s\nhostname: w\nworking_dir: /srv\nnetwork_mode: service:web\nprivileged: true",
    )
    .unwrap();
    let check = found.healthcheck.unwrap().value;
    assert_eq!(check.test, ["/bin/sh", "-c", "curl -f localhost"]);
    assert_eq!(check.interval.unwrap().as_secs(), 90);
    let admin = CapabilityChoice::One(Capability::NetAdmin);
    assert_eq!(values(&found.cap_add), [admin, CapabilityChoice::All]);
    assert_eq!(
        found.user.unwrap().value,
        User {
            uid: 1000,
            gid: Some(7)
        }
    );
    assert_eq!(found.restart.value, Restart::OnFailure(Some(5)));
    assert_eq!(found.stop_grace_period.unwrap().as_millis(), 1500);
    assert_eq!(
        found.network_mode.unwrap().value,
        NetworkMode::Service("web".to_owned())
    );
    assert!(found.privileged.value);
    let off = service("healthcheck: {disable: true}").unwrap();
    assert_eq!(off.healthcheck, None);
    assert_eq!(
        service("healthcheck: {test: [NONE]}").unwrap().healthcheck,
        None
    );
}

#[test]
fn anchors_merge_keys_and_extensions_work() {
    let compose = read(
        "x-base: &base\n  image: a\n  environment: &env {A: '1'}\nservices:\n  one:\n    <<: *base\n    x-note: {any: thing}\n  two:\n    <<: [*base]\n    image: b\n    environment: {<<: *env, B: '2'}\n",
    )
    .unwrap();
    let [one, two] = ["one", "two"].map(|it| &compose.services[it].value);
    assert_eq!(one.image.as_ref().unwrap().value, "a");
    assert_eq!(two.image.as_ref().unwrap().value, "b");
    assert_eq!((one.environment.len(), two.environment.len()), (1, 2));
}

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let text = "version: '1'
services:
  web:
    build: .
    ports:
      - '99999:80'
      - 80-90:80
    privileged: maybe
    deploy: {replicas: 2}
    networks: [nowhere]
    depends_on: {db: {condition: service_ready}}
  Ünder: {image: a}
  none:
networks:
  net: {ipam: {config: [{subnet: 10.0.0.1/16}]}}
secrets: {}
";
    let expected = [
        "1:10: version: `1` is not a version that is read here (2 or 3)",
        "4:12: services.web.build: images are not built here: build it and name the image",
        "6:9: services.web.ports[0]: `99999:80` is not a port",
        "7:9: services.web.ports[1]: `80-90:80` is not a port",
        "8:17: services.web.privileged: `maybe` is not `true` or `false`",
        "9:5: services.web.deploy: `deploy` is not a key of a service that is supported here",
        "10:16: services.web.networks: `nowhere` is not a network that the file defines",
        "11:18: services.web.depends_on: `db` is not a service of the file",
        "11:34: services.web.depends_on.db.condition: `service_ready` is not a condition",
        "12:3: services.Ünder: `Ünder` is not a name",
        "13:3: services.none: found nothing, expected a map",
        "15:34: networks.net.ipam.config[0].subnet: `10.0.0.1/16` is not a subnet without host bits",
        "16:1: secrets: `secrets` is not a key of a Compose file that is supported here",
    ];
    let found = problems(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }
}

#[test]
fn a_value_through_an_alias_is_told_where_it_was_written() {
    let found = problems("x-p: &p [\"0:80\"]\nservices:\n  a: {image: i, ports: *p}\n");
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("1:10: services.a.ports[0]: `0:80`"),
        "{}",
        found[0]
    );
}

#[test]
fn networks_may_be_brought_in_for_files_that_leave_them_out() {
    let text = b"services: {a: {image: i, networks: {net: {aliases: [x]}}}}";
    let variables = BTreeMap::new();
    let mut reading = Reading::new("c.yaml", &variables);
    assert!(Compose::read(text, &reading).is_err());
    let network = Network {
        name: Some("net".to_owned()),
        ..Network::default()
    };
    reading.networks.insert("net".to_owned(), network.clone());
    reading
        .networks
        .insert("unused".to_owned(), Network::default());
    let compose = Compose::read(text, &reading).unwrap();
    assert_eq!(compose.networks.len(), 1);
    assert_eq!(compose.networks["net"].value, network);
}

#[test]
fn variables_without_value_are_noted_once() {
    let compose = read("services: {a: {image: 'i$NONE', command: [x, $NONE]}}").unwrap();
    let notes: Vec<_> = compose.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        ["1:23: services.a.image: variable `NONE` is not set: it stands for nothing"]
    );
    let found = problems("services: {a: {image: '${NONE:?which one}'}}");
    assert_eq!(
        found,
        ["1:23: services.a.image: variable `NONE` is required: which one"]
    );
}

#[test]
fn a_condition_is_known_by_its_name() {
    let found = service("depends_on: {web: {condition: service_healthy, required: true}}").unwrap();
    assert_eq!(found.depends_on["web"].value, Condition::Ready);
}
