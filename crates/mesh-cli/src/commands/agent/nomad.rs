//! The agent as a task of Nomad's: what the job says, Nomad's environment and its catalogue make
//! the configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_agent::{Agent, AppProbe, AppProbeKind, Ports};
use mesh_model::WorkloadPort;
use mesh_nomad::client::{Address, Client, Config, TokenSource};
use mesh_nomad::instances::{Following, Instances};
use mesh_nomad::sidecar::{
    Allocation, ControlPlane, DNS_LABEL, METRICS_LABEL, PortRef, Probe, ProbeKind, Sidecar,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::exit::Failure;
use crate::sidecar::name_servers;

/// The agent of the allocation in whose task this program runs; what follows Nomad for it goes
/// into `tasks`, and ends with them.
pub(super) async fn agent(file: &Path, tasks: &mut JoinSet<()>) -> Result<Agent, Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::doing(format!("reading {name}"), &error))?;
    let sidecar: Sidecar =
        serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let allocation = Allocation::from_variables(variables);
    if allocation.id.is_empty() || allocation.secrets.as_os_str().is_empty() {
        return Err(Failure::usage(
            "this is no task of Nomad's: NOMAD_ALLOC_ID or NOMAD_SECRETS_DIR is missing",
        ));
    }
    let client = client(&allocation)?;
    let state = allocation.state_dir();
    let (control, changes) = follow(&client, &sidecar.mesh_namespace, &state, tasks).await;
    let config = sidecar
        .config(
            &allocation,
            &control,
            upstream_dns(Path::new("/etc/resolv.conf")),
        )
        .map_err(|problems| Failure::usage(problems.to_string()))?;
    let mut ports = Ports::default();
    for (label, port) in [
        ("mesh_health", &mut ports.readiness),
        (DNS_LABEL, &mut ports.dns),
        (METRICS_LABEL, &mut ports.envoy_metrics),
    ] {
        *port = allocation
            .port(&PortRef::Label(label.to_owned()))
            .unwrap_or(*port);
    }
    let probes = sidecar.probes.iter();
    let probes = probes
        .filter_map(|probe| app_probe(probe, &allocation))
        .collect();
    // Nomad lists a group before its tasks have started.
    let services = config.workload.services.iter();
    let app_ports: Vec<u16> = services
        .flat_map(|service| service.ports.iter().map(WorkloadPort::own))
        .collect();
    Ok(Agent::new(config)
        .with_ports(ports)
        .with_app_ports(app_ports)
        .with_app_probes(probes)
        .with_control_plane(changes)
        .with_renewed_token())
}

/// A client of the task's own API, which takes the task's identity.
fn client(allocation: &Allocation) -> Result<Client, Failure> {
    let told = std::env::var("NOMAD_UNIX_ADDR").ok();
    let told = told
        .as_deref()
        .and_then(|text| text.strip_prefix("unix://"));
    let socket = told.map_or_else(|| allocation.secrets.join("api.sock"), PathBuf::from);
    let config = Config {
        token: TokenSource::File(allocation.secrets.join("nomad_token")),
        ..Config::new(Address::Unix(socket))
    };
    Client::new(config).map_err(|error| Failure::doing("making a client of Nomad", &error))
}

/// Follows the control plane's services, from what an earlier run of the agent knew on; gives
/// where they are once an agent can begin with it, and the changes from then on.
///
/// What follows ends with `tasks`.
async fn follow(
    client: &Client,
    namespace: &str,
    state: &Path,
    tasks: &mut JoinSet<()>,
) -> (ControlPlane, watch::Receiver<mesh_agent::ControlPlane>) {
    let mut service = |name: &str| {
        let following = Following::new(client.clone(), namespace, name)
            .kept_in(state.join(format!("{name}.json")));
        let (told, found) = watch::channel(following.kept().unwrap_or_default());
        tasks.spawn(following.run(told));
        found
    };
    let (mut pilot, mut ca) = (service(PILOT), service(CA));
    let mut is_told = false;
    let first = loop {
        let control = current(&mut pilot, &mut ca);
        if control.is_complete() {
            break control;
        }
        if !is_told {
            warn!(namespace, "waiting for the services mesh-pilot and mesh-ca");
            is_told = true;
        }
        either(&mut pilot, &mut ca).await;
    };
    info!(
        pilots = first.pilots.len(),
        cas = first.cas.len(),
        "found the control plane"
    );
    let (told, control) = watch::channel(parsed(&first));
    tasks.spawn(async move {
        loop {
            either(&mut pilot, &mut ca).await;
            let next = current(&mut pilot, &mut ca);
            // Tags may be gone for a moment; what was known last holds.
            if next.is_complete() && told.send(parsed(&next)).is_err() {
                return;
            }
        }
    });
    (first, control)
}

