//! The engine: puts plans into a network namespace, looks whether they still hold, removes them.

mod capture;
mod choice;
mod conntrack;
mod drain;
mod driver;
mod error;
mod facts;
mod hazard;
mod host;
#[cfg(feature = "iptables")]
mod iptables;
mod listener;
mod local;
mod netns;
mod notice;
mod probe;
mod read;
mod route;
mod socket;
mod status;
mod unconfirmed;
mod watch;

pub use self::choice::{Reason, Unusable};
use self::conntrack::Keep;
pub use self::drain::Drain;
use self::driver::Driver;
pub use self::error::{EngineError, Rejection};
pub use self::netns::Netns;
use self::netns::OpenNetns;
pub use self::probe::{Check, Outcome, ProbeOptions, ProbeReport};
use self::read::Found;
use self::socket::Socket;
pub use self::status::{RuleCount, Status};
pub use self::unconfirmed::Confirmed;
pub use self::watch::{Look, Maker, Mended, Repair, WatchOptions};
use crate::bytecode::{Fingerprint, parse_about};
use crate::drift::Report;
use crate::rtnetlink::Entry;
use crate::{Backend, FORMAT, InstanceName, Plan};

/// Puts plans into one network namespace, by the backend that works there.
///
/// With the netlink backend all operations block for well under a millisecond on a first apply,
/// and for some milliseconds where rules are deleted (the kernel waits until no packet uses them);
/// the iptables backends start one or two programs for each family. Operations enter the
/// namespace on a thread of their own; the caller's thread stays where it is.
///
/// # Requirements
/// `CAP_NET_ADMIN` in the user namespace that owns the network namespace, `CAP_SYS_ADMIN` to enter
/// another one than the current, and Linux 5.2 with `nf_tables` and NAT in family `inet`.
///
/// ```no_run
/// use mesh_netfilter::{Applied, Drain, Engine, Facts, HostNetwork, Netns, Plan, Policy};
///
/// let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
/// let engine = Engine::netlink(&Netns::Name("app".to_owned()))?;
/// engine.apply(&plan, HostNetwork::Refuse)?;
/// assert_eq!(engine.apply(&plan, HostNetwork::Refuse)?, Applied::Unchanged);
/// engine.remove(plan.instance(), Drain::Off)?;
/// # Ok::<(), mesh_netfilter::EngineError>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    namespace: OpenNetns,
    driver: Driver,
    reason: Reason,
}

/// Whether rules may be put into the host's own network namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "yes, no, or no question")]
pub enum HostNetwork {
    /// They may not: they would take the host's own connections, ssh among them.
    Refuse,
    /// They may. Whoever says so has an answer to the question how to get in again.
    DangerouslyAllow,
    /// The namespace is not the host's, as the caller knows by other means. From inside a container
    /// with process ids of its own that cannot be seen: process 1 is the container's there.
    IsNot,
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
    /// Only lists differed: elements of sets were changed, and every rule is the one it was.
    Updated,
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
    /// They are gone, and so are the connections that they had redirected, but for those that were
    /// still open when the time was up: those were cut.
    Drained {
        /// How many.
        cut: usize,
    },
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
    /// An engine for this network namespace, with the backend that is asked for, else with the
    /// first of [`Backend::ALL`] that works there. The namespace stays open as long as the engine.
    ///
    /// # Errors
    /// [`EngineError::OpenNamespace`] if the namespace is not there or may not be entered,
    /// [`EngineError::MissingTool`] and [`EngineError::NotBuilt`] if the backend that is asked for
    /// cannot be used, [`EngineError::Unusable`] if none works.
    pub fn detect(netns: &Netns, backend: Option<Backend>) -> Result<Self, EngineError> {
        let namespace = OpenNetns::open(netns)?;
        if let Some(backend) = backend {
            return Ok(Self {
                namespace,
                driver: Driver::of(backend)?,
                reason: Reason::Asked,
            });
        }
        let mut unusable = Vec::new();
        for backend in Backend::ALL {
            let driver = Driver::of(backend).and_then(|driver| {
                namespace.enter(|| driver.probe())?;
                Ok(driver)
            });
            match driver {
                Ok(driver) => {
                    return Ok(Self {
                        namespace,
                        driver,
                        reason: Reason::Detected { unusable },
                    });
                }
                // Nothing works without the capability; the kernel may have everything.
                Err(error) if error.is_not_permitted() => return Err(error),
                Err(error) => unusable.push(Unusable::new(backend, &error)),
            }
        }
        Err(EngineError::Unusable {
            netns: netns.to_string(),
            unusable,
        })
    }

    /// An engine for this network namespace that uses netlink, whether it works or not.
    ///
    /// # Errors
    /// [`EngineError::OpenNamespace`] if the namespace is not there or may not be entered.
    pub fn netlink(netns: &Netns) -> Result<Self, EngineError> {
        Ok(Self {
            namespace: OpenNetns::open(netns)?,
            driver: Driver::Netlink,
            reason: Reason::Asked,
        })
    }

