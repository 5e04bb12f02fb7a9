//! An agent under real redirect rules, in a network namespace of its own; needs root and Envoy.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed unwrap is a failed test"
)]

#[path = "../envoy/ca.rs"]
mod ca;
#[expect(
    dead_code,
    reason = "shared with the ring `envoy`, which asks for more"
)]
#[path = "../envoy/pilot.rs"]
mod pilot;
#[expect(
    dead_code,
    reason = "shared with the ring `envoy`, which asks for more"
)]
#[path = "../envoy/resource.rs"]
mod resource;
#[expect(
    dead_code,
    reason = "shared with the ring `envoy`, which asks for more"
)]
#[path = "../envoy/world.rs"]
mod world;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use mesh_model::sidecar::{INBOUND_PORT, PROXY_UID};
use mesh_netfilter::{Engine, Facts, HostNetwork, Netns, Plan, Policy, RuleState, Verdict};
use rustix::process::{Gid, Uid};
use rustix::thread::{UnshareFlags, gettid, set_thread_gid, set_thread_uid, unshare_unsafe};
use tokio::net::TcpStream;

use world::{World, get, until};

const ADDRESSES: [&str; 2] = ["10.9.0.2", "fd00:9::2"];

#[test]
fn readiness_does_not_take_the_watchers_word_alone() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes a network namespace: run it as root"
    );
    // A thread has namespace and user of its own, and so has everything that it starts.
    thread::spawn(in_namespace).join().unwrap();
}

fn in_namespace() {
    #[expect(unsafe_code, reason = "there is no safe call for it")]
    // SAFETY: only the network namespace of this thread changes; nothing here relies on sharing it.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNET).unwrap();
    }
    ip(&["link", "set", "lo", "up"]);
    for address in ADDRESSES {
        ip(&["address", "add", address, "dev", "lo"]);
    }
    let mut world = World::new();
    // Envoy listens where the rules send what arrives.
    world.listener = SocketAddr::from(([0; 16], INBOUND_PORT));
    world.serve("captured");
    let verdict = world.file("verdict.json");
    world.config.workload.addresses = ADDRESSES.map(|one| one.parse().unwrap()).to_vec();
    world.config.rules_verdict = Some(verdict.clone());
    let (_pilot, _ca) = (
        world.start_pilot(),
        world.start_ca(Duration::from_secs(3600)),
    );
    let rules = rules(PathBuf::from(format!(
        "/proc/self/task/{}/ns/net",
        gettid().as_raw_nonzero()
    )));
    for path in [world.file(""), world.file("token")] {
        chown(path, Some(PROXY_UID), Some(PROXY_UID)).unwrap();
    }
    set_thread_gid(Gid::from_raw(PROXY_UID)).unwrap();
    set_thread_uid(Uid::from_raw(PROXY_UID)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let agent = world.start_agent();
        missing(&world, "rules: missing, no verdict at").await;
        write(&verdict, RuleState::Intact);
        // The watcher says that all is well, and it is not.
        missing(
            &world,
            "inbound: missing, a call to 10.9.0.2 went past envoy",
        )
        .await;
        rules.send(()).unwrap();
        until("readiness with rules", async || {
            write(&verdict, RuleState::Intact);
            report(&world)
                .await
                .filter(|report| report.contains("200 OK"))
        })
        .await;
        write(&verdict, RuleState::Drifted);
        missing(&world, "rules: missing, they are drifted").await;
        agent.stop().await;
    });
}

/// A thread of root's that sets the rules of a sidecar in the namespace when it is told to.
fn rules(namespace: PathBuf) -> mpsc::Sender<()> {
    let engine = Engine::netlink(&Netns::Path(namespace)).unwrap();
    let (sender, told) = mpsc::channel();
    thread::spawn(move || {
        if told.recv().is_ok() {
            let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
            engine.apply(&plan, HostNetwork::Refuse).unwrap();
        }
    });
    sender
}

async fn missing(world: &World, line: &str) {
    until(line, async || {
        report(world).await.filter(|report| report.contains(line))
    })
    .await;
}

/// The whole answer of readiness, if there is one.
async fn report(world: &World) -> Option<String> {
    let stream = TcpStream::connect(world.readiness()).await.ok()?;
    get(stream, "/ready").await
}

fn write(file: &Path, state: RuleState) {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let verdict = Verdict::next(None, state, Vec::new(), now);
    let part = file.with_extension("part");
    fs::write(&part, serde_json::to_vec(&verdict).unwrap()).unwrap();
    fs::rename(part, file).unwrap();
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(
        status.expect("iproute2 is installed").success(),
        "ip {arguments:?}"
    );
}
