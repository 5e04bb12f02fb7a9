//! `mesh up --file`: the file of Istio's install page without Kubernetes, and files of today.

use std::fs;
use std::path::PathBuf;

use crate::host::{Host, Said, on_a_host};

/// The file of the install page, byte for byte.
fn page() -> String {
    let file = std::env::var_os("MESH_SEED_COMPOSE").map(PathBuf::from);
    let file = file.unwrap_or_default();
    assert!(
        file.is_file(),
        "MESH_SEED_COMPOSE must name the Compose file of Istio 0.4's install page"
    );
    file.to_str().unwrap().to_owned()
}

fn up(host: &Host, file: &str) -> Said {
    host.mesh(&["up", "--engine", "docker", "--file", file])
}

/// A service of a file: etcd, as the control plane has it.
fn service(image: &str, name: &str, network: &str, level: &str) -> String {
    format!(
        "  {name}:
    image: {image}
    command: [--data-dir, /tmp/data, --log-level, {level}]
    networks: [{network}]
"
    )
}

/// The name of the image of etcd that the control plane runs on.
fn etcd(host: &Host) -> String {
    let names = [
        "images",
        "--format",
        "{{.Repository}}:{{.Tag}}",
        "mesh-etcd",
    ];
    let images = host.daemon.docker(&names);
    images.lines().next().unwrap().to_owned()
}

/// Where the file has the API server: its address on the network, and the port of the machine.
const SERVERS: [&str; 2] = ["https://172.28.0.13:8080", "https://127.0.0.1:8080"];

fn kept(host: &Host) {
    for server in SERVERS {
        let get = [
            "--server",
            server,
            "get",
            "configmap",
            "kept",
            "--output",
            "jsonpath={.data.a}",
        ];
        assert_eq!(host.kubectl(&get, ""), "b", "{server}");
    }
}

