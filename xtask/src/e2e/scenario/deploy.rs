//! The sample: deployed through sidecar injection, each application after its sidecar and rules.

pub(super) mod nomad;

use std::time::Duration;

use futures_util::future::join_all;
use mesh_tests::control::Command;
use serde_json::Value;

use super::control_plane::unit;
use crate::Ground;
use crate::e2e::world::{Step, World, ensure, eventually};

/// One instance of the sample.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Its name, and the group's.
    pub(crate) name: &'static str,
    /// Service and account.
    pub(crate) service: &'static str,
    pub(crate) version: &'static str,
    /// What it calls.
    pub(crate) calls: &'static [&'static str],
}

/// The user that applications run as.
const USER: &str = "1000";

/// Those who are called come first, so that a first call finds somebody.
pub(crate) const INSTANCES: [Instance; 6] = [
    Instance {
        name: "details-v1",
        service: "details",
        version: "v1",
        calls: &[],
    },
    Instance {
        name: "ratings-v1",
        service: "ratings",
        version: "v1",
        calls: &[],
    },
    Instance {
        name: "reviews-v1",
        service: "reviews",
        version: "v1",
        calls: &[],
    },
    Instance {
        name: "reviews-v2",
        service: "reviews",
        version: "v2",
        calls: &["http://ratings:9080/ratings"],
    },
    Instance {
        name: "reviews-v3",
        service: "reviews",
        version: "v3",
        calls: &["http://ratings:9080/ratings"],
    },
    Instance {
        name: "productpage-v1",
        service: "productpage",
        version: "v1",
        calls: &["http://details:9080/details", "http://reviews:9080/reviews"],
    },
];

/// Deploys the sample; false if nothing further makes sense.
pub(crate) async fn sample(world: &World) -> bool {
    let (called, calling) = INSTANCES.split_at(INSTANCES.len() - 1);
    for together in [called, calling] {
        if world.ground() == Ground::Nomad {
            if let Err(why) = nomad::run(world, together).await {
                return world.record("the sample is deployed with its sidecars", Err(why));
            }
            continue;
        }
        let started = join_all(together.iter().map(|instance| start(world, instance))).await;
        for (instance, result) in together.iter().zip(started) {
            if let Err(why) = result {
                let promise = format!("{} is deployed with its sidecar", instance.name);
                return world.record(&promise, Err(why));
            }
        }
    }
    let order = order(world).await;
    let first = first_call(world).await;
    world.record(
        "rules before sidecar, sidecar live before the application",
        order,
    );
    world.record(
        "an application's first instruction connects, through its sidecar",
        first,
    )
}

async fn start(world: &World, instance: &Instance) -> Step<()> {
    let Instance {
        name,
        service,
        version,
        calls,
    } = instance;
    let echo = world.bin("mesh-echo").display().to_string();
    let control = world.socket(name).display().to_string();
    let label = format!("version={version}");
    let app = format!("app={service}");
    let marker = format!("meshed-{name}-secret");
    let first = first_url(instance);
    let mut arguments = vec![
        "run",
        "--detach",
        "--name",
        name,
        "--namespace",
        "default",
        "--service-account",
        service,
        "--service",
        service,
        "--port",
        "http:9080",
        "--label",
        &label,
        "--label",
        &app,
        "--user",
        USER,
    ];
    let placed = world.placed();
    arguments.extend(placed.iter().map(String::as_str));
    arguments.extend([
        "--",
        &echo,
        "--name",
        service,
        "--version",
        version,
        "--control",
        &control,
        "--marker",
        &marker,
    ]);
    if *service == "productpage" {
        arguments.extend(["--first-call", &first]);
    }
    for call in *calls {
        arguments.extend(["--call", call]);
    }
    world.mesh(&arguments).await?;
    let socket = world.socket(name);
    eventually(Duration::from_secs(10), || async {
        ensure(socket.exists(), || format!("{name} made no control socket"))
    })
    .await
    .map(drop)
}

/// What an instance calls first. Its own service, known as soon as its own sidecar is, unless it calls
/// others.
fn first_url(instance: &Instance) -> String {
    let Instance { name, service, .. } = instance;
    let called = match *service {
        "productpage" => "details",
        service => service,
    };
    format!("http://{called}:9080/only/first-{name}")
}

/// Redis as a job of Nomad's.
pub(super) async fn run_redis_on_nomad(world: &World, command: &[&str]) -> Step<()> {
    nomad::run_redis(world, command).await
}

/// Start times as the engine recorded them.
async fn order(world: &World) -> Step<String> {
    if world.ground() == Ground::Nomad {
        return nomad::order(world).await;
    }
    let status = world.mesh_json(&["status"]).await?;
    let mut evidence = Vec::new();
    for Instance { name, .. } in &INSTANCES {
        let group = status
            .get("groups")
            .and_then(Value::as_array)
            .and_then(|groups| {
                groups
                    .iter()
                    .find(|g| g.get("name").and_then(Value::as_str) == Some(name))
            })
            .ok_or_else(|| format!("`mesh status` knows no group {name}"))?;
        let time = |value: &Value, key: &str| {
            value
                .get(key)
                .and_then(Value::as_f64)
                .ok_or_else(|| format!("{name}: no `{key}` in {value}"))
        };
        let rules = time(group, "rules_applied_at")?;
        let sidecar = unit(&status, name, "sidecar")?;
        let (started, ready) = (time(sidecar, "started_at")?, time(sidecar, "ready_at")?);
        let app = time(unit(&status, name, "app")?, "started_at")?;
        let took = in_order(name, [rules, started, ready, app])?;
        evidence.push(format!("{name} {took}"));
    }
    Ok(format!(
        "sidecar start/live/application after the rules: {}",
        evidence.join(", ")
    ))
}

/// That the rules were there before the sidecar, and the application after it was live; how long
/// after the rules each came. Times are in seconds, in that order.
fn in_order(name: &str, [rules, started, ready, app]: [f64; 4]) -> Step<String> {
    ensure(rules <= started && started <= ready && ready <= app, || {
        format!("{name}: rules {rules}, sidecar {started}, live {ready}, application {app}")
    })?;
    Ok(format!(
        "+{:.0}/+{:.0}/+{:.0} ms",
        (started - rules) * 1000.0,
        (ready - rules) * 1000.0,
        (app - rules) * 1000.0
    ))
}

/// The call that productpage made before it did anything else.
async fn first_call(world: &World) -> Step<String> {
    let name = "productpage-v1";
    let first = world.tell(name, &Command::First).await?;
    let status = first.get("status").and_then(Value::as_u64);
    ensure(status == Some(200), || {
        format!("the first call came to {first}")
    })?;
    let path = "/only/first-productpage-v1";
    let (line, _) = eventually(Duration::from_secs(5), || async {
        let log = world.sidecar_log(name).await?;
        let line = log
            .lines()
            .find(|line| line.contains(path))
            .map(str::to_owned);
        line.ok_or_else(|| format!("the sidecar's log has no line with {path}"))
    })
    .await?;
    Ok(format!("answered 200; the sidecar logged: {line}"))
}
