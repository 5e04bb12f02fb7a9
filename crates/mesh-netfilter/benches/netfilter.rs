//! What rules cost: to put them in place, and to send traffic through them.
//!
//! `cargo xtask bench netfilter`, or, as root, `cargo bench -p mesh-netfilter --features iptables
//! --bench netfilter`. Needs `nft`, and both variants of `iptables-restore`. Every trial has a
//! network namespace of its own; what is compared is measured in turn, round by round, and the
//! medians are told.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails ends")]
#![expect(clippy::panic, reason = "a benchmark that fails ends")]
#![expect(clippy::indexing_slicing, reason = "a benchmark that fails ends")]
#![expect(clippy::print_stdout, reason = "measures go to standard output")]

#[path = "netfilter/apply.rs"]
mod apply;
#[path = "netfilter/fleet.rs"]
mod fleet;
#[path = "netfilter/ground.rs"]
mod ground;
#[path = "netfilter/list.rs"]
mod list;
#[path = "netfilter/path.rs"]
mod path;

use std::time::Duration;

/// Prints a measure as `cargo xtask bench` reads it.
fn measure(name: &str, value: f64, unit: &str, against: Option<&str>) {
    let against = against.map(|name| format!(",\"against\":\"{name}\""));
    let against = against.unwrap_or_default();
    println!("{{\"name\":\"{name}\",\"value\":{value},\"unit\":\"{unit}\"{against}}}");
}

/// Prints the median of trials, in microseconds.
fn measure_times(name: &str, times: &mut [Duration], against: Option<&str>) {
    let micros = median(times).as_secs_f64() * 1e6;
    measure(name, (micros * 100.0).round() / 100.0, "us", against);
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn main() {
    // Under `cargo test --benches` too, where all that counts is that it works.
    let is_quick = !std::env::args().any(|argument| argument == "--bench");
    let rounds = if is_quick { 1 } else { 25 };
    apply::measure_first(rounds);
    apply::measure_process(&apply::mesh(), rounds * 4);
    list::measure_list(rounds);
    fleet::measure_fleet(if is_quick { 8 } else { 200 });
    path::measure_path(if is_quick { 100 } else { 10_000 });
}
