//! Diff: what applying a plan would change, rule by rule, in words.

use std::fmt;

use crate::InstanceName;
use crate::drift::{Place, apart};
use crate::listing::{ListedChain, ListedRule, Listing};

/// What applying a plan would change. `Display` gives one line for each change: `+` and what
/// would come, `-` and what would go.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use]
pub struct Diff {
    /// Whose rules.
    pub instance: InstanceName,
    /// The changes, in the order of tables, chains and rules.
    pub changes: Vec<Change>,
}

/// One thing that only one side has.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Change {
    /// Which side has it.
    pub side: Side,
    /// Table and chain; none for what is in no table.
    pub place: Option<Place>,
    /// The place of the rule in its chain, from 0, on its side; none for what is no rule.
    pub index: Option<usize>,
    /// The thing in the syntax of its backend, or of `ip`.
    pub text: String,
}

/// Which side has something that the other has not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[expect(clippy::exhaustive_enums, reason = "there are two sides")]
pub enum Side {
    /// The plan: applying it would add this.
    Planned,
    /// The kernel: applying the plan would remove this.
    Found,
}

/// Every rule that is in one of the listings only.
pub(crate) fn compare(planned: &Listing, found: &Listing) -> Vec<Change> {
    let mut changes = Vec::new();
    let names = planned.tables.iter().chain(
        found
            .tables
            .iter()
            .filter(|table| planned.table(&table.name).is_none()),
    );
    for table in names {
        let (ours, theirs) = (planned.table(&table.name), found.table(&table.name));
        let chains = |table: Option<&'_ crate::listing::ListedTable>| {
            table.map(|table| table.chains.clone()).unwrap_or_default()
        };
        if theirs.is_some_and(|table| table.is_dormant) {
            changes.push(Change {
                side: Side::Found,
                place: None,
                index: None,
                text: format!("table {} flags dormant", table.name),
            });
        }
        compare_chains(&table.name, &chains(ours), &chains(theirs), &mut changes);
    }
    changes
}

fn compare_chains(
    table: &str,
    planned: &[ListedChain],
    found: &[ListedChain],
    changes: &mut Vec<Change>,
) {
    let find = |all: &[ListedChain], name: &str| all.iter().find(|it| it.name == name).cloned();
    let extra = found
        .iter()
        .filter(|chain| find(planned, &chain.name).is_none());
    for chain in planned.iter().chain(extra) {
        let place = Place {
            table: table.to_owned(),
            chain: chain.name.clone(),
        };
        let (ours, theirs) = (find(planned, &chain.name), find(found, &chain.name));
        let heads = [(Side::Found, &theirs), (Side::Planned, &ours)];
        let head = |chain: &Option<ListedChain>| chain.as_ref().map(ListedChain::head);
        if head(&ours) != head(&theirs) {
            for (side, chain) in heads {
                changes.extend(head(chain).map(|text| Change {
                    side,
                    place: Some(place.clone()),
                    index: None,
                    text,
                }));
            }
        }
        let rules = |chain: &Option<ListedChain>| {
            chain
                .as_ref()
                .map(|it| it.rules.clone())
                .unwrap_or_default()
        };
        compare_rules(
            &place,
            chain.is_about,
            &rules(&ours),
            &rules(&theirs),
            changes,
        );
    }
}

fn compare_rules(
    place: &Place,
    is_about: bool,
    planned: &[ListedRule],
    found: &[ListedRule],
    changes: &mut Vec<Change>,
) {
    if is_about {
        // Here the comment is the content.
        let says = |rules: &[ListedRule]| rules.first().and_then(|rule| rule.comment.clone());
        if says(planned) != says(found) {
            for (side, rules) in [(Side::Found, found), (Side::Planned, planned)] {
                changes.extend(
                    rules
                        .iter()
                        .enumerate()
                        .map(|(index, rule)| Change::of(side, place, index, rule)),
                );
            }
        }
        return;
    }
    let (lost, new) = apart(planned, found);
    let found = new.iter().map(|it| (it.gap, Side::Found, it));
    let planned = lost.iter().map(|it| (it.gap, Side::Planned, it));
    let mut all: Vec<_> = found.chain(planned).collect();
    // Where one replaces the other they stand together.
    all.sort_by_key(|(gap, ..)| *gap);
    changes.extend(
        all.into_iter()
            .map(|(_, side, single)| Change::of(side, place, single.index, single.rule)),
    );
}

// === impl Diff ===

impl Diff {
    /// Whether applying would change nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut place: Option<&Place> = None;
        for change in &self.changes {
            if change.place.as_ref() != place {
                place = change.place.as_ref();
                if let Some(Place { table, chain }) = place {
                    writeln!(f, "@ {table} {chain}")?;
                }
            }
            writeln!(f, "{change}")?;
        }
        Ok(())
    }
}

// === impl Change ===

impl Change {
    fn of(side: Side, place: &Place, index: usize, rule: &ListedRule) -> Self {
        Self {
            side,
            place: Some(place.clone()),
            index: Some(index),
            text: rule.to_string(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.side {
            Side::Planned => '+',
            Side::Found => '-',
        };
        write!(f, "{sign} {}", self.text)
    }
}
