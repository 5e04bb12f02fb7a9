//! The control plane comes up, dies, comes back, and nobody notices.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use mesh_tests::call::{Call, Load, LoadReport};
use serde_json::Value;

use crate::e2e::world::{Step, World, ensure, eventually};

/// The four roles, each a unit of its own.
const ROLES: [&str; 4] = ["api", "ca", "pilot", "mixer"];
/// The group of the control plane's units.
const GROUP: &str = "control-plane";
/// How long the load goes on after an event.
const AFTERMATH: Duration = Duration::from_secs(10);

/// Starts the four roles as four processes and waits until they are ready.
pub(crate) async fn comes_up(world: &mut World) -> bool {
    let result = up(world).await;
    world.record(
        "the control plane is ready: four roles, four processes",
        result,
    )
}

/// What happens when it is not there.
pub(crate) async fn rows(world: &mut World) {
    let result = away(world).await;
    world.record(
        "control plane killed under load: no failed request; it resumes with nothing resent",
        result,
    );
}

async fn up(world: &World) -> Step<String> {
    // Short, so that a renewal falls into the scenario: at half of its life, give or take a tenth.
    world
        .mesh(&["up", "--separate", "--certificate-ttl", "40"])
        .await?;
    let mut pids = Vec::new();
    for role in ROLES {
        pids.push(format!("{role} {}", pid(world, GROUP, role).await?));
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
    Ok(format!(
        "{}; /readyz says {ready}; mesh-wide mutual TLS is {strict}",
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
async fn pid(world: &World, group: &str, name: &str) -> Step<u64> {
    let status = world.mesh_json(&["status"]).await?;
    let unit = unit(&status, group, name)?;
    unit.get("pid")
        .and_then(Value::as_u64)
        .ok_or_else(|| format!("{group}/{name} has no process: {unit}"))
}

/// Kills a unit's process as a crash would, and waits until its supervisor has started another.
pub(crate) async fn kill(world: &World, group: &str, name: &str) -> Step<(u64, u64)> {
    let old = pid(world, group, name).await?;
    signal_kill(old)?;
    let another = || async {
        let new = pid(world, group, name).await?;
        ensure(new != old, || format!("{name} is still {old}"))?;
        Ok(new)
    };
    let (new, _) = eventually(Duration::from_secs(20), another).await?;
    Ok((old, new))
}

fn signal_kill(pid: u64) -> Step<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or("no pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        .map_err(|error| error.to_string())
}

/// Runs an event under a load that begins before it and ends 10 s after, and wants no failed request.
pub(crate) async fn under_load<T>(
    world: &World,
    name: &str,
    event: impl Future<Output = Step<T>>,
) -> Step<(LoadReport, T)> {
    let stop = world.home().join("control").join(format!("stop-{name}"));
    let load = load_until("http://details:9080/only", &stop);
    let drive = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let result = event.await;
        tokio::time::sleep(AFTERMATH).await;
        std::fs::write(&stop, "").map_err(|error| error.to_string())?;
        result
    };
    let (report, result) = tokio::join!(world.load("productpage-v1", load), drive);
    let (report, result) = (report?, result?);
    ensure(report.failed() == 0 && report.requests >= 1000, || {
        format!("{report:?}")
    })?;
    Ok((report, result))
}

/// A load on details that ends when `until` exists.
fn load_until(url: &str, until: &Path) -> Load {
    Load {
        call: Call::get(url),
        requests: None,
        until_file: Some(until.to_owned()),
        workers: 4,
        pause_ms: 20,
    }
}

/// Resources that each proxy was sent since its stream began, by workload.
async fn sent(world: &World) -> Step<Vec<(String, u64)>> {
    let list = world.mesh_json(&["proxy-status"]).await?;
    let proxies = list
        .as_array()
        .ok_or_else(|| format!("proxy-status: {list}"))?;
    proxies
        .iter()
        .map(|proxy| {
            let id = proxy
                .pointer("/workload")
                .and_then(Value::as_str)
                .ok_or("a proxy without workload")?;
            let types = proxy
                .pointer("/types")
                .and_then(Value::as_object)
                .ok_or("a proxy without types")?;
            let sent = types
                .values()
                .filter_map(|kind| kind.get("sent").and_then(Value::as_u64))
                .sum();
            Ok((id.to_owned(), sent))
        })
        .collect()
}

/// All four roles are stopped, a sidecar's Envoy is killed meanwhile, and all come back.
async fn away(world: &World) -> Step<String> {
    let proxies = sent(world).await?.len();
    let event = async {
        for role in ROLES {
            world.mesh(&["stop", GROUP, role]).await?;
        }
        let envoy = envoy(world, "reviews-v1").await?;
        signal_kill(envoy)?;
        let served = || async {
            let now = self::envoy(world, "reviews-v1").await?;
            ensure(now != envoy, || format!("Envoy is still {envoy}"))?;
            let outcome = world
                .call("reviews-v1", Call::get("http://ratings:9080/only"))
                .await?;
            ensure(outcome.status == 200, || format!("{outcome:?}"))?;
            Ok(now)
        };
        let (now, took) = eventually(Duration::from_secs(15), served).await?;
        for role in ROLES {
            world.mesh(&["start", GROUP, role]).await?;
        }
        let back = || async {
            let sent = sent(world).await?;
            ensure(sent.len() == proxies, || {
                format!("{} of {proxies} proxies are back", sent.len())
            })?;
            Ok(sent)
        };
        let (sent, _) = eventually(Duration::from_secs(30), back).await?;
        Ok((envoy, now, took, sent))
    };
    let (report, (old, new, took, sent)) = under_load(world, "away", event).await?;
    let resent: u64 = sent.iter().map(|(_, count)| count).sum();
    ensure(resent == 0, || {
        format!("resources resent after the return: {sent:?}")
    })?;
    Ok(format!(
        "{} requests, {} on new connections, 0 failed; Envoy of reviews-v1 killed meanwhile: {old}, then {new}, routing again after {} ms; {proxies} proxies back, {resent} resources sent",
        report.requests,
        report.on_new_connections,
        took.as_millis()
    ))
}

/// The process of a sidecar's Envoy.
async fn envoy(world: &World, group: &str) -> Step<u64> {
    let agent = pid(world, group, "sidecar").await?;
    let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"));
    let mut pids: Vec<u64> = children
        .map_err(|error| error.to_string())?
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    // Children of other threads of the agent stand in the lists of those.
    if let Ok(tasks) = std::fs::read_dir(format!("/proc/{agent}/task")) {
        for task in tasks.flatten() {
            let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(
                list.split_whitespace()
                    .filter_map(|pid| pid.parse::<u64>().ok()),
            );
        }
    }
    pids.into_iter()
        .find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("envoy"))
        })
        .ok_or_else(|| format!("the agent {agent} of {group} has no Envoy"))
}
