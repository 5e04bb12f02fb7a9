//! The applier is killed at random moments: the rules are those of before or those of after.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mesh_netfilter::{Backend, HostNetwork, Policy, RuleState};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

use crate::traffic::{Attempt, From, Reached, Servers, here};
use crate::world::{
    APP, Namespace, PEER_V4, PEER_V6, World, backends, compile, for_each_backend, run,
};

/// All backends together.
const KILLS: usize = 102;
/// Well beyond the time that one change takes with the slowest backend.
const LIFE: std::ops::Range<u64> = 0..40_000;

/// Two policies that differ in every chain, and in what they capture not at all.
fn policies() -> [Policy; 2] {
    let other = Policy::sidecar()
        .to_builder()
        .proxy(mesh_netfilter::Identities::users([1337, 1338]))
        .excluded_interfaces(["zz0".parse().unwrap()])
        .build();
    [Policy::sidecar(), other.unwrap()]
}

/// Builds the program that is to be killed; cargo has let go of its lock when tests run.
fn applier() -> PathBuf {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let arguments = ["build", "--quiet", "--offline", "--manifest-path", manifest];
    let what = ["--all-features", "--example", "applier"];
    run(env!("CARGO"), &[&arguments[..], &what[..]].concat());
    // target/debug/deps/netns-…, target/debug/examples/applier
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples/applier")
}

/// What a backend changes in one step each: netlink everything, the others table by table.
fn steps(namespace: &Namespace, backend: Backend) -> Vec<String> {
    let without_counters = |text: String| -> String {
        let is_rule = |line: &&str| !line.starts_with(['#', ':']);
        let rules = text.lines().filter(is_rule);
        // As `nft` writes them; `iptables-save` writes none unless it is asked.
        let bare = rules.map(|line| match line.split_once("counter packets ") {
            None => line.to_owned(),
            Some((before, numbers)) => {
                let after = numbers.splitn(4, ' ').nth(3).unwrap_or_default();
                format!("{before}counter {after}")
            }
        });
        bare.collect::<Vec<String>>().join("\n")
    };
    if backend == Backend::Netlink {
        return vec![without_counters(namespace.ruleset())];
    }
    let mut steps = Vec::new();
    for family in ["iptables", "ip6tables"] {
        let save = format!("{}-save", backend.to_string().replace("iptables", family));
        for table in ["raw", "mangle", "nat", "filter"] {
            steps.push(without_counters(namespace.exec(&save, &["-t", table])));
        }
    }
    steps
}

#[test]
fn a_killed_applier_leaves_old_rules_or_new_ones() {
    let program = applier();
    for_each_backend(|backend| {
        let world = World::new();
        let _servers = Servers::start(&world);
        let app = &world.app;
        let files = policies().map(|policy| {
            let number = usize::from(policy != Policy::sidecar());
            let file = std::env::temp_dir().join(format!("{}-{number}.json", app.name));
            std::fs::write(&file, serde_json::to_string(&policy).unwrap()).unwrap();
            file
        });
        let engine = app.engine_of(backend);
        let [old, new] = policies().map(|policy| {
            engine
                .apply(&compile(&policy), HostNetwork::Refuse)
                .unwrap();
            steps(app, backend)
        });
        assert_ne!(old, new);
        let mut runner = TestRunner::deterministic();
        let (mut saw_old, mut saw_new) = (false, false);
        for kill in 0..KILLS.div_ceil(backends().len()) {
            let life = LIFE.new_tree(&mut runner).unwrap().current();
            let mut child = Command::new(&program)
                .args([&app.name, backend.as_str()])
                .args(&files)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // In the first change after one or two whole ones: a slow machine sees both as well.
            let mut applied = BufReader::new(child.stdout.take().unwrap()).lines();
            for _ in 0..=kill % 2 {
                applied.next().unwrap().unwrap();
            }
            // A random moment is what is wanted here; nothing is waited for.
            std::thread::sleep(Duration::from_micros(life));
            child.kill().unwrap();
            drop(applied);
            let status = child.wait().unwrap();
            assert_eq!(status.code(), None, "it ended by itself: {status}");
            wait_until_empty(app);
            let found = steps(app, backend);
            for (index, step) in found.iter().enumerate() {
                let is_whole = *step == old[index] || *step == new[index];
                assert!(is_whole, "kill {kill} after {life} µs:\n{step}");
                // Of several steps it may be that no kill finds all of them old.
                let differ = old[index] != new[index];
                saw_old |= differ && *step == old[index];
                saw_new |= differ && *step == new[index];
            }
            for server in [PEER_V4.into(), std::net::IpAddr::from(PEER_V6)] {
                let attempt = Attempt::tcp(From::App(APP), (server, 8080));
                let reached = attempt.make(&world);
                let may = [here(15001), Reached::Refused];
                assert!(may.contains(&reached), "kill {kill}: {reached:?}");
            }
        }
        assert!(saw_old && saw_new, "{backend}: all kills found one state");
        // Whatever the last one left behind, nothing of it stays.
        let plan = compile(&Policy::sidecar());
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
        assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Intact);
        assert_eq!(steps(app, backend), old);
        for file in files {
            std::fs::remove_file(file).unwrap();
        }
    });
}

/// A restoring program that outlives who started it still finishes or gives up.
fn wait_until_empty(namespace: &Namespace) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !run("ip", &["netns", "pids", &namespace.name]).is_empty() {
        assert!(Instant::now() < deadline, "somebody is still at work");
        std::thread::yield_now();
    }
}
