//! Capture of DNS queries.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::{Family, Port};

/// Capture of DNS queries (port 53), also those to a resolver on loopback.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dns {
    /// Who answers them instead.
    pub to: DnsTarget,
    /// Which servers' queries are captured.
    pub servers: DnsServers,
    /// Whether queries over TCP are captured too.
    pub tcp: DnsTcp,
    /// Whether the proxy's queries share conntrack entries with others.
    pub zones: DnsZones,
}

/// Who answers captured DNS queries.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum DnsTarget {
    /// The proxy, on this port of the loopback address of both families.
    Port(Port),
    /// The server at this address, as Consul does it.
    ///
    /// It gets the queries of its own address family, and none from a loopback address unless it
    /// is on loopback itself: the kernel sends nothing from 127.0.0.1 to elsewhere. The guard, if it
    /// is on, refuses the queries that it cannot get.
    Forward(SocketAddr),
}

/// Servers whose DNS queries are captured.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum DnsServers {
    /// Every server.
    #[default]
    All,
    /// The servers that the C library asks, by [`Facts::resolvers`](crate::Facts::resolvers). A
    /// later change of `/etc/resolv.conf` makes another plan.
    ResolvConf,
    /// These servers.
    List(BTreeSet<IpAddr>),
}

/// Whether DNS queries over TCP are captured.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum DnsTcp {
    /// They are, as those over UDP.
    #[default]
    Capture,
    /// They are connections like any other.
    Ordinary,
}

/// Whether DNS queries over UDP of those who are not captured (the proxy first of all) are kept
/// apart from others by a conntrack zone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum DnsZones {
    /// They are. Without it, a query from a source port that somebody else used lately goes where
    /// that one's went.
    #[default]
    Split,
    /// They are not: for namespaces whose other rules use zones themselves.
    Shared,
}

// === impl Dns ===

impl Dns {
    /// All queries, UDP and TCP, to `to`.
    pub fn to(to: impl Into<DnsTarget>) -> Self {
        Self {
            to: to.into(),
            servers: DnsServers::All,
            tcp: DnsTcp::Capture,
            zones: DnsZones::Split,
        }
    }
}

// === impl DnsTarget ===

impl DnsTarget {
    /// The port, wherever it is.
    pub fn port(self) -> Option<Port> {
        match self {
            Self::Port(port) => Some(port),
            Self::Forward(address) => Port::new(address.port()),
        }
    }

    /// Whether queries of this family can be sent there.
    pub fn takes(self, family: Family) -> bool {
        match self {
            Self::Port(_) => true,
            Self::Forward(address) => Family::of(address.ip()) == family,
        }
    }
}

impl From<Port> for DnsTarget {
    fn from(port: Port) -> Self {
        Self::Port(port)
    }
}

impl From<SocketAddr> for DnsTarget {
    fn from(address: SocketAddr) -> Self {
        Self::Forward(address)
    }
}

impl std::fmt::Display for DnsTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Forward(address) => address.fmt(f),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for DnsTarget {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Port(port) => port.serialize(serializer),
            Self::Forward(address) => serializer.collect_str(address),
        }
    }
}
