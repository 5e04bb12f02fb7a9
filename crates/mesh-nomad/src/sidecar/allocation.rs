//! From what a job says to what an agent needs: with Nomad's environment and the control plane's
//! addresses, a [`Sidecar`] becomes a [`SidecarConfig`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use mesh_model::{
    Capture, Explicit, Problems, SidecarConfig, Workload, WorkloadPort, WorkloadService,
};

use super::{Mode, PortRef, Sidecar};
use crate::identity::workload_id;
use crate::instances::Instances;

/// What Nomad tells a task of its allocation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct Allocation {
    /// Its id.
    pub id: String,
    /// Its task group.
    pub group: String,
    /// Its namespace.
    pub namespace: String,
    /// The address at which its network takes calls, if Nomad said one that can be read.
    pub address: Option<IpAddr>,
    /// The task's directory for secrets.
    pub secrets: PathBuf,
    /// Ports by their labels, as processes of the group see them.
    pub ports: BTreeMap<String, u16>,
    /// Where the guard writes what it saw of the rules.
    pub rules_verdict: Option<PathBuf>,
}

/// Where the control plane is, as Nomad's catalogue lists it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct ControlPlane {
    /// Instances of the service `mesh-pilot`.
    pub pilots: Vec<SocketAddr>,
    /// Instances of the service `mesh-ca`.
    pub cas: Vec<SocketAddr>,
    /// SHA-256 of the mesh's roots in hex, from the tags of `mesh-ca`.
    pub root_hashes: Vec<String>,
}

/// What a tag of the service `mesh-ca` begins with that tells a root; its SHA-256 in hex follows.
pub const ROOT_TAG: &str = "mesh.root=";

impl ControlPlane {
    /// What the instances of its two services say. A tag that is no SHA-256 is none of a root.
    ///
    /// ```
    /// use mesh_nomad::instances::Instances;
    /// use mesh_nomad::sidecar::ControlPlane;
    ///
    /// let ca = Instances {
    ///     addresses: ["10.0.0.1:25002".parse()?].into(),
    ///     tags: [format!("mesh.root={}", "ab".repeat(32)), "mesh.root=x".to_owned()].into(),
    /// };
    /// let found = ControlPlane::of(&Instances::default(), &ca);
    /// assert_eq!(found.root_hashes, ["ab".repeat(32)]);
    /// assert!(!found.is_complete());
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn of(pilot: &Instances, ca: &Instances) -> Self {
        let is_hash = |text: &&str| {
            text.len() == HASH_LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let hashes = ca.tagged(ROOT_TAG).filter(is_hash);
        Self {
            pilots: pilot.addresses.iter().copied().collect(),
            cas: ca.addresses.iter().copied().collect(),
            root_hashes: hashes.map(str::to_ascii_lowercase).collect(),
        }
    }

    /// Whether an agent can begin with it.
    pub fn is_complete(&self) -> bool {
        !self.pilots.is_empty() && !self.cas.is_empty() && !self.root_hashes.is_empty()
    }
}

/// Digits of a SHA-256 in hex.
const HASH_LENGTH: usize = 64;

impl Allocation {
    /// Reads Nomad's variables; others are not looked at.
    ///
    /// ```
    /// use mesh_nomad::sidecar::Allocation;
    ///
    /// let variables = [("NOMAD_ALLOC_ID", "83ca2e70"), ("NOMAD_PORT_http", "8080")];
    /// let variables = variables.map(|(key, value)| (key.to_owned(), value.to_owned()));
    /// let allocation = Allocation::from_variables(variables);
    /// assert_eq!(allocation.id, "83ca2e70");
    /// assert_eq!(allocation.ports["http"], 8080);
    /// ```
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut allocation = Self::default();
        // What a network of the group's own has, before the address of the host.
        let (mut own, mut host) = (None, None);
        for (name, value) in variables {
            match name.as_str() {
                "NOMAD_ALLOC_ID" => allocation.id = value,
                "NOMAD_GROUP_NAME" => allocation.group = value,
                "NOMAD_NAMESPACE" => allocation.namespace = value,
                "NOMAD_SECRETS_DIR" => allocation.secrets = value.into(),
                "NOMAD_ALLOC_IP_mesh_health" => own = value.parse().ok(),
                "NOMAD_IP_mesh_health" => host = value.parse().ok(),
                "MESH_RULES_VERDICT" => allocation.rules_verdict = Some(value.into()),
                name => {
                    if let Some(label) = name.strip_prefix("NOMAD_PORT_")
                        && let Ok(port) = value.parse()
                    {
                        allocation.ports.insert(label.to_owned(), port);
                    }
                }
            }
        }
        allocation.address = own.or(host);
        allocation
    }

