//! Modes without a plugin: `explicit` and `host-exclusive`.

use std::time::Duration;

use mesh_tests::call::Call;
use serde_json::Value;

use super::text;
use crate::e2e::nomad::{Group, Job, Runs, Service, Task, allocation, get};
use crate::e2e::world::{Step, World, ensure, eventually};

/// How long a change may take to reach every sidecar.
const SOON: Duration = Duration::from_secs(20);

pub(super) async fn rows(world: &World) {
    let result = explicit(world).await;
    world.record(
        "mode explicit, without any privilege: calls and is called by mutual TLS",
        result,
    );
    let result = exclusive(world).await;
    world.record(
        "mode host-exclusive: a process of the host is meshed, a second such group is not placed",
        result,
    );
}

/// A job of one process, which is told what to do by a socket.
fn job(world: &World, id: &'static str, network: &'static str, user: &'static str) -> Job {
    let port = if network == "host" { 9091 } else { 9080 };
    let listen = if network == "host" {
        "0.0.0.0"
    } else {
        "127.0.0.1"
    };
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
                port,
                tags: Vec::new(),
                check: Some("/only"),
            },
            task: Task {
                runs: Runs::RawExec,
                user,
                command: vec![
                    world.bin("mesh-echo").display().to_string(),
                    format!("--name={id}"),
                    format!("--listen={listen}:{port}"),
                    format!("--control={}", world.socket(id).display()),
                ],
                env: Vec::new(),
                template: None,
            },
        }],
    }
}

/// Who a server's sidecar says that a call is from.
async fn caller(world: &World, instance: &str, url: &str) -> Step<String> {
    let outcome = world.call(instance, Call::get(url)).await?;
    ensure(outcome.status == 200, || {
        format!(
            "{instance} → {url}: {} {:?} {}",
            outcome.status, outcome.error, outcome.body
        )
    })?;
    let xfcc = text(&outcome.body, "/headers/x-forwarded-client-cert");
    let uri = xfcc
        .split([';', ','])
        .find_map(|part| part.strip_prefix("URI="));
    uri.map(str::to_owned)
        .ok_or_else(|| format!("{instance} → {url}: no verified caller: {}", outcome.body))
}

async fn calls(world: &World, instance: &str, account: &str, url: &str) -> Step<()> {
    let wanted = format!("spiffe://cluster.local/ns/default/sa/{account}");
    let called = || async {
        let found = caller(world, instance, url).await?;
        ensure(found == wanted, || {
            format!("{instance} → {url}: by `{found}`")
        })
    };
    eventually(SOON, called).await.map(drop)
}

/// The application calls a port of loopback, and is called at a port of its sidecar.
async fn explicit(world: &World) -> Step<String> {
    const JOB: &str = "explicit";
    let mut job = job(world, JOB, "bridge", "nobody");
    for group in &mut job.groups {
        group.meta = vec![("mesh.upstreams", "details:9080".to_owned())];
    }
    world.run_job(&job, "explicit").await?;
    calls(world, JOB, JOB, "http://127.0.0.1:15200/only").await?;
    calls(
        world,
        "productpage-v1",
        "productpage",
        "http://explicit:9080/only",
    )
    .await?;
    // No rule is set: another call leaves as it is, in the clear, and is refused by the sidecar of
    // details.
    let allocation = allocation("default", JOB, JOB).await?;
    let details = crate::e2e::nomad::instance("details-v1").await?.address()?;
    let clear = world
        .call(JOB, Call::get(&format!("http://{details}:9080/only")))
        .await?;
    ensure(clear.status == 0, || {
        format!("details answers a call in the clear with {}", clear.status)
    })?;
    let tasks = allocation.says.pointer("/TaskStates");
    let tasks: Vec<_> = tasks
        .and_then(Value::as_object)
        .map(|tasks| tasks.keys().cloned().collect())
        .unwrap_or_default();
    ensure(!tasks.iter().any(|task| task == "mesh-guard"), || {
        format!("there is a guard: {tasks:?}")
    })?;
    world.nomad(&["job", "stop", "-purge", JOB]).await?;
    Ok(format!(
        "tasks {}; 127.0.0.1:15200 is details, called as {JOB}; productpage calls {JOB}; round the sidecar details refuses",
        tasks.join(", ")
    ))
}

/// One such group fits on a node, by the ports of its proxy, over all jobs.
async fn exclusive(world: &World) -> Step<String> {
    const FIRST: &str = "host-one";
    const SECOND: &str = "host-two";
    let of = |id, user| {
        let mut job = job(world, id, "host", user);
        for group in &mut job.groups {
            let uid = if user == "daemon" { "1" } else { "2" };
            group.meta = vec![("mesh.include_uids", uid.to_owned())];
        }
        job
    };
    let before = tables().await?;
    world
        .run_job(&of(FIRST, "daemon"), "host-exclusive")
        .await?;
    calls(world, FIRST, FIRST, "http://details:9080/only").await?;
    let url = format!("http://{FIRST}:9091/only");
    calls(world, "productpage-v1", "productpage", &url).await?;

    let mut second = of(SECOND, "bin");
    for group in &mut second.groups {
        // Its own port is free: what clashes are those of the proxy.
        group.service.port = 9092;
    }
    let file = world.inject_job(&second, "host-exclusive").await?;
    world.nomad(&["job", "run", "-detach", &file]).await?;
    let blocked = || async {
        let evaluations = get(&format!("/v1/job/{SECOND}/evaluations")).await?;
        let evaluations = evaluations.as_array().cloned().unwrap_or_default();
        let exhausted = evaluations.iter().find_map(|evaluation| {
            let metric = evaluation.pointer(&format!("/FailedTGAllocs/{SECOND}"))?;
            let dimensions = metric.get("DimensionExhausted")?.as_object()?;
            Some(dimensions.keys().cloned().collect::<Vec<_>>().join(", "))
        });
        exhausted.ok_or_else(|| format!("nothing was refused: {evaluations:?}"))
    };
    let (why, _) = eventually(SOON, blocked).await?;
    let placed = get(&format!("/v1/job/{SECOND}/allocations")).await?;
    ensure(placed.as_array().is_some_and(Vec::is_empty), || {
        format!("the second group is placed: {placed}")
    })?;
    // The control: once the first is gone the second is placed.
    world.nomad(&["job", "stop", "-purge", FIRST]).await?;
    let runs = || allocation("default", SECOND, SECOND);
    eventually(Duration::from_secs(60), runs).await?;
    world.nomad(&["job", "stop", "-purge", SECOND]).await?;
    let clean = || async {
        let after = tables().await?;
        ensure(before == after, || {
            format!("rules of the host were {before:?} and are {after:?}")
        })
    };
    eventually(Duration::from_secs(60), clean).await?;
    Ok(format!(
        "{FIRST} calls details and is called by productpage; {SECOND} waits ({why}), and is placed once {FIRST} is gone; no rule is left on the host"
    ))
}

/// The mesh's tables in the host's own network.
async fn tables() -> Step<Vec<String>> {
    let output = tokio::process::Command::new("nft")
        .args(["list", "tables"])
        .output()
        .await
        .map_err(|error| error.to_string())?;
    ensure(output.status.success(), || "nft lists no tables".to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let ours = text.lines().filter(|line| line.contains("mesh"));
    Ok(ours.map(str::to_owned).collect())
}
