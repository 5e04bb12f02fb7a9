//! A cluster of Nomad: the control plane with three members of the store and two of each role, and
//! what becomes of calls from node to node while pieces of it are changed and lost.

mod change;
mod loss;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use mesh_tests::call::Call;
use serde_json::Value;

pub(crate) use self::loss::take_down;
use super::routing::apply;
use crate::e2e::nomad::cluster::Cluster;
use crate::e2e::nomad::{Allocation, allocations, get};
use crate::e2e::world::{Step, World, ensure, eventually};

/// Who calls, from node c1, and whom: one instance on c1 and one on c2.
const CALLER: &str = "productpage-v1";
const SERVICE: &str = "web";
/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nomad's namespace of the control plane.
const SYSTEM: &str = "mesh-system";
/// The roles of the control plane, each a job.
const ROLES: [&str; 4] = ["api", "ca", "pilot", "mixer"];

pub(super) async fn rows(world: &World, cluster: &mut Cluster) {
    let result = install(world, cluster).await;
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
    loss::of_pieces(world, cluster).await;
    change::rows(world, cluster).await;
    loss::of_nodes(world, cluster).await;
}

/// As README has it: programs are downloaded, and then one looks.
async fn install(world: &World, cluster: &Cluster) -> Step<String> {
    let (mesh, etcd) = (cluster.artifact("mesh.tar.gz")?, cluster.artifact("etcd")?);
    let values = [
        ("https://files.example/mesh.tar.gz#sha256:HEX", &mesh[..]),
        ("https://files.example/etcd#sha256:HEX", &etcd),
    ];
    world
        .as_the_page_says(&["mesh nomad install --artifact "], &values)
        .await?;
    let kubeconfig = world.mesh_home().join("kubeconfig").display().to_string();
    let look = [
        "export KUBECONFIG=",
        "kubectl get namespaces",
        "mesh nomad status",
    ];
    let values = [("/var/lib/mesh/kubeconfig", &kubeconfig[..])];
    let said = world.as_the_page_says(&look, &values).await?;
    for expected in [SYSTEM, "istio-system", "mesh-etcd", "mesh-pilot"] {
        ensure(said.contains(expected), || {
            format!("no {expected} in: {said}")
        })?;
    }
    let mut evidence = Vec::new();
    for (job, count) in [
        ("etcd", 3),
        ("api", 2),
        ("ca", 2),
        ("pilot", 2),
        ("mixer", 2),
    ] {
        let nodes = listed(job, count).await?;
        evidence.push(format!("{job} {count} on {} nodes", nodes.len()));
    }
    Ok(evidence.join(", "))
}

/// The nodes of a piece of the control plane, which the catalogue lists so many times.
async fn listed(piece: &str, count: usize) -> Step<BTreeSet<String>> {
    let listed = get(&format!("/v1/service/mesh-{piece}?namespace={SYSTEM}")).await?;
    let listed = listed.as_array().into_iter().flatten();
    let found = listed.clone().count();
    ensure(found == count, || {
        format!("mesh-{piece} has {found} instances, not {count}")
    })?;
    let nodes = listed.filter_map(|it| it.get("NodeID")?.as_str());
    Ok(nodes.map(str::to_owned).collect())
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

/// Injects a job file as README has it, runs it, and waits for its deployment.
async fn run(world: &World, id: &str, text: &str) -> Step<()> {
    let file = world.jobs()?.join(format!("{id}.nomad.hcl"));
    fs::write(&file, text).map_err(|error| error.to_string())?;
    let program = world.bin("mesh").display().to_string();
    let (job, injected) = (format!(" {id}.nomad.hcl"), format!(" {id}.mesh.nomad.hcl"));
    let values = [
        ("/usr/local/bin/mesh", &program[..]),
        (" web.nomad.hcl", &job),
        (" web.mesh.nomad.hcl", &injected),
    ];
    world
        .as_the_page_says(&["mesh inject ", "nomad job run "], &values)
        .await
        .map(drop)
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
