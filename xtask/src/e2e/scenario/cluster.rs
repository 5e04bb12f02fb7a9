//! A cluster of Nomad: the control plane with three members of the store and two of each role, and
//! what becomes of calls from node to node while pieces of it are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use mesh_tests::call::{Call, LoadReport};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::control_plane::under_load_on;
use super::routing::apply;
use crate::e2e::nomad::cluster::{CLIENTS, Cluster, SERVERS, leader, ready};
use crate::e2e::nomad::{Allocation, allocations, get};
use crate::e2e::world::{Step, World, ensure, eventually};

/// Who calls, from node c1, and whom: one instance on c1 and one on c2.
const CALLER: &str = "productpage-v1";
const SERVICE: &str = "web";
/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many answers in a row say that nothing fails any more.
const WELL: u32 = 200;
/// Nomad's namespace of the control plane.
const SYSTEM: &str = "mesh-system";

pub(super) async fn rows(world: &World, cluster: &mut Cluster) {
    let result = install(world).await;
    if !world.record(
        "`mesh nomad install`: three members of etcd, two of each role, three nodes prepared",
        result,
    ) {
        return;
    }
    let result = deploy(world).await;
    if !world.record(
        "calls from node to node, through host ports, under mutual TLS; plaintext is refused",
        result,
    ) {
        return;
    }
    let result = leader_killed(world, cluster).await;
    world.record(
        "the leading server killed under load: no failed request",
        result,
    );
    for role in ["api", "pilot", "ca", "mixer"] {
        let result = role_killed(world, role).await;
        let promise = format!("one of two {role} killed under load: no failed request");
        world.record(&promise, result);
    }
    let result = drained(world).await;
    world.record("a node drained under load: no failed request", result);
    let result = client_killed(world, cluster).await;
    world.record(
        "a node lost under load: what failed is in flight or before ejection",
        result,
    );
}

async fn install(world: &World) -> Step<String> {
    let program = world.bin("mesh").display().to_string();
    let etcd = world.bin("etcd").display().to_string();
    let words = ["nomad", "install", "--program", &program];
    world
        .mesh(&[&words[..], &["--etcd-program", &etcd]].concat())
        .await?;
    let mut evidence = Vec::new();
    for (job, count) in [
        ("etcd", 3),
        ("api", 2),
        ("ca", 2),
        ("pilot", 2),
        ("mixer", 2),
    ] {
        let listed = get(&format!("/v1/service/mesh-{job}?namespace={SYSTEM}")).await?;
        let listed = listed.as_array().into_iter().flatten();
        let nodes: BTreeSet<_> = listed
            .clone()
            .filter_map(|it| it.get("NodeID")?.as_str())
            .collect();
        let found = listed.count();
        ensure(found == count, || {
            format!("mesh-{job} has {found} instances, not {count}")
        })?;
        evidence.push(format!("{job} {found} on {} nodes", nodes.len()));
    }
    Ok(evidence.join(", "))
}

/// A job file of one group of processes.
fn job(world: &World, id: &str, group: &str, count: u32, extra: &str, words: &[String]) -> String {
    let echo = world.bin("mesh-echo").display().to_string();
    format!(
        r#"job "{id}" {{
  group "{group}" {{
    count = {count}
    shutdown_delay = "3s"
{extra}
    network {{
      mode = "bridge"
      port "http" {{
        to = 9080
      }}
    }}
    service {{
      provider = "nomad"
      name = "{id}"
      port = "http"
      check {{
        type = "http"
        path = "/only"
        interval = "2s"
        timeout = "2s"
      }}
    }}
    update {{
      max_parallel = 1
      min_healthy_time = "1s"
      healthy_deadline = "3m"
      progress_deadline = "4m"
    }}
    restart {{
      delay = "1s"
      mode = "delay"
    }}
    reschedule {{
      delay = "5s"
      delay_function = "constant"
      unlimited = true
    }}
    task "app" {{
      driver = "raw_exec"
      user = "nobody"
      config {{
        command = "{echo}"
        args = {words:?}
      }}
      resources {{
        cpu = 50
        memory = 64
      }}
    }}
  }}
}}
"#
    )
}

