//! Plans in the words of iptables: chains of our own in the tables that everybody shares.
//!
//! What is rendered is what `iptables-save` prints back, letter by letter, so that what was
//! planned and what is there can be compared line by line. Both families have rules of their own.

mod render;
#[cfg(feature = "iptables")]
pub(crate) mod save;
mod transition;

use std::fmt;

#[cfg(feature = "iptables")]
pub(crate) use self::save::Save;
#[cfg(feature = "iptables")]
pub(crate) use self::transition::FoundTable;
pub(crate) use self::transition::{Found, transition};
use crate::bytecode::{self, Fingerprint};
use crate::{Family, InstanceName, Plan};

/// A plan as the input of `iptables-restore --noflush` and `ip6tables-restore --noflush`, for a
/// namespace that has no rules of the instance yet.
///
/// ```
/// # use mesh_netfilter::{Facts, Plan, Policy};
/// let rules = Plan::compile(&Policy::sidecar(), &Facts::default()).to_iptables()?;
/// assert!(rules.v4.contains("-j REDIRECT --to-ports 15001"));
/// # Ok::<(), mesh_netfilter::IptablesError>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Iptables {
    /// For IPv4; empty if the plan has no rule for it.
    pub v4: String,
    /// For IPv6; empty if the plan has no rule for it.
    pub v6: String,
}

/// Why a plan cannot be said in the words of iptables.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IptablesError {
    /// There is no table of iptables at the place of a chain.
    #[error("iptables has no table where chain `{chain}` stands (priority {priority})")]
    Place {
        /// The chain of the plan.
        chain: &'static str,
        /// Its priority.
        priority: i32,
    },
    /// The chain has no name in iptables, where names are short.
    #[error("chain `{chain}` has no name in iptables")]
    Chain {
        /// The chain of the plan.
        chain: &'static str,
    },
    /// A rule has conditions that iptables cannot join.
    #[error("iptables cannot say rule {index} of chain `{chain}`: {what}")]
    Rule {
        /// The chain of the plan.
        chain: &'static str,
        /// The rule's place in the plan, from 0.
        index: usize,
        /// What it cannot say.
        what: &'static str,
    },
}

/// The rules of one family.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Ruleset {
    /// In the order of [`TABLES`]; only those with rules.
    pub(crate) tables: Vec<XtTable>,
}

/// What is ours in one table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct XtTable {
    pub(crate) name: &'static str,
    pub(crate) chains: Vec<XtChain>,
    pub(crate) jumps: Vec<Jump>,
}

/// A chain of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct XtChain {
    pub(crate) name: String,
    /// Lines of `iptables-save` behind the name of the chain.
    pub(crate) rules: Vec<String>,
}

/// The first rules of base chains lead to chains of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Jump {
    /// The base chain.
    pub(crate) from: &'static str,
    /// The chain of ours.
    pub(crate) to: String,
}

/// The tables in the order in which packets meet them on their way out.
pub(crate) const TABLES: [&str; 4] = ["raw", "mangle", "nat", "filter"];
/// The chains that the kernel calls.
#[cfg(feature = "iptables")]
pub(crate) const BASE_CHAINS: [&str; 5] =
    ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// How chains end that are ours, of every version of this crate. Chain names have at most 28
/// bytes, and those of instances take 16.
#[cfg(feature = "iptables")]
pub(crate) const CHAIN_ENDINGS: [&str; 15] = [
    ABOUT, "RAWOUT", "RAWPRE", "MANPRE", "MANOUT", "MARK", "NATPRE", "NATGST", "NATOUT", "NATINC",
    "GRDIN", "GRDFWD", "GRDGST", "GRDOUT", "GRDINC",
];
/// The chain that tells about the plan in the comment of its only rule.
pub(crate) const ABOUT: &str = "ABOUT";
/// What stands in such a comment between the plan and the hash of its rules in iptables.
pub(crate) const ABOUT_RULES: &str = " rules ";
/// What stands in such a comment before the words that tell what was made with the rules: base
/// chains that were not there before, and `table` for the table itself.
#[cfg(feature = "iptables")]
pub(crate) const ABOUT_MADE: &str = " made ";
/// The word for the table in such a comment.
#[cfg(feature = "iptables")]
pub(crate) const TABLE: &str = "table";

