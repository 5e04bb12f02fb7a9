//! The engine: puts plans into a network namespace, looks whether they still hold, removes them.

mod conntrack;
mod error;
mod netns;
mod read;
mod socket;

use self::conntrack::Keep;
pub use self::error::{EngineError, Rejection};
pub use self::netns::Netns;
use self::netns::OpenNetns;
use self::read::read;
use self::socket::Socket;
use crate::bytecode::{self, Fingerprint, parse_about};
use crate::drift::Report;
use crate::netlink::{creation, removal, replacement};
use crate::plan::ABOUT_CHAIN;
use crate::{FORMAT, InstanceName, Plan};

/// Puts plans into one network namespace, by netlink, without any other program.
///
/// All operations block for well under a millisecond on a first apply, and for some milliseconds
/// where rules are deleted (the kernel waits until no packet uses them). They enter the namespace
/// on a thread of their own; the caller's thread stays where it is.
///
/// # Requirements
/// `CAP_NET_ADMIN` in the user namespace that owns the network namespace, `CAP_SYS_ADMIN` to enter
/// another one than the current, and Linux 5.2 with `nf_tables` and NAT in family `inet`.
///
/// ```no_run
/// use mesh_netfilter::{Applied, Engine, HostNetwork, Netns, Plan, Policy};
///
/// let plan = Plan::compile(&Policy::sidecar());
/// let engine = Engine::netlink(&Netns::Name("app".to_owned()))?;
/// engine.apply(&plan, HostNetwork::Refuse)?;
/// assert_eq!(engine.apply(&plan, HostNetwork::Refuse)?, Applied::Unchanged);
/// engine.remove(plan.instance())?;
/// # Ok::<(), mesh_netfilter::EngineError>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    namespace: OpenNetns,
}

/// Whether rules may be put into the host's own network namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "yes or no")]
pub enum HostNetwork {
    /// They may not: they would take the host's own connections, ssh among them.
    Refuse,
    /// They may. Whoever says so has an answer to the question how to get in again.
    DangerouslyAllow,
}

/// What applying a plan did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Applied {
    /// The plan was there already, to the last rule; nothing was touched.
    Unchanged,
    /// There were no rules of this instance; now there are.
    Created,
    /// Other rules of this instance were replaced.
    Replaced,
}

/// What removing did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Removed {
    /// The instance's rules are gone.
    Removed,
    /// There were none.
    Absent,
}

/// What an instance's tables tell about themselves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Installed {
    /// The version of the form in which the plan was stored; none if it is not to be read.
    pub format: Option<u32>,
    /// The fingerprint of the plan that was applied; none if it is not to be read.
    pub planned: Option<Fingerprint>,
    /// The fingerprint of the rules that are there now.
    pub found: Fingerprint,
}

/// How often a change by somebody else in the middle of ours is answered by beginning again.
const ATTEMPTS: usize = 10;

// === impl Engine ===

impl Engine {
    /// An engine for this network namespace, which stays open as long as the engine.
    ///
    /// # Errors
    /// [`EngineError::OpenNamespace`] if the namespace is not there or may not be entered.
    pub fn netlink(netns: &Netns) -> Result<Self, EngineError> {
        Ok(Self {
            namespace: OpenNetns::open(netns)?,
        })
    }

    /// Makes the instance's rules those of `plan`, in one transaction: no packet meets half of
    /// them, and if anything fails nothing has changed.
    ///
    /// Then forgets the DNS flows (UDP, port 53) that conntrack still sends elsewhere than the new
    /// rules say. TCP connections stay as they are.
    ///
    /// # Errors
    /// [`EngineError::HostNetwork`] and [`EngineError::HostUnknown`] unless it is allowed, else
    /// what the kernel said. After [`EngineError::Conntrack`] the rules are in place.
    pub fn apply(&self, plan: &Plan, host: HostNetwork) -> Result<Applied, EngineError> {
        self.namespace.enter(|| {
            if host == HostNetwork::Refuse {
                self.namespace.refuse_host()?;
            }
            let socket = Socket::open()?;
            let applied = commit(&socket, plan)?;
            if applied != Applied::Unchanged {
                let keep = plan.dns_port().map_or(Keep::Untranslated, Keep::Redirected);
                conntrack::forget_dns(&socket, keep)?;
            }
            Ok(applied)
        })
    }

    /// Reads the whole ordered list of rules back and compares it with the plan.
    ///
    /// # Errors
    /// What the kernel said. A difference is no error but part of the report.
    pub fn verify(&self, plan: &Plan) -> Result<Report, EngineError> {
        self.namespace.enter(|| {
            let socket = Socket::open()?;
            let found = read(&socket, plan.instance())?;
            let mut hazards = found.hazards;
            hazards.extend(read::legacy_hazards());
            Ok(Report::new(
                &bytecode::program(plan),
                &found.program,
                hazards,
            ))
        })
    }

    /// What the instance's tables tell about themselves; none if there are none.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn installed(&self, instance: &InstanceName) -> Result<Option<Installed>, EngineError> {
        self.namespace.enter(|| {
            let found = read(&Socket::open()?, instance)?.program;
            let Some(table) = found.tables.first() else {
                return Ok(None);
            };
            let about = table
                .chains
                .iter()
                .find(|chain| chain.name == ABOUT_CHAIN)
                .and_then(|chain| {
                    chain
                        .rules
                        .first()?
                        .comment
                        .as_deref()
                        .and_then(parse_about)
                });
            Ok(Some(Installed {
                format: about.map(|(format, _)| format),
                planned: about.map(|(_, fingerprint)| fingerprint),
                found: found.fingerprint(),
            }))
        })
    }

    /// Removes the instance's rules, whatever plan they are of, and forgets the DNS flows that
    /// conntrack still sends to the proxy. Open connections that were redirected end, unless
    /// somebody else in the namespace uses conntrack and NAT.
    ///
    /// # Errors
    /// What the kernel said. After [`EngineError::Conntrack`] the rules are gone.
    pub fn remove(&self, instance: &InstanceName) -> Result<Removed, EngineError> {
        self.namespace.enter(|| {
            let socket = Socket::open()?;
            if read(&socket, instance)?.program.tables.is_empty() {
                return Ok(Removed::Absent);
            }
            socket.commit(&removal(instance))?;
            conntrack::forget_dns(&socket, Keep::Untranslated)?;
            Ok(Removed::Removed)
        })
    }
}

// === impl Installed ===

impl Installed {
    /// Whether the rules are those that were applied, as far as this version can tell.
    pub fn is_intact(&self) -> bool {
        self.format == Some(FORMAT) && self.planned == Some(self.found)
    }
}

fn commit(socket: &Socket, plan: &Plan) -> Result<Applied, EngineError> {
    let planned = bytecode::program(plan);
    for _ in 0..ATTEMPTS {
        let found = read(socket, plan.instance())?.program;
        if crate::drift::compare(&planned, &found).is_empty() {
            return Ok(Applied::Unchanged);
        }
        if !found.tables.is_empty() {
            socket.commit(&replacement(plan))?;
            return Ok(Applied::Replaced);
        }
        // Without the deletion the kernel need not wait. Somebody who was faster is noticed.
        match socket.commit(&creation(plan)) {
            Err(error) if error.is_exists() => {}
            result => return result.map(|()| Applied::Created),
        }
    }
    Err(EngineError::Busy)
}
