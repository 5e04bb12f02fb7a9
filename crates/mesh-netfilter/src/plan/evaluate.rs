//! The plan as a function of a packet: what the kernel will do with it, without the kernel.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Action, Chain, ChainKind, Hook, Match, Table, Transport, Why};
use crate::{Family, InterfaceName, Owner, Port};

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
    /// The mark of its connection.
    pub connection_mark: u32,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Direction {
    /// A process of the namespace sent it.
    Out,
    /// It arrives from outside the namespace, for an address of it.
    In,
    /// It arrives from outside the namespace, for an address elsewhere.
    Through,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Content {
    /// The first packet of a TCP connection.
    TcpFirst,
    /// A packet of a TCP connection that was open before there were rules, and that conntrack
    /// does not know yet.
    TcpLater,
    /// A packet of TCP that conntrack can assign to no connection.
    TcpInvalid,
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
    /// It goes to this address.
    Forward(SocketAddr),
    /// It goes to the transparent socket that listens on this port, unchanged.
    Tproxy(Port),
    /// It is refused.
    Refuse,
    /// It vanishes.
    Drop,
}

/// A rule that was asked.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Step {
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: &'static str,
    /// The rule's place in its chain, from 0.
    pub index: usize,
    /// The first condition that did not hold, in the syntax of `nft`; none if all held.
    pub missed: Option<String>,
    /// What the rule does if all its conditions hold.
    pub action: Action,
    /// Why the rule is there.
    pub why: Why,
}

/// What becomes of a packet, and because of which rules. Its `Display` is for people.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use]
pub struct Trace {
    /// What becomes of it.
    pub decision: Decision,
    /// The rules that were asked, in the order in which the packet met them.
    pub steps: Vec<Step>,
}

/// How a base chain ended.
enum End {
    /// Nothing more was done to the packet.
    Return,
    Decided(Decision),
}

/// The packet under way, and what became of it so far.
struct Journey {
    packet: Packet,
    hook: Hook,
    translated: bool,
    steps: Vec<Step>,
}

/// What `tables` do with a packet.
pub(super) fn evaluate(tables: &[Table], packet: &Packet) -> Trace {
    let mut journey = Journey {
        packet: packet.clone(),
        hook: Hook::Prerouting,
        translated: false,
        steps: Vec::new(),
    };
    let decision = journey.make(tables);
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
            connection_mark: 0,
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
            connection_mark: 0,
        }
    }
}

// === impl Journey ===

impl Journey {
    /// The way through the hooks. What leaves over loopback arrives again.
    fn make(&mut self, tables: &[Table]) -> Decision {
        let mut decision = Decision::Pass;
        let is_sent = self.packet.direction == Direction::Out;
        if is_sent {
            decision = self.visit(tables, Hook::Output, true, decision);
            if !self.is_on_loopback() || decision.is_end() {
                return decision;
            }
            self.packet.interface = InterfaceName::loopback();
        }
        // NAT was asked on the way out.
        decision = self.visit(tables, Hook::Prerouting, !is_sent, decision);
        if decision.is_end() {
            return decision;
        }
        let passes = match decision {
            Decision::Pass => self.packet.direction == Direction::Through,
            Decision::Forward(_) => !is_sent,
            _ => false,
        };
        let hook = if passes { Hook::Forward } else { Hook::Input };
        self.visit(tables, hook, false, decision)
    }

    /// The chains of a hook, one after the other.
    fn visit(
        &mut self,
        tables: &[Table],
        hook: Hook,
        asks_nat: bool,
        before: Decision,
    ) -> Decision {
        self.hook = hook;
        let mut decision = before;
        for (table, chain) in at_hook(tables, hook) {
            let is_nat = chain.base.is_some_and(|base| base.kind == ChainKind::Nat);
            if is_nat && !(asks_nat && self.is_new()) {
                continue;
            }
            match self.walk(table, chain) {
                End::Return => {}
                End::Decided(end) => {
                    decision = end;
                    self.apply(end);
                    if end.is_end() {
                        break;
                    }
                }
            }
        }
        decision
    }

    /// Whether conntrack takes the packet for the first one of its connection.
    fn is_new(&self) -> bool {
        match self.packet.content {
            Content::TcpFirst | Content::TcpLater | Content::Udp => true,
            Content::TcpInvalid | Content::UdpReply => false,
        }
    }

    fn is_on_loopback(&self) -> bool {
        let to_loopback = self.packet.destination.ip().is_loopback();
        self.packet.interface == InterfaceName::loopback() || (self.translated && to_loopback)
    }

