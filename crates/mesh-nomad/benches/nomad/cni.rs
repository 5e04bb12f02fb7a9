//! What the plugin adds to the start of an allocation, beside the least that a process can be.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mesh_netfilter::Policy;
use mesh_nomad::cni::encode;
use serde_json::json;

use crate::{measure, measure_against, quantile, time};

/// A network namespace by name; removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new(number: usize) -> Self {
        let name = format!("mesh-bench-{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.0]);
    }
}

/// ADD into namespaces that have no rules yet, each once.
pub(crate) fn measure_add(mesh: &OsStr, rounds: usize) {
    let directory = tempfile::tempdir().unwrap();
    let plugin = directory.path().join("mesh-cni");
    std::os::unix::fs::symlink(mesh, &plugin).unwrap();
    let namespaces: Vec<_> = (0..rounds).map(Namespace::new).collect();
    let args = format!(
        "IgnoreUnknown=true;MESH_CONFIG={}",
        encode(&Policy::sidecar())
    );
    let config = json!({
        "cniVersion": "1.0.0", "name": "mesh", "type": "mesh-cni",
        "prevResult": { "cniVersion": "1.0.0" },
    });
    let call = |namespace: &Namespace, command: &str| -> Duration {
        let begin = Instant::now();
        let mut child = Command::new(&plugin)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "bench")
            .env("CNI_NETNS", format!("/run/netns/{}", namespace.0))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", &args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(config.to_string().as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success(), "{command} failed");
        begin.elapsed()
    };
    let add = quantile(namespaces.iter().map(|it| call(it, "ADD")).collect(), 0.5);
    let check = quantile(namespaces.iter().map(|it| call(it, "CHECK")).collect(), 0.5);
    let least = time(rounds, || {
        let status = Command::new("/bin/true").stdin(Stdio::piped()).status();
        assert!(status.unwrap().success());
    });
    measure("/bin/true", least);
    measure_against("mesh-cni ADD", add, "/bin/true");
    measure_against("mesh-cni CHECK of what is right", check, "/bin/true");
}

fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status().unwrap();
    assert!(status.success(), "ip {words:?}");
}
