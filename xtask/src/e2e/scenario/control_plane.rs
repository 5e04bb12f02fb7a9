//! The control plane comes up, dies, comes back, and nobody notices.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use mesh_tests::call::{Call, Load};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::deploy::INSTANCES;
use super::{proxy, redirect};

use crate::Ground;
use crate::e2e::nomad;
use crate::e2e::world::{Step, World, ensure, eventually};

/// How long the load goes on after an event.
const AFTERMATH: Duration = Duration::from_secs(10);

/// Starts the four roles and waits until they are ready.
pub(crate) async fn comes_up(world: &World) -> bool {
    let result = up(world).await;
    let promise = match world.roles().len() {
        1 => "the control plane is ready: four roles in one job",
        _ => "the control plane is ready: four roles, four processes",
    };
    world.record(promise, result)
}

/// What happens when parts of it are not there, one after the other under one load.
pub(crate) async fn rows(world: &World) {
    let events = async {
        (
            killed_alone(world).await,
            if world.ground() == Ground::Nomad {
                redirect::emptied(world).await
            } else {
                redirect::tampered(world).await
            },
            away(world).await,
        )
    };
    let (load, (killed, tampered, away)) = under_load(world, "events", events).await;
    let with_load = |result: Step<String>| Ok(format!("{}; {}", result?, load.clone()?));
    world.record(
        match world.roles().len() {
            1 => "the control plane killed under load: no failed request",
            _ => "each role killed alone under load, the Mixer too: no failed request",
        },
        with_load(killed),
    );
    world.record(
        match world.ground() {
            Ground::Nomad => "rules removed by hand: no plaintext leaves meanwhile",
            _ => "a rule removed by hand is named within 5 s, and no plaintext leaves meanwhile",
        },
        tampered,
    );
    world.record(
        match world.ground() {
            Ground::Nomad => {
                "control plane away under load, an agent late in coming back: no failed request, only what moved is resent"
            }
            _ => {
                "control plane away under load, an agent late in coming back: no failed request, nothing resent"
            }
        },
        with_load(away),
    );
}

async fn up(world: &World) -> Step<String> {
    world.install().await?;
    let mut pids = Vec::new();
    for role in world.roles().iter().copied() {
        pids.push(format!("{role} {}", pid_of(world, role).await?));
    }
    let readyz = || world.kubectl(&["get", "--raw", "/readyz"]);
    let (ready, _) = eventually(Duration::from_secs(10), readyz).await?;
    let mode = "jsonpath={.spec.mtls.mode}";
    let strict = world
        .kubectl(&[
            "get",
            "peerauthentication",
            "default",
            "-n",
            "istio-system",
            "-o",
            mode,
        ])
        .await?;
    ensure(strict == "STRICT", || {
        format!("the mesh-wide mode is `{strict}`, not `STRICT`")
    })?;
    let store = world.store().await?;
    Ok(format!(
        "{}; /readyz says {ready}; mesh-wide mutual TLS is {strict}; {store}",
        pids.join(", ")
    ))
}

/// A unit of `mesh status --json`.
pub(crate) fn unit<'a>(status: &'a Value, group: &str, unit: &str) -> Step<&'a Value> {
    let named =
        |value: &&Value, name: &str| value.get("name").and_then(Value::as_str) == Some(name);
    status
        .get("groups")
        .and_then(Value::as_array)
        .and_then(|groups| groups.iter().find(|value| named(value, group)))
        .and_then(|found| found.get("units"))
        .and_then(Value::as_array)
        .and_then(|units| units.iter().find(|value| named(value, unit)))
        .ok_or_else(|| format!("`mesh status` knows no unit {group}/{unit}"))
}

/// The process of a unit that is running.
pub(crate) async fn pid(world: &World, group: &str, name: &str) -> Step<u64> {
    if world.ground() == Ground::Nomad {
        return nomad::pid(group, name).await;
    }
    let status = world.mesh_json(&["status"]).await?;
    let unit = unit(&status, group, name)?;
    unit.get("pid")
        .and_then(Value::as_u64)
        .ok_or_else(|| format!("{group}/{name} has no process: {unit}"))
}

/// The process of a role.
async fn pid_of(world: &World, role: &'static str) -> Step<u64> {
    let (group, unit) = world.role(role);
    pid(world, group, unit).await
}