    fn walk(&mut self, table: &Table, chain: &Chain) -> End {
        let mut chain = chain;
        loop {
            let mut next = None;
            for (index, rule) in chain.rules.iter().enumerate() {
                let missed = rule.matches.iter().find(|part| !self.holds(part));
                self.steps.push(Step {
                    table: table.name.clone(),
                    chain: chain.name,
                    index,
                    missed: missed.map(|part| crate::nft::condition(part, &rule.matches)),
                    action: rule.action.clone(),
                    why: rule.why,
                });
                if missed.is_some() {
                    continue;
                }
                match &rule.action {
                    Action::Return | Action::Accept => return End::Return,
                    Action::MarkAndAccept(mark) => {
                        self.packet.mark = *mark;
                        return End::Return;
                    }
                    Action::Redirect(to) => return End::Decided(Decision::Redirect(*to)),
                    Action::Dnat(to) => return End::Decided(Decision::Forward(*to)),
                    Action::Tproxy { to, mark } => {
                        self.packet.mark = *mark;
                        return End::Decided(Decision::Tproxy(*to));
                    }
                    Action::Reset | Action::Unreachable => {
                        return End::Decided(Decision::Refuse);
                    }
                    Action::Drop => return End::Decided(Decision::Drop),
                    Action::Zone(_) => {}
                    Action::SetMark(mark) => self.packet.mark = *mark,
                    Action::SaveMark => self.packet.connection_mark = self.packet.mark,
                    Action::RestoreMark => self.packet.mark = self.packet.connection_mark,
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

    fn holds(&self, part: &Match) -> bool {
        let packet = &self.packet;
        let destination = packet.destination.ip();
        let to_port = Port::new(packet.destination.port());
        let is_udp = matches!(packet.content, Content::Udp | Content::UdpReply);
        let arrives = self.hook != Hook::Output;
        match part {
            Match::Family(family) => Family::of(destination) == *family,
            Match::Transport(Transport::Tcp) => !is_udp,
            Match::Transport(Transport::Udp) => is_udp,
            Match::Transport(Transport::TcpOrUdp) => true,
            Match::InInterface(names) => arrives && names.contains(&packet.interface),
            Match::OutInterface(names) => !arrives && names.contains(&packet.interface),
            Match::Source(networks) => networks.contains(packet.source.ip()),
            Match::SourceNot(networks) => {
                let source = packet.source.ip();
                networks.family() == Family::of(source) && !networks.contains(source)
            }
            Match::Destination(networks) => networks.contains(destination),
            Match::DestinationNot(networks) => {
                networks.family() == Family::of(destination) && !networks.contains(destination)
            }
            Match::DestinationPort(ports) => to_port.is_some_and(|port| ports.contains(port)),
            Match::DestinationPortNot(ports) => !to_port.is_some_and(|port| ports.contains(port)),
            Match::FirstPacket => packet.content == Content::TcpFirst,
            Match::User(ids) => packet.owner.is_some_and(|owner| ids.contains(owner.user)),
            Match::Group(ids) => packet.owner.is_some_and(|owner| ids.contains(owner.group)),
            Match::Mark(mark) => mark.matches(packet.mark),
            Match::MarkNot(mark) => !mark.matches(packet.mark),
            Match::ConnectionMark(mark) => mark.matches(packet.connection_mark),
            Match::Translated => self.translated,
            Match::Reply => packet.content == Content::UdpReply,
            Match::Invalid => packet.content == Content::TcpInvalid,
            // It has those of connections that opened under these rules, of which no packet tells.
            Match::TransparentSocket => false,
        }
    }

    /// Does to the packet what was decided.
    ///
    /// On the way out a redirected packet goes to loopback, else to the address of the interface
    /// on which it arrived, which is taken to be the one that it was sent to. A translation that
    /// changes nothing is none to conntrack.
    fn apply(&mut self, decision: Decision) {
        let before = self.packet.destination;
        match decision {
            Decision::Redirect(to) => {
                self.packet.destination.set_port(to.get());
                if self.hook == Hook::Output {
                    self.packet.destination.set_ip(match before {
                        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
                    });
                }
            }
            Decision::Forward(to) => self.packet.destination = to,
            Decision::Pass | Decision::Tproxy(_) | Decision::Refuse | Decision::Drop => return,
        }
        self.translated = before != self.packet.destination;
    }
}

// === impl Decision ===

impl Decision {
    /// Whether the packet goes no further.
    fn is_end(self) -> bool {
        matches!(self, Self::Refuse | Self::Drop)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("goes where it was sent"),
            Self::Redirect(port) => write!(f, "is redirected to port {port}"),
            Self::Forward(address) => write!(f, "is forwarded to {address}"),
            Self::Tproxy(port) => write!(f, "is taken by the transparent socket of port {port}"),
            Self::Refuse => f.write_str("is refused"),
            Self::Drop => f.write_str("is dropped"),
        }
    }
}

// === impl Trace ===

impl Trace {
    /// The rules whose conditions all held.
    pub fn matched(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.missed.is_none())
    }

    /// The rule by which it was decided; none if no rule said anything, so that the packet passes.
    pub fn deciding(&self) -> Option<&Step> {
        let decides = |step: &&Step| match (&step.action, self.decision) {
            (Action::Return | Action::Accept | Action::MarkAndAccept(_), Decision::Pass) => {
                step.why != Why::LoopbackArrival
            }
            (Action::Redirect(to), Decision::Redirect(port))
            | (Action::Tproxy { to, .. }, Decision::Tproxy(port)) => *to == port,
            (Action::Dnat(to), Decision::Forward(address)) => *to == address,
            (Action::Reset | Action::Unreachable, Decision::Refuse)
            | (Action::Drop, Decision::Drop) => true,
            _ => false,
        };
        self.matched().find(decides)
    }
}

impl fmt::Display for Trace {
    /// A line for each rule that was asked, and one for the decision.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "the packet {}", self.decision)?;
        match self.deciding() {
            Some(step) => write!(
                f,
                ": rule {} of chain `{}` ({})",
                step.index, step.chain, step.why
            ),
            None => f.write_str(": no rule says anything about it"),
        }
    }
}

// === impl Step ===

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: ", self.table, self.chain, self.index)?;
        match &self.missed {
            Some(condition) => write!(f, "no, it is not `{condition}`")?,
            None => write!(f, "yes, `{}`", crate::nft::action(&self.action))?,
        }
        write!(f, " ({})", self.why)
    }
}
