//! A rule removed by hand is seen at once, and nothing leaves in the clear meanwhile.

use std::time::Duration;

use mesh_tests::call::Call;
use serde_json::Value;
use tokio::process::Command as Process;

use crate::e2e::world::{Step, World, ensure, eventually};

/// The instance whose rules are tampered with; nothing else depends on it.
const VICTIM: &str = "reviews-v3";

/// A server that answers plaintext, so that a call which leaves without its sidecar succeeds:
/// the Mixer's metrics, on the host's own addresses.
const OUTSIDE: [&str; 2] = [
    "http://10.213.0.1:15014/metrics",
    "http://[fd6d:6573:68d5::1]:15014/metrics",
];

/// The chain that captures is emptied, named, and mended; the guard holds in between.
pub(crate) async fn tampered(world: &World) -> Step<String> {
    let before = world
        .call(VICTIM, Call::get("http://ratings:9080/only"))
        .await?;
    ensure(before.status == 200, || format!("before: {before:?}"))?;
    ensure(rules(world).await?.0 == "intact", || {
        "the rules are not intact before".to_owned()
    })?;

    answered(world, "through the sidecar").await?;

    // As somebody with root would: the chain that captures outbound connections is emptied.
    let netns = netns(world).await?;
    nft(&netns, &["flush", "chain", "inet", "mesh_mesh", "nat_out"]).await?;
    let named = || async {
        let (state, drift) = rules(world).await?;
        ensure(state == "drifted", || format!("`mesh status` says {state}"))?;
        Ok(drift)
    };
    let (drifts, took) = eventually(Duration::from_secs(5), named).await?;
    let first = drifts.first().map_or("", String::as_str);
    for url in OUTSIDE {
        let held = world.call(VICTIM, Call::get(url)).await?;
        ensure(held.status == 0, || {
            format!(
                "a call left without its sidecar: {url} answered {}",
                held.status
            )
        })?;
    }
    // The control: without the guard the same calls do leave.
    nft(&netns, &["delete", "table", "inet", "mesh_mesh.guard"]).await?;
    answered(world, "without the guard").await?;

    world
        .mesh(&["redirect", "apply", "--netns", &netns])
        .await?;
    let mended = || async {
        let (state, _) = rules(world).await?;
        ensure(state == "intact", || format!("`mesh status` says {state}"))
    };
    eventually(Duration::from_secs(5), mended).await?;
    let after = world
        .call(VICTIM, Call::get("http://ratings:9080/only"))
        .await?;
    ensure(after.status == 200, || format!("after: {after:?}"))?;
    Ok(format!(
        "named after {} ms ({} differences, the first: {first}); calls to a plaintext server, v4 and v6: 200 through the sidecar, refused by the guard, 200 without the guard; mended by `mesh redirect apply`",
        took.as_millis(),
        drifts.len(),
    ))
}

/// Whether the plaintext servers answer the victim, in both families.
async fn answered(world: &World, how: &str) -> Step<()> {
    for url in OUTSIDE {
        let outcome = world.call(VICTIM, Call::get(url)).await?;
        ensure(outcome.status == 200, || {
            format!("{how}, {url}: {} {:?}", outcome.status, outcome.error)
        })?;
    }
    Ok(())
}

async fn group(world: &World) -> Step<Value> {
    let status = world.mesh_json(&["status"]).await?;
    status
        .get("groups")
        .and_then(Value::as_array)
        .and_then(|groups| {
            groups
                .iter()
                .find(|g| g.get("name").and_then(Value::as_str) == Some(VICTIM))
        })
        .cloned()
        .ok_or_else(|| format!("`mesh status` knows no group {VICTIM}"))
}

/// State of the rules and what is wrong with them.
async fn rules(world: &World) -> Step<(String, Vec<String>)> {
    let group = group(world).await?;
    let rules = group
        .get("rules")
        .ok_or("`mesh status` says nothing of rules")?;
    let state = rules
        .get("state")
        .and_then(Value::as_str)
        .unwrap_or("unknown")
        .to_owned();
    let drift = rules.get("drift").and_then(Value::as_array);
    let drift = drift.into_iter().flatten();
    let drift = drift.filter_map(|words| words.as_str().map(str::to_owned));
    Ok((state, drift.collect()))
}

async fn netns(world: &World) -> Step<String> {
    let group = group(world).await?;
    let path = group.get("netns").and_then(Value::as_str);
    Ok(path
        .ok_or("`mesh status` names no network namespace")?
        .to_owned())
}

async fn nft(netns: &str, arguments: &[&str]) -> Step<()> {
    let output = Process::new("nsenter")
        .arg(format!("--net={netns}"))
        .arg("nft")
        .args(arguments)
        .output()
        .await
        .map_err(|error| error.to_string())?;
    ensure(output.status.success(), || {
        String::from_utf8_lossy(&output.stderr).into_owned()
    })
}
