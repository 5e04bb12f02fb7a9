//! A thousand registrations under a hundred names, on a real server: the first snapshot beside the
//! bare reads, a change until it is known, and what it takes to keep all that.

use std::time::{Duration, Instant};

use mesh_nomad::catalogue::{FollowSettings, Follower};
use mesh_nomad::client::{Client, Register};
use mesh_nomad::model::Job;
use serde_json::{Value, json};

use crate::machine::{Machine, Shape, until, with_machine};
use crate::{measure, measure_against, quantile, tell};

/// How many names, and registrations of each.
const NAMES: usize = 100;
const EACH: usize = 10;

/// How many times something is measured.
const ROUNDS: usize = 21;

pub(crate) fn measure_all() {
    with_machine(
        |_| Shape::default(),
        |machine| async move {
            let shape = fill(&machine).await;
            eprintln!("{} registrations of {shape}", NAMES * EACH);
            let client = &machine.client;
            // What one of each leaves in the allocator is not the watcher's.
            bare_reads(&machine).await;
            bare_lists(&machine).await;
            let memory = resident();
            let (mut bare, mut joined, mut first) = (Vec::new(), Vec::new(), Vec::new());
            let mut follower: Option<Follower> = None;
            // By turns, so that what else the machine does is in all of them.
            for _ in 0..ROUNDS {
                if let Some(old) = follower.take() {
                    old.close().await;
                }
                let names = bare_reads(&machine).await;
                bare.push(names);
                joined.push(names + bare_lists(&machine).await);
                let begin = Instant::now();
                let new = Follower::start(client.clone(), FollowSettings::default());
                let mut snapshots = new.snapshots();
                snapshots
                    .wait_for(|found| found.sequence > 0)
                    .await
                    .unwrap();
                first.push(begin.elapsed());
                follower = Some(new);
            }
            let (all, first) = (quantile(joined, 0.5), quantile(first, 0.5));
            let against = "bare reads of 1000 registrations in a row";
            measure(against, quantile(bare, 0.5));
            measure_against("first snapshot of 1000 registrations", first, against);
            let against = "bare reads and lists of 1000 registrations in a row";
            measure(against, all);
            measure_against(
                "first snapshot, beside all that it is made of",
                first,
                against,
            );
            let grown = resident().saturating_sub(memory);
            tell(&json!({
                "name": "memory of a watcher of 1000 registrations, the last of 21",
                "value": grown, "unit": "KB",
            }));

            let follower = follower.unwrap();
            let changes = changes(&machine, &follower).await;
            let name = "change to snapshot, from the server's answer";
            measure(name, quantile(changes.clone(), 0.5));
            measure(&format!("{name}, p95"), quantile(changes, 0.95));
        },
    );
}

/// Registers jobs until the catalogue is as large as wanted; what they are, in words. Where the
/// node has the driver of Nomad's developers that starts nothing, each registration is an
/// allocation's; else ten allocations have a hundred each.
async fn fill(machine: &Machine) -> String {
    let client = &machine.client;
    let nodes = client.nodes().await.unwrap().value;
    let node = nodes.first().unwrap().id.text().to_owned();
    let node = client.node(&node).await.unwrap().value;
    let has_mock = node
        .drivers
        .get()
        .is_some_and(|it| it.contains_key("mock_driver"));
    let service = |name: usize| json!({ "Name": format!("s{name}"), "PortLabel": "http", "Provider": "nomad" });
    let jobs: Vec<Job> = if has_mock {
        let task = json!({ "Driver": "mock_driver", "Config": { "run_for": "24h" } });
        let jobs = (0..NAMES).map(|name| job(&format!("s{name}"), &json!([service(name)]), &task));
        jobs.collect()
    } else {
        let all: Value = (0..NAMES).map(service).collect();
        let sleep = json!({ "command": "/bin/sleep", "args": ["100000"] });
        vec![job(
            "all",
            &all,
            &json!({ "Driver": "raw_exec", "Config": sleep }),
        )]
    };
    for job in &jobs {
        client
            .register_job(job, &Register::default())
            .await
            .unwrap();
    }
    for name in 0..NAMES {
        let name = format!("s{name}");
        until(&format!("{EACH} registrations of {name}"), || async {
            let found = client.service("default", &name).await.ok()?.value;
            (found.len() == EACH).then_some(())
        })
        .await;
    }
    let allocations = jobs.len() * EACH;
    format!("{allocations} allocations, {NAMES} names")
}

fn job(id: &str, services: &Value, task: &Value) -> Job {
    let mut task = task.clone();
    task["Name"] = json!("main");
    task["Resources"] = json!({ "CPU": 1, "MemoryMB": 10 });
    // Each would have a process of its own that collects them.
    task["LogConfig"] = json!({ "Disabled": true, "MaxFiles": 1, "MaxFileSizeMB": 1 });
    serde_json::from_value(json!({
        "ID": id, "Name": id, "Type": "service", "Datacenters": ["*"],
        "TaskGroups": [{
            "Name": "app", "Count": EACH,
            "Networks": [{ "DynamicPorts": [{ "Label": "http" }] }],
            "Services": services,
            "EphemeralDisk": { "SizeMB": 10 },
            "Tasks": [task],
        }],
    }))
    .unwrap()
}

/// What nobody can do without: the names, and each name's registrations.
async fn bare_reads(machine: &Machine) -> Duration {
    let begin = Instant::now();
    let listed = machine.client.services("*").await.unwrap().value;
    let mut count = 0;
    for namespace in &listed {
        for service in namespace.services.items() {
            let name = service.name.text();
            let found = machine
                .client
                .service(namespace.namespace.text(), name)
                .await;
            count += found.unwrap().value.len();
        }
    }
    assert_eq!(count, NAMES * EACH);
    begin.elapsed()
}

/// What a snapshot is joined with: ports, health, and what jobs say.
async fn bare_lists(machine: &Machine) -> Duration {
    let begin = Instant::now();
    let lists = [Client::allocations_request("*"), Client::jobs_request("*")];
    for list in lists {
        machine.client.fetch_bytes(&list).await.unwrap();
    }
    begin.elapsed()
}

/// How long after the server's answer a removed registration is gone from the snapshot.
async fn changes(machine: &Machine, follower: &Follower) -> Vec<Duration> {
    let mut times = Vec::new();
    for name in 0..ROUNDS {
        let name = format!("s{name}");
        let found = machine
            .client
            .service("default", &name)
            .await
            .unwrap()
            .value;
        let registration = found.first().unwrap();
        let allocation = registration.alloc_id.text().to_owned();
        let mut snapshots = follower.snapshots();
        let removed = machine
            .client
            .remove_registration("default", &name, registration.id.text());
        removed.await.unwrap();
        let begin = Instant::now();
        let gone = snapshots.wait_for(|snapshot| {
            let mut instances = snapshot.instances.iter();
            !instances.any(|(id, instance)| {
                let mut services = instance.workload.services.iter();
                id.as_str().starts_with(&allocation)
                    && services.any(|service| service.name.as_str() == name)
            })
        });
        gone.await.unwrap();
        times.push(begin.elapsed());
    }
    times
}

/// The memory of this process that is in RAM, in KB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}
