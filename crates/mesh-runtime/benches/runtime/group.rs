//! A group with its network ready, against `ip` commands that do the same.

use std::process::Command;
use std::time::{Duration, Instant};

use mesh_runtime::{Attachment, GroupSpec, Name, NetworkSpec, ProcessEngine, Runtime as _};
use tempfile::TempDir;

use crate::host::{on_a_machine, run, succeed, wait};
use crate::{measure_times, progress};

/// What `engine.create_group` does to the kernel, as somebody writes it down: `$1` names it, `$2`
/// and `$3` are its addresses.
const SCRIPT: &str = r#"
set -e
ip netns add "$1"
ip link add "v$1" type veth peer name eth0 netns "$1"
ip link set "v$1" master mesh0 alias "$1" up
ip -n "$1" link set lo up
ip -n "$1" link set eth0 up
ip -n "$1" addr add "$2/16" dev eth0
ip -n "$1" addr add "$3/64" dev eth0 nodad
ip -n "$1" route add default via 10.213.0.1 dev eth0
ip -n "$1" -6 route add default via "$4" dev eth0
"#;

/// The same with as few processes as `ip` can do with.
const BATCHES: &str = r#"
set -e
ip netns add "$1"
ip -batch - <<END
link add v$1 type veth peer name eth0 netns $1
link set v$1 master mesh0 alias $1 up
END
ip -n "$1" -batch - <<END
link set lo up
link set eth0 up
addr add $2/16 dev eth0
addr add $3/64 dev eth0 nodad
route add default via 10.213.0.1 dev eth0
route add default via $4 dev eth0
END
"#;

/// Groups that are there already in the second measurement.
const CROWD: u32 = 100;

pub(crate) fn measure_groups(rounds: u32) {
    on_a_machine(|| {
        let directory = TempDir::new().unwrap();
        let supervisor = [env!("CARGO_BIN_EXE_mesh-supervise")];
        let engine = ProcessEngine::open(directory.path().join("engine"), supervisor).unwrap();
        let spec = NetworkSpec::mesh();
        wait(engine.create_network(&spec)).unwrap();
        let gateway = spec.gateways().1.to_string();

        progress("groups of the process engine, and ip commands");
        let (mut ours, mut commands, mut batches) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            ours.push(one(&engine, round));
            commands.push(by_hand(SCRIPT, &gateway));
            batches.push(by_hand(BATCHES, &gateway));
        }
        measure_times("ip commands, one after the other", &mut commands, None);
        measure_times("ip commands in batches", &mut batches, None);
        let against = Some("ip commands, one after the other");
        measure_times("group with its network", &mut ours, against);
        let against = Some("ip commands in batches");
        measure_times("group with its network, again", &mut ours, against);

        progress("the same beside others");
        for number in 0..CROWD {
            wait(engine.create_group(&group(&format!("crowd-{number}")))).unwrap();
        }
        let mut crowded: Vec<_> = (0..rounds).map(|round| one(&engine, round)).collect();
        let against = Some("group with its network");
        measure_times("group beside 100 others", &mut crowded, against);
        wait(engine.remove_all()).unwrap();
    });
}

fn one(engine: &ProcessEngine, round: u32) -> Duration {
    let spec = group(&format!("group-{round}"));
    let began = Instant::now();
    let (_, made) = wait(engine.create_group(&spec)).unwrap();
    let took = began.elapsed();
    // It is what it was made for: the gateway is reached.
    let namespace = made.namespace.unwrap();
    let argument = format!("--net={}", namespace.display());
    let routes = run("nsenter", &[&argument, "ip", "route"]);
    assert!(routes.contains("default via 10.213.0.1"), "{routes}");
    wait(engine.remove_group(&spec.name)).unwrap();
    took
}

fn by_hand(script: &str, gateway: &str) -> Duration {
    const NAME: &str = "hand";
    let began = Instant::now();
    let arguments = [NAME, "10.213.255.250", "fd6d:6573:68d5::fa", gateway];
    succeed(
        Command::new("sh")
            .args(["-c", script, "sh"])
            .args(arguments),
    );
    let took = began.elapsed();
    run("ip", &["link", "del", "vhand"]);
    run("ip", &["netns", "del", NAME]);
    took
}

fn group(name: &str) -> GroupSpec {
    let name: Name = name.parse().unwrap();
    GroupSpec::new(name, Attachment::Network(NetworkSpec::mesh().name))
}