fn write(host: &Host, text: &str) -> String {
    let path = host.daemon.path("compose.yaml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_install_pages_own_file_works_and_keeps_its_objects() {
    let file = page();
    on_a_host(|host| {
        let said = up(host, &file);
        for (line, what) in [
            (
                4,
                "services.etcd.image: `quay.io/coreos/etcd:latest` is replaced by `mesh-etcd:",
            ),
            (
                22,
                "services.istio-apiserver.image: `gcr.io/google_containers/kube-apiserver-amd64:v1.7.3` is replaced by `mesh:",
            ),
            (36, "services.istio-apiserver.command: port 8080 serves TLS"),
        ] {
            let place = format!("{file}:{line}:");
            let mut lines = said.stderr.lines();
            let told = lines.any(|it| it.starts_with(&place) && it.contains(what));
            assert!(told, "{place} {what} is not in {}", said.stderr);
        }
        said.ok();
        assert_eq!(host.mesh(&["status"]).code, Some(0));
        let create = ["create", "configmap", "kept", "--from-literal", "a=b"];
        host.kubectl(&create, "");
        kept(host);
        // Nobody without a certificate, and nothing in clear.
        let stranger = [
            "--silent",
            "--insecure",
            "https://172.28.0.13:8080/api/v1/namespaces",
        ];
        assert!(
            host.run("curl", &stranger, "")
                .stdout
                .contains("\"code\":401")
        );
        let clear = ["--silent", "http://172.28.0.13:8080/api/v1/namespaces"];
        let clear = host.run("curl", &clear, "");
        assert!(
            !clear.stdout.contains("Status") && clear.code != Some(0),
            "{clear:?}"
        );

        // The data are in etcd, at the port that the file publishes, for this machine alone.
        let etcd = [
            "ETCDCTL_API=3",
            "etcdctl",
            "--endpoints",
            "http://127.0.0.1:2379",
        ];
        let keys = [&etcd, ["get", "--prefix", "--keys-only", "/"].as_slice()].concat();
        let keys = host.run("env", &keys, "").ok();
        assert!(
            keys.lines()
                .any(|key| key.ends_with("configmaps/default/kept")),
            "{keys}"
        );
        let ports = host.daemon.docker(&["port", "mesh_etcd"]);
        assert!(
            ports.lines().all(|it| it.contains("-> 127.0.0.1:")),
            "{ports}"
        );
        assert_eq!(ports.lines().count(), 3, "{ports}");
        // The names of the file, as others on the network ask for them.
        let aliases = [
            "inspect",
            "--format",
            "{{json .NetworkSettings.Networks}}",
            "mesh_apiserver",
        ];
        let aliases = host.daemon.docker(&aliases);
        assert!(aliases.contains("istio-apiserver"), "{aliases}");

        let made = || {
            host.daemon
                .docker(&["ps", "--all", "--no-trunc", "--quiet"])
        };
        let before = made();
        up(host, &file).ok();
        assert_eq!(made(), before, "a second call changes nothing");
    });
}

#[test]
fn after_restarts_everything_of_the_file_is_there_again() {
    let file = page();
    on_a_host(|host| {
        up(host, &file).ok();
        host.kubectl(
            &["create", "configmap", "kept", "--from-literal", "a=b"],
            "",
        );
        host.daemon.stop_daemon();
        host.daemon.start_daemon();
        up(host, &file).ok();
        kept(host);
        host.mesh(&["down"]).ok();
        up(host, &file).ok();
        kept(host);
        host.mesh(&["down", "--purge"]).ok();
        assert_eq!(host.everything(), Vec::<String>::new());
        assert!(!host.home().exists());
    });
}

#[test]
fn flags_of_the_file_that_are_not_known_are_told_before_anything_is_made() {
    let text = fs::read_to_string(page()).unwrap();
    on_a_host(|host| {
        let file = write(
            host,
            &text.replace("\"-v\", \"2\"", "\"--allow-privileged\", \"true\""),
        );
        let refused = host.mesh(&["up", "--engine", "process", "--file", &file]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        let refused = up(host, &file);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        // And nothing is kept of it: the next call begins from nothing.
        assert!(!host.home().exists(), "{:?}", host.home());
        let told = format!("{file}:37:16: services.istio-apiserver.command: `--allow-privileged`");
        assert!(refused.stderr.contains(&told), "{refused:?}");
        assert_eq!(host.everything(), Vec::<String>::new());
    });
}

#[test]
fn other_services_of_a_file_are_started_after_the_control_plane() {
    on_a_host(|host| {
        // An image that is there already, and needs nothing but itself.
        let plain = write(host, "services: {}\n");
        up(host, &plain).ok();
        let images = host.daemon.docker(&[
            "images",
            "--format",
            "{{.Repository}}:{{.Tag}}",
            "mesh-etcd",
        ]);
        let image = images.lines().next().unwrap();
        let file = write(
            host,
            &format!(
                "services:
  cache:
    image: {image}
    command: [--data-dir, /tmp/data, --listen-client-urls, 'http://0.0.0.0:7000', --advertise-client-urls, 'http://cache:7000']
    networks: {{istiomesh: {{aliases: [store]}}}}
    ports: ['127.0.0.1:17000:7000']
    labels: {{of: the-file}}
    restart: unless-stopped
"
            ),
        );
        let said = up(host, &file);
        assert!(said.stderr.contains("cache: started"), "{said:?}");
        let health = [
            "--silent",
            "--retry",
            "20",
            "--retry-connrefused",
            "--retry-delay",
            "1",
            "http://127.0.0.1:17000/health",
        ];
        assert!(host.run("curl", &health, "").ok().contains("true"));
        let label = ["inspect", "--format", "{{.Config.Labels.of}}", "mesh_cache"];
        assert_eq!(host.daemon.docker(&label).trim(), "the-file");
        host.mesh(&["down", "--purge"]).ok();
        assert_eq!(host.everything(), Vec::<String>::new());
    });
}

#[test]
fn what_is_changed_or_left_out_of_the_file_is_made_again_or_removed_and_the_rest_left_alone() {
    on_a_host(|host| {
        let plain = write(host, "services: {}\n");
        up(host, &plain).ok();
        let image = etcd(host);
        let service = |name, network, level| service(&image, name, network, level);
        let networks = |list: &str| format!("networks: {list}\n");
        let text = [
            "services:\n",
            &service("same", "shop", "info"),
            &service("changed", "shop", "info"),
            &service("dropped", "back", "info"),
            &networks("{shop: {}, back: {}}"),
        ];
        let file = write(host, &text.concat());
        up(host, &file).ok();
        let id = |name: &str| {
            let name = format!("mesh_{name}_{name}");
            host.daemon
                .docker(&["inspect", "--format", "{{.Id}}", &name])
        };
        let before = ["same", "changed"].map(id);

        let text = [
            "services:\n",
            &service("same", "shop", "info"),
            &service("changed", "shop", "debug"),
            &networks("{shop: {}}"),
        ];
        write(host, &text.concat());
        // Without a flag it is the same file.
        let said = host.mesh(&["up"]);
        for line in [
            "changed: changed in the file, made again",
            "dropped: removed, the file has no such service",
            "network back: removed, the file has no such network",
            "same: is running",
        ] {
            assert!(said.stderr.lines().any(|it| it == line), "{line}: {said:?}");
        }
        said.ok();
        let after = ["same", "changed"].map(id);
        assert_eq!(after[0], before[0]);
        assert_ne!(after[1], before[1]);
        let left = host.everything();
        assert!(
            left.iter()
                .all(|it| !it.contains("dropped") && !it.contains("back")),
            "{left:?}"
        );

        // Another network of the same name: what is on it goes before it.
        let text = [
            "services:\n",
            &service("same", "shop", "info"),
            &networks("{shop: {ipam: {config: [{subnet: 10.77.0.0/24}]}}}"),
        ];
        write(host, &text.concat());
        let said = host.mesh(&["up"]);
        assert!(
            said.stderr
                .contains("network shop: changed in the file, made again"),
            "{said:?}"
        );
        said.ok();

        // A file that is wrong changes nothing, and is still the one that is asked for next.
        let wrong = write(host, "services: {same: {build: .}}\n");
        let refused = host.mesh(&["up"]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(
            refused.stderr.contains(&format!("{wrong}:1:")),
            "{refused:?}"
        );
        let said = host.mesh(&["up", "--no-file"]);
        assert!(said.stderr.contains("same: removed"), "{said:?}");
        said.ok();
        assert_eq!(host.mesh(&["status"]).code, Some(0));
        host.mesh(&["down", "--purge"]).ok();
        assert_eq!(host.everything(), Vec::<String>::new());
    });
}
