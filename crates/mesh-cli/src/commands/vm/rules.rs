//! The redirect rules in the machine's own network namespace.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_netfilter::{
    Confirmed, Drain, Engine, HostNetwork, InstanceName, Netns, Plan, Policy, Port, Removed, Status,
};

use crate::commands::redirect::failure;
use crate::exit::Failure;

/// The name of the set of rules: that of `mesh redirect` and the packaged units.
fn instance() -> InstanceName {
    InstanceName::default()
}

/// By netlink: only there can a change undo itself.
pub(super) fn engine() -> Result<Engine, Failure> {
    Engine::netlink(&Netns::Current).map_err(|error| failure(&error))
}

/// Where `sshd` listens.
pub(super) fn ssh_ports(netns: &Netns) -> Result<BTreeSet<Port>, Failure> {
    let engine = Engine::netlink(netns).map_err(|error| failure(&error))?;
    engine.ssh_ports().map_err(|error| failure(&error))
}

/// The plan of a policy, here.
pub(super) fn plan(engine: &Engine, policy: &Policy) -> Result<Plan, Failure> {
    let facts = engine.facts().map_err(|error| failure(&error))?;
    Ok(Plan::compile(policy, &facts))
}

/// Sets the rules for a time: after that the kernel puts them to sleep, whoever lives or not.
pub(super) fn apply(policy: &Policy, within: Duration) -> Result<(), Failure> {
    let engine = engine()?;
    let plan = plan(&engine, policy)?;
    engine
        .apply_unconfirmed(&plan, HostNetwork::DangerouslyAllow, within)
        .map(drop)
        .map_err(|error| failure(&error))
}

/// Keeps the rules, if there is still time.
pub(super) fn confirm() -> Result<Confirmed, Failure> {
    engine()?
        .confirm(&instance())
        .map_err(|error| failure(&error))
}

/// Removes the rules; connections that they redirected go on for so long, and hear of their end
/// when `end` stops the sidecar.
pub(super) fn remove(drain: Duration, end: impl FnOnce() + Send) -> Result<Removed, Failure> {
    engine()?
        .remove_and_end(&instance(), Drain::AtMost(drain), end)
        .map_err(|error| failure(&error))
}

/// What is there; none if there are no rules.
pub(super) fn status() -> Result<Option<Status>, Failure> {
    engine()?
        .status(&instance())
        .map_err(|error| failure(&error))
}