/// Kills each role as a crash would, and waits until its supervisor has started another that is ready.
async fn killed_alone(world: &World) -> Step<String> {
    let mut evidence = Vec::new();
    let proxies = sent(world).await?.len();
    for role in world.roles().iter().copied() {
        let old = pid_of(world, role).await?;
        signal(old, Signal::KILL)?;
        let another = || another(world, role, old);
        let (new, _) = eventually(Duration::from_secs(20), another).await?;
        evidence.push(format!("{role} was {old}, is {new}"));
    }
    returned(world, proxies).await?;
    Ok(evidence.join(", "))
}

/// The process of a role that is ready and not `old`.
async fn another(world: &World, role: &'static str, old: u64) -> Step<u64> {
    if world.ground() == Ground::Nomad {
        let new = pid_of(world, role).await?;
        ensure(new != old, || format!("{role} is still {old}"))?;
        // Pilot comes last.
        world.mesh(&["proxy-status"]).await?;
        return Ok(new);
    }
    let status = world.mesh_json(&["status"]).await?;
    let (group, name) = world.role(role);
    let unit = unit(&status, group, name)?;
    let new = unit.get("pid").and_then(Value::as_u64);
    let ready = unit.get("ready").and_then(Value::as_bool);
    ensure(new != Some(old) && ready == Some(true), || {
        format!("{role} was {old}: {unit}")
    })?;
    new.ok_or_else(|| format!("{role} has no process"))
}

fn signal(pid: u64, signal: Signal) -> Step<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    rustix::process::kill_process(pid.ok_or("no pid")?, signal).map_err(|error| error.to_string())
}

/// Runs an event under a load that begins before it and ends 10 s after; what the load saw, if no
/// request failed, and what the event gave.
pub(crate) async fn under_load<T>(
    world: &World,
    name: &str,
    event: impl Future<Output = T>,
) -> (Step<String>, T) {
    under_load_on(world, name, "details", event).await
}

/// The same with a load on another service.
pub(crate) async fn under_load_on<T>(
    world: &World,
    name: &str,
    service: &str,
    event: impl Future<Output = T>,
) -> (Step<String>, T) {
    let stop = world.home().join("control").join(format!("stop-{name}"));
    let mut load = load_until(&format!("http://{service}:9080/only"), &stop);
    if world.ground() == Ground::Cluster {
        // Every program of six machines wants the same processors.
        load.workers *= 2;
    }
    let drive = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let result = event.await;
        tokio::time::sleep(AFTERMATH).await;
        let stopped = std::fs::write(&stop, "").map_err(|error| error.to_string());
        (stopped, result)
    };
    let (report, (stopped, result)) = tokio::join!(world.load("productpage-v1", load), drive);
    let verdict = || {
        stopped?;
        let report = report?;
        ensure(report.failed() == 0 && report.requests >= LEAST, || {
            format!("{report:?}")
        })?;
        Ok(format!(
            "{} requests, {} on new connections, 0 failed",
            report.requests, report.on_new_connections
        ))
    };
    (verdict(), result)
}

/// How many requests a load must have made.
pub(super) const LEAST: u64 = 1000;

/// A load that ends when `until` exists and it was long enough.
pub(super) fn load_until(url: &str, until: &Path) -> Load {
    Load {
        call: Call::get(url),
        requests: None,
        until_file: Some(until.to_owned()),
        // A machine that is busy takes longer.
        at_least: LEAST,
        workers: 4,
        pause_ms: 20,
    }
}

