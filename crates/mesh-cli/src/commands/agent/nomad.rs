//! The agent as a task of Nomad's: what the job says, Nomad's environment and its catalogue make
//! the configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_agent::{Agent, AppProbe, AppProbeKind, Ports};
use mesh_nomad::client::{Address, Client, Config, TokenSource};
use mesh_nomad::model::registration::Registration;
use mesh_nomad::sidecar::{Allocation, ControlPlane, PortRef, Probe, ProbeKind, ROOT_TAG, Sidecar};
use tracing::{info, warn};

use crate::exit::Failure;
use crate::sidecar::name_servers;

/// The agent of the allocation in whose task this program runs.
pub(super) async fn agent(file: &Path) -> Result<Agent, Failure> {
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
    let control = control_plane(&client, &sidecar.mesh_namespace).await;
    let config = sidecar
        .config(
            &allocation,
            &control,
            upstream_dns(Path::new("/etc/resolv.conf")),
        )
        .map_err(|problems| Failure::usage(problems.to_string()))?;
    let mut ports = Ports::default();
    if let Some(port) = allocation.port(&PortRef::Label("mesh_health".to_owned())) {
        ports.readiness = port;
    }
    let probes = sidecar.probes.iter();
    let probes = probes
        .filter_map(|probe| app_probe(probe, &allocation))
        .collect();
    Ok(Agent::new(config).with_ports(ports).with_app_probes(probes))
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

/// Where the control plane is. Waits until it is somewhere: nothing goes before.
async fn control_plane(client: &Client, namespace: &str) -> ControlPlane {
    let mut is_told = false;
    loop {
        match ask(client, namespace).await {
            Ok(control) if !control.pilots.is_empty() && !control.root_hashes.is_empty() => {
                info!(
                    pilots = control.pilots.len(),
                    cas = control.cas.len(),
                    "found the control plane"
                );
                return control;
            }
            Ok(_) if is_told => {}
            Ok(_) => {
                warn!(namespace, "waiting for the services mesh-pilot and mesh-ca");
                is_told = true;
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(error, "Nomad does not tell where the control plane is");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(client: &Client, namespace: &str) -> Result<ControlPlane, mesh_nomad::client::Error> {
    let pilots = client.service(namespace, "mesh-pilot").await?.value;
    let cas = client.service(namespace, "mesh-ca").await?.value;
    let tags = cas
        .iter()
        .flat_map(|registration| registration.tags.items());
    let mut hashes: Vec<String> = tags
        .filter_map(|tag| tag.strip_prefix(ROOT_TAG))
        .map(str::to_owned)
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    Ok(ControlPlane {
        pilots: addresses(&pilots),
        cas: addresses(&cas),
        root_hashes: hashes,
    })
}

fn addresses(registrations: &[Registration]) -> Vec<SocketAddr> {
    let address = |registration: &Registration| {
        let address: IpAddr = registration.address.text().parse().ok()?;
        Some(SocketAddr::from((address, registration.port.value())))
    };
    registrations.iter().filter_map(address).collect()
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

/// How long to wait before the catalogue is asked again.
const PAUSE: Duration = Duration::from_secs(2);

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

    #[test]
    fn registrations_with_an_address_are_taken() {
        let registration = |text| serde_json::from_str::<Registration>(text).unwrap();
        let found = [
            registration(r#"{"Address":"10.0.0.5","Port":24411}"#),
            registration(r#"{"Address":"","Port":1}"#),
        ];
        assert_eq!(addresses(&found), ["10.0.0.5:24411".parse().unwrap()]);
    }
}
