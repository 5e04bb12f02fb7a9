//! What callers name: a host with ports, and the endpoints behind it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{Health, Host, Namespace, SpiffeId, WorkloadId};

/// A service as the mesh knows it, whatever it was declared by.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Service {
    /// Its fully qualified host.
    pub host: Host,
    /// The namespace that owns it.
    pub namespace: Namespace,
    /// Its ports, by number.
    pub ports: BTreeMap<u16, ServicePort>,
    /// The virtual addresses that its names resolve to.
    pub virtual_addresses: VirtualAddresses,
    /// Who may serve it; empty when nobody can be asked to prove it (outside the mesh).
    pub identities: Vec<SpiffeId>,
    /// Its endpoints, in the order of their ids.
    pub endpoints: Vec<Endpoint>,
    /// Whether its endpoints have sidecars that speak mutual TLS.
    pub location: Location,
    /// How its endpoints are found.
    pub resolution: Resolution,
}

/// A port of a service.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ServicePort {
    /// The name of the port.
    pub name: String,
    /// What is spoken on it.
    pub protocol: Protocol,
}

/// One pair of virtual addresses, v4 and v6, ours alone.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct VirtualAddresses {
    /// In 240.240.0.0/16.
    pub v4: Ipv4Addr,
    /// In the mesh's ULA /64.
    pub v6: Ipv6Addr,
}

/// One place at which a service is served.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Endpoint {
    /// The workload behind it, if it is one of ours.
    pub workload: Option<WorkloadId>,
    /// Where it is.
    pub address: EndpointAddress,
    /// Service port to the port of the application's own; which one callers dial for that, a
    /// workload says itself ([`crate::Workload::called_at`]).
    pub ports: BTreeMap<u16, u16>,
    /// Labels, by which subsets select.
    pub labels: BTreeMap<String, String>,
    /// Who must answer there, if it has a sidecar.
    pub identity: Option<SpiffeId>,
    /// Whether it may be sent requests.
    pub health: Health,
    /// Its share against the other endpoints; 1 unless a `WorkloadEntry` says otherwise.
    pub weight: u32,
}

/// An address, or a name that the proxy resolves.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum EndpointAddress {
    /// An address.
    Ip(IpAddr),
    /// A DNS name, resolved by the proxy.
    Name(String),
}

/// Whether endpoints are part of the mesh.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Location {
    /// They have sidecars: mutual TLS.
    #[default]
    MeshInternal,
    /// They have none: plain, or what a `DestinationRule` says.
    MeshExternal,
}

/// How endpoints are found.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Resolution {
    /// From registries or the entry's own list.
    #[default]
    Static,
    /// The proxy resolves their names.
    Dns,
    /// The caller's own destination address.
    None,
}

/// What is spoken on a port; decides how the proxy treats it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC: HTTP/2 with its own retry and status conventions.
    Grpc,
    /// Bytes, the client may be silent first.
    Tcp,
    /// TLS of the application's own.
    Tls,
}

impl Protocol {
    /// Whether routes by request can be applied to it.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}
