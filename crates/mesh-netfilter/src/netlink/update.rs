//! The least transaction between what is there and a plan: if only lists differ, only elements of
//! their sets change, and no packet meets another rule than before.

use std::collections::BTreeMap;

use super::batch::{Batch, Object, nft};
use crate::bytecode::{
    Element, Expression, Program, ProgramRule, Set, parse_about, parse_about_local,
};
use crate::listing::{Code, ListedChain, ListedRule, Listing};
use crate::plan::{ABOUT_CHAIN, FORMAT, Plan};

/// An interval of a set: where it begins, and where it ends unless it reaches the highest key.
type Interval<'a> = (&'a Element, Option<&'a Element>);

/// A set of the plan beside what is in it now.
struct Pair<'a> {
    table: &'a str,
    found: &'a Set,
    planned: &'a Set,
}

/// The transaction that makes the plan of `found`, which was read at this generation of rules, by
/// elements of sets alone; none if more differs.
pub(crate) fn update(
    plan: &Plan,
    planned: &Program,
    found: &Listing,
    generation: u32,
) -> Option<Batch> {
    (found.tables.len() == planned.tables.len()).then_some(())?;
    let mut pairs = BTreeMap::new();
    for table in &planned.tables {
        let name = format!("inet {}", table.name);
        let other = found.tables.iter().find(|other| other.name == name)?;
        (!other.is_dormant && other.chains.len() == table.chains.len()).then_some(())?;
        for chain in &table.chains {
            let other = other.chains.iter().find(|other| other.name == chain.name)?;
            (other.base == chain.base && other.rules.len() == chain.rules.len()).then_some(())?;
            if chain.name == ABOUT_CHAIN {
                is_of_this_format(plan, other)?;
                continue;
            }
            for (planned, found) in chain.rules.iter().zip(&other.rules) {
                pair_rules(&table.name, planned, found, &mut pairs)?;
            }
        }
    }
    let mut batch = Batch::begin_at(Some(generation));
    for pair in pairs.values() {
        pair.change(&mut batch)?;
    }
    for table in &planned.tables {
        let about = table
            .chains
            .iter()
            .find(|chain| chain.name == ABOUT_CHAIN)?;
        batch.replace_rules(&table.name, about);
    }
    Some(batch.end())
}

/// Whether the rules come from a plan that differs in rules alone.
fn is_of_this_format(plan: &Plan, about: &ListedChain) -> Option<()> {
    let comment = about.rules.first()?.comment.as_deref()?;
    let (format, _) = parse_about(comment)?;
    (format == FORMAT && parse_about_local(comment)? == *plan.local()).then_some(())
}

/// Remembers the sets that both rules look into; none if the rules differ in more than elements.
fn pair_rules<'a>(
    table: &'a str,
    planned: &'a ProgramRule,
    found: &'a ListedRule,
    pairs: &mut BTreeMap<(&'a str, &'a str), Pair<'a>>,
) -> Option<()> {
    let Code::Program(expressions) = &found.code else {
        return None;
    };
    (planned.comment.as_deref() == found.comment.as_deref()
        && planned.expressions.len() == expressions.len())
    .then_some(())?;
    for both in planned.expressions.iter().zip(expressions) {
        let (
            Expression::Lookup { set, inverted },
            Expression::Lookup {
                set: found,
                inverted: found_inverted,
            },
        ) = both
        else {
            (both.0 == both.1).then_some(())?;
            continue;
        };
        let is_same_kind = set.name == found.name
            && inverted == found_inverted
            && set.key_type == found.key_type
            && set.is_interval == found.is_interval;
        is_same_kind.then_some(())?;
        match &set.name {
            Some(name) => {
                let pair = Pair {
                    table,
                    found,
                    planned: set,
                };
                pairs.insert((table, name), pair);
            }
            None => (set.elements == found.elements).then_some(())?,
        }
    }
    Some(())
}

/// The intervals of a set in order; none if its elements are no such list.
fn intervals(set: &Set) -> Option<Vec<Interval<'_>>> {
    let mut all: Vec<Interval<'_>> = Vec::with_capacity(set.elements.len() / 2);
    for element in &set.elements {
        match (element.is_end, all.last_mut()) {
            (true, Some((_, end @ None))) => *end = Some(element),
            (false, Some((_, None))) | (true, _) => return None,
            (false, _) => all.push((element, None)),
        }
    }
    Some(all)
}

/// The elements of the intervals of `all` that `others` has not. Both ascend.
fn without<'a>(all: &[Interval<'a>], others: &[Interval<'a>]) -> Vec<&'a Element> {
    let mut others = others.iter().peekable();
    let mut rest = Vec::new();
    for interval in all {
        while others.next_if(|other| other.0 < interval.0).is_some() {}
        if others.peek() != Some(&interval) {
            rest.push(interval.0);
            rest.extend(interval.1);
        }
    }
    rest
}

// === impl Pair ===

impl Pair<'_> {
    /// Deletes what is too much, and adds what is missing, by whole intervals.
    fn change(&self, batch: &mut Batch) -> Option<()> {
        if self.found.elements == self.planned.elements {
            return Some(());
        }
        // The end at zero is there or not from the beginning.
        (self.found.begins_with_end() == self.planned.begins_with_end()).then_some(())?;
        let (old, new) = (intervals(self.found)?, intervals(self.planned)?);
        let object = Object::Set {
            table: self.table.to_owned(),
            set: self.planned.name.clone()?,
        };
        let (gone, added) = (without(&old, &new), without(&new, &old));
        batch.change_elements(nft::DELSETELEM, &object, None, &gone);
        batch.change_elements(nft::NEWSETELEM, &object, None, &added);
        Some(())
    }
}
