//! Which containers make the control plane, where they are and in which order they start; pure.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use mesh_control::api::bootstrap::EtcdFiles;
use mesh_model::sidecar::{API_PORT, METRICS_PORT};
use mesh_runtime::{
    Attachment, GroupSpec, MountSpec, NetworkSpec, Protocol, PublishedPort, Readiness,
    RestartPolicy, UnitSpec,
};

use crate::engine::{self, CONTROL_PLANE, name};
use crate::exit::Failure;
use crate::image;

/// What decides about the containers.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    /// The network that all of them are on.
    pub(super) network: NetworkSpec,
    /// The mesh's directory on the machine, as a full path.
    pub(super) home: PathBuf,
    /// The image of the control plane.
    pub(super) mesh: String,
    /// etcd; absent when the store is a file.
    pub(super) etcd: Option<EtcdPlan>,
    /// The port of the machine's loopback at which the API server is reached.
    pub(super) api_port: u16,
    /// Life of workload certificates, in seconds.
    pub(super) certificate_ttl: Option<u64>,
}

/// The etcd that is run.
#[derive(Clone, Debug)]
pub(super) struct EtcdPlan {
    /// Its image.
    pub(super) image: String,
    /// Whether it speaks TLS, and to nobody without a certificate.
    pub(super) tls: bool,
}

/// A container in a group of its own.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) group: GroupSpec,
    pub(super) unit: UnitSpec,
    /// Directories of the machine that must be there before, for root alone.
    pub(super) directories: Vec<PathBuf>,
}

/// A member's name, and the number of its address in the network.
pub(super) struct Place {
    pub(super) name: &'static str,
    host: u8,
}

// The API server's address is the one of Istio's own install, 172.28.0.13.
pub(super) const ETCD: Place = Place {
    name: "etcd",
    host: 12,
};
pub(super) const API: Place = Place {
    name: "apiserver",
    host: 13,
};
const CA: Place = Place {
    name: "ca",
    host: 14,
};
const PILOT: Place = Place {
    name: "pilot",
    host: 15,
};
const MIXER: Place = Place {
    name: "mixer",
    host: 16,
};

/// Where etcd answers, and where it keeps its data in its container.
const ETCD_PORT: u16 = 2379;
const ETCD_DATA: &str = "/var/lib/etcd";
/// Where etcd finds its certificate and key in its container.
const ETCD_PKI: &str = "/etc/etcd/pki";
/// Where etcd says on loopback alone, in clear, that it is well.
const ETCD_HEALTH_PORT: u16 = 2381;
/// Where a role finds its kubeconfig in its container.
const KUBECONFIG: &str = "/etc/mesh/kubeconfig";

// === impl Topology ===

impl Topology {
    /// The members in the order of starting; those of one stage start at the same time.
    pub(super) fn stages(&self) -> Result<Vec<Vec<Member>>, Failure> {
        let mut stages = Vec::new();
        if let Some(etcd) = &self.etcd {
            stages.push(vec![self.etcd(etcd)?]);
        }
        stages.push(vec![self.api()?]);
        // They wait for each other, and need nothing but their kubeconfigs, which the API makes.
        let roles = [CA, PILOT, MIXER];
        stages.push(
            roles
                .iter()
                .map(|place| self.role(place))
                .collect::<Result<_, _>>()?,
        );
        Ok(stages)
    }

