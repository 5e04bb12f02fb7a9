//! Plan: the ordered rules that a policy becomes, independent of any tool's syntax.

mod compile;
mod evaluate;

use std::collections::BTreeSet;
use std::fmt;

pub use self::evaluate::{Content, Decision, Direction, Packet, Step, Trace};
use crate::bytecode::{self, Fingerprint};
use crate::{Family, InstanceName, InterfaceName, Mark, Networks, Policy, Port, PortSet};

/// The rules of one policy: what [`Policy`] means, packet by packet.
///
/// The same policy always gives the same plan. It can be printed (`Display` is `nft` syntax),
/// evaluated, serialised with feature `serde`, and with feature `apply` put into the kernel.
///
/// ```
/// use mesh_netfilter::{Plan, Policy};
///
/// let plan = Plan::compile(&Policy::sidecar());
/// assert_eq!(plan.tables()[0].name(), "mesh_mesh");
/// println!("{plan}");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use = "a plan does nothing until it is applied"]
pub struct Plan {
    instance: InstanceName,
    fingerprint: Fingerprint,
    dns_port: Option<Port>,
    tables: Vec<Table>,
}

/// A table of family `inet`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Table {
    name: String,
    chains: Vec<Chain>,
}

/// A chain: rules in the order in which a packet meets them.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Chain {
    name: &'static str,
    base: Option<Base>,
    rules: Vec<Rule>,
}

/// Where the kernel calls a base chain. The policy of every chain is to accept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Base {
    /// What the chain may do.
    pub kind: ChainKind,
    /// Where packets are stopped.
    pub hook: Hook,
    /// The order among chains of a hook: lower comes first.
    pub priority: i32,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum ChainKind {
    /// Judges every packet.
    Filter,
    /// Translates addresses; sees the first packet of a connection only.
    Nat,
}

/// A place in the packet's way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Hook {
    /// On arrival, before routing.
    Prerouting,
    /// Before a local process receives it.
    Input,
    /// After a local process sent it.
    Output,
}

/// One rule: if all matches hold, the action; and why the rule is there.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Rule {
    /// All of them must hold; none always holds.
    pub matches: Vec<Match>,
    /// What happens then.
    pub action: Action,
    /// Why the rule is there.
    pub why: Why,
}

/// One condition on a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Match {
    /// The packet is of this address family.
    Family(Family),
    /// The packet is of this transport protocol.
    Transport(Transport),
    /// It arrives through one of these interfaces.
    InInterface(BTreeSet<InterfaceName>),
    /// It leaves through one of these interfaces.
    OutInterface(BTreeSet<InterfaceName>),
    /// Its source address is in one of these networks.
    Source(Networks),
    /// Its destination address is in one of these networks.
    Destination(Networks),
    /// Its destination address is of their family, and in none of these networks.
    DestinationNot(Networks),
    /// Its destination port is one of these.
    DestinationPort(PortSet),
    /// Its destination port is none of these.
    DestinationPortNot(PortSet),
    /// It is the first packet of a TCP connection (of SYN, ACK, RST and FIN only SYN is set).
    FirstPacket,
    /// The user that owns its socket is one of these; never true without a socket.
    User(BTreeSet<u32>),
    /// The group that owns its socket is one of these; never true without a socket.
    Group(BTreeSet<u32>),
    /// It bears this mark.
    Mark(Mark),
    /// The destination of its connection was translated.
    Translated,
    /// It answers a packet that came the other way.
    Reply,
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Either of them.
    TcpOrUdp,
}

/// What happens to a packet for which all matches of a rule hold.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Action {
    /// No rule below is asked; the packet stays as it is.
    Return,
    /// It goes to this port of the namespace: on loopback in output, else at the address of the
    /// interface on which it arrived.
    Redirect(Port),
    /// It is refused with a TCP reset.
    Reset,
    /// It is refused with ICMP "port unreachable".
    Unreachable,
    /// The rules of this chain are asked instead of those below.
    Goto(&'static str),
    /// Its connection is kept apart from others of the same addresses and ports: the original
    /// direction is looked up in this conntrack zone. The rules below are asked all the same.
    Zone(u16),
}

