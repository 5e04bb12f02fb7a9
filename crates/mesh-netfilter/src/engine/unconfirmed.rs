//! Changes that undo themselves unless they are confirmed.
//!
//! Who locks himself out can not call anything back, so something else has to. A process that
//! waits can be killed: by the end of the session that started it, for want of memory, by a
//! reboot of its service manager; then the change stays for good. So the kernel itself waits. Each
//! chain of the new tables begins with a rule that lets everything pass unless a set has an
//! element, and the element has a time to live; the tables of before stay beside the new ones and
//! begin with the opposite. When the time is up, in that instant and without anybody's help, the
//! new rules are asleep and the old ones awake. What is left to do, the names of tables, can wait
//! for the next command.
//!
//! Policy rules, routes and addresses of the new plan stay until then. They act on packets that
//! bear marks which no rule sets any more.

use std::sync::Arc;
use std::time::Duration;

use super::conntrack::{self, Keep};
use super::read::{existing, read_tables};
use super::socket::Socket;
use super::{Applied, Engine, EngineError, HostNetwork, local};
use crate::bytecode::{
    self, Element, Expression, Meta, NFT_RETURN, Program, ProgramRule, ProgramTable, Set,
};
use crate::netlink::programs;
use crate::{Backend, InstanceName, Plan};

/// What became of a confirmation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Confirmed {
    /// The rules stay.
    Confirmed,
    /// There was nothing to confirm.
    NothingToConfirm,
    /// The time was up; the rules of before are in force.
    TooLate,
}

