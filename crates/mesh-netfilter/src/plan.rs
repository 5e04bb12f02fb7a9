//! Plan: the ordered rules that a policy becomes, independent of any tool's syntax.

mod compile;
mod evaluate;
mod local;
mod rule;

use std::collections::BTreeMap;
use std::fmt;

pub use self::evaluate::{Content, Decision, Direction, Packet, Step, Trace};
pub use self::local::{LocalRoute, LocalState, PolicyRule};
pub(crate) use self::rule::Values;
pub use self::rule::{Action, List, Match, Rule, Transport, Why};
use crate::bytecode::{self, Fingerprint};
use crate::{DnsTarget, Facts, InstanceName, Policy};

/// The rules of one policy: what [`Policy`] means, packet by packet.
///
/// The same policy and facts always give the same plan. It can be printed (`Display` is `nft` syntax),
/// evaluated, serialised with feature `serde`, and with feature `apply` put into the kernel.
///
/// ```
/// use mesh_netfilter::{Facts, Plan, Policy};
///
/// let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
/// assert_eq!(plan.tables()[0].name(), "mesh_mesh");
/// println!("{plan}");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use = "a plan does nothing until it is applied"]
pub struct Plan {
    instance: InstanceName,
    fingerprint: Fingerprint,
    dns_target: Option<DnsTarget>,
    tables: Vec<Table>,
    local: LocalState,
}

/// A table of family `inet`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Table {
    name: String,
    chains: Vec<Chain>,
}

/// A chain: rules in the order in which a packet meets them.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Chain {
    name: &'static str,
    base: Option<Base>,
    rules: Vec<Rule>,
}

/// Where the kernel calls a base chain. The policy of every chain is to accept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Base {
    /// What the chain may do.
    pub kind: ChainKind,
    /// Where packets are stopped.
    pub hook: Hook,
    /// The order among chains of a hook: lower comes first.
    pub priority: i32,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum ChainKind {
    /// Judges every packet.
    Filter,
    /// Translates addresses; sees the first packet of a connection only.
    Nat,
    /// Judges every packet that leaves, and has it routed again if it changed the mark.
    Route,
}

/// A place in the packet's way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Hook {
    /// On arrival, before routing.
    Prerouting,
    /// Before a local process receives it.
    Input,
    /// On its way through, from one interface to another.
    Forward,
    /// After a local process sent it.
    Output,
}

/// The version of the plan's form in the kernel; a new one whenever the meaning of what is read
/// back changes.
pub const FORMAT: u32 = 2;

/// The chain that tells format and fingerprint of the plan in the comment of its only rule. No
/// packet ever comes there.
pub(crate) const ABOUT_CHAIN: &str = "about";

// === impl Plan ===

impl Plan {
    /// The plan of a policy, given what is known about the machine.
    pub fn compile(policy: &Policy, facts: &Facts) -> Self {
        let tables = compile::tables(policy, facts);
        let local = local::local_state(policy, facts);
        Self {
            instance: policy.instance().clone(),
            fingerprint: bytecode::fingerprint(&tables, &local),
            dns_target: policy.dns().map(|dns| dns.to),
            tables,
            local,
        }
    }

    /// Whose rules these are.
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    /// A hash of all rules, equal for equal plans of one [`FORMAT`].
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The tables: that of NAT, then, if the policy asks for it, that of the guard.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// What the namespace needs besides rules: policy rules, routes, addresses.
    pub fn local(&self) -> &LocalState {
        &self.local
    }

    /// Where captured DNS queries go.
    pub fn dns_target(&self) -> Option<DnsTarget> {
        self.dns_target
    }

    /// What becomes of a packet, and because of which rules.
    pub fn evaluate(&self, packet: &Packet) -> Trace {
        evaluate::evaluate(&self.tables, packet)
    }

    /// What becomes of a packet after something has removed the NAT rules: what the guard is for.
    pub fn evaluate_guard(&self, packet: &Packet) -> Trace {
        let guard = self.instance.guard_table();
        let index = self.tables.iter().position(|table| table.name == guard);
        let guard = index.and_then(|index| self.tables.get(index..));
        evaluate::evaluate(guard.unwrap_or_default(), packet)
    }

    /// The plan in the syntax of `nft`: one transaction that replaces what was there.
    pub fn to_nft(&self) -> String {
        crate::nft::script(self)
    }

    /// The plan as one netlink batch for `NETLINK_NETFILTER`: one transaction that replaces what
    /// was there, to be sent in one piece.
    pub fn to_netlink(&self) -> Vec<u8> {
        crate::netlink::replacement(self).into_bytes()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_nft())
    }
}

// === impl Table ===

impl Table {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The chains.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// The values of each named list.
    pub(crate) fn lists(&self) -> BTreeMap<&str, Values<'_>> {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules);
        let parts = rules.flat_map(|rule| &rule.matches);
        parts.filter_map(Match::list).collect()
    }
}

// === impl Chain ===

impl Chain {
    /// The name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where the kernel calls it; none for a chain that only rules lead to.
    pub fn base(&self) -> Option<Base> {
        self.base
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

// === impl ChainKind, Hook ===

impl ChainKind {
    /// The name that kernel and tools use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

impl Hook {
    /// The name that tools use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
        }
    }

    /// The number that the kernel uses (`enum nf_inet_hooks`).
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
        }
    }
}
