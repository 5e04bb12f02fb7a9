//! From policy to rules: the only file that knows what a policy means.
//!
//! NAT rules and guard rules come out of the same functions, so that what the one excludes the
//! other cannot refuse. Each step carries the line of `nft` that it becomes.

mod dns;
mod guard;
mod guest;
mod inbound;
mod outbound;
mod part;

use std::collections::BTreeSet;

use self::part::{base, regular, rule, zone_rules};
use super::{Action, Chain, ChainKind, Hook, Match, Rule, Table, Transport, Why};
use crate::{
    DnsZones, DropInvalid, Existing, Facts, Family, Guard, InterfaceName, Ipv6, NetworkSet,
    Networks, Policy, Port,
};

/// Before conntrack (-200), whose lookup the zone changes.
const RAW_PRIORITY: i32 = -300;
/// Where packets are marked, and where transparent sockets get theirs.
const MANGLE_PRIORITY: i32 = -150;
/// Before NAT chains of others, which take -100: the first chain that translates wins.
const NAT_PRIORITY: i32 = -105;
/// After NAT, so that the guard sees what became of the packet, and after filters of others (0).
const GUARD_PRIORITY: i32 = 10;
/// The conntrack zone of DNS queries that are not captured.
const DNS_ZONE: u16 = 1;
const DNS_PORT: Port = Port::of::<53>();

/// What a pass over the policy makes of traffic that is to be captured.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Purpose {
    /// It is taken to the proxy.
    Capture,
    /// It is refused, for it should have been captured.
    Guard,
}

/// How traffic gets to the proxy.
#[derive(Clone, Copy)]
enum Target {
    /// Translated to this port of the namespace.
    Port(Port),
    /// Translated to this address.
    Address(std::net::SocketAddr),
    /// Handed to the transparent socket of this port, with this mark.
    Tproxy(Port, u32),
    /// Marked, for a rule on its arrival to hand it over.
    Mark(u32),
}

/// One pass over the policy: what for, and for which families.
struct Pass<'a> {
    policy: &'a Policy,
    facts: &'a Facts,
    purpose: Purpose,
    families: &'static [Family],
}

