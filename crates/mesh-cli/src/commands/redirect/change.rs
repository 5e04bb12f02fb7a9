//! What options change of a policy; pure, and every problem bears the name of its option.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use mesh_netfilter::{
    DestinationSelect, Destinations, Dns, DnsServers, DnsTarget, DropInvalid, Existing, Guard,
    IdRange, Identities, IdentityPorts, IdentitySelect, Inbound, InboundMode, InstanceName,
    InterfaceName, Ipv6, Loopback, Mark, NetworkSet, Outbound, Policy, Port, PortRange, PortSelect,
    PortSet, Problem, Problems, Tproxy, Transport, VirtualInterface, parse_network,
};

use super::option::{Given, Kind};

const OUTBOUND: Port = Port::of::<15001>();
const INBOUND: Port = Port::of::<15006>();
const DNS: Port = Port::of::<15053>();

const ALL: &str = "*";

/// The policy with what the options say.
pub(super) fn change(policy: &Policy, given: &[&Given]) -> Result<Policy, Problems> {
    let mut draft = Draft::of(policy);
    let mut given = given.to_vec();
    given.sort_by_key(|given| given.option.kind as usize);
    for given in given {
        draft.apply(given);
    }
    draft.build()
}

/// A policy that is being changed.
struct Draft {
    policy: Policy,
    instance: InstanceName,
    proxy: Identities,
    inbound: Option<Inbound>,
    outbound: Option<Outbound>,
    dns: Option<Dns>,
    identities: IdentitySelect,
    included: Identities,
    excluded: Identities,
    per_identity: Vec<IdentityPorts>,
    excluded_interfaces: BTreeSet<InterfaceName>,
    virtual_interfaces: Vec<VirtualInterface>,
    ipv6: Ipv6,
    guard: Guard,
    existing: Existing,
    drop_invalid: DropInvalid,
    problems: Problems,
}

// === impl Draft ===

impl Draft {
    fn of(policy: &Policy) -> Self {
        Self {
            policy: policy.clone(),
            instance: policy.instance().clone(),
            proxy: policy.proxy().clone(),
            inbound: policy.inbound().cloned(),
            outbound: policy.outbound().cloned(),
            dns: policy.dns().cloned(),
            identities: policy.identities().clone(),
            included: Identities::default(),
            excluded: Identities::default(),
            per_identity: policy.per_identity().to_vec(),
            excluded_interfaces: policy.excluded_interfaces().clone(),
            virtual_interfaces: policy.virtual_interfaces().to_vec(),
            ipv6: policy.ipv6(),
            guard: policy.guard(),
            existing: policy.existing(),
            drop_invalid: policy.drop_invalid(),
            problems: Problems::default(),
        }
    }

    fn apply(&mut self, given: &Given) {
        match given.option.kind {
            Kind::Instance => self.set(given, |draft, name| draft.instance = name),
            Kind::ProxyUids | Kind::ProxyGids | Kind::ProxyMarks => self.proxy(given),
            Kind::InboundPort
            | Kind::TunnelPort
            | Kind::InboundPorts
            | Kind::ExcludedInboundPorts
            | Kind::ExcludedSources
            | Kind::InboundMode
            | Kind::TproxyMark
            | Kind::TproxyTable => self.inbound(given),
            Kind::OutboundPort
            | Kind::OutboundNetworks
            | Kind::OutboundPorts
            | Kind::ExcludedOutboundNetworks
            | Kind::ExcludedOutboundPorts
            | Kind::CapturedLoopback => self.outbound(given),
            Kind::IncludedUids
            | Kind::IncludedGids
            | Kind::ExcludedUids
            | Kind::ExcludedGids
            | Kind::ExcludedPortsForUids => self.identities(given),
            Kind::DnsTo
            | Kind::DnsServers
            | Kind::RedirectDns
            | Kind::CaptureAllDns
            | Kind::NoDns => self.dns(given),
            Kind::ExcludedInterfaces => {
                let names: Vec<InterfaceName> = self.list(given, str::parse);
                self.excluded_interfaces.extend(names);
            }
            Kind::VirtualInterfaces => {
                let names: Vec<InterfaceName> = self.list(given, str::parse);
                let interfaces = names.into_iter().map(VirtualInterface::new);
                self.virtual_interfaces.extend(interfaces);
            }
            Kind::Ipv6 | Kind::Guard | Kind::NoGuard | Kind::Existing | Kind::DropInvalid => {
                self.whole(given);
            }
            Kind::Tool => {}
        }
    }

