//! From policy to rules: the only file that knows what a policy means.
//!
//! NAT rules and guard rules come out of the same functions, so that what the one excludes the
//! other cannot refuse. Each step carries the line of `nft` that it becomes.

mod outbound;
mod part;

use std::collections::BTreeSet;

use self::part::{base, captured, loopback, regular, rule, tcp_ports, within, zone_rules};
use super::{Action, Chain, ChainKind, Hook, Match, Rule, Table, Transport, Why};
use crate::{
    Family, Guard, Inbound, InterfaceName, Ipv6, NetworkSet, Networks, Policy, Port, PortSelect,
    PortSet,
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
