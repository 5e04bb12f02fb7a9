//! From registering a job until its application runs: by itself, and with a sidecar before it.

use std::ffi::{OsStr, OsString};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_nomad::client::{Register, Stop};
use mesh_nomad::model::{Job, JobDocument};
use serde_json::{Value, json};

use crate::machine::{api, until};
use crate::node::{Kind, Node, on_a_node};
use crate::{measure, measure_against, quantile};

/// How many times each is started.
const ROUNDS: usize = 9;

pub(crate) fn measure_all(envoy: OsString) {
    on_a_node(Kind::default(), async move |node| {
        // Where a sidecar's agent looks for it.
        std::os::unix::fs::symlink(&envoy, node.machine.path("bin/envoy")).unwrap();
        install(&node);
        let plain: JobDocument = serde_json::from_value(job()).unwrap();
        let plain = plain.into_job();
        let injected = node.inject(&job(), "cni");
        let (mut alone, mut meshed) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            alone.push(until_it_runs(&node, &plain).await);
            meshed.push(until_it_runs(&node, &injected).await);
        }
        let against = "register to running";
        measure(against, quantile(alone, 0.5));
        measure_against(
            "register to running with a sidecar, rules and a gate",
            quantile(meshed, 0.5),
            against,
        );
    });
}

/// The control plane, in the way in which its users get it.
fn install(node: &Node) {
    let mesh = node.machine.path("bin/mesh").into_os_string();
    let words = ["nomad", "install", "--dev", "--program"].map(OsString::from);
    let words: Vec<&OsStr> = std::iter::once(&mesh)
        .chain(&words)
        .chain([&mesh])
        .map(OsString::as_os_str)
        .collect();
    let output = node
        .machine
        .command(&words)
        .env("NOMAD_ADDR", api())
        .env("MESH_HOME", node.machine.path("home"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn job() -> Value {
    json!({ "Job": {
        "ID": "web", "Name": "web", "Type": "service", "Datacenters": ["*"],
        "TaskGroups": [{
            "Name": "app", "Count": 1,
            "Networks": [{ "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }] }],
            "Services": [{ "Name": "web", "PortLabel": "http", "Provider": "nomad" }],
            "EphemeralDisk": { "SizeMB": 10 },
            "Tasks": [{
                "Name": "main", "Driver": "raw_exec", "User": "nobody",
                "KillTimeout": 100_000_000,
                "Config": { "command": "/bin/sleep", "args": ["100000"] },
                "Resources": { "CPU": 20, "MemoryMB": 32 },
                "LogConfig": { "MaxFiles": 1, "MaxFileSizeMB": 1 },
            }],
        }],
    } })
}

/// How long after the request to register it the job's application was started, by the clock that
/// this machine and its node share.
async fn until_it_runs(node: &Node, job: &Job) -> Duration {
    let client = &node.machine.client;
    let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    client
        .register_job(job, &Register::default())
        .await
        .unwrap();
    let started = until("the application runs", || async {
        let all = client.job_allocations("default", "web").await.ok()?.value;
        let live = all.iter().find(|allocation| allocation.is_live())?;
        let states = live.task_states.get()?;
        let mut events = states.get("main")?.events.items().iter();
        let started = events.find(|event| event.kind.text() == "Started")?;
        u64::try_from(started.time.value()).ok()
    })
    .await;
    let purge = Stop {
        purge: true,
        ..Stop::default()
    };
    client.stop_job("default", "web", purge).await.unwrap();
    until("the job has ended", || async {
        let all = client.job_allocations("default", "web").await.ok()?.value;
        all.iter()
            .all(mesh_nomad::model::allocation::Allocation::is_terminal)
            .then_some(())
    })
    .await;
    Duration::from_nanos(started).saturating_sub(begin)
}
