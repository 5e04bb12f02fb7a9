//! Driver: what differs from backend to backend.

#[cfg(feature = "iptables")]
use super::iptables::Iptables;
use super::read::{Found, existing, generation, instances, legacy_hazards, read};
use super::socket::Socket;
use super::unconfirmed::all_names;
use super::{ATTEMPTS, Applied, EngineError, Removed};
use crate::bytecode;
use crate::listing::Listing;
use crate::netlink::{creation, guard_release, rehearsal, removal, replacement, update};
use crate::{Backend, Facts, Hazard, InstanceName, Plan, Policy};

/// The way into the kernel of one engine.
#[derive(Debug)]
pub(super) enum Driver {
    Netlink,
    #[cfg(feature = "iptables")]
    Iptables(Box<Iptables>),
}

// === impl Driver ===

impl Driver {
    /// The way of `backend`.
    #[cfg(feature = "iptables")]
    pub(super) fn of(backend: Backend) -> Result<Self, EngineError> {
        match backend {
            Backend::Netlink => Ok(Self::Netlink),
            Backend::IptablesNft | Backend::IptablesLegacy => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let iptables = Iptables::find(backend, &path)?;
                Ok(Self::Iptables(Box::new(iptables)))
            }
        }
    }

    /// The way of `backend`.
    #[cfg(not(feature = "iptables"))]
    pub(super) fn of(backend: Backend) -> Result<Self, EngineError> {
        match backend {
            Backend::Netlink => Ok(Self::Netlink),
            Backend::IptablesNft | Backend::IptablesLegacy => {
                Err(EngineError::NotBuilt { backend })
            }
        }
    }

    /// An error if it does not work in the thread's namespace. Nothing is changed there.
    pub(super) fn probe(&self) -> Result<(), EngineError> {
        match self {
            Self::Netlink => match Socket::open()?.commit(&rehearsal(&rehearsed()?)) {
                Err(error) if error.is_exists() => Ok(()),
                result => result,
            },
            #[cfg(feature = "iptables")]
            Self::Iptables(iptables) => iptables.probe(),
        }
    }

    pub(super) fn backend(&self) -> Backend {
        match self {
            Self::Netlink => Backend::Netlink,
            #[cfg(feature = "iptables")]
            Self::Iptables(iptables) => iptables.backend(),
        }
    }

    /// The version of the programs that it runs; none if it runs none.
    pub(super) fn tool_version(&self) -> Option<&str> {
        match self {
            Self::Netlink => None,
            #[cfg(feature = "iptables")]
            Self::Iptables(iptables) => Some(iptables.version()),
        }
    }

    /// The plan as this backend will hold it.
    #[cfg_attr(
        not(feature = "iptables"),
        expect(clippy::unnecessary_wraps, reason = "iptables cannot hold every plan")
    )]
    pub(super) fn planned(&self, plan: &Plan) -> Result<Listing, EngineError> {
        match self {
            Self::Netlink => Ok(bytecode::program(plan).into()),
            #[cfg(feature = "iptables")]
            Self::Iptables(_) => Iptables::planned(plan),
        }
    }

    /// The instances that have rules in the thread's namespace.
    pub(super) fn instances(&self, socket: &Socket) -> Result<Vec<InstanceName>, EngineError> {
        match self {
            Self::Netlink => instances(socket),
            #[cfg(feature = "iptables")]
            Self::Iptables(iptables) => iptables.instances(),
        }
    }

    /// The rules of the instance, as they are at one moment, in the thread's namespace.
    pub(super) fn read(
        &self,
        socket: &Socket,
        instance: &InstanceName,
    ) -> Result<Found, EngineError> {
        match self {
            Self::Netlink => read(socket, instance),
            #[cfg(feature = "iptables")]
            Self::Iptables(iptables) => iptables.read(socket, instance),
        }
    }

    /// What others have in the thread's namespace that could defeat our rules.
    pub(super) fn hazards(&self, found: &Found) -> Vec<Hazard> {
        let mut hazards = found.hazards.clone();
        if self.backend() != Backend::IptablesLegacy {
            hazards.extend(legacy_hazards());
        }
        hazards
    }

    /// Whether it is known, and cheaply, that the instance has nothing in the thread's namespace.
    pub(super) fn is_first(
        &self,
        socket: &Socket,
        instance: &InstanceName,
    ) -> Result<bool, EngineError> {
        match self {
            Self::Netlink => Ok(existing(socket, &all_names(instance))?.is_empty()),
            #[cfg(feature = "iptables")]
            Self::Iptables(_) => Ok(false),
        }
    }

    /// Makes the rules those of `plan`, unless they are.
    pub(super) fn commit(
        &self,
        socket: &Socket,
        plan: &Plan,
        is_first: bool,
    ) -> Result<Applied, EngineError> {
        match self {
            Self::Netlink => commit(socket, plan, is_first),
            #[cfg(feature = "iptables")]
            Self::Iptables(iptables) => iptables.commit(socket, plan),
        }
    }

    /// Removes the rules of the instance.
    pub(super) fn remove(
        &self,
        socket: &Socket,
        instance: &InstanceName,
    ) -> Result<Removed, EngineError> {
        match self {
            Self::Netlink => {
                let tables = read(socket, instance)?.listing.tables;
                if tables.is_empty() {
                    return Ok(Removed::Absent);
                }
                let guard = instance.guard_table();
                if tables.iter().any(|table| table.name == guard) {
                    socket.commit(&guard_release(instance))?;
                }
                socket.commit(&removal(instance))?;
                Ok(Removed::Removed)
            }
            #[cfg(feature = "iptables")]
            Self::Iptables(iptables) => iptables.remove(socket, instance),
        }
    }
}

