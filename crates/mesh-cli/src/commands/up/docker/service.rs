//! The services of a Compose file that are not the control plane's: made, made again where the file
//! has changed, and removed where it has them no more. Their groups carry a label that says so.

use std::collections::{BTreeMap, BTreeSet};

use mesh_runtime::compose::{self, GroupPlan, Plan, Progress};
use mesh_runtime::{
    DockerEngine, GroupSpec, GroupStatus, Name, Removal, Runtime as _, RuntimeError, Start,
};

use super::PATIENCE;
use crate::engine;
use crate::exit::{Failure, REFUSED};

/// The label that says where a group comes from.
pub(super) const ORIGIN: &str = "mesh.origin";
/// Its value on groups of Compose files.
pub(super) const COMPOSE: &str = "compose";

/// Removes what the file of before had and this one has not, and what is another one now; `networks`
/// are those that were made for the file of before. Each is told in a line.
pub(super) async fn clear(
    engine: &DockerEngine,
    plan: &Plan,
    networks: &BTreeSet<Name>,
) -> Result<(), Failure> {
    let of = |error: RuntimeError| engine::failed(&error);
    let there = engine.list(&BTreeMap::new()).await.map_err(of)?;
    let changed = changed_networks(engine, plan).await?;
    for status in &there {
        let (spec, name) = (&status.group.spec, &status.group.spec.name);
        let planned = plan.groups.iter().find(|it| it.group.name == *name);
        if !is_of_a_file(spec) {
            if planned.is_some() {
                let message = format!("`{name}` exists, and is not of a Compose file");
                return Err(Failure::new(message).with_code(REFUSED).with_hint(format!(
                    "give the service another name, or `mesh rm {name}` first"
                )));
            }
            continue;
        }
        let moved = spec
            .attachment
            .network()
            .is_some_and(|it| changed.contains(it));
        let reason = match planned {
            None => "removed, the file has no such service",
            Some(plan) if plan.group != *spec => "changed in the file, made again",
            Some(_) if moved => "its network is changed in the file, made again",
            Some(plan) => {
                clear_units(engine, status, plan).await?;
                continue;
            }
        };
        engine.remove_group(name).await.map_err(of)?;
        eprintln!("{name}: {reason}");
    }
    for name in &changed {
        engine.remove_network(name).await.map_err(of)?;
        eprintln!("network {name}: changed in the file, made again");
    }
    let planned = |name: &&Name| plan.networks.iter().any(|it| it.name == **name);
    for name in networks.iter().filter(|name| !planned(name)) {
        match engine.remove_network(name).await {
            Ok(Removal::Removed) => {
                eprintln!("network {name}: removed, the file has no such network");
            }
            Ok(Removal::Absent) => {}
            Err(error @ RuntimeError::InUse { .. }) => eprintln!("network {name}: kept, {error}"),
            Err(error) => return Err(of(error)),
        }
    }
    Ok(())
}

fn is_of_a_file(spec: &GroupSpec) -> bool {
    spec.labels.get(ORIGIN).is_some_and(|it| it == COMPOSE)
}

/// Networks that are there and were asked for differently.
async fn changed_networks(engine: &DockerEngine, plan: &Plan) -> Result<BTreeSet<Name>, Failure> {
    let mut changed = BTreeSet::new();
    for network in &plan.networks {
        match engine.network(&network.name).await {
            Ok(there) if there != *network => {
                changed.insert(network.name.clone());
            }
            Ok(_) | Err(RuntimeError::NotFound { .. }) => {}
            Err(error) => return Err(engine::failed(&error)),
        }
    }
    Ok(changed)
}

/// Removes the units of a group that are others in the file, or none.
async fn clear_units(
    engine: &DockerEngine,
    there: &GroupStatus,
    plan: &GroupPlan,
) -> Result<(), Failure> {
    let of = |error: RuntimeError| engine::failed(&error);
    let group = &plan.group.name;
    for unit in &there.units {
        let planned = plan.units.iter().find(|it| it.name == unit.name);
        let reason = match planned {
            None => "removed, the file has no such service",
            Some(planned) => match engine.create_unit(group, planned).await {
                Err(RuntimeError::Differs { .. }) => "changed in the file, made again",
                made => {
                    made.map_err(of)?;
                    continue;
                }
            },
        };
        engine.remove_unit(group, &unit.name).await.map_err(of)?;
        eprintln!("{}: {reason}", unit.name);
    }
    Ok(())
}

/// Starts the services of a plan; images that are missing are pulled.
pub(super) async fn start(engine: &DockerEngine, plan: &Plan) -> Result<(), Failure> {
    let mut tell = |progress: Progress<'_>| match progress {
        Progress::Started(service, Start::Started) => eprintln!("{service}: started"),
        Progress::Started(service, Start::AlreadyRunning) => eprintln!("{service}: is running"),
        Progress::Ready(service) => eprintln!("{service}: is ready"),
        _ => {}
    };
    let mut pulled = BTreeSet::new();
    loop {
        match compose::apply(engine, plan, PATIENCE, &mut tell).await {
            Err(RuntimeError::NotFound {
                kind: "image",
                name,
            }) if pulled.insert(name.clone()) => {
                eprintln!("image {name}: pulling");
                let progress = &mut |step: mesh_runtime::docker::Progress| {
                    tracing::info!(image = name, step = %step, "pulling an image");
                };
                let done = engine.pull(&name, progress).await;
                done.map_err(|error| engine::failed(&error))?;
            }
            done => return done.map_err(|error| engine::failed(&error)),
        }
    }
}