/// What Pilot sent and proxies took.
struct State {
    /// Resources that each proxy was sent since its stream began, by workload.
    sent: BTreeMap<String, u64>,
    /// Responses that the Envoys took since they started, by instance.
    taken: Vec<(&'static str, u64)>,
}

/// Resources that tell where the control plane is: clusters and endpoints of its services.
const MOVED: u64 = 6;
/// Its agent comes back late; all requests of the load go to it.
const LATE: &str = "details-v1";
/// How late, after all others.
const LATENESS: Duration = Duration::from_secs(5);
/// Its Envoy is killed while the control plane is away.
const RESTARTED: &str = "reviews-v1";

impl State {
    async fn look(world: &World) -> Step<Self> {
        let mut taken = Vec::new();
        for instance in INSTANCES.iter().filter(|it| it.name != RESTARTED) {
            taken.push((instance.name, proxy::updates(world, instance.name).await?));
        }
        let sent = sent(world).await?;
        Ok(Self { sent, taken })
    }
}

/// Resources that each proxy was sent since its stream began, by workload.
async fn sent(world: &World) -> Step<BTreeMap<String, u64>> {
    let list = world.mesh_json(&["proxy-status"]).await?;
    let proxies = list
        .as_array()
        .ok_or_else(|| format!("proxy-status: {list}"))?;
    let each = proxies.iter().map(|proxy| {
        let id = proxy.pointer("/workload").and_then(Value::as_str);
        let types = proxy.pointer("/types").and_then(Value::as_object);
        let types = types.ok_or("a proxy without types")?;
        let counts = types.values().filter_map(|kind| kind.get("sent")?.as_u64());
        Ok((
            id.ok_or("a proxy without workload")?.to_owned(),
            counts.sum(),
        ))
    });
    each.collect()
}

/// All four roles are stopped, a sidecar's Envoy is killed meanwhile, and all come back, one agent late.
async fn away(world: &World) -> Step<String> {
    let before = State::look(world).await?;
    let proxies = before.sent.len();
    ensure(proxies > 1, || format!("Pilot has {proxies} proxies"))?;
    for role in world.roles().iter().copied() {
        world.stop_role(role).await?;
    }
    let envoy = proxy::process(world, RESTARTED).await?;
    signal(envoy, Signal::KILL)?;
    let served = || async {
        let now = proxy::process(world, RESTARTED).await?;
        ensure(now != envoy, || format!("Envoy is still {envoy}"))?;
        let call = Call::get("http://ratings:9080/only");
        let outcome = world.call(RESTARTED, call).await?;
        ensure(outcome.status == 200, || format!("{outcome:?}"))?;
        Ok(now)
    };
    let (now, took) = eventually(Duration::from_secs(15), served).await?;

    // The agent stands still, as one does whose machine is slow to reach Pilot; its Envoy goes on.
    let late = pid(world, LATE, "sidecar").await?;
    signal(late, Signal::STOP)?;
    let back = async {
        for role in world.roles().iter().copied() {
            world.start_role(role).await?;
        }
        returned(world, proxies - 1).await?;
        tokio::time::sleep(LATENESS).await;
        let missing = sent(world).await?;
        ensure(missing.len() == proxies - 1, || {
            format!("the late agent is there already: {missing:?}")
        })
    };
    let back = back.await;
    signal(late, Signal::CONT)?;
    back?;
    returned(world, proxies).await?;

    let after = State::look(world).await?;
    let resent: u64 = after.sent.values().sum();
    if world.ground() == Ground::Nomad {
        // The control plane came back at other ports, which Nomad has picked: its own services.
        let few = after.sent.values().all(|sent| *sent <= MOVED);
        ensure(few, || {
            format!("resources resent after the return: {:?}", after.sent)
        })?;
        return Ok(format!(
            "Envoy of {RESTARTED} killed meanwhile: {envoy}, then {now}, routing again after {} ms; {} proxies back, {LATE} {} s after them; {resent} resources sent, at most {MOVED} to a proxy",
            took.as_millis(),
            proxies - 1,
            LATENESS.as_secs(),
        ));
    }
    ensure(resent == 0, || {
        format!("resources resent after the return: {:?}", after.sent)
    })?;
    ensure(after.taken == before.taken, || {
        format!(
            "responses taken by Envoys: {:?}, then {:?}",
            before.taken, after.taken
        )
    })?;
    Ok(format!(
        "Envoy of {RESTARTED} killed meanwhile: {envoy}, then {now}, routing again after {} ms; {} proxies back, {LATE} {} s after them; {resent} resources sent, 0 responses taken by Envoys",
        took.as_millis(),
        proxies - 1,
        LATENESS.as_secs(),
    ))
}

/// Waits until so many proxies have their streams again.
async fn returned(world: &World, proxies: usize) -> Step<()> {
    let back = || async {
        let sent = sent(world).await?;
        ensure(sent.len() == proxies, || {
            format!("{} of {proxies} proxies are back", sent.len())
        })
    };
    eventually(Duration::from_secs(30), back).await.map(drop)
}
