//! A rule removed by hand is seen at once, and nothing leaves in the clear meanwhile.

use std::time::Duration;

use mesh_tests::call::Call;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command as Process;

use super::control_plane::pid;
use crate::e2e::world::{Step, World, ensure, eventually};

/// The instance whose rules are tampered with; nothing else depends on it.
const VICTIM: &str = "reviews-v3";

/// The chain that captures is emptied: named and repaired. While the watcher is held, the guard
/// holds.
pub(crate) async fn tampered(world: &World) -> Step<String> {
    let before = rules(world).await?;
    ensure(
        before.state == "intact" && before.repaired.is_none(),
        || format!("before: {before:?}"),
    )?;
    // Servers that answer plaintext, so that a call which leaves without its sidecar succeeds.
    let outside = world.outside().await?;
    answered(world, &outside, "before").await?;

    // As somebody with root would: the chain that captures outbound connections is emptied.
    let netns = netns(world).await?;
    let flush = ["flush", "chain", "inet", "mesh_mesh", "nat_out"];
    nft(&netns, &flush).await?;
    let named = || repaired(world, "nat_out");
    let (first, took) = eventually(Duration::from_secs(5), named).await?;
    ensure(
        first.by.iter().any(|name| name.starts_with("nft (")),
        || format!("`mesh status` does not say that nft did it: {first:?}"),
    )?;
    answered(world, &outside, "once repaired").await?;

    // The same with nobody there to repair: the guard lets nothing out.
    let watcher = watcher(world).await?;
    signal(watcher, Signal::STOP)?;
    nft(&netns, &flush).await?;
    let held = refused(world, &outside).await;
    // The control: without the guard the same calls do leave.
    nft(&netns, &["delete", "table", "inet", "mesh_mesh.guard"]).await?;
    let open = answered(world, &outside, "without the guard").await;
    signal(watcher, Signal::CONT)?;
    held?;
    open?;
    eventually(Duration::from_secs(5), || repaired(world, "guard")).await?;
    let after = world
        .call(VICTIM, Call::get("http://ratings:9080/only"))
        .await?;
    ensure(after.status == 200, || format!("after: {after:?}"))?;
    answered(world, &outside, "in the end").await?;
    Ok(format!(
        "named and repaired after {} ms ({} differences by {}, the first: {}); with the watcher held, calls to a plaintext server, v4 and v6: refused by the guard, 200 without the guard; repaired when the watcher came back",
        took.as_millis(),
        first.drift.len(),
        first.by.join(", "),
        first.drift.first().map_or("", String::as_str),
    ))
}

/// Where a plugin sets the rules and nobody watches them: the chain that captures is emptied, and
/// what the guard holds is held.
pub(crate) async fn emptied(world: &World) -> Step<String> {
    let outside = world.outside().await?;
    answered(world, &outside, "before").await?;
    let pid = pid(world, VICTIM, "sidecar").await?;
    let netns = format!("/proc/{pid}/ns/net");
    let before = ruleset(&netns).await?;
    nft(&netns, &["flush", "chain", "inet", "mesh_mesh", "nat_out"]).await?;
    let held = refused(world, &outside).await;
    // The control: without the guard the same calls do leave.
    nft(&netns, &["delete", "table", "inet", "mesh_mesh.guard"]).await?;
    let open = answered(world, &outside, "without the guard").await;
    restore(&netns, &before).await?;
    held?;
    open?;
    let after = world
        .call(VICTIM, Call::get("http://ratings:9080/only"))
        .await?;
    ensure(after.status == 200, || format!("after: {after:?}"))?;
    Ok("calls to a plaintext server: 200 through the sidecar, refused by the guard with the capturing chain emptied, 200 without the guard, meshed again with the rules put back".to_owned())
}

/// The rules of a network namespace, as `nft` reads them.
async fn ruleset(netns: &str) -> Step<String> {
    let output = Process::new("nsenter")
        .arg(format!("--net={netns}"))
        .args(["nft", "list", "ruleset"])
        .output()
        .await
        .map_err(|error| error.to_string())?;
    ensure(output.status.success(), || "nft lists no rules".to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Puts them back.
async fn restore(netns: &str, ruleset: &str) -> Step<()> {
    nft(netns, &["flush", "ruleset"]).await?;
    nft(netns, &[ruleset]).await
}

/// The rules are intact again and `mesh status` tells of a repair of `what`.
async fn repaired(world: &World, what: &str) -> Step<Repair> {
    let rules = rules(world).await?;
    match rules.repaired {
        Some(repair)
            if rules.state == "intact" && repair.drift.iter().any(|words| words.contains(what)) =>
        {
            Ok(repair)
        }
        repaired => Err(format!(
            "`mesh status` says {}, last repair {repaired:?}",
            rules.state
        )),
    }
}

/// Whether the victim reaches the plaintext servers in neither family.
async fn refused(world: &World, outside: &[String]) -> Step<()> {
    for url in outside {
        let held = world.call(VICTIM, Call::get(url)).await?;
        ensure(held.status == 0, || {
            format!(
                "a call left without its sidecar: {url} answered {}",
                held.status
            )
        })?;
    }
    Ok(())
}

/// Whether the plaintext servers answer the victim, in both families.
async fn answered(world: &World, outside: &[String], how: &str) -> Step<()> {
    for url in outside {
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

/// What `mesh status` says of the victim's rules.
#[derive(Debug, Deserialize)]
struct Rules {
    state: String,
    repaired: Option<Repair>,
}

/// What was repaired last.
#[derive(Debug, Deserialize)]
struct Repair {
    drift: Vec<String>,
    by: Vec<String>,
}

async fn rules(world: &World) -> Step<Rules> {
    let group = group(world).await?;
    let rules = group
        .get("rules")
        .ok_or("`mesh status` says nothing of rules")?;
    Rules::deserialize(rules).map_err(|error| format!("`mesh status`, rules: {error}"))
}

/// The process that watches the victim's rules.
async fn watcher(world: &World) -> Step<i32> {
    let group = group(world).await?;
    let units = group.get("units").and_then(Value::as_array);
    let mut units = units.into_iter().flatten();
    let unit = units.find(|unit| unit.get("name").and_then(Value::as_str) == Some("rules"));
    let pid = unit.and_then(|unit| unit.get("pid")?.as_i64());
    let pid = pid.ok_or("`mesh status` names no process that watches the rules")?;
    i32::try_from(pid).map_err(|error| error.to_string())
}

fn signal(pid: i32, signal: Signal) -> Step<()> {
    let pid = Pid::from_raw(pid).ok_or("a pid of 0")?;
    kill_process(pid, signal).map_err(|error| format!("signalling the watcher: {error}"))
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
