//! One running instance and what it says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::sidecar::{INBOUND_PORT, OUTBOUND_PORT};
use crate::{
    Explicit, Mode, Namespace, Problems, Protocol, ServiceAccount, ServiceName, SpiffeId,
    TrustDomain, WorkloadId, label, name,
};

/// One running instance: a task group's allocation, a container, a VM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its id, one across registries.
    pub id: WorkloadId,
    /// The namespace it runs in; its services live in the same one.
    pub namespace: Namespace,
    /// The account it runs as.
    pub service_account: ServiceAccount,
    /// Addresses of both families at which its sidecar takes inbound calls.
    pub addresses: Vec<IpAddr>,
    /// Labels, by which subsets and policies select it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The services that it is an instance of.
    #[serde(default)]
    pub services: Vec<WorkloadService>,
    /// Whether a sidecar stands beside it; what no registry but a catalogue knows has none.
    #[serde(default, skip_serializing_if = "Sidecar::is_present")]
    pub sidecar: Sidecar,
    /// What its sidecar listens at, if no redirect rules bring traffic to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explicit: Option<Explicit>,
    /// Whether it is a gateway: no application, but a proxy that serves callers outside the mesh as
    /// `Gateway`s say that select its labels.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gateway: bool,
    /// Where redirect rules bring its traffic.
    #[serde(default, skip_serializing_if = "Capture::is_usual")]
    pub capture: Capture,
}

/// Where redirect rules bring the traffic of a workload; the usual ports unless it shares a
/// network with others that have sidecars.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "traffic comes in or goes out")]
pub struct Capture {
    /// What the application calls.
    pub outbound: u16,
    /// What others call.
    pub inbound: u16,
}

/// A service that a workload declares, with the ports at which it serves it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadService {
    /// The service's short name.
    pub name: ServiceName,
    /// The ports.
    pub ports: Vec<WorkloadPort>,
}

/// A port of a service, as one workload serves it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadPort {
    /// Name of the port, unique in its service; also what `--port http:9080` begins with.
    pub name: String,
    /// The service's port, which callers use.
    pub number: u16,
    /// The port that callers dial at the workload's addresses.
    pub target: u16,
    /// The application's own port, where callers dial another and a port map of the host leads
    /// from there to the sidecar; `None` where it is [`Self::target`].
    ///
    /// A task group of Nomad's with a network of its own is dialed at ports of the host: `target`
    /// is the host's, `inside` what the sidecar sees. Policies name a port by this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<u16>,
    /// What is spoken on it.
    pub protocol: Protocol,
}

/// Whether a sidecar stands beside a workload.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "there is one or there is none")]
pub enum Sidecar {
    /// It has one, which proves who it is and takes the mesh's TLS.
    #[default]
    Present,
    /// It has none: nobody proves who answers there, and calls to it are in plaintext unless a
    /// `DestinationRule` says otherwise.
    Absent,
}

/// Whether a workload may be sent requests, as its agent says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Not yet ready for the first time.
    #[default]
    Starting,
    /// Ready.
    Healthy,
    /// Was ready and is not now, or is leaving.
    Unhealthy,
}

