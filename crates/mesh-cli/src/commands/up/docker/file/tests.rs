//! What files change about the control plane, and what is left of them.

use super::super::plan::tests::topology;
use super::*;

/// In the form of the file of Istio's install page.
const FILE: &str = "version: '2'
services:
  etcd:
    image: quay.io/coreos/etcd:latest
    networks: {istiomesh: {aliases: [etcd]}}
    ports: ['4001:4001', '2379:2379']
    environment: [SERVICE_IGNORE=1]
    command: [/usr/local/bin/etcd, '-advertise-client-urls=http://0.0.0.0:2379', '-listen-client-urls=http://0.0.0.0:2379']
  istio-apiserver:
    image: gcr.io/google_containers/kube-apiserver-amd64:v1.7.3
    networks:
      istiomesh: {ipv4_address: 172.28.0.13, aliases: [apiserver]}
    ports: ['8080:8080']
    privileged: true
    command: [kube-apiserver, --etcd-servers, 'http://etcd:2379', --insecure-port, '8080']
  web: {image: shop/web, networks: [istiomesh], depends_on: [istio-apiserver, db]}
  db: {image: shop/db, networks: [istiomesh]}
";

fn read(text: &str) -> Result<ComposeFile, FileProblems> {
    let topology = topology(true);
    let surroundings = Surroundings {
        variables: &BTreeMap::new(),
        home: Path::new("/var/lib/mesh"),
        network: &topology.network,
        images: ("mesh:1", "mesh-etcd:1"),
    };
    ComposeFile::of(text.as_bytes(), "c.yaml", Path::new("/srv"), surroundings)
}

fn changed(text: &str) -> Result<Vec<Member>, Failure> {
    let file = read(text).unwrap();
    let mut stages = topology(true).stages().unwrap();
    file.change(&mut stages)?;
    Ok(stages.concat())
}

fn member<'a>(members: &'a [Member], name: &str) -> &'a Member {
    let mut found = members.iter().filter(|it| it.group.name.as_str() == name);
    found.next().unwrap()
}

/// The value of a flag, wherever it is said last.
fn flag<'a>(member: &'a Member, name: &str) -> Vec<&'a str> {
    let words = &member.unit.command;
    let places = words.iter().enumerate().filter(|(_, word)| *word == name);
    places.map(|(place, _)| words[place + 1].as_str()).collect()
}

#[test]
fn the_control_plane_becomes_what_the_file_says() {
    let members = changed(FILE).unwrap();
    assert_eq!(
        members.len(),
        topology(true).stages().unwrap().concat().len()
    );
    let etcd = member(&members, "etcd");
    let ports: Vec<_> = etcd.group.ports.iter().map(|it| it.host).collect();
    assert_eq!(ports, [4001, 2379]);
    assert!(
        etcd.group
            .ports
            .iter()
            .all(|it| it.address.unwrap().is_loopback())
    );
    assert_eq!(etcd.unit.environment["SERVICE_IGNORE"], "1");
    let listens = etcd
        .unit
        .command
        .iter()
        .filter(|it| it.contains("listen-client-urls"));
    assert_eq!(
        listens.collect::<Vec<_>>(),
        ["--listen-client-urls=http://0.0.0.0:2379"]
    );
    assert!(
        etcd.unit
            .command
            .iter()
            .any(|it| it.starts_with("--data-dir="))
    );

    let api = member(&members, "apiserver");
    assert_eq!(api.group.address, Some([172, 28, 0, 13].into()));
    assert_eq!(api.group.aliases, ["apiserver", "istio-apiserver"]);
    let ports: Vec<_> = api
        .group
        .ports
        .iter()
        .map(|it| (it.host, it.group))
        .collect();
    assert_eq!(ports, [(6443, 6443), (8080, 8080)]);
    assert_eq!(
        flag(api, "--api-listen"),
        ["172.28.0.13:6443", "172.28.0.13:8080"]
    );
    assert_eq!(flag(api, "--etcd-endpoints"), ["http://etcd:2379"]);
    assert_eq!(flag(api, "--store"), ["etcd"]);
    for member in &members {
        assert!(member.unit.check().0.is_empty(), "{member:?}");
    }
}

#[test]
fn what_is_left_of_the_file_waits_for_nothing_of_the_control_plane() {
    let file = read(FILE).unwrap();
    let steps: Vec<_> = file
        .rest
        .steps
        .iter()
        .map(|it| it.service.as_str())
        .collect();
    assert_eq!(steps, ["db", "web"]);
    assert_eq!(file.rest.steps[1].after.len(), 1);
    assert_eq!(file.rest.groups.len(), 2);
    let network = topology(true).network;
    assert_eq!(file.network(NetworkSpec::mesh()), network);
    assert_eq!(file.rest.networks, [network]);
    assert_eq!(file.runs_etcd(), Some(true));
    let notes: Vec<_> = file.notes().collect();
    assert!(
        notes[0].starts_with("c.yaml:4:12: services.etcd.image: "),
        "{notes:#?}"
    );
}

#[test]
fn a_file_without_a_control_plane_changes_nothing_about_it() {
    let text = "services: {web: {image: shop/web}}";
    let members = changed(text).unwrap();
    let untouched = topology(true).stages().unwrap().concat();
    assert_eq!(members.len(), untouched.len());
    for (one, other) in members.iter().zip(&untouched) {
        assert_eq!((&one.group, &one.unit), (&other.group, &other.unit));
    }
    assert_eq!(read(text).unwrap().runs_etcd(), None);
}

#[test]
fn names_and_addresses_of_the_control_plane_are_its_own() {
    let found = changed(&FILE.replace("  web:", "  pilot:")).unwrap_err();
    assert!(
        found.to_string().contains("`pilot` has the name of a part"),
        "{found}"
    );
    let found = changed(&FILE.replace("172.28.0.13", "172.28.0.14")).unwrap_err();
    assert!(
        found.to_string().contains("172.28.0.14 of another"),
        "{found}"
    );
}

#[test]
fn the_control_plane_waits_for_no_other_service_and_shares_no_namespace() {
    let waits = FILE.replace("    privileged: true\n", "    depends_on: [db, etcd]\n");
    let found = read(&waits).unwrap_err().to_string();
    assert!(
        found.starts_with("c.yaml:14:18: services.istio-apiserver.depends_on.db: "),
        "{found}"
    );
    let shares = FILE.replace(
        "shop/db, networks: [istiomesh]",
        "shop/db, network_mode: 'service:etcd'",
    );
    let found = read(&shares).unwrap_err().to_string();
    assert!(
        found.starts_with("c.yaml:17:3: services.db.network_mode: "),
        "{found}"
    );
}