/// The name of the set whose elements have a time to live.
const SET: &str = "unconfirmed";
/// By this comment the rule at the head of a chain is known.
const COMMENT: &str = "in force for a time only, unless it is confirmed";
/// Of the tables that wait for the case that nobody confirms.
const SUFFIX: &str = ".prior";
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`, and how `nft` numbers that type of key.
const FAMILIES: [u8; 2] = [2, 10];
const FAMILY_TYPE: u32 = 2;

impl Engine {
    /// Does what [`Engine::apply`] does, for so long: unless [`Engine::confirm`] comes before, the
    /// rules of before are in force again after that time, or none if there were none. That is the
    /// kernel's doing; nobody has to live for it.
    ///
    /// # Errors
    /// As [`Engine::apply`]; [`EngineError::Unconfirmable`] with another backend than netlink,
    /// [`EngineError::HostIdentities`] if the plan does not say whom it captures and the namespace
    /// is the host's own.
    pub fn apply_unconfirmed(
        &self,
        plan: &Plan,
        host: HostNetwork,
        within: Duration,
    ) -> Result<Applied, EngineError> {
        self.namespace.enter(|| {
            self.admit(plan, host)?;
            if self.driver.backend() != Backend::Netlink {
                return Err(EngineError::Unconfirmable {
                    backend: self.driver.backend(),
                });
            }
            let socket = Socket::open()?;
            let instance = plan.instance();
            let prior = prior(&socket, instance)?;
            let applied = if prior.tables.is_empty() {
                Applied::Created
            } else {
                Applied::Replaced
            };
            let mut tables = bytecode::program(plan).tables;
            for table in &mut tables {
                arm(table, within, true);
            }
            for mut table in prior.tables {
                table.name.push_str(SUFFIX);
                arm(&mut table, within, false);
                tables.push(table);
            }
            local::add(&local::entries(plan))?;
            socket.commit(&programs(&all_names(instance), &tables))?;
            conntrack::forget_dns(&socket, Keep::of(plan.dns_target()))?;
            Ok(applied)
        })
    }

    /// Keeps the rules that [`Engine::apply_unconfirmed`] has set; or, if their time is up, tidies
    /// up after them.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn confirm(&self, instance: &InstanceName) -> Result<Confirmed, EngineError> {
        if self.driver.backend() != Backend::Netlink {
            return Ok(Confirmed::NothingToConfirm);
        }
        self.namespace.enter(|| {
            let socket = Socket::open()?;
            let mut now = read_tables(&socket, &instance.tables())?;
            let Some(left) = remaining(&now) else {
                return Ok(Confirmed::NothingToConfirm);
            };
            let in_time = !left.is_zero();
            if !in_time {
                now = prior(&socket, instance)?;
            }
            for table in &mut now.tables {
                disarm(table);
            }
            socket.commit(&programs(&all_names(instance), &now.tables))?;
            self.release_local(&socket, instance, &local::of(&now.local()))?;
            if in_time {
                return Ok(Confirmed::Confirmed);
            }
            if now.tables.is_empty() {
                conntrack::forget_dns(&socket, Keep::Untranslated)?;
            }
            Ok(Confirmed::TooLate)
        })
    }
}

/// The time that unconfirmed rules have left, zero if it is up; none if they are no such rules.
pub(super) fn remaining(program: &Program) -> Option<Duration> {
    let chains = program.tables.iter().flat_map(|table| &table.chains);
    let heads = chains.filter_map(|chain| chain.rules.first());
    let sets = heads
        .filter(|rule| is_head(rule))
        .flat_map(|rule| &rule.expressions)
        .filter_map(|expression| match expression {
            Expression::Lookup { set, .. } => Some(set),
            _ => None,
        });
    let left = sets.map(|set| {
        let left = set.timeout.filter(|_| !set.elements.is_empty());
        Duration::from_millis(left.unwrap_or_default())
    });
    left.min()
}

/// Takes away what makes rules unconfirmed.
pub(super) fn disarm(table: &mut ProgramTable) {
    if let Some(name) = table.name.strip_suffix(SUFFIX) {
        table.name = name.to_owned();
    }
    for chain in &mut table.chains {
        if chain.rules.first().is_some_and(is_head) {
            chain.rules.remove(0);
        }
    }
}

/// Removes the tables of before that are still there when others have been set for good.
pub(super) fn forget_prior(socket: &Socket, instance: &InstanceName) -> Result<(), EngineError> {
    let names = existing(socket, &prior_names(instance))?;
    if names.is_empty() {
        return Ok(());
    }
    socket.commit(&programs(&names, &[]))
}

/// The rules that are in force if nobody confirms: those of before an unconfirmed change, else
/// those that are there.
fn prior(socket: &Socket, instance: &InstanceName) -> Result<Program, EngineError> {
    let now = read_tables(socket, &instance.tables())?;
    let mut prior = match remaining(&now) {
        None => now,
        Some(_) => read_tables(socket, &prior_names(instance))?,
    };
    for table in &mut prior.tables {
        disarm(table);
    }
    Ok(prior)
}

/// Lets the chains of a table act only while the set has elements, or only when it has none.
fn arm(table: &mut ProgramTable, within: Duration, while_set: bool) {
    let milliseconds = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let set = Arc::new(Set {
        name: Some(SET.to_owned()),
        key_type: FAMILY_TYPE,
        key_length: 1,
        is_interval: false,
        // The kernel counts in ticks; nothing would be for ever.
        timeout: Some(milliseconds.max(100)),
        elements: FAMILIES
            .iter()
            .map(|family| Element {
                key: [*family].into(),
                is_end: false,
            })
            .collect(),
    });
    for chain in table.chains.iter_mut().filter(|chain| chain.base.is_some()) {
        let expressions = vec![
            Expression::Meta(Meta::Family),
            Expression::Lookup {
                set: Arc::clone(&set),
                inverted: while_set,
            },
            Expression::Verdict {
                code: NFT_RETURN,
                chain: None,
            },
        ];
        let head = ProgramRule {
            expressions,
            comment: Some(COMMENT.into()),
            counter: None,
        };
        chain.rules.insert(0, head);
    }
}

fn is_head(rule: &ProgramRule) -> bool {
    rule.comment.as_deref() == Some(COMMENT)
}

fn prior_names(instance: &InstanceName) -> [String; 2] {
    instance.tables().map(|name| name + SUFFIX)
}

/// Every table that an instance may have.
pub(super) fn all_names(instance: &InstanceName) -> Vec<String> {
    let current = instance.tables().into_iter();
    current.chain(prior_names(instance)).collect()
}