    fn proxy(&mut self, given: &Given) {
        let proxy = &self.proxy;
        let (mut users, mut groups) = (ranges(proxy, Side::Users), ranges(proxy, Side::Groups));
        let mut marks: Vec<Mark> = proxy.mark_values().iter().copied().collect();
        match given.option.kind {
            Kind::ProxyUids => users = self.list(given, str::parse),
            Kind::ProxyGids => groups = self.list(given, str::parse),
            _ => marks = self.list(given, mark),
        }
        self.proxy = Identities::users(users).and_groups(groups).and_marks(marks);
    }

    fn inbound(&mut self, given: &Given) {
        match given.option.kind {
            Kind::InboundPort => {
                let port = self.one(given, str::parse);
                let inbound = self.inbound.take();
                self.inbound = port.map(|to| Inbound {
                    to,
                    ..inbound.unwrap_or_else(|| Inbound::to(to))
                });
                return;
            }
            Kind::InboundPorts => {
                self.inbound = match given.last() {
                    "" => None,
                    ALL => Some(all_inbound(self.inbound.take())),
                    _ => {
                        let ports: Vec<PortRange> = self.list(given, str::parse);
                        let inbound = self.inbound.take();
                        let inbound = inbound.unwrap_or_else(|| Inbound::to(INBOUND));
                        Some(inbound.ports(PortSelect::Only(ports.into_iter().collect())))
                    }
                };
                return;
            }
            _ => {}
        }
        let Some(inbound) = self.inbound.clone() else {
            self.off(given, "inbound");
            return;
        };
        self.inbound = Some(self.inbound_of(given, inbound));
    }

    fn inbound_of(&mut self, given: &Given, mut inbound: Inbound) -> Inbound {
        match given.option.kind {
            Kind::TunnelPort if given.last().is_empty() => inbound.tunnel = None,
            Kind::TunnelPort => inbound.tunnel = self.one(given, str::parse),
            Kind::ExcludedInboundPorts => {
                let ports: Vec<PortRange> = self.list(given, str::parse);
                let ports: PortSet = ports.into_iter().collect();
                inbound.ports = match &inbound.ports {
                    PortSelect::AllExcept(before) => PortSelect::AllExcept(before.union(&ports)),
                    PortSelect::Only(only) => PortSelect::Only(only.without(&ports)),
                    _ if ports.is_empty() => PortSelect::All,
                    _ => PortSelect::AllExcept(ports),
                };
            }
            Kind::ExcludedSources => {
                let sources: NetworkSet = self.list(given, parse_network).into_iter().collect();
                inbound.excluded_sources = inbound.excluded_sources.union(&sources);
            }
            Kind::InboundMode => match given.last().to_ascii_lowercase().as_str() {
                "redirect" => inbound.mode = InboundMode::Redirect,
                "tproxy" => {
                    let tproxy = inbound.tproxy().unwrap_or_default();
                    inbound.mode = InboundMode::Tproxy(tproxy);
                }
                _ => self.wrong(given, "`redirect` or `tproxy`"),
            },
            // The mark and the table come after the mode.
            _ => {
                let Some(tproxy) = inbound.tproxy() else {
                    self.wrong(given, "of any use without --inbound-mode tproxy");
                    return inbound;
                };
                let expected = "a number between 1 and 4294967295";
                let number = given.last().parse().ok().filter(|number| *number > 0);
                match number {
                    None => self.wrong(given, expected),
                    Some(mark) if given.option.kind == Kind::TproxyMark => {
                        inbound.mode = InboundMode::Tproxy(Tproxy { mark, ..tproxy });
                    }
                    Some(table) => {
                        inbound.mode = InboundMode::Tproxy(Tproxy { table, ..tproxy });
                    }
                }
            }
        }
        inbound
    }