/// A plan with every kind of chain, under a name of its own.
fn rehearsed() -> Result<Plan, EngineError> {
    let instance = "rehearsal".parse().ok();
    let policy = instance.and_then(|instance| {
        let policy = Policy::sidecar().to_builder().instance(instance);
        policy.build().ok()
    });
    let policy = policy.ok_or(EngineError::Answer {
        what: "a rehearsal",
    })?;
    Ok(Plan::compile(&policy, &Facts::default()))
}

fn commit(socket: &Socket, plan: &Plan, is_first: bool) -> Result<Applied, EngineError> {
    // The first time there is nothing to read and to compare.
    if is_first && let Some(applied) = create(socket, plan)? {
        return Ok(applied);
    }
    let program = bytecode::program(plan);
    let planned = program.clone().into();
    for _ in 0..ATTEMPTS {
        let before = generation(socket)?;
        let found = read(socket, plan.instance())?;
        let is_for_good = found.unconfirmed.is_none();
        let found = found.listing;
        if is_for_good && crate::drift::compare(&planned, &found).is_empty() {
            return Ok(Applied::Unchanged);
        }
        let change = update(plan, &program, &found, before).filter(|_| is_for_good);
        if let Some(batch) = change {
            match socket.commit(&batch) {
                Err(error) if error.is_outdated() => continue,
                result => return result.map(|()| Applied::Updated),
            }
        }
        if !found.tables.is_empty() {
            socket.commit(&replacement(plan))?;
            return Ok(Applied::Replaced);
        }
        if let Some(applied) = create(socket, plan)? {
            return Ok(applied);
        }
    }
    Err(EngineError::Busy)
}

/// Puts the plan where nothing is; none if somebody was faster. Without a deletion the kernel need
/// not wait.
fn create(socket: &Socket, plan: &Plan) -> Result<Option<Applied>, EngineError> {
    match socket.commit(&creation(plan)) {
        Err(error) if error.is_exists() => Ok(None),
        result => result.map(|()| Some(Applied::Created)),
    }
}
