//! The whole input of a snapshot: services, policies and workloads, resolved against each other.

pub mod address;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_model::service::VirtualAddresses;
use mesh_model::{Host, TrustDomain};

/// What the API server holds, typed: everything that configures proxies but the workloads.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// What a proxy does with calls to addresses that no service has.
    pub outbound: OutboundPolicy,
    /// The recorded virtual addresses, by host; a host without any is not reachable by name yet
    /// and stands in `Mesh::unaddressed`.
    pub virtual_addresses: BTreeMap<Host, VirtualAddresses>,
    /// Where the Mixer takes access logs; empty when there is none.
    pub mixer: Vec<SocketAddr>,
}

/// What a proxy does with calls to addresses that no service has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OutboundPolicy {
    /// Lets them pass, as Istio does unless told otherwise.
    #[default]
    AllowAny,
    /// Refuses them.
    RegistryOnly,
}