    fn outbound(&mut self, given: &Given) {
        match given.option.kind {
            Kind::OutboundPort => {
                let port = self.one(given, str::parse);
                let outbound = self.outbound.take();
                self.outbound = port.map(|to| Outbound {
                    to,
                    ..outbound.unwrap_or_else(|| Outbound::to(to))
                });
                return;
            }
            Kind::OutboundNetworks if given.last().is_empty() => {
                self.outbound = None;
                return;
            }
            Kind::OutboundNetworks | Kind::OutboundPorts if self.outbound.is_none() => {
                self.outbound = Some(Outbound::to(OUTBOUND));
            }
            _ => {}
        }
        let Some(outbound) = self.outbound.clone() else {
            self.off(given, "outbound");
            return;
        };
        self.outbound = Some(self.outbound_of(given, outbound));
    }

    fn outbound_of(&mut self, given: &Given, mut outbound: Outbound) -> Outbound {
        let selected = &outbound.destinations;
        outbound.destinations = match given.option.kind {
            Kind::OutboundNetworks if given.last() == ALL => match selected {
                DestinationSelect::Only(_) => DestinationSelect::All,
                others => others.clone(),
            },
            Kind::OutboundNetworks => {
                let networks = self.list(given, parse_network).into_iter().collect();
                DestinationSelect::Only(Destinations {
                    networks,
                    ..Destinations::default()
                })
            }
            Kind::OutboundPorts => {
                let ports: Vec<PortRange> = self.list(given, str::parse);
                let mut only = match selected {
                    DestinationSelect::Only(only) => only.clone(),
                    _ => Destinations::default(),
                };
                only.ports = ports.into_iter().collect();
                DestinationSelect::Only(only)
            }
            Kind::CapturedLoopback => {
                let networks: NetworkSet = self.list(given, parse_network).into_iter().collect();
                outbound.loopback = Loopback::Capture(networks);
                return outbound;
            }
            _ => {
                let mut excluded = match selected {
                    DestinationSelect::AllExcept(excluded) => excluded.clone(),
                    DestinationSelect::All => Destinations::default(),
                    _ => {
                        self.wrong(given, "of any use with a list of what is captured");
                        return outbound;
                    }
                };
                if given.option.kind == Kind::ExcludedOutboundNetworks {
                    let networks: NetworkSet =
                        self.list(given, parse_network).into_iter().collect();
                    excluded.networks = excluded.networks.union(&networks);
                } else {
                    let ports: Vec<PortRange> = self.list(given, str::parse);
                    excluded.ports = excluded.ports.union(&ports.into_iter().collect());
                }
                if excluded.is_empty() {
                    DestinationSelect::All
                } else {
                    DestinationSelect::AllExcept(excluded)
                }
            }
        };
        outbound
    }

