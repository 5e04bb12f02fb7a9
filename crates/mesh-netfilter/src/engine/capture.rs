//! What a plan captures, as far as hazards and probes ask: families and ports.

use std::collections::BTreeSet;

use crate::plan::{Action, Base, Chain, Hook, Match, Why};
use crate::{Family, Plan, Port};

/// Whether connections of a family that leave the namespace are captured, or some of them.
pub(super) fn captures_outbound(plan: &Plan, family: Family) -> bool {
    let is_left_alone = rules(plan).any(|(_, rule)| {
        rule.why == Why::OtherFamily && rule.matches.contains(&Match::Family(family))
    });
    let is_captured = rules(plan).any(|(_, rule)| {
        matches!(rule.why, Why::Outbound | Why::Dns)
            && matches!(rule.action, Action::Redirect(_) | Action::Dnat(_))
    });
    is_captured && !is_left_alone
}

/// The ports to which connections that arrive are captured.
pub(super) fn inbound_ports(plan: &Plan) -> BTreeSet<Port> {
    let is_inbound = |chain: &Chain| {
        matches!(
            chain.base(),
            Some(Base {
                hook: Hook::Prerouting,
                ..
            })
        )
    };
    rules(plan)
        .filter(|(chain, _)| is_inbound(chain))
        .filter_map(|(_, rule)| match rule.action {
            Action::Redirect(port) | Action::Tproxy { to: port, .. } => Some(port),
            _ => None,
        })
        .collect()
}

/// The rules of the tables that capture, with their chains; those of the guard are left out.
pub(super) fn rules(plan: &Plan) -> impl Iterator<Item = (&Chain, &crate::plan::Rule)> {
    let guard = plan.instance().guard_table();
    plan.tables()
        .iter()
        .filter(move |table| table.name() != guard)
        .flat_map(crate::plan::Table::chains)
        .flat_map(|chain| chain.rules().iter().map(move |rule| (chain, rule)))
}