    /// The agent's own directory: on a tmpfs that no other task sees. After a reboot Nomad's
    /// identity gets what was in it anew.
    pub fn state_dir(&self) -> PathBuf {
        self.secrets.join("mesh")
    }

    /// The number of a port.
    pub fn port(&self, port: &PortRef) -> Option<u16> {
        match port {
            PortRef::Number(number) => Some(*number),
            PortRef::Label(label) => self.ports.get(label).copied(),
        }
    }
}

impl Sidecar {
    /// What the agent of an allocation needs.
    ///
    /// The workload is as the group sees itself: its address and ports are those of its own
    /// network, at which its rules are checked. What others dial, the catalogue says.
    ///
    /// # Errors
    ///
    /// Everything that is missing or wrong, as in Nomad's environment of an older release.
    pub fn config(
        &self,
        allocation: &Allocation,
        control: &ControlPlane,
        upstream_dns: Vec<SocketAddr>,
    ) -> Result<SidecarConfig, Problems> {
        let mut problems = Problems::default();
        let id = workload_id(&allocation.id, &allocation.group).map_err(|problem| {
            problems.add("NOMAD_ALLOC_ID", problem.value, problem.expected);
        });
        let namespace = allocation.namespace.parse().map_err(|_wrong| {
            problems.add(
                "NOMAD_NAMESPACE",
                &allocation.namespace,
                "a namespace of the mesh",
            );
        });
        if allocation.address.is_none() {
            problems.add(
                "NOMAD_ALLOC_IP_mesh_health",
                "",
                "the address of the group's network",
            );
        }
        let services = self.services(allocation, &mut problems);
        let explicit = self.explicit(allocation, &mut problems);
        let capture = self.capture(allocation, &mut problems);
        let (Ok(id), Ok(namespace)) = (id, namespace) else {
            return Err(problems);
        };
        let config = SidecarConfig {
            workload: Workload {
                explicit,
                capture,
                sidecar: mesh_model::Sidecar::Present,
                gateway: self.gateway,
                id,
                namespace,
                service_account: self.service_account.clone(),
                addresses: allocation.address.into_iter().collect(),
                labels: self.labels.clone(),
                services,
            },
            trust_domain: self.trust_domain.clone(),
            pilots: control.pilots.clone(),
            cas: control.cas.clone(),
            root_hashes: control.root_hashes.clone(),
            token_file: Some(allocation.secrets.join("nomad_mesh.jwt")),
            state_dir: allocation.state_dir(),
            envoy: None,
            upstream_dns,
            rules_verdict: allocation.rules_verdict.clone(),
            certificate_ttl_seconds: None,
        };
        problems
            .0
            .extend(config.validate().err().unwrap_or_default().0);
        problems.into_result(config)
    }

    /// One service per name, with all its ports.
    fn services(&self, allocation: &Allocation, problems: &mut Problems) -> Vec<WorkloadService> {
        let mut services: Vec<WorkloadService> = Vec::new();
        for (index, found) in self.services.iter().enumerate() {
            let path = format!("services[{index}]");
            let Some(target) = number(allocation, &found.port, problems) else {
                continue;
            };
            let Ok(name) = found.name.parse() else {
                problems.add(format!("{path}.name"), &found.name, "the name of a service");
                continue;
            };
            let number = found.number_at(target).unwrap_or(target);
            let port = WorkloadPort {
                name: format!("port-{number}"),
                number,
                target,
                inside: None,
                protocol: found.protocol,
            };
            match services.iter_mut().find(|service| service.name == name) {
                Some(service) => service.ports.push(port),
                None => services.push(WorkloadService {
                    name,
                    ports: vec![port],
                }),
            }
        }
        services
    }

    /// Where its guard brings traffic: where several share a host, to ports that Nomad picked.
    fn capture(&self, allocation: &Allocation, problems: &mut Problems) -> Capture {
        let mut capture = Capture::default();
        if self.mode == Mode::HostUid {
            let mut at = |label: &str| {
                let port = PortRef::Label(label.to_owned());
                number(allocation, &port, problems).unwrap_or_default()
            };
            capture = Capture {
                outbound: at("mesh_out"),
                inbound: at("mesh_in"),
            };
        }
        capture
    }