    fn identities(&mut self, given: &Given) {
        if given.option.kind == Kind::ExcludedPortsForUids {
            for value in &given.values {
                if let Some(ports) = identity_ports(value) {
                    self.per_identity.push(ports);
                } else {
                    let expected = "like `tcp:22,8000-8010:1000`";
                    let problem = Problem::new(&given.origin, value, expected);
                    self.problems.push(problem);
                }
            }
            return;
        }
        let ids: Vec<IdRange> = self.list(given, str::parse);
        let (is_included, is_user) = match given.option.kind {
            Kind::IncludedUids => (true, true),
            Kind::IncludedGids => (true, false),
            Kind::ExcludedUids => (false, true),
            _ => (false, false),
        };
        let side = if is_included {
            &mut self.included
        } else {
            &mut self.excluded
        };
        *side = if is_user {
            side.clone().and_users(ids)
        } else {
            side.clone().and_groups(ids)
        };
        if is_included && self.included.is_empty() {
            self.wrong(given, "a list with at least one id");
        }
        self.identities = match (self.included.is_empty(), self.excluded.is_empty()) {
            (false, true) => IdentitySelect::Only(self.included.clone()),
            (true, false) => IdentitySelect::Except(match self.policy.identities() {
                IdentitySelect::Except(before) => before
                    .clone()
                    .and_users(ranges(&self.excluded, Side::Users))
                    .and_groups(ranges(&self.excluded, Side::Groups)),
                _ => self.excluded.clone(),
            }),
            (true, true) => self.identities.clone(),
            (false, false) => {
                self.wrong(given, "of any use beside --include-uids or --include-gids");
                self.identities.clone()
            }
        };
    }

    fn dns(&mut self, given: &Given) {
        match given.option.kind {
            Kind::DnsTo => {
                let to = self.one(given, dns_target);
                if let Some(to) = to {
                    let dns = self.dns.take().unwrap_or_else(|| Dns::to(to));
                    self.dns = Some(Dns { to, ..dns });
                }
            }
            Kind::NoDns | Kind::RedirectDns => {
                let is_on = self.switch(given);
                if is_on == (given.option.kind == Kind::NoDns) {
                    self.dns = None;
                } else if self.dns.is_none() && given.option.kind == Kind::RedirectDns {
                    self.dns = Some(Dns::to(DNS));
                }
            }
            _ => {
                let is_switch = given.option.kind == Kind::CaptureAllDns;
                let servers = match given.last() {
                    _ if is_switch && !self.switch(given) => return,
                    "all" => Some(DnsServers::All),
                    _ if is_switch => Some(DnsServers::All),
                    "resolv-conf" => Some(DnsServers::ResolvConf),
                    _ => {
                        let servers: Vec<IpAddr> = self.list(given, address);
                        Some(DnsServers::List(servers.into_iter().collect()))
                    }
                };
                match (&mut self.dns, servers) {
                    (Some(dns), Some(servers)) => dns.servers = servers,
                    (None, _) => self.off(given, "dns"),
                    (Some(_), None) => {}
                }
            }
        }
    }

    fn whole(&mut self, given: &Given) {
        match (given.option.kind, given.last()) {
            (Kind::Ipv6, "redirect") => self.ipv6 = Ipv6::Redirect,
            (Kind::Ipv6, "block") => self.ipv6 = Ipv6::Block,
            (Kind::Ipv6, "bypass") => self.ipv6 = Ipv6::Bypass,
            (Kind::Ipv6, _) => self.wrong(given, "`redirect`, `block` or `bypass`"),
            (Kind::Guard, "off") => self.guard = Guard::Off,
            (Kind::Guard, "reject") => self.guard = Guard::Reject,
            (Kind::Guard, "drop") => self.guard = Guard::Drop,
            (Kind::Guard, _) => self.wrong(given, "`off`, `reject` or `drop`"),
            (Kind::Existing, "keep") => self.existing = Existing::Keep,
            (Kind::Existing, "break") => self.existing = Existing::Break,
            (Kind::Existing, _) => self.wrong(given, "`keep` or `break`"),
            (Kind::NoGuard, _) if self.switch(given) => self.guard = Guard::Off,
            (Kind::DropInvalid, _) => {
                self.drop_invalid = if self.switch(given) {
                    DropInvalid::Yes
                } else {
                    DropInvalid::No
                };
            }
            _ => {}
        }
    }

