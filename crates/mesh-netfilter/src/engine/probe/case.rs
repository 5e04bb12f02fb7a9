//! Cases: which packets a probe sends, and what the plan says becomes of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::engine::capture::rules;
use crate::plan::{Match, Why};
use crate::{Content, Decision, Family, InterfaceName, Owner, Packet, Plan, Port};

/// The two ends of the probe's cable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The address in the namespace that is probed.
    pub(super) near: IpAddr,
    /// That of the other end, in a namespace made for the probe.
    pub(super) far: IpAddr,
}

/// Who sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sender {
    /// A process of the namespace that is probed.
    Near { owner: Owner, mark: u32 },
    /// Somebody outside.
    Far,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Over {
    Tcp,
    Udp,
}

/// What is to become of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// It is redirected to this port.
    Captured(Port),
    /// It arrives where it was sent to.
    Direct,
    Refused,
}

/// One packet, or the first of one connection.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) sender: Sender,
    pub(super) over: Over,
    pub(super) source: IpAddr,
    pub(super) to: SocketAddr,
    pub(super) expected: Fate,
    /// Who sends the same from the same source port right before.
    pub(super) after: Option<Sender>,
}

/// What can be sent, and what cannot.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Case(Case),
    Not { name: String, reason: String },
}

/// All cases of one family.
pub(super) struct Cases<'a> {
    plan: &'a Plan,
    ends: Ends,
    family: Family,
    link: InterfaceName,
    app: Owner,
    items: Vec<Item>,
}

const DNS_PORT: u16 = 53;
/// Ports to try until one is captured.
const PORTS: [u16; 5] = [80, 8080, 443, 9, 4242];
/// Users and groups to try until one is captured; the first is nobody's.
const OWNERS: [u32; 4] = [65534, 54321, 1000, 0];
const DELIVERY_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const DELIVERY_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// The cases of a plan between two ends. `app` is who plays the application; by default the first
/// of some users that the plan captures.
pub(super) fn cases(
    plan: &Plan,
    ends: Ends,
    link: &InterfaceName,
    app: Option<Owner>,
) -> Vec<Item> {
    let mut cases = Cases {
        plan,
        ends,
        family: Family::of(ends.near),
        link: link.clone(),
        app: app.unwrap_or(Owner {
            user: OWNERS[0],
            group: OWNERS[0],
        }),
        items: Vec::new(),
    };
    if app.is_none() {
        cases.choose_app();
    }
    cases.outbound();
    cases.dns();
    cases.self_calls();
    cases.inbound();
    cases.items
}

/// Whether a plan captures calls to the far end by somebody.
pub(super) fn is_captured(plan: &Plan, ends: Ends, link: &InterfaceName) -> bool {
    let items = cases(plan, ends, link, None);
    items.iter().any(|item| match item {
        Item::Case(case) => matches!(case.expected, Fate::Captured(_)) && case.to.ip() == ends.far,
        Item::Not { .. } => false,
    })
}

// === impl Cases ===