fn current(
    pilot: &mut watch::Receiver<Instances>,
    ca: &mut watch::Receiver<Instances>,
) -> ControlPlane {
    ControlPlane::of(&pilot.borrow_and_update(), &ca.borrow_and_update())
}

/// Waits until one of them changes.
async fn either(pilot: &mut watch::Receiver<Instances>, ca: &mut watch::Receiver<Instances>) {
    let ended = tokio::select! {
        changed = pilot.changed() => changed.is_err(),
        changed = ca.changed() => changed.is_err(),
    };
    if ended {
        // Nobody follows any more: the agent is ending.
        std::future::pending::<()>().await;
    }
}

fn parsed(control: &ControlPlane) -> mesh_agent::ControlPlane {
    let hashes = control.root_hashes.iter();
    mesh_agent::ControlPlane {
        pilots: control.pilots.clone(),
        cas: control.cas.clone(),
        roots: hashes.filter_map(|hash| hash.parse().ok()).collect(),
    }
}

fn app_probe(probe: &Probe, allocation: &Allocation) -> Option<AppProbe> {
    let kind = match probe.kind {
        ProbeKind::Tcp => AppProbeKind::Tcp,
        ProbeKind::Http => AppProbeKind::Http {
            method: probe.method.clone(),
            path: probe.path.clone(),
            headers: probe
                .headers
                .iter()
                .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())))
                .collect(),
            body: probe.body.clone(),
        },
        ProbeKind::Grpc => AppProbeKind::Grpc {
            service: probe.grpc_service.clone(),
        },
        _ => return None,
    };
    let Some(port) = allocation.port(&probe.port) else {
        warn!(
            service = probe.service,
            index = probe.index,
            "a check has a port that Nomad did not tell"
        );
        return None;
    };
    Some(AppProbe {
        service: probe.service.clone(),
        index: probe.index,
        port,
        timeout: Duration::from_millis(probe.timeout_ms.max(1)),
        kind,
    })
}

/// The machine's own name servers.
fn upstream_dns(file: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut servers = name_servers(&text);
    servers.retain(|server| !server.ip().is_unspecified());
    servers
}

/// The service that is Pilot.
const PILOT: &str = "mesh-pilot";

/// The service that is the CA; its tags tell the roots.
const CA: &str = "mesh-ca";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_those_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "search a\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n",
        )
        .unwrap();
        let found = upstream_dns(file.path());
        assert_eq!(
            found,
            [
                "10.0.0.1:53".parse().unwrap(),
                "[2001:db8::1]:53".parse().unwrap()
            ]
        );
    }

    #[tokio::test]
    async fn an_agent_starts_with_what_it_knew_and_follows() {
        let state = tempfile::tempdir().unwrap();
        let root = "ab".repeat(32);
        let keep = |name: &str, port: u16, tags: &[String]| {
            let kept =
                serde_json::json!({ "addresses": [format!("10.0.0.1:{port}")], "tags": tags });
            std::fs::write(state.path().join(format!("{name}.json")), kept.to_string()).unwrap();
        };
        keep(PILOT, 1, &[]);
        keep(CA, 2, &[format!("mesh.root={root}")]);
        let nowhere = format!("unix://{}/none.sock", state.path().display());
        let client = Client::new(Config::new(nowhere.parse().unwrap())).unwrap();
        let mut tasks = JoinSet::new();
        let (first, control) = follow(&client, "mesh-system", state.path(), &mut tasks).await;
        assert_eq!(first.root_hashes, std::slice::from_ref(&root));
        assert_eq!(*control.borrow(), parsed(&first));
    }
}
