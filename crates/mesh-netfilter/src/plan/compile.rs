//! From policy to rules: the only file that knows what a policy means.
//!
//! NAT rules and guard rules come out of the same functions, so that what the one excludes the
//! other cannot refuse. Each step carries the line of `nft` that it becomes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Action, Base, Chain, ChainKind, Hook, Match, Rule, Table, Transport, Why};
use crate::{
    DestinationSelect, Destinations, Dns, DnsServers, DnsTcp, Family, Guard, Identities,
    IdentitySelect, Inbound, InterfaceName, Ipv6, Loopback, NetworkSet, Networks, Outbound, Policy,
    Port, PortSelect, PortSet,
};

/// Before conntrack (-200), whose lookup the zone changes.
const RAW_PRIORITY: i32 = -300;
/// Before NAT chains of others, which take -100: the first chain that translates wins.
const NAT_PRIORITY: i32 = -105;
/// After NAT, so that the guard sees what became of the packet, and after filters of others (0).
const GUARD_PRIORITY: i32 = 10;
/// The conntrack zone of the proxy's DNS queries.
const DNS_ZONE: u16 = 1;
const DNS_PORT: Port = Port::of::<53>();
/// The source addresses with which the proxy hands inbound connections to the application: by
/// them, and by nothing else, they differ from the proxy's calls to its own workload.
const DELIVERY_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const DELIVERY_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// What a pass over the policy makes of traffic that is to be captured.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Purpose {
    /// It is redirected.
    Capture,
    /// It is refused, for it should have been redirected.
    Guard,
}

/// One pass over the policy: what for, and for which families.
struct Pass<'a> {
    policy: &'a Policy,
    purpose: Purpose,
    families: &'static [Family],
}

/// The rules of one direction: those of the base chain, and those of the chain that it leads to.
#[derive(Default)]
struct Rules {
    base: Vec<Rule>,
    included: Option<Vec<Rule>>,
}

/// All tables of the policy.
pub(super) fn tables(policy: &Policy) -> Vec<Table> {
    let capture = Pass {
        policy,
        purpose: Purpose::Capture,
        families: match policy.ipv6() {
            Ipv6::Redirect => &[Family::V4, Family::V6],
            Ipv6::Block | Ipv6::Bypass => &[Family::V4],
        },
    };
    let mut tables = vec![Table {
        name: policy.instance().table(),
        chains: capture.nat_chains(),
    }];
    let guarded: &[Family] = match (policy.guard(), policy.ipv6()) {
        (Guard::Reject, Ipv6::Redirect | Ipv6::Block) => &[Family::V4, Family::V6],
        (Guard::Reject, Ipv6::Bypass) => &[Family::V4],
        (Guard::Off, Ipv6::Block) => &[Family::V6],
        (Guard::Off, Ipv6::Redirect | Ipv6::Bypass) => &[],
    };
    if !guarded.is_empty() {
        let guard = Pass {
            policy,
            purpose: Purpose::Guard,
            families: guarded,
        };
        tables.push(Table {
            name: policy.instance().guard_table(),
            chains: guard.guard_chains(),
        });
    }
    tables
}

// === impl Pass ===

