//! Pieces of a cluster are lost: servers, processes of the control plane, nodes; and in the end the
//! mesh itself is taken away.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_tests::call::{Call, Load, LoadReport};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{CALLER, PATIENCE, ROLES, SERVICE, SYSTEM, apply, listed, on_nodes, run_service};
use crate::e2e::nomad::cluster::{CLIENTS, Cluster, SERVERS, leader, ready};
use crate::e2e::nomad::{Allocation, allocations, get};
use crate::e2e::scenario::control_plane::{LEAST, load_until, under_load_on};
use crate::e2e::world::{Step, World, ensure, eventually};

/// How many answers in a row say that nothing fails any more.
const WELL: u32 = 200;
/// How long after the loss of a node a request may begin that fails: a connection to it is given up
/// after 1 s, and three of them end the calls, on a machine that is busy.
const EJECTION: Duration = Duration::from_secs(10);
/// How long a load goes on after the last change.
const AFTERMATH: Duration = Duration::from_secs(10);
/// The node that is taken away.
const VICTIM: &str = "c2";

/// One piece at a time, of which there are others.
pub(super) async fn of_pieces(world: &World, cluster: &mut Cluster) {
    let result = leader_killed(world, cluster).await;
    world.record(
        "the leading server killed under load: no failed request",
        result,
    );
    for role in ROLES {
        let result = role_killed(world, role).await;
        let promise = format!("one of two {role} killed under load: no failed request");
        world.record(&promise, result);
    }
}

/// A whole node: on purpose, for a moment, for ever.
pub(super) async fn of_nodes(world: &World, cluster: &mut Cluster) {
    let result = drained(world).await;
    world.record(
        "nodes drained under load: every role of the control plane is placed elsewhere, no failed request",
        result,
    );
    let result = rebooted(world, cluster).await;
    world.record(
        "a node rebooted under load: what was there comes back, and calls reach it again",
        result,
    );
    let result = client_killed(world, cluster).await;
    world.record(
        "a node lost under load: what failed is in flight or before ejection",
        result,
    );
    let result = loss_is_told(world).await;
    world.record("`mesh nomad status` tells of the lost node", result);
}

async fn leader_killed(world: &World, cluster: &mut Cluster) -> Step<String> {
    let event = async {
        let old = leader().await?;
        cluster.kill_agent(old).await?;
        let another = || async {
            let new = leader().await?;
            ensure(new != old, || format!("{old} still leads"))?;
            Ok(new)
        };
        let (new, took) = eventually(PATIENCE, another).await?;
        cluster.start_agent(old)?;
        eventually(PATIENCE, || ready(CLIENTS.len())).await?;
        Ok::<_, String>(format!(
            "{old} led, {new} leads after {:.1} s",
            took.as_secs_f64()
        ))
    };
    let (load, killed) = under_load_on(world, "leader", SERVICE, event).await;
    Ok(format!("{}; {}", killed?, load?))
}

async fn role_killed(world: &World, role: &'static str) -> Step<String> {
    let job = format!("mesh-{role}");
    let event = async {
        let pids = |all: &[Allocation]| -> Step<BTreeSet<u64>> {
            all.iter().map(|it| it.process(role, "mesh")).collect()
        };
        let before = allocations(SYSTEM, &job, role).await?;
        let before = pids(&before)?;
        ensure(before.len() == 2, || format!("{before:?} run, not two"))?;
        let victim = before.first().copied().unwrap_or_default();
        let pid = i32::try_from(victim).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or("no pid")?;
        kill_process(pid, Signal::KILL).map_err(|errno| errno.to_string())?;
        let again = || async {
            let found = pids(&allocations(SYSTEM, &job, role).await?)?;
            ensure(found.len() == 2 && !found.contains(&victim), || {
                format!("{found:?} run")
            })?;
            Ok(found)
        };
        let (after, took) = eventually(PATIENCE, again).await?;
        let after: Vec<_> = after.difference(&before).collect();
        let took = took.as_secs_f64();
        Ok::<_, String>(format!(
            "{victim} was killed, {after:?} runs after {took:.1} s"
        ))
    };
    let (load, killed) = under_load_on(world, role, SERVICE, event).await;
    Ok(format!("{}; {}", killed?, load?))
}

