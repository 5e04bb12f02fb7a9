//! Which units make the control plane; pure.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use mesh_model::sidecar::{API_PORT, METRICS_PORT, MIXER_PORT, XDS_PORT};
use mesh_runtime::{
    Attachment, Condition, Dependency, GroupSpec, Readiness, RestartPolicy, UnitSpec,
};

use crate::engine::{CONTROL_PLANE, ROLE, name};
use crate::exit::Failure;

/// What decides about the units.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// This program.
    pub(super) program: PathBuf,
    /// The mesh's state directory.
    pub(super) home: PathBuf,
    /// The host's own address in the workloads' network.
    pub(super) gateway: Ipv4Addr,
    /// Four processes instead of one.
    pub(super) separate: bool,
    /// Life of workload certificates, in seconds.
    pub(super) certificate_ttl: Option<u64>,
}

/// A role as a process of its own.
struct Role {
    name: &'static str,
    /// The port of its gRPC or HTTPS service, and the flag that sets it.
    listen: (&'static str, u16),
    /// Its metrics: processes of one machine cannot share a port.
    metrics: u16,
    /// Who must be ready before.
    after: Option<&'static str>,
}

/// The roles apart, in the order of starting.
const ROLES: [Role; 4] = [
    Role {
        name: "api",
        listen: ("--api-listen", API_PORT),
        metrics: METRICS_PORT + 300,
        after: None,
    },
    Role {
        name: "ca",
        listen: ("--grpc-listen", XDS_PORT + 1),
        metrics: METRICS_PORT + 200,
        after: Some("api"),
    },
    Role {
        name: "pilot",
        listen: ("--grpc-listen", XDS_PORT),
        metrics: METRICS_PORT + 100,
        after: Some("ca"),
    },
    Role {
        name: "mixer",
        listen: ("--mixer-listen", MIXER_PORT),
        metrics: METRICS_PORT,
        after: Some("ca"),
    },
];

impl Plan {
    /// The group that the units are in: on the host itself, where workloads reach it.
    pub(super) fn group() -> Result<GroupSpec, Failure> {
        let mut group = GroupSpec::new(name(CONTROL_PLANE)?, Attachment::Host);
        group.labels = [(ROLE.to_owned(), CONTROL_PLANE.to_owned())].into();
        Ok(group)
    }

    /// The units, in the order of starting.
    pub(super) fn units(&self) -> Result<Vec<UnitSpec>, Failure> {
        if !self.separate {
            return Ok(vec![self.unit("server", METRICS_PORT, &[])?]);
        }
        ROLES.iter().map(|role| self.role(role)).collect()
    }

    fn role(&self, role: &Role) -> Result<UnitSpec, Failure> {
        let (flag, port) = role.listen;
        let listen = format!("{}:{port}", self.gateway);
        let mut arguments = vec!["--roles", role.name, flag, &listen];
        let kubeconfig = self
            .home
            .join(format!("{}.kubeconfig", role.name))
            .display()
            .to_string();
        if role.name != "api" {
            arguments.extend(["--kubeconfig", &kubeconfig]);
        }
        let mut unit = self.unit(role.name, role.metrics, &arguments)?;
        if let Some(after) = role.after {
            unit.after.push(Dependency {
                unit: name(after)?,
                condition: Condition::Ready,
            });
        }
        Ok(unit)
    }

    fn unit(&self, unit: &str, metrics: u16, arguments: &[&str]) -> Result<UnitSpec, Failure> {
        let mut command = vec![
            self.program.display().to_string(),
            "--verbose".to_owned(),
            "server".to_owned(),
            "--home".to_owned(),
            self.home.display().to_string(),
            "--listen".to_owned(),
            self.gateway.to_string(),
            "--advertise".to_owned(),
            self.gateway.to_string(),
            "--metrics-listen".to_owned(),
            format!("[::]:{metrics}"),
        ];
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        if let Some(ttl) = self.certificate_ttl {
            command.extend(["--certificate-ttl".to_owned(), format!("{ttl}s")]);
        }
        let mut spec = UnitSpec::new(name(unit)?, command);
        spec.restart = RestartPolicy::Always;
        spec.readiness = Some(Readiness::http(metrics, "/ready"));
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(separate: bool) -> Plan {
        Plan {
            program: "/usr/bin/mesh".into(),
            home: "/var/lib/mesh".into(),
            gateway: Ipv4Addr::new(10, 213, 0, 1),
            separate,
            certificate_ttl: None,
        }
    }

    #[test]
    fn roles_apart_share_no_port_and_wait_for_whom_they_need() {
        let units = plan(true).units().unwrap();
        let names: Vec<_> = units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(names, ["api", "ca", "pilot", "mixer"]);
        let mut ports: Vec<_> = ROLES
            .iter()
            .flat_map(|role| [role.listen.1, role.metrics])
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
        assert!(units.iter().skip(1).all(|unit| unit.after.len() == 1));
    }

    #[test]
    fn one_process_has_every_role() {
        let units = plan(false).units().unwrap();
        assert_eq!(units.len(), 1);
        assert!(!units[0].command.contains(&"--roles".to_owned()));
    }
}