/// Injects a job file as a person does, runs it, and waits for its deployment.
async fn run(world: &World, id: &str, text: &str) -> Step<()> {
    let io = |error: std::io::Error| error.to_string();
    let directory = world.home().join("jobs");
    fs::create_dir_all(&directory).map_err(io)?;
    let file = directory.join(format!("{id}.nomad.hcl"));
    fs::write(&file, text).map_err(io)?;
    let program = world.bin("mesh").display().to_string();
    let file = file.display().to_string();
    let injected = world
        .mesh(&["inject", "--mode", "cni", "--program", &program, &file])
        .await?;
    let file = file.replace(".nomad.hcl", ".injected.nomad.hcl");
    fs::write(&file, injected).map_err(io)?;
    world.nomad(&["job", "run", &file]).await.map(drop)
}

/// Runs the service, one instance on each of the two nodes.
async fn run_service(world: &World, version: &str) -> Step<()> {
    let extra = r#"    constraint {
      attribute = "${node.unique.name}"
      operator = "regexp"
      value = "^c[12]$"
    }
    spread {
      attribute = "${node.unique.id}"
    }"#;
    let words = [format!("--name={SERVICE}"), format!("--version={version}")];
    let text = job(world, SERVICE, SERVICE, 2, extra, &words);
    run(world, SERVICE, &text).await
}

async fn deploy(world: &World) -> Step<String> {
    run_service(world, "v1").await?;
    let extra = r#"    constraint {
      attribute = "${node.unique.name}"
      value = "c1"
    }"#;
    let socket = world.socket(CALLER).display().to_string();
    let words = [
        "--name=productpage".to_owned(),
        format!("--control={socket}"),
    ];
    let text = job(world, "productpage", "v1", 1, extra, &words);
    run(world, "productpage", &text).await?;
    apply(world, "web-no-retries.yaml").await?;
    let (nodes, _) = eventually(PATIENCE, || on_nodes(2)).await?;
    // Both instances answer, and each has seen the caller's certificate.
    let answered = || async {
        let call = Call::get(&format!("http://{SERVICE}:9080/only"));
        let outcome = world.call(CALLER, call).await?;
        ensure(outcome.status == 200, || format!("{outcome:?}"))?;
        Ok::<_, String>(outcome.body)
    };
    for _ in 0..40 {
        let (body, _) = eventually(PATIENCE, answered).await?;
        let header = body.pointer("/headers/x-forwarded-client-cert");
        let header = header.and_then(Value::as_str).unwrap_or_default();
        let expected = "URI=spiffe://cluster.local/ns/default/sa/productpage";
        ensure(header.contains(expected), || {
            format!("the caller was not seen: {body}")
        })?;
    }
    let (logged, _) = eventually(PATIENCE, || logged(world)).await?;
    let mut refused = 0;
    for (address, port) in addresses().await? {
        let plain = mesh_tests::call::once(Call::get(&format!("http://{address}:{port}/only")));
        let plain = plain.await;
        ensure(plain.status == 0, || {
            format!("plaintext was answered: {plain:?}")
        })?;
        refused += 1;
    }
    Ok(format!(
        "caller on c1; calls that instances logged: {logged:?}; caller's certificate seen in 40 of 40; {refused} calls in plaintext to {nodes:?} refused"
    ))
}

/// The calls of the caller that the sidecar of each instance has logged, by node; each has some.
async fn logged(world: &World) -> Step<BTreeMap<String, usize>> {
    let mut logged = BTreeMap::new();
    for it in allocations("default", SERVICE, SERVICE).await? {
        let node = it
            .says
            .get("NodeName")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let file = format!("{node}/alloc/{}/alloc/logs/mesh-proxy.stdout.0", it.id);
        let log = fs::read_to_string(world.home().join(&file));
        let log = log.map_err(|error| format!("{file}: {error}"))?;
        let calls = log.lines().filter(|line| line.contains("/sa/productpage"));
        let calls = calls.count();
        ensure(calls > 0, || format!("{node} has logged no call"))?;
        logged.insert(node.to_owned(), calls);
    }
    Ok(logged)
}

