//! Policy: which traffic goes to the proxy, checked once and then beyond doubt.

mod build;
mod dns;
mod host;
mod inbound;
#[cfg(feature = "serde")]
mod wire;

use std::collections::BTreeSet;

pub use self::build::PolicyBuilder;
pub use self::dns::{Dns, DnsServers, DnsTarget, DnsTcp, DnsZones};
pub use self::host::SshAccess;
pub use self::inbound::{Inbound, InboundMode, Tproxy};
use crate::{Identities, InstanceName, InterfaceName, NetworkSet, Port, PortSet, Transport};

/// Which traffic of a network namespace goes to the proxy.
///
/// Built by [`Policy::builder`], which reports everything that is wrong at once; a `Policy` that
/// exists is valid. With feature `serde` it reads and writes the form that the crate's README
/// describes. Unless [`Existing::Break`] is said, TCP is judged by the first packet of a
/// connection (SYN) only, so connections that are open when rules arrive stay as they are.
///
/// ```
/// use mesh_netfilter::{Identities, Inbound, Outbound, Policy, Port, PortSelect};
///
/// let policy = Policy::builder(Identities::users([1337]))
///     .inbound(Inbound::to(Port::of::<15006>()).ports(PortSelect::AllExcept([Port::of::<22>()].into())))
///     .outbound(Outbound::to(Port::of::<15001>()))
///     .build()?;
/// assert!(policy.dns().is_none());
/// # Ok::<(), mesh_netfilter::Problems>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    instance: InstanceName,
    proxy: Identities,
    inbound: Option<Inbound>,
    outbound: Option<Outbound>,
    dns: Option<Dns>,
    identities: IdentitySelect,
    ipv6: Ipv6,
    guard: Guard,
    existing: Existing,
    drop_invalid: DropInvalid,
    excluded_interfaces: BTreeSet<InterfaceName>,
    virtual_interfaces: Vec<VirtualInterface>,
    per_identity: Vec<IdentityPorts>,
}

/// Capture of connections that processes in the namespace open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outbound {
    /// Where the proxy takes them, on the loopback address of both families.
    pub to: Port,
    /// Which destinations are captured.
    pub destinations: DestinationSelect,
    /// What happens to connections of the application to itself.
    pub loopback: Loopback,
}

/// Ports to capture.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum PortSelect {
    /// Every port.
    #[default]
    All,
    /// Every port but these.
    AllExcept(PortSet),
    /// These ports and no other.
    Only(PortSet),
}

/// Destinations to capture.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum DestinationSelect {
    /// Every destination.
    #[default]
    All,
    /// Every destination but these.
    AllExcept(Destinations),
    /// These destinations and no other.
    Only(Destinations),
}

/// Destinations: whatever one of the three lists names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Destinations {
    /// These ports at any address.
    pub ports: PortSet,
    /// Any port in these networks.
    pub networks: NetworkSet,
    /// Certain ports in certain networks.
    pub network_ports: Vec<NetworkPorts>,
}

/// Certain ports in certain networks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkPorts {
    /// The networks.
    pub networks: NetworkSet,
    /// The ports.
    pub ports: PortSet,
}

/// Who is captured on the way out, the proxy aside, which never is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum IdentitySelect {
    /// Everyone.
    #[default]
    Everyone,
    /// Everyone but these.
    Except(Identities),
    /// These and no other; packets without a socket are not captured.
    Only(Identities),
}

/// What happens to connections of the application to itself, over the loopback interface.
///
/// Connections of the *proxy* to its own workload are not meant: those always go through the
/// inbound listener, like a call from outside.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Loopback {
    /// They are left alone.
    #[default]
    Direct,
    /// Those to these networks are captured like any other.
    Capture(NetworkSet),
}

/// What happens to IPv6.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Ipv6 {
    /// The same as to IPv4.
    #[default]
    Redirect,
    /// What would be captured is refused, so that applications fall back to IPv4.
    Block,
    /// It is not touched. Traffic goes round the proxy: for namespaces where that is meant.
    Bypass,
}

/// What happens to traffic that should have been captured but was not, because something
/// removed or pre-empted the NAT rules.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Guard {
    /// It passes.
    Off,
    /// It is refused: TCP with a reset, UDP with "port unreachable".
    #[default]
    Reject,
    /// It vanishes, and whoever sent it waits. IPv6 that the policy blocks is refused all the
    /// same, for applications are to fall back at once.
    Drop,
}

/// What happens to TCP connections that are open when rules arrive.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Existing {
    /// They stay as they are: rules judge the first packet of a connection.
    #[default]
    Keep,
    /// They end where rules would capture them: rules judge every packet of a connection that the
    /// kernel does not know yet. The other tools do this.
    Break,
}

/// Whether packets are dropped that conntrack cannot assign to any connection.
///
/// Conntrack translates nothing in such a packet. A segment out of window of a connection that is
/// translated reaches the local stack with an address that no socket has, and the reset in answer
/// kills a healthy transfer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum DropInvalid {
    /// They are left alone.
    #[default]
    No,
    /// They are dropped on arrival, of whatever protocol.
    Yes,
}

