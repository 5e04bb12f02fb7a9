//! The sample as Nomad jobs: a service is a job, a version a group of it, some are containers and
//! some processes.

use futures_util::future::join_all;

use super::{INSTANCES, Instance, first_url};
use crate::e2e::nomad::{Group, Job, Runs, Service, Task, instance};
use crate::e2e::world::{Step, World};

/// How an instance is run: each driver calls the other and is called by it.
fn is_process(name: &str) -> bool {
    matches!(name, "ratings-v1" | "reviews-v2" | "redis")
}

/// Runs the job of each service of `together`.
pub(super) async fn run(world: &World, together: &[Instance]) -> Step<()> {
    let mut services: Vec<_> = together.iter().map(|it| it.service).collect();
    services.dedup();
    let jobs = services.iter().map(|service| async move {
        let of_service = INSTANCES.iter().filter(|it| it.service == *service);
        let job = Job {
            id: (*service).to_owned(),
            groups: of_service.map(|it| group(world, it)).collect(),
        };
        world.run_job(&job, "cni").await
    });
    join_all(jobs).await.into_iter().collect()
}

/// Runs the job of Redis.
pub(super) async fn run_redis(world: &World, command: &[&str]) -> Step<()> {
    let group = Group {
        name: "redis".to_owned(),
        count: 1,
        network: "bridge",
        meta: Vec::new(),
        service: Service {
            name: "redis".to_owned(),
            protocol: "tcp",
            port: 6379,
            tags: Vec::new(),
            check: None,
        },
        task: Task {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            ..task(world, "redis")
        },
    };
    let job = Job {
        id: "redis".to_owned(),
        groups: vec![group],
    };
    world.run_job(&job, "cni").await
}

/// A task that runs beside the others on the machine, as the instance of this name does.
pub(crate) fn task(world: &World, name: &str) -> Task {
    let (runs, user) = if is_process(name) {
        (Runs::RawExec, "nobody")
    } else {
        (Runs::docker(world), super::USER)
    };
    Task {
        runs,
        user,
        command: Vec::new(),
        env: Vec::new(),
        template: None,
    }
}

fn group(world: &World, instance: &Instance) -> Group {
    let Instance {
        name,
        service,
        version,
        calls,
    } = instance;
    let mut command = vec![
        world.bin("mesh-echo").display().to_string(),
        format!("--name={service}"),
        format!("--version={version}"),
        format!("--control={}", world.socket(name).display()),
        format!("--marker=meshed-{name}-secret"),
    ];
    if *service == "productpage" {
        command.push(format!("--first-call={}", first_url(instance)));
    }
    command.extend(calls.iter().map(|call| format!("--call={call}")));
    Group {
        name: (*version).to_owned(),
        count: 1,
        network: "bridge",
        meta: vec![("mesh.labels", format!("version={version},app={service}"))],
        service: Service {
            name: (*service).to_owned(),
            protocol: "http",
            port: 9080,
            tags: Vec::new(),
            check: Some("/only"),
        },
        task: Task {
            command,
            ..task(world, name)
        },
    }
}

/// Start times as Nomad recorded them, and the time at which the CNI chain had ended.
pub(super) async fn order(world: &World) -> Step<String> {
    let mut evidence = Vec::new();
    for Instance { name, .. } in &INSTANCES {
        let allocation = instance(name).await?;
        let rules = world.chain_ended(&allocation)?;
        let started = allocation.event("mesh-proxy", "Started")?;
        let ready = allocation.event("mesh-ready", "Terminated")?;
        let app = allocation.event("app", "Started")?;
        let took = super::in_order(name, [rules, started, ready, app])?;
        let driver = if is_process(name) {
            "raw_exec"
        } else {
            "docker"
        };
        evidence.push(format!("{name} ({driver}) {took}"));
    }
    Ok(format!(
        "sidecar start/live/application after `mesh-cni` had set the rules: {}",
        evidence.join(", ")
    ))
}
