//! What injection, the catalogue and the CNI plugin cost.
//!
//! `cargo xtask bench nomad`, or `cargo bench -p mesh-nomad --bench nomad`. The catalogue's part
//! needs root and a `nomad` in `NOMAD_BIN`, the plugin's root and a `mesh` in `MESH_BIN`, starting
//! a job both, `ENVOY_BIN` and the standard CNI plugins; what is not there is named and left out.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails ends")]
#![expect(clippy::panic, reason = "so does one that sees something wrong")]
#![expect(clippy::indexing_slicing, reason = "as does a missing element")]
#![expect(clippy::print_stdout, reason = "measures go to standard output")]
#![expect(clippy::print_stderr, reason = "what is left out goes beside them")]

mod catalogue;
mod cni;
#[expect(dead_code, reason = "tests use more of it")]
mod machine;
#[path = "../../../mesh-cli/tests/nomad/node.rs"]
#[expect(dead_code, reason = "so do they of this")]
mod node;
mod start;

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
    let times = (0..rounds).map(|_| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    });
    quantile(times.collect(), 0.5)
}

/// The time that this part of all times is not above.
fn quantile(mut times: Vec<Duration>, part: f64) -> Duration {
    times.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index into a short list"
    )]
    let index = (times.len() as f64 * part) as usize;
    let last = times.len().saturating_sub(1);
    times.get(index.min(last)).copied().unwrap_or_default()
}

/// Prints a measure as `cargo xtask bench` reads it.
fn measure(name: &str, time: Duration) {
    tell(&json!({ "name": name, "value": millis(time), "unit": "ms" }));
}

/// Prints a measure beside another of this run, by its name.
fn measure_against(name: &str, time: Duration, against: &str) {
    tell(&json!({ "name": name, "value": millis(time), "unit": "ms", "against": against }));
}

fn tell(measure: &Value) {
    println!("{measure}");
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

/// The binary that is measured.
fn mesh() -> std::ffi::OsString {
    std::env::var_os("MESH_BIN").unwrap()
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
    let is_root = rustix::process::geteuid().is_root();
    match std::env::var_os("MESH_BIN") {
        Some(mesh) if is_root => cni::measure_add(&mesh, rounds),
        _ => eprintln!("the plugin is left out: it needs root and MESH_BIN"),
    }
    // A server, a thousand registrations: no quick run.
    match std::env::var_os("NOMAD_BIN") {
        Some(_) if is_root && !is_quick => catalogue::measure_all(),
        _ => eprintln!("the catalogue is left out: it needs root, NOMAD_BIN and `--bench`"),
    }
    let has = |name| std::env::var_os(name).is_some();
    match std::env::var_os("ENVOY_BIN") {
        Some(envoy) if is_root && !is_quick && has("NOMAD_BIN") && has("MESH_BIN") => {
            start::measure_all(envoy);
        }
        _ => eprintln!("the start of a job is left out: it needs ENVOY_BIN besides"),
    }
}
