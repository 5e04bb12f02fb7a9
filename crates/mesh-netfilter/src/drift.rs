//! Drift: how what is in the kernel differs from what was planned.

use std::fmt;

use crate::bytecode::parse_about;
use crate::listing::{ListedChain, ListedRule, ListedTable, Listing};
use crate::plan::FORMAT;
use crate::{Family, Port, RuleState, Verdict};

/// What a look at the rules found.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use]
pub struct Report {
    /// How the rules compare with the plan.
    pub state: RuleState,
    /// Every difference; empty if and only if the rules are intact.
    pub drifts: Vec<Drift>,
    /// What could defeat the rules although they are intact.
    pub hazards: Vec<Hazard>,
    /// What is worth knowing and no danger.
    pub notes: Vec<Note>,
}

/// Something worth knowing about intact rules.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Note {
    /// Nobody listens at a port to which connections are captured: they are refused until the
    /// proxy runs.
    NobodyListens {
        /// The port.
        port: Port,
    },
}

/// A place: table and chain.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Place {
    /// The table: family and name, such as `inet mesh_mesh` or `ip nat`.
    pub table: String,
    /// The chain.
    pub chain: String,
}

/// One difference between plan and kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Drift {
    /// A planned table is not there.
    TableMissing {
        /// The table.
        table: String,
    },
    /// A table of ours is there that the plan does not have.
    TableExtra {
        /// The table.
        table: String,
    },
    /// A table was put to sleep: it is there, and the kernel does not ask it.
    TableDormant {
        /// The table.
        table: String,
    },
    /// A table has the rules of another plan or of another version of this crate.
    OtherPlan {
        /// The table.
        table: String,
        /// What the table says about itself, if it does.
        found: Option<String>,
    },
    /// A planned chain is not there.
    ChainMissing(Place),
    /// A chain is there that nobody planned.
    ChainExtra(Place),
    /// The hook, the priority or the policy of a chain is another.
    ChainChanged(Place),
    /// A planned rule is not there.
    RuleMissing {
        /// Where.
        place: Place,
        /// The rule's place in the plan, from 0.
        index: usize,
        /// Why the rule should be there.
        why: String,
    },
    /// A rule is there that nobody planned.
    RuleExtra {
        /// Where.
        place: Place,
        /// The rule's place in the kernel, from 0.
        index: usize,
    },
    /// Another rule is there in the place of a planned one.
    RuleChanged {
        /// Where.
        place: Place,
        /// The rule's place in the plan, from 0.
        index: usize,
        /// Why the planned rule should be there.
        why: String,
    },
    /// A planned rule is there, but before or after its place.
    RuleMoved {
        /// Where.
        place: Place,
        /// The rule's place in the plan, from 0.
        index: usize,
        /// The rule's place in the kernel, from 0.
        found: usize,
        /// Why the rule is there.
        why: String,
    },
    /// A policy rule, a route or an address that the rules depend on is not there.
    LocalMissing {
        /// It, as `ip` would add it.
        what: String,
    },
}

/// Something that could defeat intact rules.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Hazard {
    /// A NAT chain of somebody else is asked before ours, or at the same priority, where the
    /// order is not ours to choose. If it translates a connection, ours does not see it.
    NatBefore {
        /// Its family: `ip`, `ip6`, `inet`.
        family: String,
        /// Its table.
        table: String,
        /// Its name.
        chain: String,
        /// Its priority.
        priority: i32,
    },
    /// Legacy iptables has a NAT table in this namespace. Ours is asked before it.
    LegacyNat {
        /// `ip` or `ip6`.
        family: String,
    },
    /// The namespace has no route to the outside in a family whose connections are captured.
    /// Routing comes before translation: what has no route is never captured but fails.
    NoRoute {
        /// The family.
        family: Family,
    },
    /// The proxy takes inbound connections on loopback addresses only. Redirected connections
    /// arrive at the address of the interface, where nobody listens.
    LoopbackOnly {
        /// The port.
        port: Port,
        /// The family.
        family: Family,
    },
}

/// Every difference between a plan and what is in the kernel.
pub(crate) fn compare(planned: &Listing, found: &Listing) -> Vec<Drift> {
    let mut drifts = Vec::new();
    for table in &planned.tables {
        match found.tables.iter().find(|other| other.name == table.name) {
            Some(other) => compare_tables(table, other, &mut drifts),
            None => drifts.push(Drift::TableMissing {
                table: table.name.clone(),
            }),
        }
    }
    for table in &found.tables {
        if !planned.tables.iter().any(|other| other.name == table.name) {
            drifts.push(Drift::TableExtra {
                table: table.name.clone(),
            });
        }
    }
    drifts
}