    /// What the proxy listens at where nothing is redirected to it.
    fn explicit(&self, allocation: &Allocation, problems: &mut Problems) -> Option<Explicit> {
        if self.mode != Mode::Explicit || self.gateway {
            return None;
        }
        let mut explicit = Explicit::default();
        for (index, service) in self.services.iter().enumerate() {
            let Some(listen) = &service.listen else {
                let expected = "the port of the proxy, as mode `explicit` needs it";
                problems.add(format!("services[{index}].listen"), "", expected);
                continue;
            };
            let taken = number(allocation, listen, problems);
            // What is wrong with its own port is said where the services are read.
            let own = allocation.port(&service.port);
            explicit.inbound.extend(own.zip(taken));
        }
        for upstream in &self.upstreams {
            let port = number(allocation, &upstream.listen, problems);
            let listen = port.map(|port| (Ipv4Addr::LOCALHOST, port).into());
            explicit
                .upstreams
                .extend(listen.map(|listen| mesh_model::Upstream {
                    name: upstream.host.clone(),
                    port: upstream.port,
                    listen,
                }));
        }
        Some(explicit)
    }
}

/// The number of a port, or what is missing for it.
fn number(allocation: &Allocation, port: &PortRef, problems: &mut Problems) -> Option<u16> {
    let number = allocation.port(port);
    if number.is_none() {
        let variable = format!("NOMAD_PORT_{port}");
        problems.add(variable, "", "the number of the port");
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(more: &[(&str, &str)]) -> Allocation {
        let base = [
            ("NOMAD_ALLOC_ID", "83ca2e70-0637-b493-ca43-c8f8b5b9e212"),
            ("NOMAD_GROUP_NAME", "front"),
            ("NOMAD_NAMESPACE", "default"),
            ("NOMAD_SECRETS_DIR", "/secrets"),
            ("NOMAD_IP_mesh_health", "10.20.0.2"),
            ("PATH", "/bin"),
        ];
        let all = base.iter().chain(more);
        Allocation::from_variables(all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    fn sidecar() -> Sidecar {
        serde_json::from_value(serde_json::json!({
            "mode": "cni", "trust_domain": "cluster.local", "mesh_namespace": "mesh-system",
            "service_account": "web",
            "services": [
                { "name": "web", "port": "http", "protocol": "http" },
                { "name": "web", "port": 9090, "protocol": "tcp" },
            ],
        }))
        .unwrap()
    }

    fn control() -> ControlPlane {
        ControlPlane {
            pilots: vec!["10.20.0.1:25001".parse().unwrap()],
            cas: vec!["10.20.0.1:25002".parse().unwrap()],
            root_hashes: vec!["ab".repeat(32)],
        }
    }

    #[test]
    fn an_agent_gets_all_that_it_needs() {
        let allocation = variables(&[
            ("NOMAD_ALLOC_IP_mesh_health", "172.27.64.6"),
            ("NOMAD_PORT_http", "8080"),
            ("MESH_RULES_VERDICT", "/alloc/tmp/mesh-rules.json"),
        ]);
        let config = sidecar()
            .config(&allocation, &control(), Vec::new())
            .unwrap();
        assert_eq!(
            config.workload.addresses,
            ["172.27.64.6".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(config.workload.services.len(), 1);
        let targets: Vec<_> = config.workload.services[0]
            .ports
            .iter()
            .map(|port| port.target)
            .collect();
        assert_eq!(targets, [8080, 9090]);
        assert_eq!(config.token_file, Some("/secrets/nomad_mesh.jwt".into()));
        assert_eq!(
            config.rules_verdict,
            Some("/alloc/tmp/mesh-rules.json".into())
        );
    }

    #[test]
    fn a_gateway_stands_beside_no_application() {
        let mut sidecar = sidecar();
        sidecar.gateway = true;
        let allocation = variables(&[("NOMAD_PORT_http", "8080")]);
        let problems = sidecar.config(&allocation, &control(), Vec::new());
        assert_eq!(problems.unwrap_err().0[0].path, "workload.services");
        sidecar.services.clear();
        sidecar.mode = Mode::Explicit;
        let config = sidecar.config(&allocation, &control(), Vec::new()).unwrap();
        assert!(config.workload.gateway);
    }

    #[test]
    fn what_is_missing_is_told_at_once() {
        let problems = sidecar()
            .config(&variables(&[]), &ControlPlane::default(), Vec::new())
            .unwrap_err();
        let paths: Vec<_> = problems
            .0
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(paths, ["NOMAD_PORT_http", "pilots", "cas", "root_hashes"]);
    }

    #[test]
    fn a_group_in_the_hosts_network_has_the_hosts_address() {
        assert_eq!(variables(&[]).address, "10.20.0.2".parse().ok());
    }
}
