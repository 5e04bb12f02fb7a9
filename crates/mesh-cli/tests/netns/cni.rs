//! `mesh-cni` as Nomad calls it: after real CNI plugins, in real namespaces, with real packets.
//!
//! Needs root, `ip`, `nft`, and the plugins of `containernetworking-plugins`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mesh_netfilter::Policy;
use mesh_nomad::cni::encode;
use serde_json::{Value, json};

/// A node of its own, with a namespace of an allocation, and the chain that Nomad would run.
struct Node {
    host: String,
    allocation: String,
    directory: tempfile::TempDir,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Node {
    fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str| format!("mesh-cni-{what}-{}-{number}", std::process::id());
        let node = Self {
            host: name("host"),
            allocation: name("alloc"),
            directory: tempfile::tempdir().unwrap(),
        };
        let plugin = node.directory.path().join("mesh-cni");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mesh"), plugin).unwrap();
        ip(&["netns", "add", &node.host]);
        ip(&["-n", &node.host, "link", "set", "lo", "up"]);
        node.boot();
        node
    }

    /// Makes the allocation's namespace, as Nomad does it, or a reboot.
    fn boot(&self) {
        ip(&["netns", "add", &self.allocation]);
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.allocation)
    }

    /// Calls a plugin in the node's namespace, as Nomad does it.
    fn plugin(&self, plugin: &Path, command: &str, args: &str, config: &Value) -> Output {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.host])
            .arg(plugin)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "83ca2e70-0637-b493-ca43-c8f8b5b9e212")
            .env("CNI_NETNS", self.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", plugins())
            .env("CNI_ARGS", args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(config.to_string().as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    fn mesh(&self, command: &str, args: &str, previous: &Value) -> Output {
        let config = json!({
            "cniVersion": "1.0.0", "name": "mesh", "type": "mesh-cni",
            "capabilities": { "portMappings": true },
            "runtimeConfig": { "portMappings": [
                { "ContainerPort": 8080, "HostIP": "", "HostPort": 23579, "Protocol": "tcp" },
            ] },
            "prevResult": previous,
        });
        self.plugin(
            &self.directory.path().join("mesh-cni"),
            command,
            args,
            &config,
        )
    }

    /// The plugins before ours; gives back what the last of them said.
    fn network(&self) -> Value {
        let loopback = json!({ "cniVersion": "1.0.0", "name": "mesh", "type": "loopback" });
        let bridge = json!({
            "cniVersion": "1.0.0", "name": "mesh", "type": "bridge", "bridge": "mesh0",
            "isGateway": true, "forceAddress": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "ranges": [[{ "subnet": "172.27.64.0/20" }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
                "dataDir": self.directory.path().join("ipam"),
            },
        });
        let mut result = Value::Null;
        for config in [loopback, bridge] {
            let plugin = plugins().join(config["type"].as_str().unwrap());
            let output = self.plugin(&plugin, "ADD", "IgnoreUnknown=true;X=y", &config);
            assert!(output.status.success(), "{output:?}");
            result = serde_json::from_slice(&output.stdout).unwrap();
        }
        result
    }

    /// What `nft` says about the allocation's namespace.
    fn rules(&self) -> String {
        let words = ["netns", "exec", &self.allocation, "nft", "list", "ruleset"];
        let output = Command::new("ip").args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn in_allocation<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.path(), work)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for name in [&self.allocation, &self.host] {
            drop(Command::new("ip").args(["netns", "delete", name]).output());
        }
    }
}

/// Runs `work` in a thread that is in this network namespace.
fn within<T: Send>(path: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = std::fs::File::open(path).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))
                .unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Where the distribution has the plugins.
fn plugins() -> PathBuf {
    ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"]
        .map(PathBuf::from)
        .into_iter()
        .find(|directory| directory.join("bridge").exists())
        .unwrap_or_else(|| {
            panic!("the netns ring needs the plugins of containernetworking-plugins")
        })
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "needs root: {words:?}: {output:?}");
}

fn args() -> String {
    let config = encode(&Policy::sidecar());
    format!("NOMAD_JOB_ID=web;IgnoreUnknown=true;MESH_CONFIG={config};NOMAD_GROUP_NAME=app")
}

