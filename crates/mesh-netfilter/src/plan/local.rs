//! Local state: what a plan needs in the namespace besides rules of netfilter.

use std::fmt;
use std::net::Ipv6Addr;

use ipnet::IpNet;

use crate::{Facts, Family, Inbound, Ipv6, Policy};

/// What the namespace needs besides rules: policy rules, routes, addresses. Whoever applies the
/// plan adds it, and takes it away again.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LocalState {
    /// Policy rules that lead marked packets to a routing table.
    pub rules: Vec<PolicyRule>,
    /// Routes that deliver locally whatever comes to their table.
    pub routes: Vec<LocalRoute>,
    /// Addresses of the loopback interface.
    pub addresses: Vec<IpNet>,
}

/// A policy rule (`ip rule`): packets with this mark are routed by this table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PolicyRule {
    /// The address family.
    pub family: Family,
    /// The mark.
    pub mark: u32,
    /// The bits of it that are compared: all.
    pub mask: u32,
    /// The routing table.
    pub table: u32,
    /// The rule's place among others. Without one, the kernel would take the same rule twice.
    pub priority: u32,
}

/// The one route of a table: `local default dev lo`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LocalRoute {
    /// The address family.
    pub family: Family,
    /// The routing table.
    pub table: u32,
}

/// From where the proxy hands inbound IPv6 connections to the application. 127.0.0.6 needs
/// nothing: all of 127.0.0.0/8 is local.
pub(super) const DELIVERY_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// The families in which arriving connections reach the proxy.
fn families(policy: &Policy, facts: &Facts) -> &'static [Family] {
    match policy.ipv6() {
        Ipv6::Redirect if !facts.lacks_ipv6 => &[Family::V4, Family::V6],
        Ipv6::Redirect | Ipv6::Block | Ipv6::Bypass => &[Family::V4],
    }
}

/// What `policy` needs.
pub(super) fn local_state(policy: &Policy, facts: &Facts) -> LocalState {
    let mut state = LocalState::default();
    let Some(inbound) = policy.inbound() else {
        return state;
    };
    let families = families(policy, facts);
    if families.contains(&Family::V6) {
        state
            .addresses
            .push(IpNet::from(std::net::IpAddr::V6(DELIVERY_V6)));
    }
    if let Some(tproxy) = Inbound::tproxy(inbound) {
        for family in families {
            state.rules.push(PolicyRule {
                family: *family,
                mark: tproxy.mark,
                mask: u32::MAX,
                table: tproxy.table,
                priority: tproxy.priority,
            });
            state.routes.push(LocalRoute {
                family: *family,
                table: tproxy.table,
            });
        }
    }
    state
}

// === impl LocalState ===

impl LocalState {
    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.routes.is_empty() && self.addresses.is_empty()
    }

    /// Reads what `Display` wrote, as rules in the kernel bear it.
    #[cfg(feature = "apply")]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut state = Self::default();
        for word in text.split_ascii_whitespace() {
            let (family, rest) = match word.split_once('/')? {
                ("4", rest) => (Family::V4, rest),
                ("6", rest) => (Family::V6, rest),
                _ => {
                    state.addresses.push(word.parse().ok()?);
                    continue;
                }
            };
            let mut numbers = rest.split('/').map(|number| number.parse::<u32>().ok());
            let rule = PolicyRule {
                family,
                mark: numbers.next()??,
                mask: u32::MAX,
                table: numbers.next()??,
                priority: numbers.next()??,
            };
            state.rules.push(rule);
            let table = rule.table;
            state.routes.push(LocalRoute { family, table });
        }
        Some(state)
    }
}

impl fmt::Display for LocalState {
    /// A word for each policy rule with its route (`4/MARK/TABLE/PRIORITY`) and for each address:
    /// `nft` takes no comment of more than 128 bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules.iter().map(ToString::to_string);
        let addresses = self.addresses.iter().map(ToString::to_string);
        let words: Vec<String> = rules.chain(addresses).collect();
        f.write_str(&words.join(" "))
    }
}

// === impl PolicyRule ===

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        write!(f, "{family}/{}/{}/{}", self.mark, self.table, self.priority)
    }
}

#[cfg(all(test, feature = "apply"))]
mod tests {
    use super::*;
    use crate::{InboundMode, Port, Tproxy};

    #[test]
    fn what_a_rule_bears_is_read_back() {
        let inbound = Inbound::to(Port::of::<15006>()).mode(InboundMode::Tproxy(Tproxy::default()));
        let policy = Policy::sidecar()
            .to_builder()
            .inbound(inbound)
            .build()
            .unwrap();
        let state = local_state(&policy, &Facts::default());
        assert_eq!(state.to_string(), "4/1337/133/100 6/1337/133/100 ::6/128");
        assert_eq!(LocalState::parse(&state.to_string()), Some(state));
        assert_eq!(LocalState::parse(""), Some(LocalState::default()));
        assert_eq!(LocalState::parse("4/1/2"), None);
        assert_eq!(LocalState::parse("lo"), None);
    }

    #[test]
    fn a_namespace_without_ipv6_gets_no_address_of_it() {
        let facts = Facts::default().without_ipv6(true);
        assert!(local_state(&Policy::sidecar(), &facts).is_empty());
    }
}