/// Each role has two nodes of three, so that one of the two that are drained has it.
async fn drained(world: &World) -> Step<String> {
    let event = async {
        let mut moved = BTreeSet::new();
        let mut told = Vec::new();
        for name in [VICTIM, "c0"] {
            let id = node(name).await?;
            let there = roles_on(&id).await?;
            let drain = ["node", "drain", "-enable", "-yes", "-ignore-system", &id];
            world.nomad(&drain).await?;
            let (nodes, took) = eventually(PATIENCE, || on_nodes(1)).await?;
            ensure(!nodes.contains(name), || {
                format!("instances are on {nodes:?}")
            })?;
            let elsewhere = || async {
                let left = roles_on(&id).await?;
                ensure(left.is_empty(), || format!("{left:?} are on {name} still"))
            };
            eventually(PATIENCE, elsewhere).await?;
            world
                .nomad(&["node", "drain", "-disable", "-yes", &id])
                .await?;
            // Its member of the store has nowhere else to be.
            eventually(PATIENCE, || listed("etcd", 3)).await?;
            told.push(format!(
                "{name}: instances elsewhere after {:.1} s, and {}",
                took.as_secs_f64(),
                there.iter().copied().collect::<Vec<_>>().join(", ")
            ));
            moved.extend(there);
        }
        ensure(moved.len() == ROLES.len(), || {
            format!("only {moved:?} were on the drained nodes")
        })?;
        Ok::<_, String>(told.join("; "))
    };
    let (load, drained) = under_load_on(world, "drain", SERVICE, event).await;
    Ok(format!("{}; {}", drained?, load?))
}

/// The roles of the control plane that are on a node; all of them are complete.
async fn roles_on(node: &str) -> Step<BTreeSet<&'static str>> {
    let mut roles = BTreeSet::new();
    for role in ROLES {
        let count = if role == "pilot" { 3 } else { 2 };
        let running = allocations(SYSTEM, &format!("mesh-{role}"), role).await?;
        ensure(running.len() == count, || {
            format!("{} of {role} run, not {count}", running.len())
        })?;
        if listed(role, count).await?.contains(node) {
            roles.insert(role);
        }
    }
    Ok(roles)
}

/// The ID of a node.
async fn node(name: &str) -> Step<String> {
    let nodes = get("/v1/nodes").await?;
    let mut nodes = nodes.as_array().into_iter().flatten();
    let found = nodes.find(|node| node.get("Name").and_then(Value::as_str) == Some(name));
    let id = found.and_then(|node| node.get("ID")?.as_str());
    id.map(str::to_owned)
        .ok_or_else(|| format!("there is no node {name}"))
}

