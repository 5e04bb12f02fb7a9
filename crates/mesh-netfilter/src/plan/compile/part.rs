//! The parts that rules of all passes are made of.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{DNS_PORT, DNS_ZONE};
use crate::plan::{Action, Base, Chain, ChainKind, Hook, List, Match, Rule, Transport, Why};
use crate::{
    Family, Identities, IdentitySelect, InterfaceName, Mark, NetworkSet, Networks, Policy, PortSet,
};

/// meta l4proto udp udp dport 53 meta skuid 1337 ct original zone set 1
///
/// Proxy and application share addresses. Without the zone, a query of the one from a source port
/// that the other used lately would take over its conntrack entry, and with it the other's
/// verdict: the application's goes round the proxy, or the proxy's comes back to itself. Only the
/// original direction has the zone: answers are found in the default zone, whoever sends them and
/// from whatever port (Docker's resolver answers from another one).
///
/// Others whose queries are not captured are as the proxy.
pub(super) fn zone_rules(policy: &Policy) -> Vec<Rule> {
    let mut identities = vec![policy.proxy()];
    if let IdentitySelect::Except(excluded) = policy.identities() {
        identities.push(excluded);
    }
    let exclusions = policy.per_identity().iter().filter(|exclusion| {
        exclusion.transport != Transport::Tcp && exclusion.ports.contains(DNS_PORT)
    });
    identities.extend(exclusions.map(|exclusion| &exclusion.identities));
    identities
        .into_iter()
        .flat_map(senders)
        .map(|sender| {
            rule(
                [
                    Match::Transport(Transport::Udp),
                    Match::DestinationPort(PortSet::from([DNS_PORT]).into()),
                    sender,
                ],
                Action::Zone(DNS_ZONE),
                Why::ProxyDns,
            )
        })
        .collect()
}

/// One match for each kind of identity: users as one set, groups as one set, marks one by one.
pub(super) fn senders(identities: &Identities) -> impl Iterator<Item = Match> {
    let users = identities.user_ids();
    let groups = identities.group_ids();
    let users = (!users.is_empty()).then(|| Match::User(users.clone()));
    let groups = (!groups.is_empty()).then(|| Match::Group(groups.clone()));
    let marks = identities.mark_values().iter().copied().map(Match::Mark);
    users.into_iter().chain(groups).chain(marks)
}

/// A match of addresses that the policy lists; a network of all addresses is a matter of the
/// family alone.
pub(super) fn named(
    name: &str,
    networks: Networks,
    part: impl Fn(List<Networks>) -> Match,
) -> Match {
    let family = networks.family();
    if networks.is_everything() {
        return Match::Family(family);
    }
    let family = match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    part(List::named(format!("{name}_{family}"), networks))
}

/// Ports that the policy lists.
pub(super) fn ports(name: &str, ports: &PortSet) -> List<PortSet> {
    List::named(name, ports.clone())
}

/// One of the marks of TPROXY, which a valid policy has above 0.
pub(super) fn tproxy_mark(value: u32) -> Mark {
    Mark::exactly(value)
}

pub(super) fn captured(transport: Transport, to: PortSet) -> Rule {
    rule(
        [
            Match::Translated,
            Match::Transport(transport),
            Match::DestinationPort(to.into()),
        ],
        Action::Return,
        Why::Captured,
    )
}

pub(super) fn loopback() -> BTreeSet<InterfaceName> {
    BTreeSet::from([InterfaceName::loopback()])
}

pub(super) fn loopback_network(family: Family) -> Networks {
    match family {
        Family::V4 => Networks::V4(vec![Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)]),
        Family::V6 => Networks::V6(vec![Ipv6Addr::LOCALHOST.into()]),
    }
}

/// 127.0.0.1 and `::1`.
pub(super) fn local_hosts() -> NetworkSet {
    [
        IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ]
    .into_iter()
    .collect()
}

pub(super) fn base(
    name: &'static str,
    kind: ChainKind,
    hook: Hook,
    priority: i32,
    rules: Vec<Rule>,
) -> Chain {
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

pub(super) fn regular(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        base: None,
        rules,
    }
}

pub(super) fn rule(matches: impl Into<Vec<Match>>, action: Action, why: Why) -> Rule {
    Rule {
        matches: matches.into(),
        action,
        why,
    }
}
