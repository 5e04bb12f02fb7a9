//! The plan as a function of a packet: what the kernel will do with it, without the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Action, Chain, ChainKind, Hook, Match, Rule, Table, Transport, Why};
use crate::{Family, Identities, InterfaceName, Owner, Port};

/// A packet to ask about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Which way it goes.
    pub direction: Direction,
    /// What it carries.
    pub content: Content,
    /// From where.
    pub source: SocketAddr,
    /// To where, as the sender wrote it.
    pub destination: SocketAddr,
    /// The interface by which it leaves or arrives.
    pub interface: InterfaceName,
    /// Who owns the sending socket; arriving packets have no owner.
    pub owner: Option<Owner>,
    /// The mark of the packet.
    pub mark: u32,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Direction {
    /// A process of the namespace sent it.
    Out,
    /// It arrives from outside the namespace.
    In,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Content {
    /// The first packet of a TCP connection.
    TcpFirst,
    /// A packet of a TCP connection that was open before there were rules.
    TcpLater,
    /// A UDP datagram of a flow that nobody answered yet.
    Udp,
    /// A UDP datagram that answers one which came the other way.
    UdpReply,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Decision {
    /// It goes where its sender sent it.
    Pass,
    /// It goes to this port of the namespace.
    Redirect(Port),
    /// It is refused.
    Refuse,
}

/// A rule whose matches all held.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Step {
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: &'static str,
    /// The rule's place in its chain, from 0.
    pub index: usize,
    /// What the rule did.
    pub action: Action,
    /// Why the rule is there.
    pub why: Why,
}

/// What becomes of a packet, and because of which rules.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use]
pub struct Trace {
    /// What becomes of it.
    pub decision: Decision,
    /// The rules that matched, in the order in which the packet met them.
    pub steps: Vec<Step>,
}

/// How a chain ended.
enum End {
    /// Nothing was done to the packet.
    Return,
    Redirect(Port),
    Refuse,
}

/// The packet under way, and what became of it so far.
struct Journey {
    packet: Packet,
    translated: bool,
    steps: Vec<Step>,
}

/// What `tables` do with a packet.
pub(super) fn evaluate(tables: &[Table], packet: &Packet) -> Trace {
    let hooks: &[Hook] = match packet.direction {
        Direction::Out => &[Hook::Output],
        Direction::In => &[Hook::Prerouting, Hook::Input],
    };
    let mut journey = Journey {
        packet: packet.clone(),
        translated: false,
        steps: Vec::new(),
    };
    let mut decision = Decision::Pass;
    for hook in hooks {
        for (table, chain) in at_hook(tables, *hook) {
            let is_nat = chain.base.is_some_and(|base| base.kind == ChainKind::Nat);
            if is_nat && packet.content == Content::UdpReply {
                continue;
            }
            match journey.walk(table, chain) {
                End::Return => {}
                End::Redirect(to) => {
                    decision = Decision::Redirect(to);
                    journey.redirect(to);
                }
                End::Refuse => {
                    return Trace {
                        decision: Decision::Refuse,
                        steps: journey.steps,
                    };
                }
            }
        }
    }
    Trace {
        decision,
        steps: journey.steps,
    }
}

/// The base chains of a hook in the order in which the kernel calls them.
fn at_hook(tables: &[Table], hook: Hook) -> Vec<(&Table, &Chain)> {
    let mut chains: Vec<(i32, &Table, &Chain)> = tables
        .iter()
        .flat_map(|table| table.chains.iter().map(move |chain| (table, chain)))
        .filter_map(|(table, chain)| {
            let base = chain.base.filter(|base| base.hook == hook)?;
            Some((base.priority, table, chain))
        })
        .collect();
    chains.sort_by_key(|(priority, ..)| *priority);
    chains
        .into_iter()
        .map(|(_, table, chain)| (table, chain))
        .collect()
}

// === impl Packet ===

impl Packet {
    /// A packet that a process sends through `interface`.
    pub fn outgoing(
        content: Content,
        source: SocketAddr,
        destination: SocketAddr,
        interface: InterfaceName,
        owner: Owner,
    ) -> Self {
        Self {
            direction: Direction::Out,
            content,
            source,
            destination,
            interface,
            owner: Some(owner),
            mark: 0,
        }
    }

    /// A packet that arrives through `interface`.
    pub fn incoming(
        content: Content,
        source: SocketAddr,
        destination: SocketAddr,
        interface: InterfaceName,
    ) -> Self {
        Self {
            direction: Direction::In,
            content,
            source,
            destination,
            interface,
            owner: None,
            mark: 0,
        }
    }
}

// === impl Journey ===

impl Journey {
    fn walk(&mut self, table: &Table, chain: &Chain) -> End {
        let mut chain = chain;
        loop {
            let mut next = None;
            for (index, rule) in chain.rules.iter().enumerate() {
                if !self.matches(rule) {
                    continue;
                }
                self.steps.push(Step {
                    table: table.name.clone(),
                    chain: chain.name,
                    index,
                    action: rule.action.clone(),
                    why: rule.why,
                });
                match &rule.action {
                    Action::Return => return End::Return,
                    Action::Redirect(to) => return End::Redirect(*to),
                    Action::Reset | Action::Unreachable => return End::Refuse,
                    Action::Zone(_) => {}
                    Action::Goto(name) => {
                        next = table.chains.iter().find(|chain| chain.name == *name);
                        break;
                    }
                }
            }
            match next {
                Some(included) => chain = included,
                None => return End::Return,
            }
        }
    }

    fn matches(&self, rule: &Rule) -> bool {
        rule.matches.iter().all(|part| self.holds(part))
    }

    fn holds(&self, part: &Match) -> bool {
        let packet = &self.packet;
        let destination = packet.destination.ip();
        let to_port = Port::new(packet.destination.port());
        let is_tcp = matches!(packet.content, Content::TcpFirst | Content::TcpLater);
        match part {
            Match::Family(family) => Family::of(destination) == *family,
            Match::Transport(Transport::Tcp) => is_tcp,
            Match::Transport(Transport::Udp) => !is_tcp,
            Match::Transport(Transport::TcpOrUdp) => true,
            Match::InInterface(names) => {
                packet.direction == Direction::In && names.contains(&packet.interface)
            }
            Match::OutInterface(names) => {
                packet.direction == Direction::Out && names.contains(&packet.interface)
            }
            Match::Source(networks) => networks.contains(packet.source.ip()),
            Match::Destination(networks) => networks.contains(destination),
            Match::DestinationNot(networks) => {
                networks.family() == Family::of(destination) && !networks.contains(destination)
            }
            Match::DestinationPort(ports) => to_port.is_some_and(|port| ports.contains(port)),
            Match::DestinationPortNot(ports) => !to_port.is_some_and(|port| ports.contains(port)),
            Match::FirstPacket => packet.content == Content::TcpFirst,
            Match::User(ids) => {
                Identities::users(ids.iter().copied()).include(packet.owner, packet.mark)
            }
            Match::Group(ids) => {
                Identities::groups(ids.iter().copied()).include(packet.owner, packet.mark)
            }
            Match::Mark(mark) => mark.matches(packet.mark),
            Match::Translated => self.translated,
            Match::Reply => packet.content == Content::UdpReply,
        }
    }

    /// On the way out the packet goes to loopback, else to the address of the interface on which
    /// it arrived, which is taken to be the one that it was sent to. A translation that changes
    /// nothing is none to conntrack.
    fn redirect(&mut self, to: Port) {
        let before = self.packet.destination;
        self.packet.destination.set_port(to.get());
        if self.packet.direction == Direction::Out {
            self.packet.destination.set_ip(match before {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            });
        }
        self.translated = before != self.packet.destination;
    }
}
