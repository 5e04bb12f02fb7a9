//! What becomes of files as the install page of Istio 0.4 has one.

use std::collections::BTreeMap;

use mesh_runtime::compose::{Network, PlanOptions, Position, Reading};

use super::*;

/// In the form of the page's file, with the flags in two notations.
const FILE: &str = "version: '2'
services:
  etcd:
    image: quay.io/coreos/etcd:latest
    networks: {istiomesh: {aliases: [etcd]}}
    ports: ['4001:4001', '127.0.0.2:2379:2379']
    command: [/usr/local/bin/etcd, '-advertise-client-urls=http://0.0.0.0:2379']
  istio-apiserver:
    image: gcr.io/google_containers/kube-apiserver-amd64:v1.7.3
    networks:
      istiomesh: {ipv4_address: 172.28.0.13, aliases: [apiserver]}
    ports: ['8080:8080']
    privileged: true
    command: [
      kube-apiserver, --etcd-servers, 'http://etcd:2379',
      --service-cluster-ip-range, 10.99.0.0/16,
      --insecure-port=8081, -v, '2', --insecure-bind-address, 0.0.0.0 ]
  web: {image: shop/web, networks: [istiomesh]}
";

const IMAGES: Images<'static> = Images {
    etcd: "mesh-etcd:1",
    mesh: "mesh:1",
};

fn read(text: &str) -> Compose {
    let variables = BTreeMap::new();
    let mut reading = Reading::new("c.yaml", &variables);
    let network = Network {
        v4: Some(Located {
            value: "172.28.0.0/16".parse().unwrap(),
            at: Position::START,
        }),
        ..Network::default()
    };
    reading.networks = [("istiomesh".to_owned(), network)].into();
    Compose::read(text.as_bytes(), &reading).unwrap()
}

fn problems(old: &str, new: &str) -> Vec<String> {
    assert!(FILE.contains(old));
    let mut compose = read(&FILE.replace(old, new));
    let problems = translate("c.yaml", &mut compose, IMAGES).unwrap_err();
    problems.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn both_programs_are_ours_and_keep_what_their_flags_decide() {
    let mut compose = read(FILE);
    let control = translate("c.yaml", &mut compose, IMAGES).unwrap();
    let api = control.api.unwrap();
    assert_eq!((api.service.as_str(), api.port), ("istio-apiserver", 8081));
    assert_eq!(api.etcd_endpoints, ["http://etcd:2379"]);
    assert!(api.verbose);
    assert_eq!(
        control.etcd.unwrap().flags,
        [
            "--advertise-client-urls=http://0.0.0.0:2379",
            "--listen-client-urls=http://0.0.0.0:2379"
        ]
    );
    let etcd = &compose.services["etcd"].value;
    assert_eq!(etcd.image.as_ref().unwrap().value, "mesh-etcd:1");
    let ports: Vec<_> = etcd.ports.iter().map(|it| it.value.to_string()).collect();
    assert_eq!(
        ports,
        ["127.0.0.1:4001:4001/tcp", "127.0.0.2:2379:2379/tcp"]
    );
    let api = &compose.services["istio-apiserver"].value;
    assert_eq!(api.image.as_ref().unwrap().value, "mesh:1");
    assert_eq!((api.privileged.value, &api.command), (false, &None));
    let web = &compose.services["web"].value;
    assert_eq!(web.image.as_ref().unwrap().value, "shop/web");
    assert!(compose.plan(&PlanOptions::new("c.yaml", "/")).is_ok());
}

#[test]
fn everything_that_is_done_differently_is_told_with_its_line() {
    let control = translate("c.yaml", &mut read(FILE), IMAGES).unwrap();
    let notes: Vec<_> = control.notes.iter().map(ToString::to_string).collect();
    for expected in [
        "4:12: services.etcd.image: `quay.io/coreos/etcd:latest` is replaced by `mesh-etcd:1`",
        "6:13: services.etcd.ports: etcd asks for no password",
        "9:12: services.istio-apiserver.image: `gcr.io/google_containers/kube-apiserver-amd64:v1.7.3` is replaced by `mesh:1`",
        "13:17: services.istio-apiserver.privileged: it needs no right",
        "16:7: services.istio-apiserver.command: `10.99.0.0/16` is not used",
        "17:7: services.istio-apiserver.command: port 8081 serves TLS",
    ] {
        let told = notes.iter().any(|note| note.starts_with(expected));
        assert!(told, "{expected} is not in {notes:#?}");
    }
    assert_eq!(notes.len(), 6, "{notes:#?}");
}

#[test]
fn flags_that_are_not_known_are_told_with_their_line() {
    for (old, new, expected) in [
        (
            "-v, '2'",
            "--runtime-config, x, --allow-privileged",
            "17:29: services.istio-apiserver.command: `--runtime-config` is not a flag of kube-apiserver",
        ),
        (
            "-v, '2'",
            "-v, many",
            "17:29: services.istio-apiserver.command: `many` of `v` is not a level",
        ),
        (
            "-v, '2'",
            "-v",
            "17:29: services.istio-apiserver.command: flag `-v` has no value",
        ),
        (
            "0.0.0.0 ]",
            "127.0.0.1 ]",
            "17:38: services.istio-apiserver.command: `127.0.0.1` of `insecure-bind-address`",
        ),
        (
            "=8081",
            "=0",
            "17:7: services.istio-apiserver.command: `0` of `insecure-port` is not a port",
        ),
        (
            "10.99.0.0/16",
            "all",
            "16:7: services.istio-apiserver.command: `all` of",
        ),
        (
            "'http://etcd:2379'",
            "etcd",
            "15:23: services.istio-apiserver.command: `etcd` of `etcd-servers`",
        ),
        (
            "kube-apiserver, ",
            "sh, ",
            "15:7: services.istio-apiserver.command: `sh` is not `kube-apiserver`",
        ),
        (
            "'-advertise-client-urls=",
            "'--data-dir=",
            "7:36: services.etcd.command: `--data-dir` is not a flag of etcd",
        ),
    ] {
        let found = problems(old, new);
        assert!(
            found.iter().any(|it| it.starts_with(expected)),
            "{expected} is not in {found:#?}"
        );
    }
    assert_eq!(
        problems("-v, '2'", "--runtime-config, x, --allow-privileged").len(),
        2
    );
}

#[test]
fn an_api_server_without_etcd_and_two_of_one_kind_are_refused() {
    let found = problems("--etcd-servers, 'http://etcd:2379',", "");
    assert!(found[0].contains("found no `--etcd-servers`"), "{found:?}");
    let found = problems("shop/web", "etcd");
    assert!(found[0].contains("`etcd` is etcd already"), "{found:?}");
    let found = problems("kube-apiserver-amd64", "other");
    assert!(found[0].contains("no API server"), "{found:?}");
}

#[test]
fn a_file_without_them_stays_as_it_is() {
    let text = "services: {a: {image: a/b, privileged: true}}";
    let mut compose = read(text);
    let control = translate("c.yaml", &mut compose, IMAGES).unwrap();
    assert_eq!(control, Control::default());
    assert_eq!(compose, read(text));
}

#[test]
fn images_are_known_by_their_names() {
    for (image, expected) in [
        ("etcd", "etcd"),
        ("quay.io/coreos/etcd:v3.4", "etcd"),
        (
            "localhost:5000/kube-apiserver-arm64@sha256:00",
            "kube-apiserver",
        ),
        ("my-etcd", "my-etcd"),
    ] {
        assert_eq!(program(image), expected);
    }
}