/// Power is back before Nomad counts the node as lost.
async fn rebooted(world: &World, cluster: &mut Cluster) -> Step<String> {
    run_service(world, "v2").await?;
    eventually(PATIENCE, || on_nodes(2)).await?;
    let before = on_node(VICTIM).await?;
    let old = before.process("app", "mesh-echo")?;
    let stop = world.home().join("control").join("stop-reboot");
    let load = load_on_service(&stop);
    let begun = Instant::now();
    let drive = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let cut = Instant::now();
        let rebooted = cluster.reboot(VICTIM).await;
        let back = || async {
            on_nodes(2).await?;
            let now = on_node(VICTIM).await?;
            let pid = now.process("app", "mesh-echo")?;
            ensure(pid != old, || format!("the process is {pid} still"))?;
            listed("etcd", 3).await?;
            Ok((now.id, pid))
        };
        let back = match rebooted {
            Ok(()) => eventually(PATIENCE, back).await,
            Err(why) => Err(why),
        };
        tokio::time::sleep(AFTERMATH).await;
        fs::write(&stop, "").map_err(|error| error.to_string())?;
        let ((id, pid), took) = back?;
        Ok::<_, String>((cut, id, pid, took))
    };
    let (report, back) = tokio::join!(world.load(CALLER, load), drive);
    let (report, (cut, id, pid, took)): (LoadReport, _) = (report?, back?);
    ensure(report.requests >= LEAST, || format!("{report:?}"))?;
    let last = begun + Duration::from_secs_f64(report.failed_until);
    let place = if id == before.id {
        "the same allocation"
    } else {
        "another allocation"
    };
    let failed = until_well(world).await?;
    // And it is called, which the log of its sidecar says.
    let (logged, _) = eventually(PATIENCE, || super::logged(world)).await?;
    Ok(format!(
        "{place} on {VICTIM}, process {old} then {pid}, {:.1} s after it was up; {} of {} requests failed without retries, the last of them begun {:.1} s after the loss; then {failed} more, and 0 of {WELL}; calls logged: {logged:?}",
        took.as_secs_f64(),
        report.failed(),
        report.requests,
        last.saturating_duration_since(cut).as_secs_f64()
    ))
}

/// A load on the service from the caller's node, until `stop` exists.
fn load_on_service(stop: &Path) -> Load {
    let load = load_until(&format!("http://{SERVICE}:9080/only"), stop);
    Load { workers: 8, ..load }
}

/// The instance on a node.
async fn on_node(name: &str) -> Step<Allocation> {
    let running = allocations("default", SERVICE, SERVICE).await?;
    let is_there = |it: &Allocation| it.says.get("NodeName").and_then(Value::as_str) == Some(name);
    let found = running.into_iter().find(is_there);
    found.ok_or_else(|| format!("no instance runs on {name}"))
}

/// Calls until nothing fails any more; how many requests failed.
async fn until_well(world: &World) -> Step<u32> {
    let call = Call::get(&format!("http://{SERVICE}:9080/only"));
    let begun = Instant::now();
    let (mut failed, mut well) = (0, 0);
    while well < WELL {
        let outcome = world.call(CALLER, call.clone()).await?;
        if outcome.status == 200 {
            well += 1;
            continue;
        }
        failed += 1;
        well = 0;
        ensure(begun.elapsed() < PATIENCE, || {
            format!("{failed} requests failed: {outcome:?}")
        })?;
    }
    Ok(failed)
}

/// What nothing can prevent: requests that are on the lost node, or sent to it until it is ejected.
/// Afterwards nothing fails, also while Nomad has not noticed yet.
async fn client_killed(world: &World, cluster: &mut Cluster) -> Step<String> {
    run_service(world, "v3").await?;
    eventually(PATIENCE, || on_nodes(2)).await?;
    apply(world, "web-ejection.yaml").await?;
    let stop = world.home().join("control").join("stop-node");
    let load = load_on_service(&stop);
    let begun = Instant::now();
    let drive = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.cut_power(VICTIM).await?;
        let cut = Instant::now();
        let replaced = eventually(PATIENCE, || on_nodes(1)).await;
        tokio::time::sleep(AFTERMATH).await;
        fs::write(&stop, "").map_err(|error| error.to_string())?;
        let (_, replaced) = replaced?;
        Ok::<_, String>((cut, replaced))
    };
    let (report, times) = tokio::join!(world.load(CALLER, load), drive);
    let (report, (cut, replaced)): (LoadReport, _) = (report?, times?);
    let last = begun + Duration::from_secs_f64(report.failed_until);
    let lasted = last.saturating_duration_since(cut);
    ensure(lasted <= EJECTION && report.requests >= LEAST, || {
        format!(
            "the last request that failed began {:.1} s after the loss: {report:?}",
            lasted.as_secs_f64()
        )
    })?;
    let failed = until_well(world).await?;
    ensure(failed == 0, || {
        format!("{failed} requests failed after the load: {report:?}")
    })?;
    Ok(format!(
        "{} of {} requests failed ({:?}), the last of them begun {:.1} s after the loss; both instances on one node again after {:.1} s; then 0 of {WELL}",
        report.failed(),
        report.requests,
        report.by_status,
        lasted.as_secs_f64(),
        replaced.as_secs_f64()
    ))
}