/// Where the catalogue says that instances are.
async fn addresses() -> Step<Vec<(String, u64)>> {
    let listed = get(&format!("/v1/service/{SERVICE}")).await?;
    let listed = listed.as_array().into_iter().flatten();
    let address = |it: &Value| {
        let address = it.get("Address")?.as_str()?.to_owned();
        Some((address, it.get("Port")?.as_u64()?))
    };
    Ok(listed.filter_map(address).collect())
}

/// Two instances run, are listed and ready, on so many nodes; on which.
async fn on_nodes(count: usize) -> Step<BTreeSet<String>> {
    let running = allocations("default", SERVICE, SERVICE).await?;
    let listed = addresses().await?;
    let node = |it: &Allocation| it.says.get("NodeName")?.as_str().map(str::to_owned);
    let nodes: BTreeSet<_> = running.iter().filter_map(node).collect();
    let is_well = running.len() == 2 && listed.len() == 2 && nodes.len() == count;
    ensure(is_well, || {
        format!(
            "{} run on {nodes:?}, {} are listed",
            running.len(),
            listed.len()
        )
    })?;
    Ok(nodes)
}

async fn leader_killed(world: &World, cluster: &mut Cluster) -> Step<String> {
    let event = async {
        let old = leader().await?;
        cluster.kill_agent(old).await?;
        let another = || async {
            let new = leader().await?;
            ensure(new != old, || format!("{old} still leads"))?;
            Ok(new)
        };
        let (new, took) = eventually(PATIENCE, another).await?;
        cluster.start_agent(old)?;
        eventually(PATIENCE, || ready(CLIENTS.len())).await?;
        Ok::<_, String>(format!(
            "{old} led, {new} leads after {:.1} s",
            took.as_secs_f64()
        ))
    };
    let (load, killed) = under_load_on(world, "leader", SERVICE, event).await;
    Ok(format!("{}; {}", killed?, load?))
}

async fn role_killed(world: &World, role: &'static str) -> Step<String> {
    let job = format!("mesh-{role}");
    let event = async {
        let pids = |all: &[Allocation]| -> Step<BTreeSet<u64>> {
            all.iter().map(|it| it.process(role, "mesh")).collect()
        };
        let before = allocations(SYSTEM, &job, role).await?;
        let before = pids(&before)?;
        ensure(before.len() == 2, || format!("{before:?} run, not two"))?;
        let victim = before.first().copied().unwrap_or_default();
        let pid = i32::try_from(victim).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or("no pid")?;
        kill_process(pid, Signal::KILL).map_err(|errno| errno.to_string())?;
        let again = || async {
            let found = pids(&allocations(SYSTEM, &job, role).await?)?;
            ensure(found.len() == 2 && !found.contains(&victim), || {
                format!("{found:?} run")
            })?;
            Ok(found)
        };
        let (after, took) = eventually(PATIENCE, again).await?;
        let after: Vec<_> = after.difference(&before).collect();
        let took = took.as_secs_f64();
        Ok::<_, String>(format!(
            "{victim} was killed, {after:?} runs after {took:.1} s"
        ))
    };
    let (load, killed) = under_load_on(world, role, SERVICE, event).await;
    Ok(format!("{}; {}", killed?, load?))
}