/// Every option that this crate writes.
#[cfg(feature = "iptables")]
const OPTIONS: [&str; 32] = [
    "-s",
    "-d",
    "-i",
    "-o",
    "-p",
    "-m",
    "-j",
    "-g",
    "--dport",
    "--dports",
    "--tcp-flags",
    "--src-range",
    "--dst-range",
    "--uid-owner",
    "--gid-owner",
    "--mark",
    "--ctstate",
    "--ctdir",
    "--transparent",
    "--comment",
    "--to-ports",
    "--to-destination",
    "--reject-with",
    "--zone-orig",
    "--set-xmark",
    "--save-mark",
    "--restore-mark",
    "--nfmask",
    "--ctmask",
    "--on-port",
    "--on-ip",
    "--tproxy-mark",
];

/// Name of the chain of `instance` with this ending.
pub(crate) fn chain_name(instance: &InstanceName, ending: &str) -> String {
    format!("MESH_{instance}_{ending}")
}

/// The names of all chains that `instance` may have.
#[cfg(feature = "iptables")]
pub(crate) fn chain_names(instance: &InstanceName) -> Vec<String> {
    CHAIN_ENDINGS
        .iter()
        .map(|ending| chain_name(instance, ending))
        .collect()
}

/// The rules of `plan` for each family.
pub(crate) fn rulesets(plan: &Plan) -> Result<[(Family, Ruleset); 2], IptablesError> {
    let mut v4 = render::ruleset(plan, Family::V4)?;
    let mut v6 = render::ruleset(plan, Family::V6)?;
    let hash = fingerprint(v4.lines().chain(v6.lines()));
    let about = format!("{}{ABOUT_RULES}{hash}", bytecode::about(plan));
    for table in v4.tables.iter_mut().chain(&mut v6.tables) {
        table.chains.insert(
            0,
            XtChain {
                name: chain_name(plan.instance(), ABOUT),
                rules: vec![about_rule(&about)],
            },
        );
    }
    Ok([(Family::V4, v4), (Family::V6, v6)])
}

/// The only rule of the chain that tells about the plan.
pub(crate) fn about_rule(text: &str) -> String {
    format!("-m comment --comment \"{text}\" -j RETURN")
}

/// A hash of rules, each with table and chain in front.
pub(crate) fn fingerprint(lines: impl Iterator<Item = String>) -> Fingerprint {
    let chain = |line: &str| -> Vec<String> {
        let words = line.split(' ').take(2);
        words.map(str::to_owned).collect()
    };
    let mut lines: Vec<String> = lines.collect();
    // Tools list tables and chains in an order of their own; rules of a chain keep theirs.
    lines.sort_by_cached_key(|line| chain(line));
    Fingerprint::of_lines(lines.iter().map(String::as_str))
}

impl Plan {
    /// The plan in the words of iptables, for a namespace that has no rules of the instance yet.
    ///
    /// # Errors
    /// If something in the plan cannot be said in them.
    pub fn to_iptables(&self) -> Result<Iptables, IptablesError> {
        let [v4, v6] = rulesets(self)?.map(|(_, rules)| transition(&Found::default(), &rules));
        Ok(Iptables { v4, v6 })
    }
}

// === impl Ruleset ===

impl Ruleset {
    pub(crate) fn table(&self, name: &str) -> Option<&XtTable> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// Whether every rule could be one that this crate has written: nothing but options that it
    /// knows, so that nothing else reaches a program by them.
    #[cfg(feature = "iptables")]
    pub(crate) fn is_plain(&self) -> bool {
        let is_known = |word: &str| {
            let word = word.trim_start_matches(['"', '\'', '\\']);
            !word.starts_with('-') || OPTIONS.contains(&word)
        };
        let chains = self.tables.iter().flat_map(|table| &table.chains);
        let mut rules = chains.flat_map(|chain| &chain.rules);
        rules.all(|rule| rule.split_ascii_whitespace().all(is_known))
    }

    /// Every rule with table and chain in front.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.tables.iter().flat_map(XtTable::lines)
    }
}

// === impl XtTable ===

impl XtTable {
    fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let jumps = self
            .jumps
            .iter()
            .map(|jump| format!("{} {} -j {}", self.name, jump.from, jump.to));
        let rules = self.chains.iter().flat_map(|chain| {
            let rules = chain.rules.iter();
            rules.map(|rule| format!("{} {} {rule}", self.name, chain.name))
        });
        jumps.chain(rules)
    }
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -j {}", self.from, self.to)
    }
}
