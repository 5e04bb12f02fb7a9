//! Every difference is found, and told once.

use super::*;
use crate::bytecode;
use crate::listing::Code;
use crate::{Facts, Plan, Policy};

fn listing() -> Listing {
    bytecode::program(&Plan::compile(&Policy::sidecar(), &Facts::default())).into()
}

fn chain<'a>(listing: &'a mut Listing, name: &str) -> &'a mut ListedChain {
    let chains = listing
        .tables
        .iter_mut()
        .flat_map(|table| &mut table.chains);
    chains.into_iter().find(|chain| chain.name == name).unwrap()
}

fn words(found: &Listing) -> Vec<String> {
    compare(&listing(), found)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn equal_listings_have_no_drift() {
    assert_eq!(words(&listing()), Vec::<String>::new());
}

#[test]
fn a_missing_rule_is_named_by_place_and_reason() {
    let mut found = listing();
    chain(&mut found, "nat_pre").rules.pop();
    assert_eq!(
        words(&found),
        ["rule 1 of chain `inet mesh_mesh nat_pre` is missing (inbound connection)"]
    );
}

#[test]
fn an_extra_rule_is_named_by_place() {
    let mut found = listing();
    let rules = &mut chain(&mut found, "nat_out").rules;
    let accept = ListedRule {
        code: Code::Program(vec![bytecode::Expression::Verdict {
            code: 1,
            chain: None,
        }]),
        comment: None,
        counter: None,
    };
    rules.insert(0, accept);
    assert_eq!(
        words(&found),
        ["chain `inet mesh_mesh nat_out` has a rule at 0 that is not in the plan"]
    );
}

#[test]
fn a_changed_rule_is_one_drift_and_not_two() {
    let mut found = listing();
    let Code::Program(expressions) = &mut chain(&mut found, "nat_pre").rules[1].code else {
        panic!("netlink lists programs");
    };
    expressions.pop();
    assert_eq!(
        words(&found),
        ["rule 1 of chain `inet mesh_mesh nat_pre` was changed (inbound connection)"]
    );
}

#[test]
fn swapped_rules_are_moved_not_lost() {
    let mut found = listing();
    chain(&mut found, "nat_pre").rules.swap(0, 1);
    let words = words(&found);
    assert_eq!(words.len(), 1);
    assert!(words[0].contains("was moved to"), "{words:?}");
}

#[test]
fn tables_chains_hooks_and_the_plan_itself_are_compared() {
    let mut found = listing();
    found.tables[0].is_dormant = true;
    chain(&mut found, "nat_out").base.as_mut().unwrap().priority = 0;
    chain(&mut found, "about").rules[0].comment =
        Some("mesh-netfilter format 7 plan 0123456789abcdef".into());
    chain(&mut found, "raw_out").name = "raw_in".into();
    found.tables[1].name = "inet mesh_other".into();
    assert_eq!(
        words(&found),
        [
            "table `inet mesh_mesh` was put to sleep",
            "table `inet mesh_mesh` has format 7, this version makes 2",
            "chain `inet mesh_mesh raw_out` is missing",
            "chain `inet mesh_mesh nat_out` has another hook, priority or policy",
            "chain `inet mesh_mesh raw_in` is not in the plan",
            "table `inet mesh_mesh.guard` is missing",
            "table `inet mesh_other` is not in the plan",
        ]
    );
}

#[test]
fn a_namespace_without_our_tables_is_absent_not_drifted() {
    let report = Report::new(&listing(), &Listing::default(), Vec::new());
    assert_eq!(report.state, RuleState::Absent);
    assert_eq!(report.verdict(None, 7).drifts.len(), 2);
}
