//! What it costs to start things: a group with its network, containers of a daemon, a workload with
//! its sidecar; and the memory that each piece takes.
//!
//! `cargo xtask bench runtime`, as root. Needs `ip`, `dockerd` and `docker`, Envoy, and the `mesh`
//! binary that `MESH_BIN` names. Everything is in namespaces of its own; what is compared is measured
//! in turn, round by round, and the medians are told.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails ends")]
#![expect(clippy::panic, reason = "a benchmark that fails ends")]

#[path = "runtime/daemon.rs"]
mod daemon;
#[path = "runtime/group.rs"]
mod group;
#[path = "runtime/host.rs"]
mod host;
#[path = "runtime/workload.rs"]
mod workload;

use std::time::Duration;

/// Rounds of what takes milliseconds, and of what takes a second.
const QUICK_ROUNDS: u32 = 25;
const SLOW_ROUNDS: u32 = 7;

fn main() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this benchmark needs root"
    );
    // Under `cargo test --benches` too, where all that counts is that it works.
    let is_quick = !std::env::args().any(|argument| argument == "--bench");
    let rounds = |count| if is_quick { 1 } else { count };
    group::measure_groups(rounds(QUICK_ROUNDS));
    daemon::measure_containers(rounds(SLOW_ROUNDS));
    workload::measure_workloads(rounds(SLOW_ROUNDS));
}

/// Prints a measure as `cargo xtask bench` reads it.
#[expect(clippy::print_stdout, reason = "measures go to standard output")]
fn measure(name: &str, value: f64, unit: &str, against: Option<&str>) {
    let line = serde_json::json!({
        "name": name, "value": (value * 100.0).round() / 100.0, "unit": unit, "against": against,
    });
    println!("{line}");
}

/// Prints the median of trials, in milliseconds; gives it back.
fn measure_times(name: &str, times: &mut [Duration], against: Option<&str>) -> f64 {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let millis = median.as_secs_f64() * 1e3;
    measure(name, millis, "ms", against);
    millis
}

/// Says what happens, for who waits.
#[expect(clippy::print_stderr, reason = "progress goes to standard error")]
fn progress(what: &str) {
    eprintln!("{what}");
}
