//! The control plane comes up, dies, comes back, and nobody notices.

use std::time::Duration;

use mesh_tests::call::{Call, Load};
use serde_json::Value;

use crate::e2e::world::{Step, World, ensure, eventually};

/// The four roles, each a unit of its own.
pub(crate) const ROLES: [&str; 4] = ["api", "ca", "pilot", "mixer"];

/// Starts the four roles as four processes and waits until they are ready.
pub(crate) async fn comes_up(world: &mut World) -> bool {
    let result = up(world).await;
    world.record(
        "the control plane is ready: four roles, four processes",
        result,
    )
}

async fn up(world: &World) -> Step<String> {
    world.mesh(&["up", "--separate"]).await?;
    let pids = pids(world).await?;
    let (ready, _) = eventually(Duration::from_secs(10), || {
        world.kubectl(&["get", "--raw", "/readyz"])
    })
    .await?;
    let strict = world
        .kubectl(&[
            "get",
            "peerauthentication",
            "default",
            "-n",
            "istio-system",
            "-o",
            "jsonpath={.spec.mtls.mode}",
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

/// `role pid` of each role, all different and running.
async fn pids(world: &World) -> Step<Vec<String>> {
    let status = world.mesh_json(&["status"]).await?;
    let mut pids = Vec::new();
    for role in ROLES {
        let unit = unit(&status, "control-plane", role)?;
        let pid = unit.get("pid").and_then(Value::as_u64);
        pids.push(format!(
            "{role} {}",
            pid.ok_or_else(|| format!("{role} has no pid: {unit}"))?
        ));
    }
    Ok(pids)
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

pub(crate) async fn rows(_world: &mut World) {}

/// A load on details that ends when `until` exists.
pub(crate) fn load_until(url: &str, until: &std::path::Path) -> Load {
    Load {
        call: Call::get(url),
        requests: None,
        until_file: Some(until.to_owned()),
        workers: 4,
        pause_ms: 20,
    }
}