    fn build(self) -> Result<Policy, Problems> {
        self.problems.into_result(())?;
        self.policy
            .to_builder()
            .instance(self.instance)
            .proxy(self.proxy)
            .inbound(self.inbound)
            .outbound(self.outbound)
            .dns(self.dns)
            .identities(self.identities)
            .per_identity(self.per_identity)
            .excluded_interfaces(self.excluded_interfaces)
            .virtual_interfaces(self.virtual_interfaces)
            .ipv6(self.ipv6)
            .guard(self.guard)
            .existing(self.existing)
            .drop_invalid(self.drop_invalid)
            .build()
    }

    fn set<T: FromStr<Err = Problem>>(&mut self, given: &Given, set: impl Fn(&mut Self, T)) {
        if let Some(value) = self.one(given, str::parse) {
            set(self, value);
        }
    }

    fn one<T>(&mut self, given: &Given, read: impl Fn(&str) -> Result<T, Problem>) -> Option<T> {
        match read(given.last()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.wrong(given, problem.expected);
                None
            }
        }
    }

    fn list<T>(&mut self, given: &Given, read: impl Fn(&str) -> Result<T, Problem>) -> Vec<T> {
        let mut values = Vec::new();
        for part in given.list() {
            match read(part) {
                Ok(value) => values.push(value),
                Err(problem) => {
                    let problem = Problem::new(&given.origin, part, problem.expected);
                    self.problems.push(problem);
                }
            }
        }
        values
    }

    fn switch(&mut self, given: &Given) -> bool {
        match given.last() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => {
                self.wrong(given, "`true` or `false`");
                false
            }
        }
    }

    fn wrong(&mut self, given: &Given, expected: impl Into<String>) {
        let problem = Problem::new(&given.origin, given.last(), expected);
        self.problems.push(problem);
    }

    fn off(&mut self, given: &Given, direction: impl Display) {
        self.wrong(given, format!("of any use while {direction} is off"));
    }
}

/// All ports, but for those that were excluded before.
fn all_inbound(inbound: Option<Inbound>) -> Inbound {
    let mut inbound = inbound.unwrap_or_else(|| Inbound::to(INBOUND));
    if matches!(inbound.ports, PortSelect::Only(_)) {
        inbound.ports = PortSelect::All;
    }
    inbound
}

#[derive(Clone, Copy)]
enum Side {
    Users,
    Groups,
}

fn ranges(identities: &Identities, side: Side) -> Vec<IdRange> {
    match side {
        Side::Users => identities.user_ids().ranges().to_vec(),
        Side::Groups => identities.group_ids().ranges().to_vec(),
    }
}

fn address(text: &str) -> Result<IpAddr, Problem> {
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) => Err(Problem::new("", text, "an address, `all` or `resolv-conf`")),
    }
}

fn dns_target(text: &str) -> Result<DnsTarget, Problem> {
    if let Ok(port) = text.parse::<Port>() {
        return Ok(DnsTarget::Port(port));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) => Ok(DnsTarget::Forward(address)),
        Err(_) => Err(Problem::new("", text, "a port, or an address and a port")),
    }
}

/// `0x539/0xfff`, or a value alone for all bits.
fn mark(text: &str) -> Result<Mark, Problem> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match (number(value), number(mask)) {
        (Some(value), Some(mask)) => Mark::new(value, mask),
        _ => Err(Problem::new("", text, "a mark such as `0x539/0xfff`")),
    }
}

/// `tcp:22,8000-8010:1000`, the form that Kuma has for this.
fn identity_ports(text: &str) -> Option<IdentityPorts> {
    let [protocol, ports, users] = text.split(':').collect::<Vec<_>>()[..] else {
        return None;
    };
    let transport = match protocol {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    let ports: Result<Vec<PortRange>, Problem> = ports.split(',').map(str::parse).collect();
    let users: Result<Vec<IdRange>, Problem> = users.split(',').map(str::parse).collect();
    Some(IdentityPorts {
        identities: Identities::users(users.ok()?),
        transport,
        ports: ports.ok()?.into_iter().collect(),
    })
}