/// Whether a connection from the node to port 8080 of the allocation arrives at the proxy's port,
/// and one from the application to elsewhere too.
fn is_captured(node: &Node, result: &Value) -> bool {
    let address = result["ips"][0]["address"].as_str().unwrap();
    let address: Ipv4Addr = address.split('/').next().unwrap().parse().unwrap();
    let (inbound, outbound) = node.in_allocation(|| {
        let listen = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        (listen(15006), listen(15001))
    });
    let host = format!("/run/netns/{}", node.host);
    let connect =
        |address: SocketAddr| TcpStream::connect_timeout(&address, Duration::from_secs(2));
    let arrives = within(&host, || connect((address, 8080).into())).is_ok_and(|stream| {
        let (mut accepted, _) = inbound.accept().unwrap();
        drop(stream);
        accepted.read(&mut [0; 1]).unwrap() == 0
    });
    let leaves = node
        .in_allocation(|| connect(SocketAddr::from(([192, 0, 2, 1], 80))))
        .is_ok_and(|_stream| outbound.accept().is_ok());
    arrives && leaves
}

#[test]
fn an_add_behind_real_plugins_captures_real_connections() {
    let node = Node::new();
    let previous = node.network();
    assert!(
        !is_captured(&node, &previous),
        "something captures without the plugin"
    );
    let output = node.mesh("ADD", &args(), &previous);
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result, previous);
    assert!(is_captured(&node, &previous));
    // Nomad tries ADD up to three times.
    let rules = node.rules();
    assert!(node.mesh("ADD", &args(), &previous).status.success());
    assert_eq!(node.rules(), rules);
}

#[test]
fn a_check_repairs_in_place_and_succeeds() {
    let node = Node::new();
    let previous = node.network();
    assert!(node.mesh("ADD", &args(), &previous).status.success());
    let rules = node.rules();
    assert!(node.mesh("CHECK", &args(), &previous).status.success());
    assert_eq!(
        node.rules(),
        rules,
        "a check of what is right changed something"
    );
    node.in_allocation(|| {
        let flushed = Command::new("nft")
            .args(["flush", "ruleset"])
            .output()
            .unwrap();
        assert!(flushed.status.success());
    });
    assert!(!is_captured(&node, &previous));
    let output = node.mesh("CHECK", &args(), &previous);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    assert!(is_captured(&node, &previous));
}

#[test]
fn a_del_succeeds_with_empty_arguments_and_without_a_namespace() {
    let node = Node::new();
    let previous = node.network();
    assert!(node.mesh("ADD", &args(), &previous).status.success());
    for _ in 0..2 {
        let output = node.mesh("DEL", "", &previous);
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
        drop(
            Command::new("ip")
                .args(["netns", "delete", &node.allocation])
                .output(),
        );
    }
}

#[test]
fn after_a_reboot_an_add_sets_the_rules_again() {
    let node = Node::new();
    let previous = node.network();
    assert!(node.mesh("ADD", &args(), &previous).status.success());
    // The namespace is gone, and with it the state of the addresses, which is on a tmpfs.
    ip(&["netns", "delete", &node.allocation]);
    std::fs::remove_dir_all(node.directory.path().join("ipam")).unwrap();
    node.boot();
    let previous = node.network();
    assert!(!node.rules().contains("redirect"));
    assert!(node.mesh("ADD", &args(), &previous).status.success());
    assert!(is_captured(&node, &previous));
}

#[test]
fn a_group_that_says_nothing_is_left_alone() {
    let node = Node::new();
    let previous = node.network();
    let output = node.mesh("ADD", "NOMAD_JOB_ID=web;IgnoreUnknown=true", &previous);
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        previous
    );
    assert!(!node.rules().contains("redirect"));
}

#[test]
fn errors_have_the_protocols_numbers() {
    let node = Node::new();
    ip(&["netns", "delete", &node.allocation]);
    let gone = node.mesh("ADD", &args(), &json!({}));
    let error: Value = serde_json::from_slice(&gone.stdout).unwrap();
    assert_eq!((gone.status.success(), &error["code"]), (false, &json!(3)));
    let wrong = node.mesh("ADD", "MESH_CONFIG=%%%", &json!({}));
    let error: Value = serde_json::from_slice(&wrong.stdout).unwrap();
    assert_eq!(
        (error["code"].clone(), error["cniVersion"].clone()),
        (json!(4), json!("1.0.0"))
    );
}

#[test]
fn the_fingerprint_and_the_other_commands_answer() {
    let node = Node::new();
    let plain = Command::new(node.directory.path().join("mesh-cni"))
        .output()
        .unwrap();
    let line = String::from_utf8(plain.stdout).unwrap();
    assert_eq!(line, format!("mesh-cni v{}\n", env!("CARGO_PKG_VERSION")));
    let version: Value =
        serde_json::from_slice(&node.mesh("VERSION", "", &json!({})).stdout).unwrap();
    assert_eq!(
        version["supportedVersions"],
        json!(["0.4.0", "1.0.0", "1.1.0"])
    );
    for command in ["GC", "STATUS"] {
        let output = node.mesh(command, "", &json!({}));
        assert!(output.status.success(), "{command}: {output:?}");
    }
}
