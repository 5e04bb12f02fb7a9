//! The one trait of container runtimes: networks, groups, units.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use mesh_netfilter::Policy;

use crate::{
    Exit, Group, GroupSpec, GroupStatus, Name, NetworkSpec, RuntimeError, UnitSpec, UnitState,
    UnitStats, UnitStatus,
};

/// An answer that is on its way; boxed, so that a caller can choose the runtime at run time.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, RuntimeError>> + Send + 'a>>;

/// Bytes of a log, in pieces of no meaning.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<Vec<u8>, RuntimeError>> + Send>>;

/// What happens to units, one after the other.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event, RuntimeError>> + Send>>;

/// Networks, groups that share a network namespace, and units in them.
///
/// Every call may be repeated: what is there already is an outcome, not an error, and a call that
/// was cut short is completed by the next one.
/// A runtime touches only what it made itself, and finds that again in a new process.
pub trait Runtime: fmt::Debug + Send + Sync {
    /// Makes a network.
    fn create_network<'a>(&'a self, spec: &'a NetworkSpec) -> Pending<'a, Creation>;

    /// A network as it was asked for.
    fn network<'a>(&'a self, name: &'a Name) -> Pending<'a, NetworkSpec>;

    /// Removes a network that no group is attached to.
    fn remove_network<'a>(&'a self, name: &'a Name) -> Pending<'a, Removal>;

    /// Makes a group: its namespace with addresses of both families, and none of its units in it.
    ///
    /// Repeated for a group whose namespace is gone, it makes that again, where the runtime keeps
    /// such groups. What was set in the namespace is gone then: set the redirect rules again.
    fn create_group<'a>(&'a self, spec: &'a GroupSpec) -> Pending<'a, (Creation, Group)>;

    /// A group as it is.
    fn group<'a>(&'a self, name: &'a Name) -> Pending<'a, Group>;

    /// Sets the redirect rules of a group, before anything runs in it. Says whether anything had
    /// to be changed.
    fn redirect_group<'a>(&'a self, name: &'a Name, policy: &'a Policy) -> Pending<'a, Creation>;

    /// Stops the units of a group and removes it with everything in it.
    fn remove_group<'a>(&'a self, name: &'a Name) -> Pending<'a, Removal>;

    /// Records a unit and writes its files. Repeated with the same unit, it writes them again.
    fn create_unit<'a>(&'a self, group: &'a Name, spec: &'a UnitSpec) -> Pending<'a, Creation>;

    /// Starts a unit and returns once its command runs. Does not look at its dependencies:
    /// [`start_group`](crate::start_group) does.
    fn start_unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, Start>;

    /// Stops a unit with every process that it started: TERM, after its grace KILL.
    fn stop_unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, Stop>;

    /// Stops a unit and removes it with its log.
    fn remove_unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, Removal>;

    /// Waits until a unit is ready.
    fn wait_ready<'a>(
        &'a self,
        group: &'a Name,
        unit: &'a Name,
        limit: Duration,
    ) -> Pending<'a, UnitStatus>;

    /// Waits until nobody takes care of a unit any more, however it came to that.
    fn wait_ended<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitStatus>;

    /// What was asked for when the unit was made, without the contents of its files.
    fn unit<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitSpec>;

    /// A unit as it is.
    fn status<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitStatus>;

    /// What a running unit uses of the machine.
    fn stats<'a>(&'a self, group: &'a Name, unit: &'a Name) -> Pending<'a, UnitStats>;

    /// All groups that carry these labels, by name.
    fn list<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> Pending<'a, Vec<GroupStatus>>;

    /// Runs a command beside a running unit, as its user, and returns what it wrote.
    fn exec<'a>(
        &'a self,
        group: &'a Name,
        unit: &'a Name,
        command: &'a [String],
    ) -> Pending<'a, ExecOutput>;

    /// What a unit wrote to stdout and stderr. Dropping the stream ends it.
    fn logs<'a>(
        &'a self,
        group: &'a Name,
        unit: &'a Name,
        options: LogOptions,
    ) -> Pending<'a, LogStream>;

    /// What happens to units from now on. What happens twice while nobody takes it may be told
    /// once. Dropping the stream ends it.
    fn events(&self) -> Pending<'_, EventStream>;

    /// Takes over what an earlier process left: finds what runs, removes what is half made.
    fn adopt(&self) -> Pending<'_, Adoption>;

    /// Removes everything that this runtime ever made, but images that were built on purpose. Goes on after a failure and reports all.
    fn remove_all(&self) -> Pending<'_, ()>;
}

/// Whether something had to be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Creation {
    /// It was made.
    Created,
    /// It was there.
    Exists,
}

/// Whether something had to be started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// It was started.
    Started,
    /// It was running.
    AlreadyRunning,
}

/// Whether something had to be stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// It was stopped.
    Stopped,
    /// It was not running.
    NotRunning,
}

/// Whether something had to be removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Removal {
    /// It was removed.
    Removed,
    /// It was not there.
    Absent,
}

/// A change of a unit.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Its group.
    pub group: Name,
    /// Its name.
    pub unit: Name,
    /// What it does since then; nothing once it is removed.
    pub state: Option<UnitState>,
}

/// What a command wrote, and how it ended.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ExecOutput {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
}

/// Which part of a log is wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LogOptions {
    /// Only so many of the last lines; everything kept when absent.
    pub tail: Option<usize>,
    /// Whether the stream goes on with what is written later, until the unit has ended.
    pub follow: bool,
}

/// What a runtime found when it took over.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Adoption {
    /// Units that run under their supervisors, as group and unit.
    pub running: Vec<(Name, Name)>,
    /// Units that should run and do not: their supervisor is gone.
    pub lost: Vec<(Name, Name)>,
    /// What was half made or left over and is removed now, in words.
    pub removed: Vec<String>,
}
