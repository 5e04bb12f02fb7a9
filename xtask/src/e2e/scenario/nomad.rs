//! What only a Nomad can do to a mesh: place by ports, restart, update, lose its agents, reboot.

mod address;
mod change;
mod mode;
mod reboot;

use mesh_tests::control::Command;
use rustix::process::Signal;
use serde_json::Value;

use super::control_plane::under_load;
use super::deploy::INSTANCES;
use crate::e2e::nomad::{Agent, Lab, get, instance};
use crate::e2e::world::{Step, World, ensure};

pub(crate) async fn rows(world: &World, lab: &mut Lab) {
    address::rows(world).await;
    mode::rows(world).await;
    change::rows(world).await;
    let result = client_restarted(world, lab).await;
    world.record(
        "Nomad's client restarted under load: no failed request, every application goes on",
        result,
    );
    let result = server_killed(world, lab).await;
    world.record(
        "Nomad's server killed and back under load: no failed request",
        result,
    );
    let result = reboot::survived(world, lab).await;
    world.record(
        "reboot: no call leaves while the sidecar is not up yet",
        result,
    );
}

/// The processes of all applications.
async fn applications() -> Step<Vec<u64>> {
    let mut pids = Vec::new();
    for it in &INSTANCES {
        pids.push(instance(it.name).await?.process("app", "mesh-echo")?);
    }
    Ok(pids)
}

/// As an upgrade of Nomad does it.
async fn client_restarted(world: &World, lab: &mut Lab) -> Step<String> {
    let before = applications().await?;
    let event = async {
        let old = lab.pid(Agent::Client);
        lab.stop_agent(Agent::Client, Signal::INT).await?;
        lab.start_agent(Agent::Client).await?;
        let new = lab.pid(Agent::Client);
        let (Some(old), Some(new)) = (old, new) else {
            return Err(format!("the client was {old:?} and is {new:?}"));
        };
        ensure(old != new, || format!("the client is still {old}"))?;
        Ok::<_, String>((old, new))
    };
    let (load, restarted) = under_load(world, "client", event).await;
    let (old, new) = restarted?;
    let after = applications().await?;
    ensure(before == after, || {
        format!("applications were {before:?} and are {after:?}")
    })?;
    Ok(format!(
        "the client was {old}, is {new}; {} applications are the same processes; {}",
        after.len(),
        load?
    ))
}

/// As a crash of the only server: nobody answers for seconds.
async fn server_killed(world: &World, lab: &mut Lab) -> Step<String> {
    let event = async {
        let old = lab.pid(Agent::Server);
        lab.stop_agent(Agent::Server, Signal::KILL).await?;
        let silent = get("/v1/status/leader").await;
        ensure(silent.is_err(), || {
            "a server still answers after it was killed".to_owned()
        })?;
        tokio::time::sleep(AWAY).await;
        lab.start_agent(Agent::Server).await?;
        Ok::<_, String>((
            old.unwrap_or_default(),
            lab.pid(Agent::Server).unwrap_or_default(),
        ))
    };
    let (load, killed) = under_load(world, "server", event).await;
    let (old, new) = killed?;
    Ok(format!(
        "the server was {old}, is {new}, and was away for {} s; {}",
        AWAY.as_secs(),
        load?
    ))
}

/// The first call of an application that insisted on it.
async fn insisted(world: &World, instance: &str) -> Step<mesh_tests::call::Insisted> {
    let told = world.tell(instance, &Command::First).await?;
    serde_json::from_value(told).map_err(|error| format!("{instance}: {error}"))
}

/// How long the server is away.
const AWAY: std::time::Duration = std::time::Duration::from_secs(8);

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
}