/// The node is named as lost, and who waits for it; the exit code says that something is wrong.
async fn loss_is_told(world: &World) -> Step<String> {
    const DRIFT: i32 = 3;
    let told = || async {
        let said = world.mesh_says(&["nomad", "status"]).await?;
        let is_it = |line: &&str| line.starts_with(VICTIM);
        let line = said.stdout.lines().find(is_it).unwrap_or_default();
        // Nomad's own word is another while a job says what is to become of a silent node.
        let is_told = (line.contains("down") || line.contains("disconnected"))
            && line.contains("lost: ")
            && line.contains("waiting for it: mesh-etcd");
        ensure(is_told && said.code == DRIFT, || {
            format!("exit code {}: {}{}", said.code, said.stdout, said.stderr)
        })?;
        Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    eventually(Duration::from_secs(20), told)
        .await
        .map(|(line, _)| line)
}

/// Takes every job and the mesh away as README has it, and looks for what is left in Nomad and on
/// nodes.
pub(crate) async fn take_down(world: &World) -> Step<String> {
    let jobs = get("/v1/jobs?namespace=default").await?;
    for job in jobs.as_array().into_iter().flatten() {
        let id = job.get("ID").and_then(Value::as_str).unwrap_or_default();
        world.nomad(&["job", "stop", "-purge", id]).await?;
    }
    let said = world
        .as_the_page_says(&["mesh nomad uninstall"], &[])
        .await?;
    let kept = world.page_is_kept(false);
    world.record("README's commands for a cluster were run as they are", kept);
    let gone = || async {
        for (path, key) in [
            ("/v1/jobs?namespace=*", "ID"),
            ("/v1/vars?namespace=*", "Path"),
            ("/v1/namespaces", "Name"),
        ] {
            let listed = get(path).await?;
            for item in listed.as_array().into_iter().flatten() {
                let name = item.get(key).and_then(Value::as_str).unwrap_or_default();
                ensure(name == "default", || format!("{path} has {name}"))?;
            }
        }
        Ok(())
    };
    eventually(PATIENCE, gone).await?;
    let nodes = get("/v1/nodes").await?;
    let nodes = nodes.as_array().into_iter().flatten();
    let of_status = |ready: bool| -> Vec<&str> {
        let is_it = |node: &&Value| {
            let status = node.get("Status").and_then(Value::as_str);
            (status == Some("ready")) == ready
        };
        let names = nodes.clone().filter(is_it);
        names
            .filter_map(|node| node.get("Name")?.as_str())
            .collect()
    };
    let (ready, lost) = (of_status(true), of_status(false));
    for name in &ready {
        let machine = world.home().join("cluster").join(name);
        for file in ["cni/bin/mesh-cni", "cni/config/mesh.conflist"] {
            let file = machine.join(file);
            ensure(!file.exists(), || format!("{} is there", file.display()))?;
        }
        // As the page says: the store is left, for an install that follows.
        let store = machine.join("lib/changed/mesh-nomad/etcd/member");
        ensure(store.exists(), || format!("{} is gone", store.display()))?;
    }
    for name in &lost {
        ensure(said.contains(&format!("node {name}: lost")), || {
            format!("nothing is said of {name}: {said}")
        })?;
    }
    Ok(format!(
        "{} servers have no job, variable or namespace of it, {ready:?} have the store and nothing else; {}",
        SERVERS.len(),
        said.trim().replace('\n', "; ")
    ))
}