impl Pass<'_> {
    fn nat_chains(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        if self.policy.dns().is_some() {
            chains.push(base(
                "raw_out",
                ChainKind::Filter,
                Hook::Output,
                RAW_PRIORITY,
                zone_rules(self.policy.proxy()),
            ));
        }
        if let Some(inbound) = self.policy.inbound() {
            let rules = self.inbound_rules(inbound);
            chains.push(base(
                "nat_pre",
                ChainKind::Nat,
                Hook::Prerouting,
                NAT_PRIORITY,
                rules,
            ));
        }
        let rules = self.outbound_rules();
        chains.extend(rules.included.map(|rules| regular("nat_included", rules)));
        chains.push(base(
            "nat_out",
            ChainKind::Nat,
            Hook::Output,
            NAT_PRIORITY,
            rules.base,
        ));
        chains
    }

    fn guard_chains(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        if let Some(inbound) = self.policy.inbound() {
            let mut rules = vec![
                // iifname "lo" return
                rule(
                    [Match::InInterface(loopback())],
                    Action::Return,
                    Why::LoopbackArrival,
                ),
                // ct status dnat meta l4proto tcp tcp dport 15006 return
                captured(Transport::Tcp, PortSet::from([inbound.to])),
            ];
            rules.extend(self.inbound_rules(inbound));
            chains.push(base(
                "guard_in",
                ChainKind::Filter,
                Hook::Input,
                GUARD_PRIORITY,
                rules,
            ));
        }
        let mut rules = self.guard_preface();
        let outbound = self.outbound_rules();
        rules.extend(outbound.base);
        chains.extend(
            outbound
                .included
                .map(|rules| regular("guard_included", rules)),
        );
        chains.push(base(
            "guard_out",
            ChainKind::Filter,
            Hook::Output,
            GUARD_PRIORITY,
            rules,
        ));
        chains
    }

    /// What NAT did not have to ask, since it sees only first packets that nobody translated.
    fn guard_preface(&self) -> Vec<Rule> {
        let inbound = self.policy.inbound().map(|inbound| inbound.to);
        let outbound = self.policy.outbound().map(|outbound| outbound.to);
        let dns = self.policy.dns().map(|dns| dns.to);
        let to: PortSet = inbound.into_iter().chain(outbound).chain(dns).collect();
        // The ports are compared too: a translation by somebody else is no capture.
        // ct status dnat meta l4proto { tcp, udp } th dport { 15001, 15006, 15053 } return
        let transport = match dns {
            Some(_) => Transport::TcpOrUdp,
            None => Transport::Tcp,
        };
        let mut rules = vec![captured(transport, to)];
        if dns.is_some() {
            // A resolver may ask the application from port 53, and its answer goes to port 53.
            // ct direction reply meta l4proto udp return
            rules.push(rule(
                [Match::Reply, Match::Transport(Transport::Udp)],
                Action::Return,
                Why::Reply,
            ));
        }
        rules
    }

    /// Connections that arrive.
    fn inbound_rules(&self, inbound: &Inbound) -> Vec<Rule> {
        let mut rules = self.preface(Match::InInterface);
        // ip saddr { 10.9.0.0/16 } return
        for sources in self.networks(&inbound.excluded_sources) {
            rules.push(rule(
                [within(sources, Match::Source)],
                Action::Return,
                Why::ExcludedSource,
            ));
        }
        // tcp dport 15008 return
        if let Some(tunnel) = inbound.tunnel {
            rules.push(tcp_ports(PortSet::from([tunnel]), Why::Tunnel));
        }
        let mut matches = vec![Match::Transport(Transport::Tcp), Match::FirstPacket];
        match &inbound.ports {
            PortSelect::All => {}
            // tcp dport { 15020, 15021, 15090 } return
            PortSelect::AllExcept(ports) => {
                rules.push(tcp_ports(ports.clone(), Why::ExcludedPort));
            }
            PortSelect::Only(ports) => matches.push(Match::DestinationPort(ports.clone())),
        }
        // tcp flags & (fin|syn|rst|ack) == syn redirect to :15006
        rules.push(self.capture(matches, inbound.to, Why::Inbound));
        rules
    }

    /// Connections and queries that processes of the namespace send.
    fn outbound_rules(&self) -> Rules {
        let policy = self.policy;
        let mut rules = self.preface(Match::OutInterface);
        if let IdentitySelect::Except(identities) = policy.identities() {
            // meta skuid { 0 } return
            rules.extend(
                senders(identities)
                    .map(|sender| rule([sender], Action::Return, Why::ExcludedIdentity)),
            );
        }
        if let Some(inbound) = policy.inbound() {
            self.delivery(&mut rules);
            self.self_call(inbound, &mut rules);
        }
        if policy.outbound().is_none() && policy.dns().is_none() {
            return Rules {
                base: rules,
                included: None,
            };
        }
        // All self-calls come before the first of these, else a second identity's would pass.
        // meta skuid 1337 return
        rules.extend(
            senders(policy.proxy()).map(|sender| rule([sender], Action::Return, Why::Proxy)),
        );
        let mut application = Vec::new();
        if let Some(dns) = policy.dns() {
            self.dns(dns, &mut application);
        }
        if let Some(outbound) = policy.outbound() {
            self.loopback(outbound, &mut application);
            self.destinations(outbound, &mut application);
        }
        let IdentitySelect::Only(identities) = policy.identities() else {
            rules.extend(application);
            return Rules {
                base: rules,
                included: None,
            };
        };
        // Asked positively: a packet without a socket has no owner and matches neither way.
        // meta skuid { 1000 } goto nat_included
        let chain = match self.purpose {
            Purpose::Capture => "nat_included",
            Purpose::Guard => "guard_included",
        };
        rules.extend(
            senders(identities)
                .map(|sender| rule([sender], Action::Goto(chain), Why::IncludedIdentity)),
        );
        Rules {
            base: rules,
            included: Some(application),
        }
    }

    /// What is left alone in both directions, before anything else is asked.
    fn preface(&self, interface: impl Fn(BTreeSet<InterfaceName>) -> Match) -> Vec<Rule> {
        let mut rules = Vec::new();
        // meta nfproto ipv6 return
        for family in [Family::V4, Family::V6] {
            if !self.families.contains(&family) {
                rules.push(rule(
                    [Match::Family(family)],
                    Action::Return,
                    Why::OtherFamily,
                ));
            }
        }
        // oifname { "eth1" } return
        let excluded = self.policy.excluded_interfaces();
        if !excluded.is_empty() {
            rules.push(rule(
                [interface(excluded.clone())],
                Action::Return,
                Why::Interface,
            ));
        }
        rules
    }

    /// oifname "lo" ip saddr 127.0.0.6 return
    fn delivery(&self, rules: &mut Vec<Rule>) {
        let sources: NetworkSet = [IpAddr::from(DELIVERY_V4), IpAddr::from(DELIVERY_V6)]
            .into_iter()
            .map(IpNet::from)
            .collect();
        for sources in self.networks(&sources) {
            rules.push(rule(
                [Match::OutInterface(loopback()), Match::Source(sources)],
                Action::Return,
                Why::Delivery,
            ));
        }
    }

    /// oifname "lo" ip daddr != 127.0.0.0/8 tcp flags … tcp dport != { 53 } meta skuid 1337
    /// redirect to :15006
    ///
    /// The application called its own service through the proxy. The proxy's second hop must pass
    /// the inbound listener, where the workload's own policy is, so it is judged as a call from
    /// outside: by the ports that inbound captures. DNS of the proxy is its own matter.
    fn self_call(&self, inbound: &Inbound, rules: &mut Vec<Rule>) {
        let mut own: PortSet = inbound.tunnel.into_iter().collect();
        if self.policy.dns().is_some() {
            own = own.union(&PortSet::from([DNS_PORT]));
        }
        let ports = match &inbound.ports {
            PortSelect::All => Match::DestinationPortNot(own),
            PortSelect::AllExcept(ports) => Match::DestinationPortNot(ports.union(&own)),
            PortSelect::Only(ports) => Match::DestinationPort(ports.without(&own)),
        };
        let ports = match ports {
            Match::DestinationPort(ports) if ports.is_empty() => return,
            Match::DestinationPortNot(ports) if ports.is_empty() => None,
            ports => Some(ports),
        };
        for sender in senders(self.policy.proxy()) {
            for family in self.families {
                let mut matches = vec![
                    Match::OutInterface(loopback()),
                    Match::DestinationNot(loopback_network(*family)),
                    Match::Transport(Transport::Tcp),
                    Match::FirstPacket,
                ];
                matches.extend(ports.clone());
                matches.push(sender.clone());
                rules.push(self.capture(matches, inbound.to, Why::SelfCall));
            }
        }
    }

    /// meta l4proto udp udp dport 53 redirect to :15053
    ///
    /// Before loopback is let alone: the resolver may live there.
    fn dns(&self, dns: &Dns, rules: &mut Vec<Rule>) {
        let port = Match::DestinationPort(PortSet::from([DNS_PORT]));
        let udp = vec![Match::Transport(Transport::Udp), port.clone()];
        let tcp = vec![
            Match::Transport(Transport::Tcp),
            Match::FirstPacket,
            port.clone(),
        ];
        let transports = match dns.tcp {
            DnsTcp::Capture => vec![udp, tcp],
            DnsTcp::Ordinary => vec![udp],
        };
        let servers: Vec<Option<Networks>> = match &dns.servers {
            DnsServers::All => vec![None],
            DnsServers::List(servers) => {
                let servers: NetworkSet = servers.iter().copied().map(IpNet::from).collect();
                self.networks(&servers).map(Some).collect()
            }
        };
        for servers in servers {
            for transport in &transports {
                let servers = servers
                    .clone()
                    .map(|servers| within(servers, Match::Destination));
                let matches = servers.into_iter().chain(transport.clone()).collect();
                rules.push(self.capture(matches, dns.to, Why::Dns));
            }
        }
    }

    /// oifname "lo" return
    fn loopback(&self, outbound: &Outbound, rules: &mut Vec<Rule>) {
        let Loopback::Capture(captured) = &outbound.loopback else {
            rules.push(rule(
                [Match::OutInterface(loopback())],
                Action::Return,
                Why::Loopback,
            ));
            return;
        };
        for family in self.families {
            let rest = match captured.of(*family) {
                None => Match::Family(*family),
                Some(networks) if networks.is_everything() => continue,
                Some(networks) => Match::DestinationNot(networks),
            };
            rules.push(rule(
                [Match::OutInterface(loopback()), rest],
                Action::Return,
                Why::Loopback,
            ));
        }
    }

    fn destinations(&self, outbound: &Outbound, rules: &mut Vec<Rule>) {
        let syn = || vec![Match::Transport(Transport::Tcp), Match::FirstPacket];
        match &outbound.destinations {
            DestinationSelect::All => {}
            // tcp dport { 22 } return; ip daddr { 10.0.0.0/8 } return
            DestinationSelect::AllExcept(destinations) => {
                for matches in self.each_destination(destinations) {
                    rules.push(rule(matches, Action::Return, Why::ExcludedDestination));
                }
            }
            DestinationSelect::Only(destinations) => {
                for matches in self.each_destination(destinations) {
                    // The protocol is asked once, in front.
                    let rest = matches
                        .into_iter()
                        .filter(|part| *part != Match::Transport(Transport::Tcp));
                    let matches = syn().into_iter().chain(rest).collect();
                    rules.push(self.capture(matches, outbound.to, Why::Outbound));
                }
                return;
            }
        }
        // tcp flags & (fin|syn|rst|ack) == syn redirect to :15001
        rules.push(self.capture(syn(), outbound.to, Why::Outbound));
    }

    /// One list of matches for each list of destinations and family.
    fn each_destination(&self, destinations: &Destinations) -> Vec<Vec<Match>> {
        let mut all = Vec::new();
        if !destinations.ports.is_empty() {
            all.push(vec![
                Match::Transport(Transport::Tcp),
                Match::DestinationPort(destinations.ports.clone()),
            ]);
        }
        for networks in self.networks(&destinations.networks) {
            all.push(vec![within(networks, Match::Destination)]);
        }
        for pair in &destinations.network_ports {
            for networks in self.networks(&pair.networks) {
                all.push(vec![
                    within(networks, Match::Destination),
                    Match::Transport(Transport::Tcp),
                    Match::DestinationPort(pair.ports.clone()),
                ]);
            }
        }
        all
    }

    /// The networks of each family of this pass.
    fn networks<'a>(&'a self, set: &'a NetworkSet) -> impl Iterator<Item = Networks> + 'a {
        self.families.iter().filter_map(|family| set.of(*family))
    }

    /// A rule that captures, or that refuses what was not captured.
    fn capture(&self, matches: Vec<Match>, to: Port, why: Why) -> Rule {
        let udp = matches.contains(&Match::Transport(Transport::Udp));
        let action = match self.purpose {
            Purpose::Capture => Action::Redirect(to),
            Purpose::Guard if udp => Action::Unreachable,
            Purpose::Guard => Action::Reset,
        };
        rule(matches, action, why)
    }
}