/// All tables of the policy.
pub(super) fn tables(policy: &Policy, facts: &Facts) -> Vec<Table> {
    let capture = Pass {
        policy,
        facts,
        purpose: Purpose::Capture,
        families: match policy.ipv6() {
            Ipv6::Redirect => &[Family::V4, Family::V6],
            Ipv6::Block | Ipv6::Bypass => &[Family::V4],
        },
    };
    let mut tables = vec![Table {
        name: policy.instance().table(),
        chains: capture.capture_chains(),
    }];
    let guarded: &[Family] = match (policy.guard(), policy.ipv6()) {
        (Guard::Reject | Guard::Drop, Ipv6::Redirect | Ipv6::Block) => &[Family::V4, Family::V6],
        (Guard::Reject | Guard::Drop, Ipv6::Bypass) => &[Family::V4],
        (Guard::Off, Ipv6::Block) => &[Family::V6],
        (Guard::Off, Ipv6::Redirect | Ipv6::Bypass) => &[],
    };
    if !guarded.is_empty() {
        let guard = Pass {
            policy,
            facts,
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
    fn capture_chains(&self) -> Vec<Chain> {
        let policy = self.policy;
        let mut chains = Vec::new();
        if let Some(dns) = policy.dns()
            && dns.zones == DnsZones::Split
        {
            let (kind, rules) = (ChainKind::Filter, zone_rules(policy));
            chains.push(base("raw_out", kind, Hook::Output, RAW_PRIORITY, rules));
        }
        let arrival = self.arrival_rules();
        if !arrival.is_empty() {
            let (kind, hook) = (ChainKind::Filter, Hook::Prerouting);
            chains.push(base("mangle_pre", kind, hook, MANGLE_PRIORITY, arrival));
        }
        if let Some(inbound) = policy.inbound()
            && let Some(tproxy) = inbound.tproxy()
        {
            let (kind, rules) = (ChainKind::Route, self.marking_rules(inbound, tproxy));
            chains.push(base(
                "mangle_out",
                kind,
                Hook::Output,
                MANGLE_PRIORITY,
                rules,
            ));
        }
        let redirected = policy
            .inbound()
            .filter(|inbound| inbound.tproxy().is_none());
        let guests = self.guest_rules();
        if redirected.is_some() || guests.is_some() {
            let mut rules = self.preface(Match::InInterface);
            if let Some(guests) = guests {
                rules.extend(guests.base);
                chains.extend(guests.included.map(|rules| regular("nat_guest", rules)));
            }
            if let Some(inbound) = redirected {
                self.inbound_rules(inbound, &mut rules);
            }
            let (kind, hook) = (ChainKind::Nat, Hook::Prerouting);
            chains.push(base("nat_pre", kind, hook, NAT_PRIORITY, rules));
        }
        if redirected.is_some() || policy.outbound().is_some() || policy.dns().is_some() {
            let rules = self.outbound_rules();
            chains.extend(rules.included.map(|rules| regular("nat_included", rules)));
            let (kind, hook) = (ChainKind::Nat, Hook::Output);
            chains.push(base("nat_out", kind, hook, NAT_PRIORITY, rules.base));
        }
        chains
    }

    /// What is left alone in both directions, before anything else is asked.
    fn preface(&self, interface: impl Fn(BTreeSet<InterfaceName>) -> Match) -> Vec<Rule> {
        let mut rules = self.other_families();
        self.excluded_interfaces(interface, &mut rules);
        rules
    }

    /// meta nfproto ipv6 return
    fn other_families(&self) -> Vec<Rule> {
        [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| !self.families.contains(family))
            .map(|family| {
                let matches = [Match::Family(family)];
                rule(matches, Action::Return, Why::OtherFamily)
            })
            .collect()
    }

    /// oifname { "eth1" } return
    fn excluded_interfaces(
        &self,
        interface: impl Fn(BTreeSet<InterfaceName>) -> Match,
        rules: &mut Vec<Rule>,
    ) {
        let excluded = self.policy.excluded_interfaces();
        if !excluded.is_empty() {
            let matches = [interface(excluded.clone())];
            rules.push(rule(matches, Action::Return, Why::Interface));
        }
    }

    /// ct state invalid drop
    ///
    /// Of both families, also where IPv6 is blocked, but not where it is nobody's business.
    fn drop_invalid(&self, rules: &mut Vec<Rule>) {
        if self.policy.drop_invalid() == DropInvalid::Yes {
            rules.push(rule([Match::Invalid], Action::Drop, Why::Invalid));
        }
    }

    /// The networks of each family of this pass.
    fn networks<'a>(&'a self, set: &'a NetworkSet) -> impl Iterator<Item = Networks> + 'a {
        self.families.iter().filter_map(|family| set.of(*family))
    }

    /// The packets of TCP that are judged: all, or the first one of a connection.
    fn judged(&self) -> Vec<Match> {
        let tcp = Match::Transport(Transport::Tcp);
        match self.policy.existing() {
            Existing::Keep => vec![tcp, Match::FirstPacket],
            Existing::Break => vec![tcp],
        }
    }

    /// Rules that capture, or that refuse what was not captured.
    fn capture(&self, matches: Vec<Match>, to: Target, why: Why, rules: &mut Vec<Rule>) {
        match (self.purpose, to) {
            (Purpose::Guard, _) => self.refuse(matches, why, rules),
            (Purpose::Capture, Target::Port(port)) => {
                rules.push(rule(matches, Action::Redirect(port), why));
            }
            (Purpose::Capture, Target::Address(address)) => {
                rules.push(rule(matches, Action::Dnat(address), why));
            }
            (Purpose::Capture, Target::Mark(mark)) => {
                rules.push(rule(matches, Action::SetMark(mark), why));
            }
            (Purpose::Capture, Target::Tproxy(to, mark)) => {
                let action = Action::Tproxy { to, mark };
                rules.push(rule(matches.clone(), action, why));
                // tcp flags & (fin|syn|rst|ack) == syn drop
                //
                // The rule above asks those below if no socket listens, and the packet would
                // reach the application.
                rules.push(rule(matches, Action::Drop, Why::NoListener));
            }
        }
    }

    fn refuse(&self, matches: Vec<Match>, why: Why, rules: &mut Vec<Rule>) {
        let udp = matches.contains(&Match::Transport(Transport::Udp));
        let refuse = if udp {
            Action::Unreachable
        } else {
            Action::Reset
        };
        // Where IPv6 is blocked, it is refused in any case.
        let family = matches.iter().find_map(Match::family);
        let is_blocked = self.policy.ipv6() == Ipv6::Block;
        let may_be_blocked = is_blocked && family != Some(Family::V4);
        if self.policy.guard() != Guard::Drop || (may_be_blocked && family.is_some()) {
            rules.push(rule(matches, refuse, why));
            return;
        }
        if may_be_blocked {
            let of_v6 = std::iter::once(Match::Family(Family::V6)).chain(matches.clone());
            rules.push(rule(of_v6.collect::<Vec<_>>(), refuse, why));
        }
        rules.push(rule(matches, Action::Drop, why));
    }
}
