//! The control plane is changed under load: another count, another release.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{ROLES, SERVICE, SYSTEM, listed};
use crate::e2e::nomad::allocations;
use crate::e2e::nomad::cluster::Cluster;
use crate::e2e::scenario::control_plane::under_load_on;
use crate::e2e::world::{Step, World, ensure};

pub(super) async fn rows(world: &World, cluster: &Cluster) {
    let result = scaled(world).await;
    world.record(
        "a third Pilot under load: no failed request, nothing else changes",
        result,
    );
    let result = upgraded(world, cluster).await;
    world.record(
        "`mesh nomad upgrade` under load: every job rolls, no failed request",
        result,
    );
    let result = rendered(world).await;
    world.record(
        "`mesh nomad render`: files that Nomad takes, without secrets",
        result,
    );
}

/// The allocations of each piece of the control plane.
async fn pieces() -> Step<BTreeMap<&'static str, BTreeSet<String>>> {
    let mut pieces = BTreeMap::new();
    for piece in ["etcd"].into_iter().chain(ROLES) {
        let running = allocations(SYSTEM, &format!("mesh-{piece}"), piece).await?;
        pieces.insert(piece, running.into_iter().map(|it| it.id).collect());
    }
    Ok(pieces)
}

async fn scaled(world: &World) -> Step<String> {
    let event = async {
        let before = pieces().await?;
        world
            .as_the_page_says(&["mesh nomad install --pilot 3"], &[])
            .await?;
        let nodes = listed("pilot", 3).await?;
        let mut after = pieces().await?;
        let pilots = after.insert("pilot", before.get("pilot").cloned().unwrap_or_default());
        ensure(before == after, || format!("{before:?}, then {after:?}"))?;
        let pilots = pilots.unwrap_or_default();
        let kept = before.get("pilot").map(|before| before.is_subset(&pilots));
        ensure(kept == Some(true), || {
            format!("Pilots were {before:?}, then {pilots:?}")
        })?;
        Ok::<_, String>(format!(
            "3 Pilots on {} nodes, two of them as before",
            nodes.len()
        ))
    };
    let (load, scaled) = under_load_on(world, "scale", SERVICE, event).await;
    Ok(format!("{}; {}", scaled?, load?))
}

async fn upgraded(world: &World, cluster: &Cluster) -> Step<String> {
    let artifact = cluster.artifact("mesh-2.tar.gz")?;
    let event = async {
        let before = pieces().await?;
        let start = std::time::Instant::now();
        let values = [(
            "https://files.example/mesh-2.tar.gz#sha256:HEX",
            &artifact[..],
        )];
        world
            .as_the_page_says(&["mesh nomad upgrade --artifact "], &values)
            .await?;
        let took = start.elapsed();
        let after = pieces().await?;
        for (piece, old) in &before {
            let new = after.get(piece).cloned().unwrap_or_default();
            ensure(new.len() == old.len() && new.is_disjoint(old), || {
                format!("{piece}: {old:?}, then {new:?}")
            })?;
            let task = if *piece == "etcd" { "etcd" } else { piece };
            for it in allocations(SYSTEM, &format!("mesh-{piece}"), piece).await? {
                let pid = it.process(task, if task == "etcd" { "etcd" } else { "mesh" })?;
                let release = format!("/proc/{pid}/cwd/local/bin/RELEASE");
                let text = fs::read_to_string(&release);
                let text = text.map_err(|error| format!("{release}: {error}"))?;
                ensure(text.trim() == "2", || {
                    format!("{piece} runs release {text}")
                })?;
            }
        }
        let count: usize = after.values().map(BTreeSet::len).sum();
        Ok::<_, String>(format!(
            "{count} tasks of {} jobs are of release 2 after {:.0} s",
            after.len(),
            took.as_secs_f64()
        ))
    };
    let (load, upgraded) = under_load_on(world, "upgrade", SERVICE, event).await;
    Ok(format!("{}; {}", upgraded?, load?))
}

async fn rendered(world: &World) -> Step<String> {
    let io = |error: std::io::Error| error.to_string();
    let directory = world.home().join("rendered");
    let place = directory.display().to_string();
    world
        .as_the_page_says(&["mesh nomad render "], &[("DIR", &place)])
        .await?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory.join("jobs")).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let text = fs::read_to_string(&path).map_err(io)?;
        ensure(!text.contains("PRIVATE KEY"), || {
            format!("a key is in {}", path.display())
        })?;
        let file = path.display().to_string();
        world.nomad(&["job", "validate", "-json", &file]).await?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        names.insert(name.into_owned());
    }
    let wanted = ["etcd"].into_iter().chain(ROLES).chain(["node"]);
    let wanted: BTreeSet<_> = wanted.map(|it| format!("mesh-{it}.nomad.json")).collect();
    ensure(names == wanted, || format!("jobs are {names:?}"))?;
    Ok(format!("{} jobs are valid, no key is in them", names.len()))
}