/// An interface behind which guests are, as a bridge of virtual machines or containers has them.
/// What arrives there is outbound traffic: DNS queries and connections of guests are captured as
/// those of local processes, and the rest is left alone.
///
/// REDIRECT takes them to the interface's own address, so the proxy's listeners for outbound
/// connections and DNS must be on the wildcard address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VirtualInterface {
    /// The interface.
    pub name: InterfaceName,
    /// Networks that guests reach directly, as their own one.
    pub direct: NetworkSet,
}

/// Ports to which certain senders are not captured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdentityPorts {
    /// The senders.
    pub identities: Identities,
    /// The protocol of the ports.
    pub transport: Transport,
    /// The ports.
    pub ports: PortSet,
}

// === impl Policy ===

impl Policy {
    /// The default policy of a sidecar, with user and group 1337 as the proxy.
    ///
    /// Inbound all ports but 15020, 15021 and 15090 to 15006, outbound all to 15001, DNS to
    /// 15053, IPv6 the same, guard on.
    pub fn sidecar() -> Self {
        Self {
            instance: InstanceName::default(),
            proxy: Identities::users([1337]).and_groups([1337]),
            inbound: Some(
                Inbound::to(Port::of::<15006>()).ports(PortSelect::AllExcept(PortSet::from([
                    Port::of::<15020>(), // merged metrics
                    Port::of::<15021>(), // readiness
                    Port::of::<15090>(), // Envoy's metrics
                ]))),
            ),
            outbound: Some(Outbound::to(Port::of::<15001>())),
            dns: Some(Dns::to(Port::of::<15053>())),
            identities: IdentitySelect::Everyone,
            ipv6: Ipv6::Redirect,
            guard: Guard::Reject,
            existing: Existing::Keep,
            drop_invalid: DropInvalid::No,
            excluded_interfaces: BTreeSet::new(),
            virtual_interfaces: Vec::new(),
            per_identity: Vec::new(),
        }
    }

    /// Begins a policy. The proxy's own traffic must be known before anything can be captured:
    /// captured itself, it would loop.
    pub fn builder(proxy: Identities) -> PolicyBuilder {
        PolicyBuilder::new(proxy)
    }

    /// A builder that starts from this policy.
    pub fn to_builder(&self) -> PolicyBuilder {
        PolicyBuilder::from_policy(self.clone())
    }

    /// The name of this set of rules.
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    /// Who the proxy is; never nobody.
    pub fn proxy(&self) -> &Identities {
        &self.proxy
    }

    /// Capture of arriving connections, if it is on.
    pub fn inbound(&self) -> Option<&Inbound> {
        self.inbound.as_ref()
    }

    /// Capture of opened connections, if it is on.
    pub fn outbound(&self) -> Option<&Outbound> {
        self.outbound.as_ref()
    }

    /// Capture of DNS queries, if it is on.
    pub fn dns(&self) -> Option<&Dns> {
        self.dns.as_ref()
    }

    /// Who is captured on the way out.
    pub fn identities(&self) -> &IdentitySelect {
        &self.identities
    }

    /// What happens to IPv6.
    pub fn ipv6(&self) -> Ipv6 {
        self.ipv6
    }

    /// What happens to traffic that slips past.
    pub fn guard(&self) -> Guard {
        self.guard
    }

    /// What happens to connections that are open when rules arrive.
    pub fn existing(&self) -> Existing {
        self.existing
    }

    /// Whether packets of no connection are dropped.
    pub fn drop_invalid(&self) -> DropInvalid {
        self.drop_invalid
    }

    /// Interfaces behind which guests are.
    pub fn virtual_interfaces(&self) -> &[VirtualInterface] {
        &self.virtual_interfaces
    }

    /// Ports to which certain senders are not captured.
    pub fn per_identity(&self) -> &[IdentityPorts] {
        &self.per_identity
    }

    /// Interfaces whose traffic is left alone, in both directions.
    pub fn excluded_interfaces(&self) -> &BTreeSet<InterfaceName> {
        &self.excluded_interfaces
    }
}

// === impl Outbound ===

impl Outbound {
    /// All destinations to `to`, connections of the application to itself aside.
    pub fn to(to: Port) -> Self {
        Self {
            to,
            destinations: DestinationSelect::All,
            loopback: Loopback::Direct,
        }
    }

    /// With these destinations instead of all.
    #[must_use]
    pub fn destinations(self, destinations: DestinationSelect) -> Self {
        Self {
            destinations,
            ..self
        }
    }
}

// === impl VirtualInterface ===

impl VirtualInterface {
    /// All traffic that arrives at this interface.
    pub fn new(name: InterfaceName) -> Self {
        Self {
            name,
            direct: NetworkSet::default(),
        }
    }
}

// === impl Destinations ===

impl Destinations {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.networks.is_empty() && self.network_ports.is_empty()
    }
}
