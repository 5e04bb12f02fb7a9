//! What injection costs.
//!
//! `cargo xtask bench nomad`, or `cargo bench -p mesh-nomad --bench nomad`.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails ends")]
#![expect(clippy::print_stdout, reason = "measures go to standard output")]

use std::time::{Duration, Instant};

use mesh_nomad::inject::{Options, inject};
use mesh_nomad::model::Job;
use serde_json::{Value, json};

/// A job of this many tasks in groups of four, with services and checks.
fn job(tasks: usize) -> Job {
    let task = |index: usize| {
        json!({
            "Name": format!("app{index}"), "Driver": "docker", "User": "1000",
            "Config": { "image": "shop/web:7", "args": ["--port", "8080"] },
            "Env": { "PEER": "${NOMAD_ADDR_http}" },
            "Resources": { "CPU": 100, "MemoryMB": 64 },
        })
    };
    let group = |index: usize| {
        json!({
            "Name": format!("g{index}"),
            "Networks": [{ "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }] }],
            "Services": [{
                "Name": format!("web{index}"), "Provider": "nomad", "PortLabel": "http",
                "Checks": [{ "Type": "http", "Path": "/", "Interval": 1_000_000_000, "Timeout": 1_000_000_000 }],
            }],
            "Tasks": (0..4).map(task).collect::<Value>(),
        })
    };
    let groups: Value = (0..tasks / 4).map(group).collect();
    serde_json::from_value(json!({ "ID": "web", "TaskGroups": groups })).unwrap()
}

/// The median of some runs.
fn time(rounds: usize, mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times.get(rounds / 2).copied().unwrap_or_default()
}

/// Prints a measure as `cargo xtask bench` reads it.
fn measure(name: &str, time: Duration) {
    let millis = (time.as_secs_f64() * 1e5).round() / 100.0;
    println!("{{\"name\":\"{name}\",\"value\":{millis},\"unit\":\"ms\"}}");
}

fn main() {
    // Under `cargo test --benches` too, where all that counts is that it works.
    let is_quick = !std::env::args().any(|argument| argument == "--bench");
    let rounds = if is_quick { 1 } else { 51 };
    let job = job(1000);
    let options = Options {
        image: Some("mesh:1".into()),
        ..Options::default()
    };
    let injected = inject(&job, &options).unwrap().job;
    measure(
        "inject 1000 tasks",
        time(rounds, || drop(inject(&job, &options).unwrap())),
    );
    let again = time(rounds, || drop(inject(&injected, &options).unwrap()));
    measure("inject 1000 tasks that were injected before", again);
}