/// Why a rule is there.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(into = "&'static str")
)]
#[non_exhaustive]
pub enum Why {
    /// The policy blocks or bypasses IPv6.
    OtherFamily,
    /// The policy excludes the interface.
    Interface,
    /// The policy excludes the sender.
    ExcludedIdentity,
    /// The proxy hands an inbound connection to the application.
    Delivery,
    /// The proxy calls its own workload; that is an inbound call like any other.
    SelfCall,
    /// The proxy's own traffic would loop.
    Proxy,
    /// The policy includes the sender.
    IncludedIdentity,
    /// The proxy answers DNS queries.
    Dns,
    /// The proxy's DNS queries must not share conntrack entries with the application's.
    ProxyDns,
    /// The application talks to itself.
    Loopback,
    /// The policy excludes the destination.
    ExcludedDestination,
    /// The policy captures the destination.
    Outbound,
    /// The policy excludes the caller.
    ExcludedSource,
    /// The proxy itself takes tunnels.
    Tunnel,
    /// The policy excludes the port.
    ExcludedPort,
    /// The policy captures the port.
    Inbound,
    /// The connection was captured, so the guard has nothing to do.
    Captured,
    /// Answers belong to queries from outside.
    Reply,
    /// Loopback was judged on its way out.
    LoopbackArrival,
}

/// The version of the plan's form in the kernel; a new one whenever the meaning of what is read
/// back changes.
pub const FORMAT: u32 = 1;

/// The chain that tells format and fingerprint of the plan in the comment of its only rule. No
/// packet ever comes there.
pub(crate) const ABOUT_CHAIN: &str = "about";

// === impl Plan ===

impl Plan {
    /// The plan of a policy.
    pub fn compile(policy: &Policy) -> Self {
        let tables = compile::tables(policy);
        Self {
            instance: policy.instance().clone(),
            fingerprint: bytecode::fingerprint(&tables),
            dns_port: policy.dns().map(|dns| dns.to),
            tables,
        }
    }

    /// Whose rules these are.
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    /// A hash of all rules, equal for equal plans of one [`FORMAT`].
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The tables: that of NAT, then, if the policy asks for it, that of the guard.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Where captured DNS queries go.
    pub fn dns_port(&self) -> Option<Port> {
        self.dns_port
    }

    /// What becomes of a packet, and because of which rules.
    pub fn evaluate(&self, packet: &Packet) -> Trace {
        evaluate::evaluate(&self.tables, packet)
    }

    /// What becomes of a packet after something has removed the NAT rules: what the guard is for.
    pub fn evaluate_guard(&self, packet: &Packet) -> Trace {
        let guard = self.instance.guard_table();
        let index = self.tables.iter().position(|table| table.name == guard);
        let guard = index.and_then(|index| self.tables.get(index..));
        evaluate::evaluate(guard.unwrap_or_default(), packet)
    }

    /// The plan in the syntax of `nft`: one transaction that replaces what was there.
    pub fn to_nft(&self) -> String {
        crate::nft::script(self)
    }

    /// The plan as one netlink batch for `NETLINK_NETFILTER`: one transaction that replaces what
    /// was there, to be sent in one piece.
    pub fn to_netlink(&self) -> Vec<u8> {
        crate::netlink::replacement(self).into_bytes()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_nft())
    }
}

// === impl Table ===

impl Table {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The chains.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }
}

// === impl Chain ===

impl Chain {
    /// The name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where the kernel calls it; none for a chain that only rules lead to.
    pub fn base(&self) -> Option<Base> {
        self.base
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

// === impl ChainKind, Hook ===

impl ChainKind {
    /// The name that kernel and tools use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

impl Hook {
    /// The name that tools use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Output => "output",
        }
    }

    /// The number that the kernel uses (`enum nf_inet_hooks`).
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Output => 3,
        }
    }
}

// === impl Why ===

impl Why {
    /// The reason in words, at most 100 characters without quotes: it is the rule's comment.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OtherFamily => "not of a family that these rules speak about",
            Self::Interface => "excluded interface",
            Self::ExcludedIdentity => "excluded sender",
            Self::Delivery => "the proxy hands an inbound connection to the application",
            Self::SelfCall => "the proxy calls its own workload, an inbound call like any other",
            Self::Proxy => "the proxy's own traffic would loop",
            Self::IncludedIdentity => "included sender",
            Self::Dns => "DNS query",
            Self::ProxyDns => "the proxy's DNS queries share no conntrack entry with others",
            Self::Loopback => "the application talks to itself",
            Self::ExcludedDestination => "excluded destination",
            Self::Outbound => "outbound connection",
            Self::ExcludedSource => "excluded caller",
            Self::Tunnel => "the proxy itself takes tunnels",
            Self::ExcludedPort => "excluded port",
            Self::Inbound => "inbound connection",
            Self::Captured => "captured already",
            Self::Reply => "the answer to a query from outside",
            Self::LoopbackArrival => "loopback was judged on its way out",
        }
    }
}

impl From<Why> for &'static str {
    fn from(why: Why) -> Self {
        why.as_str()
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