    /// Moves the calling thread into the network namespace, for good, and works on it from then on.
    ///
    /// A thread takes longer to start than rules take to apply; a program that does nothing else
    /// than this has no use for it. The engine is that thread's: on another it would work where
    /// that one is.
    ///
    /// # Errors
    /// [`EngineError::EnterNamespace`] if the thread may not; it is where it was then.
    pub fn move_in(self) -> Result<Self, EngineError> {
        Ok(Self {
            namespace: self.namespace.move_in()?,
            ..self
        })
    }

    /// The backend that it uses.
    pub fn backend(&self) -> Backend {
        self.driver.backend()
    }

    /// Why it uses this backend.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The version of the programs that the backend runs; none if it runs none.
    pub fn tool_version(&self) -> Option<&str> {
        self.driver.tool_version()
    }

    /// Removes what the instance has in the namespace by other backends than this engine's, as
    /// after a change of backend; and tells by which it had something. Backends that this machine
    /// lacks can have nothing to remove by.
    ///
    /// # Errors
    /// What the kernel or the tools said.
    pub fn remove_others(&self, instance: &InstanceName) -> Result<Vec<Backend>, EngineError> {
        let others = Backend::ALL
            .into_iter()
            .filter(|backend| *backend != self.backend());
        let mut removed = Vec::new();
        for backend in others {
            let driver = match Driver::of(backend) {
                Err(EngineError::MissingTool { .. } | EngineError::NotBuilt { .. }) => continue,
                driver => driver?,
            };
            let done = self
                .namespace
                .enter(|| driver.remove(&Socket::open()?, instance))?;
            if done != Removed::Absent {
                removed.push(backend);
            }
        }
        Ok(removed)
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
            self.admit(plan, host)?;
            let socket = Socket::open()?;
            let local = local::entries(plan);
            // Before the rules that lead there, and those of a plan of before after its rules.
            let is_first = self.driver.is_first(&socket, plan.instance())?;
            let is_more = if is_first {
                local::add_first(&local)?;
                false
            } else {
                local::add(&local)?
            };
            let applied = self.driver.commit(&socket, plan, is_first)?;
            if !is_first {
                unconfirmed::forget_prior(&socket, plan.instance())?;
            }
            if is_more {
                self.release_local(&socket, plan.instance(), &local)?;
            }
            if applied != Applied::Unchanged {
                conntrack::forget_dns(&socket, Keep::of(plan.dns_target()))?;
            }
            Ok(applied)
        })
    }

    /// Takes away what is ours and neither in `wanted` nor needed by the rules of another instance,
    /// as these tell themselves.
    fn release_local(
        &self,
        socket: &Socket,
        instance: &InstanceName,
        wanted: &[Entry],
    ) -> Result<(), EngineError> {
        let mut needed = wanted.to_vec();
        let instances = self.driver.instances(socket)?;
        for other in instances.iter().filter(|other| *other != instance) {
            let found = self.driver.read(socket, other)?;
            needed.extend(local::of(&found.listing.local()));
        }
        local::remove_others(&needed)
    }

    /// Reads the whole ordered list of rules back and compares it with the plan.
    ///
    /// # Errors
    /// What the kernel said. A difference is no error but part of the report.
    pub fn verify(&self, plan: &Plan) -> Result<Report, EngineError> {
        self.namespace.enter(|| {
            let socket = Socket::open()?;
            let found = self.driver.read(&socket, plan.instance())?;
            let hazards = self.driver.hazards(&found);
            let planned = self.driver.planned(plan)?;
            let missing = local::missing(&local::entries(plan))?;
            let missing = missing.iter().map(Entry::describe);
            let report = Report::new(&planned, &found.listing, hazards).with_local(missing);
            let (hazards, notes) = hazard::look(plan)?;
            Ok(report.and(hazards, notes))
        })
    }

    /// What the instance's tables tell about themselves; none if there are none.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn installed(&self, instance: &InstanceName) -> Result<Option<Installed>, EngineError> {
        self.namespace.enter(|| {
            let found = self.driver.read(&Socket::open()?, instance)?;
            Ok(Installed::of(&found))
        })
    }
}

// === impl Installed ===

impl Installed {
    fn of(found: &Found) -> Option<Self> {
        let table = found.listing.tables.first()?;
        let about = table
            .chains
            .iter()
            .find(|chain| chain.is_about)
            .and_then(|chain| parse_about(chain.rules.first()?.comment.as_deref()?));
        Some(Self {
            format: about.map(|(format, _)| format),
            planned: about.map(|(_, fingerprint)| fingerprint),
            found: found.fingerprint,
        })
    }

    /// Whether the rules are those that were applied, as far as this version can tell.
    pub fn is_intact(&self) -> bool {
        self.format == Some(FORMAT) && self.planned == Some(self.found)
    }
}