async fn drained(world: &World) -> Step<String> {
    let event = async {
        let node = node("c2").await?;
        world
            .nomad(&["node", "drain", "-enable", "-yes", "-ignore-system", &node])
            .await?;
        let (nodes, took) = eventually(PATIENCE, || on_nodes(1)).await?;
        ensure(!nodes.contains("c2"), || {
            format!("instances are on {nodes:?}")
        })?;
        world
            .nomad(&["node", "drain", "-disable", "-yes", &node])
            .await?;
        Ok::<_, String>(format!(
            "both on {nodes:?} after {:.1} s",
            took.as_secs_f64()
        ))
    };
    let (load, drained) = under_load_on(world, "drain", SERVICE, event).await;
    Ok(format!("{}; {}", drained?, load?))
}

/// The ID of a node.
async fn node(name: &str) -> Step<String> {
    let nodes = get("/v1/nodes").await?;
    let mut nodes = nodes.as_array().into_iter().flatten();
    let found = nodes.find(|node| node.get("Name").and_then(Value::as_str) == Some(name));
    let id = found.and_then(|node| node.get("ID")?.as_str());
    id.map(str::to_owned)
        .ok_or_else(|| format!("there is no node {name}"))
}

/// What nothing can prevent: requests that are on the lost node, or sent to it until its sidecars
/// are ejected. Afterwards nothing fails.
async fn client_killed(world: &World, cluster: &mut Cluster) -> Step<String> {
    run_service(world, "v2").await?;
    eventually(PATIENCE, || on_nodes(2)).await?;
    let stop = world.home().join("control").join("stop-node");
    let load = super::control_plane::load_until(&format!("http://{SERVICE}:9080/only"), &stop);
    let drive = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.cut_power("c2").await?;
        let (_, took) = eventually(PATIENCE, || on_nodes(1)).await?;
        fs::write(&stop, "").map_err(|error| error.to_string())?;
        Ok::<_, String>((took, Instant::now()))
    };
    let (report, took) = tokio::join!(world.load(CALLER, load), drive);
    let (report, (took, replaced)): (LoadReport, _) = (report?, took?);
    // How long the lost instance is called still, although Nomad's catalogue has another.
    let call = Call::get(&format!("http://{SERVICE}:9080/only"));
    let mut failed = 0;
    let (mut well, mut since) = (0, replaced);
    while well < WELL {
        let outcome = world.call(CALLER, call.clone()).await?;
        if outcome.status == 200 {
            well += 1;
            continue;
        }
        failed += 1;
        (well, since) = (0, Instant::now());
        ensure(replaced.elapsed() < PATIENCE, || {
            format!("{failed} requests failed after the loss; during it: {report:?}")
        })?;
    }
    ensure(report.requests >= 1000, || format!("{report:?}"))?;
    Ok(format!(
        "{} of {} requests failed ({:?}) until both instances ran on one node again after {:.1} s, and {failed} more in the {:.1} s after that; then 0 of {WELL}",
        report.failed(),
        report.requests,
        report.by_status,
        took.as_secs_f64(),
        (since - replaced).as_secs_f64()
    ))
}

/// Takes every job and the mesh away, and looks for what is left in Nomad.
pub(crate) async fn take_down(world: &World) -> Step<String> {
    let jobs = get("/v1/jobs?namespace=default").await?;
    for job in jobs.as_array().into_iter().flatten() {
        let id = job.get("ID").and_then(Value::as_str).unwrap_or_default();
        world.nomad(&["job", "stop", "-purge", id]).await?;
    }
    let said = world.mesh(&["nomad", "uninstall", "--purge-data"]).await?;
    let gone = || async {
        for (path, key) in [
            ("/v1/jobs?namespace=*", "ID"),
            ("/v1/vars?namespace=*", "Path"),
            ("/v1/namespaces", "Name"),
        ] {
            let listed = get(path).await?;
            for item in listed.as_array().into_iter().flatten() {
                let name = item.get(key).and_then(Value::as_str).unwrap_or_default();
                ensure(name == "default", || format!("{path} has {name}"))?;
            }
        }
        Ok(())
    };
    eventually(PATIENCE, gone).await?;
    Ok(format!(
        "{} servers have no job, variable or namespace of it; {}",
        SERVERS.len(),
        said.trim().replace('\n', "; ")
    ))
}