fn compare_tables(planned: &ListedTable, found: &ListedTable, drifts: &mut Vec<Drift>) {
    if found.is_dormant {
        drifts.push(Drift::TableDormant {
            table: planned.name.clone(),
        });
    }
    for chain in &planned.chains {
        let place = Place {
            table: planned.name.clone(),
            chain: chain.name.clone(),
        };
        let Some(other) = found.chains.iter().find(|other| other.name == chain.name) else {
            drifts.push(Drift::ChainMissing(place));
            continue;
        };
        if other.base != chain.base {
            drifts.push(Drift::ChainChanged(place.clone()));
        }
        if chain.is_about {
            compare_about(chain, other, &planned.name, drifts);
        } else {
            compare_rules(&chain.rules, &other.rules, &place, drifts);
        }
    }
    for chain in &found.chains {
        if !planned.chains.iter().any(|other| other.name == chain.name) {
            drifts.push(Drift::ChainExtra(Place {
                table: planned.name.clone(),
                chain: chain.name.clone(),
            }));
        }
    }
}

/// The chain that tells about the table: here the comment is the content.
fn compare_about(planned: &ListedChain, found: &ListedChain, table: &str, drifts: &mut Vec<Drift>) {
    let says = |rule: &ListedRule| (rule.code.clone(), rule.comment.clone());
    if !planned
        .rules
        .iter()
        .map(says)
        .eq(found.rules.iter().map(says))
    {
        drifts.push(Drift::OtherPlan {
            table: table.to_owned(),
            found: found.rules.first().and_then(|rule| rule.comment.clone()),
        });
    }
}

fn compare_rules(
    planned: &[ListedRule],
    found: &[ListedRule],
    place: &Place,
    drifts: &mut Vec<Drift>,
) {
    let (lost, mut new) = apart(planned, found);
    let mut rest = Vec::new();
    for single in lost {
        let same = |other: &Single<'_>| other.rule.code == single.rule.code;
        match new.iter().position(same) {
            Some(position) => drifts.push(Drift::RuleMoved {
                place: place.clone(),
                index: single.index,
                found: new.remove(position).index,
                why: single.why(),
            }),
            None => rest.push(single),
        }
    }
    for single in rest {
        let place = place.clone();
        match new.iter().position(|other| other.gap == single.gap) {
            Some(position) => {
                new.remove(position);
                drifts.push(Drift::RuleChanged {
                    place,
                    index: single.index,
                    why: single.why(),
                });
            }
            None => drifts.push(Drift::RuleMissing {
                place,
                index: single.index,
                why: single.why(),
            }),
        }
    }
    for single in new {
        drifts.push(Drift::RuleExtra {
            place: place.clone(),
            index: single.index,
        });
    }
}

/// A rule that has no partner in the other list.
pub(crate) struct Single<'a> {
    pub(crate) rule: &'a ListedRule,
    pub(crate) index: usize,
    /// How many rules with a partner stand before it.
    pub(crate) gap: usize,
}

/// The rules of either list that are not in their longest common subsequence.
pub(crate) fn apart<'a>(
    planned: &'a [ListedRule],
    found: &'a [ListedRule],
) -> (Vec<Single<'a>>, Vec<Single<'a>>) {
    let equal = |i: usize, j: usize| match (planned.get(i), found.get(j)) {
        (Some(planned), Some(found)) => planned.code == found.code,
        _ => false,
    };
    // lengths[i][j]: of the longest common subsequence of planned[i..] and found[j..].
    let mut lengths = vec![vec![0_usize; found.len() + 1]; planned.len() + 1];
    let length = |lengths: &[Vec<usize>], i: usize, j: usize| {
        let row = lengths.get(i).and_then(|row| row.get(j));
        row.copied().unwrap_or_default()
    };
    for i in (0..planned.len()).rev() {
        for j in (0..found.len()).rev() {
            let longest = if equal(i, j) {
                length(&lengths, i + 1, j + 1) + 1
            } else {
                length(&lengths, i + 1, j).max(length(&lengths, i, j + 1))
            };
            if let Some(cell) = lengths.get_mut(i).and_then(|row| row.get_mut(j)) {
                *cell = longest;
            }
        }
    }
    let (mut lost, mut new) = (Vec::new(), Vec::new());
    let (mut i, mut j, mut gap) = (0, 0, 0);
    loop {
        if equal(i, j) {
            (i, j, gap) = (i + 1, j + 1, gap + 1);
            continue;
        }
        let skip_planned = length(&lengths, i + 1, j) >= length(&lengths, i, j + 1);
        match (planned.get(i), found.get(j)) {
            (None, None) => return (lost, new),
            (Some(rule), other) if skip_planned || other.is_none() => {
                lost.push(Single {
                    rule,
                    index: i,
                    gap,
                });
                i += 1;
            }
            (_, Some(rule)) => {
                new.push(Single {
                    rule,
                    index: j,
                    gap,
                });
                j += 1;
            }
            // A planned rule without counterpart is taken by the second arm.
            (Some(_), None) => i += 1,
        }
    }
}