    /// By which addresses and names the API server and who looks into the container ask for etcd.
    pub(super) fn etcd_addresses(&self) -> ([IpAddr; 2], [&'static str; 2]) {
        let address = IpAddr::V4(self.address(&ETCD));
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        ([address, loopback], [ETCD.name, "localhost"])
    }

    fn etcd(&self, plan: &EtcdPlan) -> Result<Member, Failure> {
        let address = self.address(&ETCD);
        let scheme = if plan.tls { "https" } else { "http" };
        let mut command = vec![
            image::ETCD.to_owned(),
            "--name=mesh".to_owned(),
            format!("--data-dir={ETCD_DATA}"),
            // On loopback too, for who looks into the container.
            format!(
                "--listen-client-urls={scheme}://{address}:{ETCD_PORT},{scheme}://127.0.0.1:{ETCD_PORT}"
            ),
            format!("--advertise-client-urls={scheme}://{address}:{ETCD_PORT}"),
            // It has no peers.
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--initial-cluster=mesh=http://127.0.0.1:2380".to_owned(),
        ];
        let data = self.home.join("etcd");
        let mut mounts = vec![mount(data.clone(), ETCD_DATA, false)];
        let mut port = ETCD_PORT;
        if plan.tls {
            command.extend([
                format!("--cert-file={ETCD_PKI}/server.crt"),
                format!("--key-file={ETCD_PKI}/server.key"),
                format!("--trusted-ca-file={ETCD_PKI}/ca.crt"),
                "--client-cert-auth=true".to_owned(),
                format!("--listen-metrics-urls=http://127.0.0.1:{ETCD_HEALTH_PORT}"),
            ]);
            mounts.push(mount(EtcdFiles::of(&self.home).server, ETCD_PKI, true));
            port = ETCD_HEALTH_PORT;
        }
        let mut unit = unit(ETCD.name, &plan.image, &command)?;
        unit.readiness = Some(Readiness::http(port, "/health"));
        unit.mounts = mounts;
        Ok(Member {
            group: self.group(&ETCD)?,
            unit,
            directories: vec![data],
        })
    }

    fn api(&self) -> Result<Member, Failure> {
        let home = self.home.display().to_string();
        let mut arguments = vec!["--home".to_owned(), home.clone()];
        if let Some(etcd) = &self.etcd {
            let scheme = if etcd.tls { "https" } else { "http" };
            let endpoint = format!("{scheme}://{}:{ETCD_PORT}", self.address(&ETCD));
            let store = ["--store", "etcd", "--etcd-endpoints", &endpoint];
            arguments.extend(store.map(str::to_owned));
            if etcd.tls {
                let files = EtcdFiles::of(&self.home);
                for (flag, file) in [
                    ("--etcd-cafile", files.authority),
                    ("--etcd-certfile", files.client_certificate),
                    ("--etcd-keyfile", files.client_key),
                ] {
                    arguments.extend([flag.to_owned(), file.display().to_string()]);
                }
            }
        }
        arguments.extend(["--api-name".to_owned(), API.name.to_owned()]);
        let mut unit = self.server(&API, "api", &arguments)?;
        // Where the machine has it, so that paths in messages are the same on both sides.
        unit.mounts = vec![mount(self.home.clone(), home, false)];
        let mut group = self.group(&API)?;
        group.ports = vec![PublishedPort {
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host: self.api_port,
            group: API_PORT,
            protocol: Protocol::Tcp,
        }];
        Ok(Member {
            group,
            unit,
            directories: vec![self.home.clone()],
        })
    }

    fn role(&self, place: &Place) -> Result<Member, Failure> {
        let arguments = ["--kubeconfig".to_owned(), KUBECONFIG.to_owned()];
        let mut unit = self.server(place, place.name, &arguments)?;
        let file = self.home.join(format!("{}.kubeconfig", place.name));
        unit.mounts = vec![mount(file, KUBECONFIG, true)];
        Ok(Member {
            group: self.group(place)?,
            unit,
            directories: Vec::new(),
        })
    }

    fn server(&self, place: &Place, role: &str, more: &[String]) -> Result<UnitSpec, Failure> {
        let address = self.address(place).to_string();
        let metrics = format!("[::]:{METRICS_PORT}");
        let words = [
            image::MESH,
            "--verbose",
            "server",
            "--roles",
            role,
            "--listen",
            &address,
            "--advertise",
            &address,
            "--metrics-listen",
            &metrics,
        ];
        let mut command: Vec<_> = words.map(str::to_owned).into();
        command.extend(more.iter().cloned());
        if let Some(ttl) = self.certificate_ttl {
            command.extend(["--certificate-ttl".to_owned(), format!("{ttl}s")]);
        }
        let mut unit = unit(place.name, &self.mesh, &command)?;
        unit.readiness = Some(Readiness::http(METRICS_PORT, "/ready"));
        Ok(unit)
    }

    fn group(&self, place: &Place) -> Result<GroupSpec, Failure> {
        let network = Attachment::Network(self.network.name.clone());
        let mut group = GroupSpec::new(name(place.name)?, network);
        group.address = Some(self.address(place));
        group.aliases = vec![place.name.to_owned()];
        group.labels = [(engine::ROLE.to_owned(), CONTROL_PLANE.to_owned())].into();
        Ok(group)
    }

    fn address(&self, place: &Place) -> Ipv4Addr {
        let network = u32::from(self.network.v4.network());
        Ipv4Addr::from(network.saturating_add(place.host.into()))
    }
}

/// A unit that runs as root without any capability, and comes back whenever it ends.
fn unit(named: &str, image: &str, command: &[String]) -> Result<UnitSpec, Failure> {
    let mut unit = UnitSpec::new(name(named)?, command);
    unit.image = Some(image.to_owned());
    unit.restart = RestartPolicy::Always;
    Ok(unit)
}

fn mount(source: PathBuf, target: impl Into<PathBuf>, read_only: bool) -> MountSpec {
    MountSpec {
        source,
        target: target.into(),
        read_only,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    pub(in super::super) fn topology(etcd: bool) -> Topology {
        Topology {
            network: engine::network(engine::Kind::Docker, None, None),
            home: "/var/lib/mesh".into(),
            mesh: "mesh:1".to_owned(),
            etcd: etcd.then(|| EtcdPlan {
                image: "mesh-etcd:1".to_owned(),
                tls: true,
            }),
            api_port: API_PORT,
            certificate_ttl: None,
        }
    }

    fn names(stages: &[Vec<Member>]) -> Vec<Vec<&str>> {
        let members = stages.iter().map(|stage| stage.iter());
        members
            .map(|members| members.map(|it| it.group.name.as_str()).collect())
            .collect()
    }

    #[test]
    fn the_store_is_first_and_the_api_server_next() {
        let stages = topology(true).stages().unwrap();
        assert_eq!(
            names(&stages),
            [
                vec!["etcd"],
                vec!["apiserver"],
                vec!["ca", "pilot", "mixer"]
            ]
        );
        let stages = topology(false).stages().unwrap();
        assert_eq!(names(&stages)[0], ["apiserver"]);
        let api = &stages[0][0].unit.command;
        assert!(!api.contains(&"--store".to_owned()), "{api:?}");
    }

    #[test]
    fn the_api_server_is_where_istios_install_has_it() {
        let stages = topology(true).stages().unwrap();
        let members: Vec<_> = stages.concat();
        let api = members
            .iter()
            .find(|it| it.group.name.as_str() == "apiserver");
        let api = &api.unwrap().group;
        assert_eq!(api.address, Some(Ipv4Addr::new(172, 28, 0, 13)));
        assert_eq!(api.aliases, ["apiserver"]);
        assert_eq!(api.ports[0].address, Some(Ipv4Addr::LOCALHOST.into()));
        let addresses: BTreeSet<_> = members.iter().map(|it| it.group.address).collect();
        assert_eq!(addresses.len(), members.len());
    }

    #[test]
    fn etcd_speaks_tls_with_who_has_a_certificate_unless_a_file_has_it_in_clear() {
        let mut topology = topology(true);
        let command = |topology: &Topology, name: &str| {
            let members = topology.stages().unwrap().concat();
            let mut members = members.iter();
            let member = members.find(|it| it.group.name.as_str() == name).unwrap();
            member.unit.command.join(" ")
        };
        let etcd = command(&topology, "etcd");
        assert!(etcd.contains("--client-cert-auth=true"), "{etcd}");
        assert!(!etcd.contains("client-urls=http:"), "{etcd}");
        let api = command(&topology, "apiserver");
        assert!(api.contains("https://172.28.0.12:2379"), "{api}");
        assert!(
            api.contains("--etcd-keyfile /var/lib/mesh/pki/etcd/client.key"),
            "{api}"
        );
        topology.etcd.as_mut().unwrap().tls = false;
        let etcd = command(&topology, "etcd");
        assert!(!etcd.contains("https") && !etcd.contains("cert"), "{etcd}");
        let api = command(&topology, "apiserver");
        assert!(
            !api.contains("https") && !api.contains("--etcd-cafile"),
            "{api}"
        );
    }

    #[test]
    fn only_the_api_server_sees_the_keys() {
        for member in topology(true).stages().unwrap().concat() {
            let name = member.group.name.to_string();
            let home = PathBuf::from("/var/lib/mesh");
            let sees_home = member.unit.mounts.iter().any(|it| it.source == home);
            assert_eq!(sees_home, name == "apiserver", "{name}");
            assert!(member.unit.capabilities.is_empty(), "{name}");
            assert_eq!(member.unit.restart, RestartPolicy::Always, "{name}");
            assert!(member.unit.check().0.is_empty(), "{name}");
        }
    }
}
