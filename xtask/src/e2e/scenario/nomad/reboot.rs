//! The node reboots: nothing orders its tasks then, so applications may be up before their sidecars.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use mesh_tests::echo::{self, Instance};
use tokio::net::TcpListener;

use super::insisted;
use crate::e2e::nomad::{Group, Job, Lab, NODE, Runs, Service, Task, instance};
use crate::e2e::world::{Step, World, ensure, eventually};

/// How long a node may take until everything on it runs again.
const PATIENCE: Duration = Duration::from_secs(150);
/// Where a server listens that is not of the mesh.
const PORT: u16 = 9999;

pub(super) async fn survived(world: &World, lab: &mut Lab) -> Step<String> {
    // It lives in the scenario, so that it is there while the node is not.
    let outside = TcpListener::bind((NODE, PORT)).await;
    let outside = outside.map_err(|error| error.to_string())?;
    let server = tokio::spawn(echo::serve(
        outside,
        Instance {
            name: "outside".to_owned(),
            version: "v1".to_owned(),
            calls: Vec::new(),
            marker: "none".to_owned(),
            seen: Mutex::new(BTreeMap::new()),
        },
    ));
    let result = rebooted(world, lab).await;
    server.abort();
    result
}

async fn rebooted(world: &World, lab: &mut Lab) -> Step<String> {
    const MESHED: &str = "early";
    const BARE: &str = "bare";
    world.run_job(&job(world, MESHED, "bridge"), "cni").await?;
    // The control: the same without a sidecar, in the same network.
    let bare = world.job_file(&job(world, BARE, "cni/mesh"))?;
    world.nomad(&["job", "run", &bare]).await?;
    let before = insisted(world, MESHED).await?;
    ensure(before.refused == 0, || {
        format!("held until its sidecar was ready, {MESHED} was refused: {before:?}")
    })?;

    for name in [MESHED, BARE] {
        drop(std::fs::remove_file(world.socket(name)));
    }
    let start = std::time::Instant::now();
    lab.reboot().await?;
    let again = || insisted(world, MESHED);
    let (meshed, _) = eventually(PATIENCE, again).await?;
    let took = start.elapsed();
    let bare = insisted(world, BARE).await?;
    ensure(meshed.refused > 0, || {
        format!("{MESHED} came after its sidecar, so that nothing is proved: {meshed:?}")
    })?;
    ensure(bare.refused == 0, || {
        format!("without rules {BARE} was refused too: {bare:?}")
    })?;
    // What left went through the sidecar, and is in its log: one line for each boot.
    let called = format!("to={NODE}:{PORT} ");
    let logged = || async {
        let log = instance(MESHED).await?.log(world.home(), "mesh-proxy")?;
        let lines = log.lines().filter(|line| line.contains(&called)).count();
        ensure(lines == 2, || {
            format!("the sidecar's log has {lines} lines of the first call, not 2")
        })
    };
    eventually(Duration::from_secs(10), logged).await?;
    Ok(format!(
        "{MESHED}: refused {} times, then answered through its sidecar {:.1} s after the reboot; {BARE}, without a sidecar: answered at its first attempt",
        meshed.refused,
        took.as_secs_f64()
    ))
}

/// A process whose first instructions call a server outside the mesh until it is answered.
fn job(world: &World, id: &str, network: &'static str) -> Job {
    Job {
        id: id.to_owned(),
        groups: vec![Group {
            name: id.to_owned(),
            count: 1,
            network,
            meta: Vec::new(),
            service: Service {
                name: id.to_owned(),
                protocol: "http",
                port: 9080,
                tags: Vec::new(),
                check: Some("/only"),
            },
            task: Task {
                runs: Runs::RawExec,
                user: "nobody",
                command: vec![
                    world.bin("mesh-echo").display().to_string(),
                    format!("--name={id}"),
                    format!("--control={}", world.socket(id).display()),
                    format!("--first-call=http://{NODE}:{PORT}/only/first-{id}"),
                    "--insist".to_owned(),
                ],
                env: Vec::new(),
                template: None,
            },
        }],
    }
}