// === impl Single ===

impl Single<'_> {
    fn why(&self) -> String {
        self.rule.comment.clone().unwrap_or_default()
    }
}

// === impl Report ===

impl Report {
    pub(crate) fn new(planned: &Listing, found: &Listing, hazards: Vec<Hazard>) -> Self {
        let drifts = compare(planned, found);
        let state = if drifts.is_empty() {
            RuleState::Intact
        } else if found.tables.is_empty() {
            RuleState::Absent
        } else {
            RuleState::Drifted
        };
        Self {
            state,
            drifts,
            hazards,
            notes: Vec::new(),
        }
    }

    /// With more that was seen.
    pub(crate) fn and(mut self, hazards: Vec<Hazard>, notes: Vec<Note>) -> Self {
        self.hazards.extend(hazards);
        self.notes.extend(notes);
        self
    }

    /// With what is missing outside the tables.
    pub(crate) fn with_local(mut self, missing: impl IntoIterator<Item = String>) -> Self {
        let missing = missing.into_iter().map(|what| Drift::LocalMissing { what });
        self.drifts.extend(missing);
        if self.state == RuleState::Intact && !self.drifts.is_empty() {
            self.state = RuleState::Drifted;
        }
        self
    }

    /// The verdict of a watcher that has just made this report, `now` in Unix seconds.
    pub fn verdict(&self, previous: Option<&Verdict>, now: u64) -> Verdict {
        let drifts = self.drifts.iter().map(ToString::to_string).collect();
        Verdict::next(previous, self.state, drifts, now)
    }
}

// === impl Drift, Hazard, Note, Place ===

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableMissing { table } => write!(f, "table `{table}` is missing"),
            Self::TableExtra { table } => write!(f, "table `{table}` is not in the plan"),
            Self::TableDormant { table } => write!(f, "table `{table}` was put to sleep"),
            Self::OtherPlan { table, found } => match found.as_deref().and_then(parse_about) {
                Some((format, _)) if format != FORMAT => write!(
                    f,
                    "table `{table}` has format {format}, this version makes {FORMAT}"
                ),
                Some((_, fingerprint)) => {
                    write!(f, "table `{table}` has another plan, {fingerprint}")
                }
                None => write!(f, "table `{table}` does not tell its plan"),
            },
            Self::ChainMissing(place) => write!(f, "chain {place} is missing"),
            Self::ChainExtra(place) => write!(f, "chain {place} is not in the plan"),
            Self::ChainChanged(place) => {
                write!(f, "chain {place} has another hook, priority or policy")
            }
            Self::RuleMissing { place, index, why } => {
                write!(f, "rule {index} of chain {place} is missing ({why})")
            }
            Self::RuleExtra { place, index } => {
                write!(
                    f,
                    "chain {place} has a rule at {index} that is not in the plan"
                )
            }
            Self::RuleChanged { place, index, why } => {
                write!(f, "rule {index} of chain {place} was changed ({why})")
            }
            Self::RuleMoved {
                place,
                index,
                found,
                why,
            } => write!(
                f,
                "rule {index} of chain {place} was moved to {found} ({why})"
            ),
            Self::LocalMissing { what } => write!(f, "`{what}` is missing"),
        }
    }
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NatBefore {
                family,
                table,
                chain,
                priority,
            } => write!(
                f,
                "NAT chain `{family} {table} {chain}` at priority {priority} may translate \
                 connections before these rules see them"
            ),
            Self::LegacyNat { family } => write!(
                f,
                "legacy iptables has a NAT table for `{family}` in this namespace"
            ),
            Self::NoRoute { family } => write!(
                f,
                "there is no route to the outside for {}, so nothing of it can be captured",
                family_name(*family)
            ),
            Self::LoopbackOnly { port, family } => write!(
                f,
                "port {port} is listened at on loopback only, so inbound {} is refused",
                family_name(*family)
            ),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyListens { port } => write!(f, "nobody listens at port {port} yet"),
        }
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{} {}`", self.table, self.chain)
    }
}

#[cfg(test)]
mod tests;
