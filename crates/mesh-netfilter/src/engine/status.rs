//! Status: what is in the namespace, without knowing what was planned.

use std::time::Duration;

use super::read::Found;
use super::socket::Socket;
use super::{Engine, EngineError, Installed};
use crate::Counter;
use crate::diff::{Change, Diff, Side, compare};
use crate::drift::{Hazard, Place};
use crate::rtnetlink::Entry;
use crate::{Fingerprint, InstanceName, Plan};

/// What an instance has in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Status {
    /// Whose rules.
    pub instance: InstanceName,
    /// The version of the form in which the plan was stored; none if it is not to be read.
    pub format: Option<u32>,
    /// The fingerprint of the plan that was applied; none if it is not to be read.
    pub planned: Option<Fingerprint>,
    /// The fingerprint of the rules that are there now.
    pub found: Fingerprint,
    /// Whether the rules are those that were applied, as far as this version can tell.
    pub is_intact: bool,
    /// Every rule, in order.
    pub rules: Vec<RuleCount>,
    /// What of policy rules, routes and addresses is there for the rules' sake, of this or of
    /// another instance.
    pub local: Vec<String>,
    /// What could defeat the rules although they are intact.
    pub hazards: Vec<Hazard>,
    /// How long the rules last unless somebody confirms them, zero if they are asleep already;
    /// none if they stay.
    pub unconfirmed: Option<Duration>,
}

/// A rule with its counter.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RuleCount {
    /// Table and chain.
    pub place: Place,
    /// The rule's place in its chain, from 0.
    pub index: usize,
    /// Why the rule is there; none for a rule of somebody else.
    pub why: Option<String>,
    /// What it says, in the syntax of its backend.
    pub text: String,
    /// How much it decided; none where nobody counts.
    pub counter: Option<Counter>,
}

impl Engine {
    /// The instances that have rules in the namespace with this engine's backend.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn list(&self) -> Result<Vec<InstanceName>, EngineError> {
        self.namespace
            .enter(|| self.driver.instances(&Socket::open()?))
    }

    /// What an instance has in the kernel; none if there is nothing.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn status(&self, instance: &InstanceName) -> Result<Option<Status>, EngineError> {
        self.namespace.enter(|| {
            let found = self.driver.read(&Socket::open()?, instance)?;
            let Some(installed) = Installed::of(&found) else {
                return Ok(None);
            };
            let local = super::local::ours()?;
            Ok(Some(Status {
                instance: instance.clone(),
                format: installed.format,
                planned: installed.planned,
                found: installed.found,
                is_intact: installed.is_intact(),
                rules: counts(&found),
                local: local.iter().map(Entry::describe).collect(),
                hazards: self.driver.hazards(&found),
                unconfirmed: found.unconfirmed,
            }))
        })
    }

    /// What applying a plan would change.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn diff(&self, plan: &Plan) -> Result<Diff, EngineError> {
        self.namespace.enter(|| {
            let found = self.driver.read(&Socket::open()?, plan.instance())?;
            let planned = self.driver.planned(plan)?;
            let local = super::local::missing(&super::local::entries(plan))?;
            let local = local.iter().map(|entry| Change {
                side: Side::Planned,
                place: None,
                index: None,
                text: entry.describe(),
            });
            Ok(Diff {
                instance: plan.instance().clone(),
                changes: local.chain(compare(&planned, &found.listing)).collect(),
            })
        })
    }
}

fn counts(found: &Found) -> Vec<RuleCount> {
    let chains = found.listing.tables.iter().flat_map(|table| {
        let chains = table.chains.iter().filter(|chain| !chain.is_about);
        chains.map(move |chain| (table, chain))
    });
    chains
        .flat_map(|(table, chain)| {
            chain
                .rules
                .iter()
                .enumerate()
                .map(|(index, rule)| RuleCount {
                    place: Place {
                        table: table.name.clone(),
                        chain: chain.name.clone(),
                    },
                    index,
                    why: rule.comment.clone(),
                    text: rule.code.to_string(),
                    counter: rule.counter,
                })
        })
        .collect()
}
