//! Rules: conditions on a packet, what happens if all hold, and why.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;

use crate::{Family, IdSet, InterfaceName, Mark, Networks, Port, PortSet};

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

/// Values that a condition compares with.
///
/// Those that a policy lists have a name: the kernel holds them in a set of that name, so that a
/// change of the list changes the set's elements and no rule. Within a table, the same name means
/// the same values. Fixed values have none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct List<T> {
    name: Option<String>,
    values: T,
}

/// The values of a list, whatever they are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values<'a> {
    Networks(&'a Networks),
    Ports(&'a PortSet),
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
    Source(List<Networks>),
    /// Its source address is of their family, and in none of these networks.
    SourceNot(List<Networks>),
    /// Its destination address is in one of these networks.
    Destination(List<Networks>),
    /// Its destination address is of their family, and in none of these networks.
    DestinationNot(List<Networks>),
    /// Its destination port is one of these.
    DestinationPort(List<PortSet>),
    /// Its destination port is none of these.
    DestinationPortNot(List<PortSet>),
    /// It is the first packet of a TCP connection (of SYN, ACK, RST and FIN only SYN is set).
    FirstPacket,
    /// The user that owns its socket is one of these; never true without a socket.
    User(IdSet),
    /// The group that owns its socket is one of these; never true without a socket.
    Group(IdSet),
    /// It bears this mark.
    Mark(Mark),
    /// It bears another mark than this, or none.
    MarkNot(Mark),
    /// Its connection bears this mark.
    ConnectionMark(Mark),
    /// The destination of its connection was translated.
    Translated,
    /// It answers a packet that came the other way.
    Reply,
    /// Conntrack can assign it to no connection.
    Invalid,
    /// It is not the first packet of a TCP connection, and a transparent socket waits for it.
    TransparentSocket,
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(rename_all = "snake_case")
)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Either of them.
    #[default]
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
    /// The chain is done with the packet, which goes on to the next one.
    Accept,
    /// It goes to this port of the namespace: on loopback in output, else at the address of the
    /// interface on which it arrived.
    Redirect(Port),
    /// It goes to this address and port.
    Dnat(SocketAddr),
    /// It goes to the transparent socket that listens on this port, source and destination as they
    /// are, with this mark. If there is no such socket, the rules below are asked.
    Tproxy {
        /// The port.
        to: Port,
        /// The mark that it then bears, by which it is delivered locally.
        mark: u32,
    },
    /// It is refused with a TCP reset.
    Reset,
    /// It is refused with ICMP "port unreachable".
    Unreachable,
    /// It vanishes.
    Drop,
    /// The rules of this chain are asked instead of those below.
    Goto(&'static str),
    /// Its connection is kept apart from others of the same addresses and ports: the original
    /// direction is looked up in this conntrack zone. The rules below are asked all the same.
    Zone(u16),
    /// It bears this mark from now on. The rules below are asked all the same.
    SetMark(u32),
    /// It bears this mark from now on, and the chain is done with it.
    MarkAndAccept(u32),
    /// Its connection bears its mark from now on. The rules below are asked all the same.
    SaveMark,
    /// It bears the mark of its connection from now on. The rules below are asked all the same.
    RestoreMark,
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
    /// The policy drops what belongs to no connection.
    Invalid,
    /// Behind the interface are guests, whose traffic is outbound.
    Guest,
    /// Guests reach the network directly.
    GuestDirect,
    /// The policy excludes the sender.
    ExcludedIdentity,
    /// The policy excludes the port for the sender.
    ExcludedIdentityPort,
    /// The proxy hands an inbound connection to the application.
    Delivery,
    /// The application answers where the proxy spoke with the caller's address.
    DeliveryAnswer,
    /// The proxy calls its own workload; that is an inbound call like any other.
    SelfCall,
    /// The proxy's own traffic would loop.
    Proxy,
    /// The policy includes the sender.
    IncludedIdentity,
    /// The proxy answers DNS queries.
    Dns,
    /// DNS queries that are not captured must not share conntrack entries with those that are.
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
    /// The proxy has the connection already.
    Intercepted,
    /// Nobody listens where captured connections go.
    NoListener,
    /// The connection was captured, so the guard has nothing to do.
    Captured,
    /// Answers belong to queries from outside.
    Reply,
    /// Loopback was judged on its way out.
    LoopbackArrival,
}

// === impl List ===

impl<T> List<T> {
    /// Values that no policy changes.
    pub fn fixed(values: T) -> Self {
        Self { name: None, values }
    }

    /// Values that a policy lists, under this name.
    pub(crate) fn named(name: impl Into<String>, values: T) -> Self {
        Self {
            name: Some(name.into()),
            values,
        }
    }

    /// The name of the set that holds the values, if it is one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The values.
    pub fn values(&self) -> &T {
        &self.values
    }
}

impl<T> Deref for List<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.values
    }
}

impl<T> From<T> for List<T> {
    fn from(values: T) -> Self {
        Self::fixed(values)
    }
}

#[cfg(feature = "serde")]
impl<T: serde::Serialize> serde::Serialize for List<T> {
    /// The values: their name says nothing about packets.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(serializer)
    }
}

// === impl Rule, Match ===

impl fmt::Display for Rule {
    /// The syntax of `nft`, without counter and comment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::nft::rule(self))
    }
}

impl Match {
    /// The address family that the condition implies, if it does.
    pub(crate) fn family(&self) -> Option<Family> {
        match self {
            Self::Family(family) => Some(*family),
            Self::Source(networks)
            | Self::SourceNot(networks)
            | Self::Destination(networks)
            | Self::DestinationNot(networks) => Some(networks.family()),
            _ => None,
        }
    }

    /// The named list that the condition compares with, if it does.
    pub(crate) fn list(&self) -> Option<(&str, Values<'_>)> {
        match self {
            Self::Source(list)
            | Self::SourceNot(list)
            | Self::Destination(list)
            | Self::DestinationNot(list) => Some((list.name()?, Values::Networks(list.values()))),
            Self::DestinationPort(list) | Self::DestinationPortNot(list) => {
                Some((list.name()?, Values::Ports(list.values())))
            }
            _ => None,
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
            Self::Invalid => "belongs to no connection",
            Self::Guest => "traffic of guests is outbound",
            Self::GuestDirect => "guests reach this network directly",
            Self::ExcludedIdentity => "excluded sender",
            Self::ExcludedIdentityPort => "excluded port of this sender",
            Self::Delivery => "the proxy hands an inbound connection to the application",
            Self::DeliveryAnswer => "the answer to what the proxy sent with the caller's address",
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
            Self::Intercepted => "the proxy has the connection already",
            Self::NoListener => "nobody listens where captured connections go",
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
