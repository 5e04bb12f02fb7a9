//! One running instance and what it says of itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Namespace, Protocol, ServiceAccount, ServiceName, SpiffeId, TrustDomain, WorkloadId};

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
    /// The port at which this workload listens.
    pub target: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
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
    /// The identity that its certificate carries.
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }
}