/// meta l4proto udp udp dport 53 meta skuid 1337 ct original zone set 1
///
/// Proxy and application share addresses. Without the zone, a query of the one from a source port
/// that the other used lately would take over its conntrack entry, and with it the other's
/// verdict: the application's goes round the proxy, or the proxy's comes back to itself. Only the
/// original direction has the zone: answers are found in the default zone, whoever sends them and
/// from whatever port (Docker's resolver answers from another one).
fn zone_rules(proxy: &Identities) -> Vec<Rule> {
    senders(proxy)
        .map(|sender| {
            rule(
                [
                    Match::Transport(Transport::Udp),
                    Match::DestinationPort(PortSet::from([DNS_PORT])),
                    sender,
                ],
                Action::Zone(DNS_ZONE),
                Why::ProxyDns,
            )
        })
        .collect()
}

/// One match for each kind of identity: users as one set, groups as one set, marks one by one.
fn senders(identities: &Identities) -> impl Iterator<Item = Match> {
    let users = identities.user_ids();
    let groups = identities.group_ids();
    let users = (!users.is_empty()).then(|| Match::User(users.clone()));
    let groups = (!groups.is_empty()).then(|| Match::Group(groups.clone()));
    let marks = identities.mark_values().iter().copied().map(Match::Mark);
    users.into_iter().chain(groups).chain(marks)
}