impl Cases<'_> {
    /// Calls that leave the namespace.
    fn outbound(&mut self) {
        if !self.has(Why::Outbound) {
            self.not(
                "call of the application",
                "the plan captures no outbound connections",
            );
            return;
        }
        let app = self.near(self.app);
        let ports = self.ports(Why::Outbound);
        let to = self.first_captured(app, &ports);
        let Some(port) = to.or_else(|| ports.first().copied()) else {
            return;
        };
        let name = match self.fate(app, Over::Tcp, self.ends.near, self.far(port)) {
            Some(Fate::Direct) => "call of the application, which the plan leaves alone here",
            _ => "call of the application",
        };
        self.tcp(name, app, port);
        for (sender, who) in self.identities(Why::IncludedIdentity) {
            self.tcp(&format!("call of an included sender ({who})"), sender, port);
        }
        for (sender, who) in self.identities(Why::Proxy) {
            self.tcp(&format!("call of the proxy ({who})"), sender, port);
        }
        for (sender, who) in self.identities(Why::ExcludedIdentity) {
            self.tcp(&format!("call of an excluded sender ({who})"), sender, port);
        }
        for port in self.named_ports(Why::ExcludedDestination) {
            self.tcp(&format!("call to the excluded port {port}"), app, port);
        }
        let own = SocketAddr::new(self.ends.near, port);
        self.push(
            "call of the application to itself",
            app,
            Over::Tcp,
            self.ends.near,
            own,
        );
    }

    /// Queries to a server outside.
    fn dns(&mut self) {
        if !self.has(Why::Dns) {
            return;
        }
        let app = self.near(self.app);
        let server = self.far(DNS_PORT);
        let near = self.ends.near;
        match self.fate(app, Over::Udp, near, server) {
            Some(Fate::Direct) => {
                self.not("DNS query", "only queries to certain servers are captured");
                return;
            }
            _ => self.push("DNS query over UDP", app, Over::Udp, near, server),
        }
        self.push("DNS query over TCP", app, Over::Tcp, near, server);
        for (proxy, who) in self.identities(Why::Proxy) {
            let name = format!("DNS query of the proxy ({who})");
            self.push(&name, proxy, Over::Udp, near, server);
            let name = format!("DNS query from a port that the proxy has just used ({who})");
            self.push(&name, app, Over::Udp, near, server);
            self.after(proxy);
        }
    }

    /// Calls of the proxy to its own workload.
    fn self_calls(&mut self) {
        if !self.has(Why::SelfCall) {
            return;
        }
        let ports = self.ports(Why::Inbound);
        let near = self.ends.near;
        for (proxy, who) in self.identities(Why::Proxy) {
            let captured = ports.iter().copied().find(|port| {
                let to = SocketAddr::new(near, *port);
                matches!(
                    self.fate(proxy, Over::Tcp, near, to),
                    Some(Fate::Captured(_))
                )
            });
            let Some(port) = captured else { continue };
            let to = SocketAddr::new(near, port);
            let name = format!("call of the proxy to its own workload ({who})");
            self.push(&name, proxy, Over::Tcp, near, to);
            let from = match self.family {
                Family::V4 => IpAddr::from(DELIVERY_V4),
                Family::V6 => IpAddr::from(DELIVERY_V6),
            };
            let name = format!("delivery of the proxy to the application ({who})");
            self.push(&name, proxy, Over::Tcp, from, to);
        }
    }

    /// Calls that arrive.
    fn inbound(&mut self) {
        if !self.has(Why::Inbound) {
            self.not(
                "call from outside",
                "the plan captures no inbound connections",
            );
            return;
        }
        let (near, far) = (self.ends.near, self.ends.far);
        let to = |port| SocketAddr::new(near, port);
        let ports = self.ports(Why::Inbound);
        let captured = ports.iter().copied().find(|port| {
            matches!(
                self.fate(Sender::Far, Over::Tcp, far, to(*port)),
                Some(Fate::Captured(_))
            )
        });
        if let Some(port) = captured.or_else(|| ports.first().copied()) {
            self.push("call from outside", Sender::Far, Over::Tcp, far, to(port));
        }
        for why in [Why::ExcludedPort, Why::Tunnel] {
            for port in self.named_ports(why) {
                let name = format!("call from outside to the excluded port {port}");
                self.push(&name, Sender::Far, Over::Tcp, far, to(port));
            }
        }
    }

    fn tcp(&mut self, name: &str, sender: Sender, port: u16) {
        self.push(name, sender, Over::Tcp, self.ends.near, self.far(port));
    }

    fn push(&mut self, name: &str, sender: Sender, over: Over, source: IpAddr, to: SocketAddr) {
        let Some(expected) = self.fate(sender, over, source, to) else {
            let reason = "the plan sends it where a probe cannot stand in";
            return self.not(name, reason);
        };
        self.items.push(Item::Case(Case {
            name: name.to_owned(),
            sender,
            over,
            source,
            to,
            expected,
            after: None,
        }));
    }

    /// Has somebody else send the same as the last case right before it, from the same port.
    fn after(&mut self, before: Sender) {
        if let Some(Item::Case(case)) = self.items.last_mut() {
            case.after = Some(before);
        }
    }

    fn not(&mut self, name: &str, reason: &str) {
        self.items.push(Item::Not {
            name: name.to_owned(),
            reason: reason.to_owned(),
        });
    }

    /// What the plan says; none if it is nothing that a probe could see.
    fn fate(&self, sender: Sender, over: Over, source: IpAddr, to: SocketAddr) -> Option<Fate> {
        let content = match over {
            Over::Tcp => Content::TcpFirst,
            Over::Udp => Content::Udp,
        };
        // Any port will do: no rule asks for that of the source.
        let source = SocketAddr::new(source, 40_000);
        let packet = match sender {
            Sender::Far => Packet::incoming(content, source, to, self.link.clone()),
            Sender::Near { owner, mark } => {
                let link = if to.ip() == self.ends.near {
                    InterfaceName::loopback()
                } else {
                    self.link.clone()
                };
                let mut packet = Packet::outgoing(content, source, to, link, owner);
                packet.mark = mark;
                packet
            }
        };
        match self.plan.evaluate(&packet).decision {
            Decision::Redirect(port) => Some(Fate::Captured(port)),
            Decision::Pass => Some(Fate::Direct),
            Decision::Refuse => Some(Fate::Refused),
            Decision::Forward(_) | Decision::Tproxy(_) | Decision::Drop => None,
        }
    }

    fn near(&self, owner: Owner) -> Sender {
        let _ = self;
        Sender::Near { owner, mark: 0 }
    }

    fn far(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ends.far, port)
    }

    fn has(&self, why: Why) -> bool {
        rules(self.plan).any(|(_, rule)| rule.why == why)
    }

    /// The first of some users whose calls are captured, or of those that the plan includes.
    fn choose_app(&mut self) {
        let ports = self.ports(Why::Outbound);
        let some = OWNERS.map(|id| Owner {
            user: id,
            group: id,
        });
        let included = self.identities(Why::IncludedIdentity).into_iter();
        let included = included.filter_map(|(sender, _)| match sender {
            Sender::Near { owner, mark: 0 } => Some(owner),
            _ => None,
        });
        let captured = some
            .into_iter()
            .chain(included)
            .find(|owner| self.first_captured(self.near(*owner), &ports).is_some());
        if let Some(owner) = captured {
            self.app = owner;
        }
    }

    fn first_captured(&self, sender: Sender, ports: &[u16]) -> Option<u16> {
        ports.iter().copied().find(|port| {
            let fate = self.fate(sender, Over::Tcp, self.ends.near, self.far(*port));
            matches!(fate, Some(Fate::Captured(_)))
        })
    }

    /// Ports to try: common ones, and those that rules with this reason name.
    fn ports(&self, why: Why) -> Vec<u16> {
        let mut ports = PORTS.to_vec();
        ports.extend(self.named_ports(why));
        ports
    }

    /// The first port of each range that rules name which judge by nothing else.
    fn named_ports(&self, why: Why) -> Vec<u16> {
        let mut ports = Vec::new();
        for (_, rule) in rules(self.plan).filter(|(_, rule)| rule.why == why) {
            let judges_more = |part: &Match| {
                !matches!(
                    part,
                    Match::Transport(_) | Match::FirstPacket | Match::DestinationPort(_)
                )
            };
            if rule.matches.iter().any(judges_more) {
                continue;
            }
            for part in &rule.matches {
                if let Match::DestinationPort(named) = part {
                    ports.extend(named.ranges().iter().map(|range| range.first().get()));
                }
            }
        }
        ports.dedup();
        ports
    }

    /// One sender for each condition by which rules with this reason know senders.
    fn identities(&self, why: Why) -> Vec<(Sender, String)> {
        let mut all: Vec<(Sender, String)> = Vec::new();
        let other = Owner {
            user: OWNERS[0],
            group: OWNERS[0],
        };
        for (_, rule) in rules(self.plan).filter(|(_, rule)| rule.why == why) {
            for part in &rule.matches {
                let found = match part {
                    Match::User(ids) => ids.first().map(|user| {
                        let owner = Owner { user, ..other };
                        (self.near(owner), format!("user {user}"))
                    }),
                    Match::Group(ids) => ids.first().map(|group| {
                        let owner = Owner { group, ..other };
                        (self.near(owner), format!("group {group}"))
                    }),
                    Match::Mark(mark) => {
                        let sender = Sender::Near {
                            owner: other,
                            mark: mark.value(),
                        };
                        Some((sender, format!("mark {:#x}", mark.value())))
                    }
                    _ => None,
                };
                if let Some(found) = found.filter(|found| !all.contains(found)) {
                    all.push(found);
                }
            }
        }
        all
    }
}