impl Workload {
    /// Everything that is wrong with it, with paths below `path` (empty for the workload itself).
    ///
    /// ```
    /// # use mesh_model::{Problems, Workload};
    /// let workload: Workload = serde_json::from_value(serde_json::json!({
    ///     "id": "shop/web", "namespace": "shop", "service_account": "web",
    ///     "addresses": ["10.213.0.2"],
    ///     "services": [{ "name": "web", "ports": [
    ///         { "name": "http", "number": 80, "target": 0, "protocol": "http" },
    ///     ] }],
    /// })).unwrap();
    /// let mut problems = Problems::default();
    /// workload.validate("", &mut problems);
    /// assert_eq!(
    ///     problems.to_string(),
    ///     "services[0].ports[0].target: `0` is not a port between 1 and 65535",
    /// );
    /// ```
    pub fn validate(&self, path: &str, problems: &mut Problems) {
        let dot = if path.is_empty() { "" } else { "." };
        let at = |field: &str| format!("{path}{dot}{field}");
        if self.addresses.is_empty() {
            problems.add(at("addresses"), "", "at least one address");
        }
        let mut seen = BTreeSet::new();
        for (index, address) in self.addresses.iter().enumerate() {
            let path = at(&format!("addresses[{index}]"));
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                problems.add(
                    &path,
                    address.to_string(),
                    "an address that others can call",
                );
            }
            if !seen.insert(address) {
                problems.add(
                    &path,
                    address.to_string(),
                    "an address that is not in the list yet",
                );
            }
        }
        label::validate(&self.labels, &at("labels"), problems);
        let mut names = BTreeSet::new();
        for (index, service) in self.services.iter().enumerate() {
            let path = at(&format!("services[{index}]"));
            if !names.insert(&service.name) {
                let expected = "a service that is not in the list yet";
                problems.add(format!("{path}.name"), service.name.as_str(), expected);
            }
            service.validate(&path, problems);
        }
        if self.explicit.is_some() && !self.sidecar.is_present() {
            let expected = "nothing, since no sidecar listens for a workload without one";
            problems.add(at("explicit"), "", expected);
        }
        let Capture { outbound, inbound } = self.capture;
        for (field, port, other) in [
            ("outbound", outbound, INBOUND_PORT),
            ("inbound", inbound, outbound),
        ] {
            if port == 0 || port == other {
                let path = at(&format!("capture.{field}"));
                problems.add(path, port.to_string(), "a port of its own");
            }
        }
        if self.gateway && !self.services.is_empty() {
            let expected = "nothing: a gateway has no application that could serve them";
            problems.add(at("services"), self.services.len().to_string(), expected);
        }
        if self.gateway && self.explicit.is_some() {
            let expected = "nothing: a gateway has no application that could call";
            problems.add(at("explicit"), "it", expected);
        }
        if let Some(explicit) = &self.explicit {
            explicit.validate(&self.namespace, &self.services, &at("explicit"), problems);
        }
    }

    /// How its traffic comes to its sidecar.
    pub fn mode(&self) -> Mode {
        match self.explicit {
            _ if self.gateway => Mode::Gateway,
            None => Mode::Transparent,
            Some(_) => Mode::Explicit,
        }
    }

    /// The port that others dial for what listens on a port of the application's own; none if
    /// the sidecar of an explicit workload does not take such calls.
    ///
    /// ```
    /// # let workload: mesh_model::Workload = serde_json::from_value(serde_json::json!({
    /// #     "id": "a/web", "namespace": "shop", "service_account": "web", "addresses": ["10.0.0.5"],
    /// #     "services": [{ "name": "web", "ports": [
    /// #         { "name": "http", "number": 80, "target": 24411, "inside": 8080, "protocol": "http" },
    /// #     ] }],
    /// # })).unwrap();
    /// // A port map of the host leads from 24411 to 8080.
    /// assert_eq!(workload.called_at(8080), Some(24411));
    /// assert_eq!(workload.taken_at(8080), Some(8080));
    /// // No map leads to a port that no service has.
    /// assert_eq!(workload.called_at(9090), Some(9090));
    /// ```
    pub fn called_at(&self, own: u16) -> Option<u16> {
        let mut ports = self.services.iter().flat_map(|service| &service.ports);
        let mapped = ports.find(|port| port.inside == Some(own));
        mapped
            .map(|port| port.target)
            .or_else(|| self.taken_at(own))
    }

    /// The port at which the sidecar sees calls for a port of the application's own: the same
    /// where redirect rules bring them, and where none do, the one that it listens at for them, if
    /// it does.
    pub fn taken_at(&self, own: u16) -> Option<u16> {
        match &self.explicit {
            None => Some(own),
            Some(explicit) => explicit.inbound.get(&own).copied(),
        }
    }

    /// The identity that its certificate carries.
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }
}

impl WorkloadService {
    fn validate(&self, path: &str, problems: &mut Problems) {
        if self.ports.is_empty() {
            problems.add(format!("{path}.ports"), "", "at least one port");
        }
        let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for (index, port) in self.ports.iter().enumerate() {
            let path = format!("{path}.ports[{index}]");
            if !name::is_label(&port.name) {
                let expected = "the name of a port (a DNS label: a-z, 0-9, `-`; at most 63)";
                problems.add(format!("{path}.name"), &port.name, expected);
            }
            if !names.insert(&port.name) {
                let expected = "a name that no port before has";
                problems.add(format!("{path}.name"), &port.name, expected);
            }
            if !numbers.insert(port.number) {
                let expected = "a number that no port before has";
                problems.add(format!("{path}.number"), port.number.to_string(), expected);
            }
            let numbers = [
                ("number", Some(port.number)),
                ("target", Some(port.target)),
                ("inside", port.inside),
            ];
            for (field, number) in numbers {
                if number == Some(0) {
                    problems.add(format!("{path}.{field}"), "0", "a port between 1 and 65535");
                }
            }
        }
    }
}

impl WorkloadPort {
    /// The application's own port: what inbound chains, policies and the sidecar know it by.
    pub fn own(&self) -> u16 {
        self.inside.unwrap_or(self.target)
    }
}

impl Capture {
    /// Whether these are the usual ports.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            outbound: OUTBOUND_PORT,
            inbound: INBOUND_PORT,
        }
    }
}

impl Sidecar {
    /// Whether there is one.
    pub fn is_present(&self) -> bool {
        *self == Self::Present
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_wrong_is_found_at_once() {
        let workload: Workload = serde_json::from_value(serde_json::json!({
            "id": "shop/web",
            "namespace": "shop",
            "service_account": "web",
            "addresses": ["127.0.0.1", "10.0.0.1", "10.0.0.1", "::"],
            "labels": { "-": "v1", "version": "v 1" },
            "services": [
                { "name": "web", "ports": [
                    { "name": "http", "number": 80, "target": 0, "protocol": "http" },
                    { "name": "http", "number": 80, "target": 8080, "protocol": "http" },
                    { "name": "A", "number": 0, "target": 1, "inside": 0, "protocol": "tcp" },
                ] },
                { "name": "web", "ports": [] },
            ],
        }))
        .unwrap();
        let mut problems = Problems::default();
        workload.validate("workload", &mut problems);
        let paths: Vec<_> = problems
            .0
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "workload.addresses[0]",
                "workload.addresses[2]",
                "workload.addresses[3]",
                "workload.labels",
                "workload.labels[version]",
                "workload.services[0].ports[0].target",
                "workload.services[0].ports[1].name",
                "workload.services[0].ports[1].number",
                "workload.services[0].ports[2].name",
                "workload.services[0].ports[2].number",
                "workload.services[0].ports[2].inside",
                "workload.services[1].name",
                "workload.services[1].ports",
            ]
        );
    }
}
