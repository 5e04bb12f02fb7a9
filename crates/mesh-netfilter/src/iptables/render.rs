//! From rules of a plan to lines of `iptables-save`, for one family.
//!
//! A condition on a list becomes one line for each element, since a line has one value for each
//! option; ports go together in chunks. Lines have the order of options in which `iptables-save`
//! prints them.

mod line;
mod rule;

use self::rule::{Context, mark_target};
use super::{IptablesError, Jump, Ruleset, TABLES, XtChain, XtTable, chain_name};
use crate::plan::{Action, Base, Chain, ChainKind, Hook, Match, Rule};
use crate::{Family, InstanceName, Plan};

/// How the name of the chain ends that marks packets.
const MARK: &str = "MARK";

/// The rules of `plan` for one family, but those that tell about the plan.
pub(super) fn ruleset(plan: &Plan, family: Family) -> Result<Ruleset, IptablesError> {
    let mut tables = TABLES.map(|name| XtTable {
        name,
        chains: Vec::new(),
        jumps: Vec::new(),
    });
    for table in plan.tables() {
        let regular: Vec<&Chain> = table
            .chains()
            .iter()
            .filter(|chain| chain.base().is_none())
            .collect();
        for chain in table.chains() {
            let Some(base) = chain.base() else { continue };
            let name = table_name(chain.name(), base)?;
            let Some(to) = tables.iter_mut().find(|table| table.name == name) else {
                continue;
            };
            let rules = effective(chain, family);
            if rules.is_empty() {
                continue;
            }
            for called in called(&rules, &regular) {
                let name = own_name(plan.instance(), called.name())?;
                if !to.chains.iter().any(|chain| chain.name == name) {
                    to.chains
                        .push(render_chain(plan, called, &numbered(called), family)?);
                }
            }
            if let Some(marking) = marking_chain(plan.instance(), chain.name(), &rules)? {
                let place = to.chains.iter().find(|chain| chain.name == marking.name);
                if place.is_some_and(|other| *other != marking) {
                    return Err(IptablesError::Chain {
                        chain: chain.name(),
                    });
                }
                if place.is_none() {
                    to.chains.push(marking);
                }
            }
            to.jumps.push(Jump {
                from: base_chain(base.hook),
                to: own_name(plan.instance(), chain.name())?,
            });
            to.chains.push(render_chain(plan, chain, &rules, family)?);
        }
    }
    let tables = tables.into_iter().filter(|table| !table.chains.is_empty());
    Ok(Ruleset {
        tables: tables.collect(),
    })
}

/// Rules with their places in the plan.
fn numbered(chain: &Chain) -> Vec<(usize, &Rule)> {
    chain.rules().iter().enumerate().collect()
}

/// The rules of a base chain that can make a difference in `family`: those before one that ends
/// the chain for all packets, and none at all if they only leave packets alone.
fn effective(chain: &Chain, family: Family) -> Vec<(usize, &Rule)> {
    let mut rules = Vec::new();
    for (index, rule) in numbered(chain) {
        let is_family = |part: &Match| *part == Match::Family(family);
        let ends = matches!(rule.action, Action::Return);
        if ends && rule.matches.iter().all(is_family) {
            break;
        }
        rules.push((index, rule));
    }
    if rules
        .iter()
        .all(|(_, rule)| matches!(rule.action, Action::Return))
    {
        rules.clear();
    }
    rules
}

/// The chains that rules lead to.
fn called<'a>(rules: &[(usize, &Rule)], regular: &[&'a Chain]) -> Vec<&'a Chain> {
    let is_called = |chain: &&&Chain| {
        rules
            .iter()
            .any(|(_, rule)| matches!(rule.action, Action::Goto(name) if name == chain.name()))
    };
    regular.iter().filter(is_called).copied().collect()
}

fn render_chain(
    plan: &Plan,
    chain: &Chain,
    rules: &[(usize, &Rule)],
    family: Family,
) -> Result<XtChain, IptablesError> {
    let mut lines = Vec::new();
    for (index, rule) in rules {
        let context = Context {
            instance: plan.instance(),
            family,
            chain: chain.name(),
            index: *index,
        };
        lines.extend(context.rule(rule)?);
    }
    Ok(XtChain {
        name: own_name(plan.instance(), chain.name())?,
        rules: lines,
    })
}

/// The table of iptables that stands where a base chain does. That of NAT is at -100.
fn table_name(chain: &'static str, base: Base) -> Result<&'static str, IptablesError> {
    match (base.kind, base.priority) {
        (ChainKind::Filter, -300) => Ok("raw"),
        (ChainKind::Filter | ChainKind::Route, -150) => Ok("mangle"),
        (ChainKind::Nat, -105 | -100) => Ok("nat"),
        (ChainKind::Filter, 0 | 10) => Ok("filter"),
        (_, priority) => Err(IptablesError::Place { chain, priority }),
    }
}

fn base_chain(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "PREROUTING",
        Hook::Input => "INPUT",
        Hook::Forward => "FORWARD",
        Hook::Output => "OUTPUT",
    }
}

/// The name of a chain of the plan in iptables.
fn own_name(instance: &InstanceName, chain: &'static str) -> Result<String, IptablesError> {
    let ending = match chain {
        "raw_out" => "RAWOUT",
        "mangle_pre" => "MANPRE",
        "mangle_out" => "MANOUT",
        "nat_pre" => "NATPRE",
        "nat_guest" => "NATGST",
        "nat_out" => "NATOUT",
        "nat_included" => "NATINC",
        "guard_in" => "GRDIN",
        "guard_fwd" => "GRDFWD",
        "guard_guest" => "GRDGST",
        "guard_out" => "GRDOUT",
        "guard_included" => "GRDINC",
        chain => return Err(IptablesError::Chain { chain }),
    };
    Ok(chain_name(instance, ending))
}

/// The chain that marks packets and ends, for actions that do both.
fn marking_chain(
    instance: &InstanceName,
    chain: &'static str,
    rules: &[(usize, &Rule)],
) -> Result<Option<XtChain>, IptablesError> {
    let mut found: Option<u32> = None;
    for (index, rule) in rules {
        let Action::MarkAndAccept(mark) = rule.action else {
            continue;
        };
        if found.is_some_and(|other| other != mark) {
            return Err(IptablesError::Rule {
                chain,
                index: *index,
                what: "a second mark",
            });
        }
        found = Some(mark);
    }
    Ok(found.map(|mark| XtChain {
        name: chain_name(instance, MARK),
        rules: vec![mark_target(mark)],
    }))
}
