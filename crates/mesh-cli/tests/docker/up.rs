//! `mesh up --engine docker`: everything of the control plane in containers, and back after
//! whatever takes it away.

use serde_json::Value;

use crate::host::{Host, on_a_host};

const SERVICE_ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: kept
  namespace: default
spec:
  hosts: [kept.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

/// What the object is that every test stores and finds again.
const KEPT: [&str; 5] = [
    "get",
    "serviceentry",
    "kept",
    "--output",
    "jsonpath={.spec.hosts[0]}",
];

fn up(host: &Host) {
    host.mesh(&["up", "--engine", "docker"]).ok();
}

fn groups(host: &Host) -> Vec<String> {
    let status = host.mesh(&["status", "--json"]).ok();
    let status: Value = serde_json::from_str(&status).unwrap();
    let groups = status.get("groups").unwrap().as_array().unwrap().iter();
    groups
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .collect()
}

/// When each container was made, by name.
fn made(host: &Host) -> String {
    let format = [
        "ps",
        "--all",
        "--no-trunc",
        "--format",
        "{{.Names}} {{.ID}}",
    ];
    let mut lines: Vec<_> = host
        .daemon
        .docker(&format)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn the_control_plane_runs_on_istiomesh_and_keeps_its_objects_in_etcd() {
    on_a_host(|host| {
        up(host);
        assert_eq!(groups(host), ["apiserver", "ca", "etcd", "mixer", "pilot"]);
        // Not one thing is wrong.
        assert_eq!(host.mesh(&["status"]).code, Some(0));
        let server = [
            "config",
            "view",
            "--output",
            "jsonpath={.clusters[0].cluster.server}",
        ];
        assert_eq!(host.kubectl(&server, ""), "https://172.28.0.13:6443");
        host.kubectl(&["apply", "--filename", "-"], SERVICE_ENTRY);
        assert_eq!(host.kubectl(&KEPT, ""), "kept.example.com");
        // The machine's own port, and the name that the certificate has.
        let published = [&["--server", "https://127.0.0.1:6443"], KEPT.as_slice()].concat();
        assert_eq!(host.kubectl(&published, ""), "kept.example.com");
        let named = [&["--tls-server-name", "apiserver"], KEPT.as_slice()].concat();
        assert_eq!(host.kubectl(&named, ""), "kept.example.com");

        let etcd = [
            "ETCDCTL_API=3",
            "etcdctl",
            "--endpoints=https://172.28.0.12:2379",
            "get",
            "--prefix",
            "--keys-only",
            "/",
        ];
        let pki = host.home().join("pki/etcd");
        let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
        let authority = file("cacert", "ca.crt");
        let certificate = [file("cert", "client.crt"), file("key", "client.key")];
        let known = [&authority, &certificate[0], &certificate[1]].map(String::as_str);
        let keys = host
            .run("env", &[&etcd, known.as_slice()].concat(), "")
            .ok();
        assert!(keys.lines().any(|key| key.contains("kept")), "{keys}");
        // Who has no certificate of its CA reads nothing: not with the admin's, not in clear.
        let stranger = [&etcd, [authority.as_str()].as_slice()].concat();
        let refused = host.run("env", &stranger, "");
        assert!(
            refused.code != Some(0) && refused.stdout.is_empty(),
            "{refused:?}"
        );
        let clear = ["--silent", "http://172.28.0.12:2379/health"];
        assert_ne!(host.run("curl", &clear, "").code, Some(0));

        // What the roles publish is where they are in the network.
        let map = [
            "get",
            "configmap",
            "mesh",
            "--namespace",
            "mesh-system",
            "--output",
            "json",
        ];
        let map: Value = serde_json::from_str(&host.kubectl(&map, "")).unwrap();
        assert_eq!(map["data"]["ca.addresses"], "172.28.0.14:15012");
        assert_eq!(map["data"]["pilot.addresses"], "172.28.0.15:15012");
        assert_eq!(map["data"]["mixer.addresses"], "172.28.0.16:15011");

        let log = host.mesh(&["logs", "apiserver"]).ok();
        assert!(!log.is_empty());
        let before = made(host);
        up(host);
        assert_eq!(made(host), before, "a second call changes nothing");
    });
}

#[test]
fn objects_outlive_mesh_down_and_the_purge_leaves_nothing() {
    on_a_host(|host| {
        up(host);
        host.kubectl(&["apply", "--filename", "-"], SERVICE_ENTRY);
        let refused = host.mesh(&["rm", "etcd"]);
        assert_eq!(refused.code, Some(5), "{refused:?}");
        let refused = host.mesh(&["up", "--engine", "process"]);
        assert_eq!(refused.code, Some(5), "{refused:?}");
        assert!(
            refused.stderr.contains("`docker`, not `process`"),
            "{refused:?}"
        );

        host.mesh(&["down"]).ok();
        let left = host.everything();
        assert!(
            left.iter().all(|it| it.starts_with("image mesh")),
            "{left:?}"
        );
        // Without a flag it is what it was.
        host.mesh(&["up"]).ok();
        assert_eq!(host.kubectl(&KEPT, ""), "kept.example.com");

        host.mesh(&["down", "--purge"]).ok();
        assert_eq!(host.everything(), Vec::<String>::new());
        assert!(!host.home().exists());
        let links = host.daemon.beside_the_daemon(&["ip", "-oneline", "link"]);
        assert!(!links.contains("istiomesh"), "{links}");
    });
}

#[test]
fn after_a_restart_of_the_daemon_mesh_up_brings_everything_back() {
    on_a_host(|host| {
        up(host);
        host.kubectl(&["apply", "--filename", "-"], SERVICE_ENTRY);
        let before = made(host);
        host.daemon.stop_daemon();
        host.daemon.start_daemon();
        // In another network namespace, as after a reboot.
        assert_eq!(host.mesh(&["status"]).code, Some(3));
        host.mesh(&["up"]).ok();
        assert_eq!(host.mesh(&["status"]).code, Some(0));
        assert_eq!(host.kubectl(&KEPT, ""), "kept.example.com");
        assert_eq!(made(host), before, "the same containers");
        host.mesh(&["down", "--purge"]).ok();
    });
}

#[test]
fn a_file_is_a_store_too_and_stays_the_one_that_was_chosen() {
    on_a_host(|host| {
        host.mesh(&["up", "--engine", "docker", "--store", "file"])
            .ok();
        assert_eq!(groups(host), ["apiserver", "ca", "mixer", "pilot"]);
        host.kubectl(&["apply", "--filename", "-"], SERVICE_ENTRY);
        assert!(host.home().join("store.redb").exists());
        let refused = host.mesh(&["up", "--store", "etcd"]);
        assert_eq!(refused.code, Some(5), "{refused:?}");
        host.mesh(&["down"]).ok();
        host.mesh(&["up"]).ok();
        assert_eq!(host.kubectl(&KEPT, ""), "kept.example.com");
        host.mesh(&["down", "--purge"]).ok();
    });
}

#[test]
fn a_network_in_the_way_is_named_and_nothing_is_left() {
    on_a_host(|host| {
        host.daemon
            .docker(&["network", "create", "--subnet", "172.28.0.0/24", "other"]);
        let refused = host.mesh(&["up", "--engine", "docker"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("172.28.0.0/16"), "{refused:?}");
        assert!(refused.stderr.contains("overlaps"), "{refused:?}");
        assert!(refused.stderr.contains("hint: "), "{refused:?}");
        // With another subnet it works beside.
        host.mesh(&["up", "--engine", "docker", "--subnet", "172.29.0.0/16"])
            .ok();
        let server = [
            "config",
            "view",
            "--output",
            "jsonpath={.clusters[0].cluster.server}",
        ];
        assert_eq!(host.kubectl(&server, ""), "https://172.29.0.13:6443");
        host.mesh(&["down", "--purge"]).ok();
        assert_eq!(host.everything(), ["network other"]);
    });
}
