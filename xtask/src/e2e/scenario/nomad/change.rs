//! Allocations that end and others that take their place, one by one, under load.

use std::time::Duration;

use serde_json::Value;

use super::super::control_plane::under_load_on;
use super::super::deploy::nomad::task;
use super::super::proxy::endpoints;
use super::super::routing::apply;
use crate::e2e::nomad::{Allocation, Group, Job, Service, Task, allocations, get};
use crate::e2e::world::{Step, World, ensure, eventually};

/// The service that is called meanwhile.
const SERVICE: &str = "web";
/// How many instances it has.
const COUNT: u32 = 2;
/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn rows(world: &World) {
    if let Err(why) = start(world).await {
        world.record("a service with two instances is deployed", Err(why));
        return;
    }
    let result = restarted(world).await;
    world.record(
        "`nomad alloc restart` of each instance under load: no failed request",
        result,
    );
    let result = updated(world).await;
    world.record("rolling update under load: no failed request", result);
}

async fn start(world: &World) -> Step<()> {
    world.run_job(&job(world, "v1"), "cni").await?;
    apply(world, "web-no-retries.yaml").await?;
    eventually(PATIENCE, || served(world, COUNT))
        .await
        .map(drop)
}

fn job(world: &World, version: &str) -> Job {
    Job {
        id: SERVICE.to_owned(),
        groups: vec![Group {
            name: SERVICE.to_owned(),
            count: COUNT,
            network: "bridge",
            meta: Vec::new(),
            service: Service {
                name: SERVICE.to_owned(),
                protocol: "http",
                port: 9080,
                tags: Vec::new(),
                check: Some("/only"),
            },
            task: Task {
                command: vec![
                    world.bin("mesh-echo").display().to_string(),
                    format!("--name={SERVICE}"),
                    format!("--version={version}"),
                ],
                ..task(world, SERVICE)
            },
        }],
    }
}

/// So many instances are in Nomad's catalogue, every sidecar of theirs is ready, and who sends the
/// load calls them all: whoever takes the next one away before that takes away the last.
async fn served(world: &World, count: u32) -> Step<Vec<Allocation>> {
    let listed = get(&format!("/v1/service/{SERVICE}")).await?;
    let listed = listed.as_array().map_or(0, Vec::len);
    let running = allocations("default", SERVICE, SERVICE).await?;
    ensure(listed == running.len() && listed == count as usize, || {
        format!("{listed} instances are listed, {} run", running.len())
    })?;
    for allocation in &running {
        let address = allocation.address()?;
        let url = format!("http://{address}:15021/ready");
        let ready = mesh_tests::call::once(mesh_tests::call::Call::get(&url)).await;
        ensure(ready.status == 200, || {
            format!("the sidecar at {address} says {}", ready.status)
        })?;
    }
    let called = endpoints(world, "productpage-v1", SERVICE, 9080).await?;
    ensure(called == running.len(), || {
        format!("{called} instances are called, {} run", running.len())
    })?;
    Ok(running)
}

async fn restarted(world: &World) -> Step<String> {
    let event = async {
        let mut evidence = Vec::new();
        for allocation in served(world, COUNT).await? {
            let old = allocation.process("app", "mesh-echo")?;
            world.nomad(&["alloc", "restart", &allocation.id]).await?;
            let again = || async {
                let found = served(world, COUNT).await?;
                let it = found.iter().find(|it| it.id == allocation.id);
                let it = it.ok_or("the allocation is another")?;
                let new = it.process("app", "mesh-echo")?;
                ensure(new != old, || format!("the application is still {old}"))?;
                Ok(new)
            };
            let (new, took) = eventually(PATIENCE, again).await?;
            evidence.push(format!("{old} → {new} in {:.1} s", took.as_secs_f64()));
        }
        Ok::<_, String>(evidence.join(", "))
    };
    let (load, restarted) = under_load_on(world, "restart", SERVICE, event).await;
    Ok(format!("applications {}; {}", restarted?, load?))
}

async fn updated(world: &World) -> Step<String> {
    let ids = |all: &[Allocation]| {
        let ids = all.iter().map(|it| it.id.clone());
        ids.collect::<std::collections::BTreeSet<_>>()
    };
    let event = async {
        let before = ids(&served(world, COUNT).await?);
        // Returns when Nomad says that the deployment has succeeded.
        world.run_job(&job(world, "v2"), "cni").await?;
        let (after, _) = eventually(PATIENCE, || served(world, COUNT)).await?;
        let after = ids(&after);
        ensure(before.is_disjoint(&after), || {
            format!("allocations were {before:?} and are {after:?}")
        })?;
        let deployment = get(&format!("/v1/job/{SERVICE}/deployment")).await?;
        let status = deployment.get("Status").and_then(Value::as_str);
        ensure(status == Some("successful"), || {
            format!("the deployment is {status:?}")
        })
    };
    let (load, updated) = under_load_on(world, "update", SERVICE, event).await;
    updated?;
    Ok(format!("{COUNT} allocations replaced by others; {}", load?))
}