/// A match of addresses; a network of all addresses is a matter of the family alone.
fn within(networks: Networks, part: impl Fn(Networks) -> Match) -> Match {
    if networks.is_everything() {
        Match::Family(networks.family())
    } else {
        part(networks)
    }
}

fn captured(transport: Transport, to: PortSet) -> Rule {
    rule(
        [
            Match::Translated,
            Match::Transport(transport),
            Match::DestinationPort(to),
        ],
        Action::Return,
        Why::Captured,
    )
}

fn tcp_ports(ports: PortSet, why: Why) -> Rule {
    rule(
        [
            Match::Transport(Transport::Tcp),
            Match::DestinationPort(ports),
        ],
        Action::Return,
        why,
    )
}

fn loopback() -> BTreeSet<InterfaceName> {
    BTreeSet::from([InterfaceName::loopback()])
}

fn loopback_network(family: Family) -> Networks {
    match family {
        Family::V4 => Networks::V4(vec![Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)]),
        Family::V6 => Networks::V6(vec![Ipv6Addr::LOCALHOST.into()]),
    }
}

fn base(name: &'static str, kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        base: Some(Base {
            kind,
            hook,
            priority,
        }),
        rules,
    }
}

fn regular(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        base: None,
        rules,
    }
}

fn rule(matches: impl Into<Vec<Match>>, action: Action, why: Why) -> Rule {
    Rule {
        matches: matches.into(),
        action,
        why,
    }
}
