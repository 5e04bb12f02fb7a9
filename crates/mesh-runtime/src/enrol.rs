//! Carrying out an injected group: namespace, rules, files, units, in this order.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;

use crate::inject::{InjectedGroup, JoinToken, Place};
use crate::order::start_units;
use crate::{Creation, Group, LogOptions, Name, Runtime, RuntimeError, UnitSpec};

/// Why an application did not come up with its sidecar.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The runtime could not do it.
    #[error("group `{group}` did not come up")]
    Runtime {
        /// The group.
        group: Name,
        /// Why.
        #[source]
        source: RuntimeError,
        /// The last lines of the unit that failed, if it was one.
        log: String,
    },
    /// It failed, and what was done already could not be undone.
    #[error("{undo}, after this: {first}")]
    NotUndone {
        /// What failed first.
        first: Box<Self>,
        /// What failed when undoing it.
        #[source]
        undo: RuntimeError,
    },
}

/// An application that runs with its sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Enrolled {
    /// Its group.
    pub group: Group,
    /// Whether the group was made by this call.
    pub creation: Creation,
}

/// Makes the group, sets its redirect rules if it has any, and only then starts `rules`, `sidecar` and `app`,
/// each after what it depends on; returns when the application is ready.
///
/// May be repeated: what is there stays, the rules are set again, token and configuration are
/// brought up to date. `limit` holds for each unit.
///
/// # Errors
///
/// Whatever failed first. A group that this call made is removed again, so that nothing is left.
pub async fn enrol(
    runtime: &dyn Runtime,
    injected: &InjectedGroup,
    token: &JoinToken,
    limit: Duration,
) -> Result<Enrolled, EnrolError> {
    let name = &injected.group.name;
    let (creation, group) = runtime
        .create_group(&injected.group)
        .await
        .map_err(|source| failed(name, source, String::new()))?;
    match bring_up(runtime, injected, &group, token, limit).await {
        Ok(()) => {
            // With what it has learnt since: its rules are set.
            let group = runtime.group(name).await;
            let group = group.map_err(|source| failed(name, source, String::new()))?;
            Ok(Enrolled { group, creation })
        }
        Err(first) if creation == Creation::Created => match runtime.remove_group(name).await {
            Ok(_) => Err(first),
            Err(undo) => Err(EnrolError::NotUndone {
                first: Box::new(first),
                undo,
            }),
        },
        Err(first) => Err(first),
    }
}

async fn bring_up(
    runtime: &dyn Runtime,
    injected: &InjectedGroup,
    group: &Group,
    token: &JoinToken,
    limit: Duration,
) -> Result<(), EnrolError> {
    let name = &group.spec.name;
    let without_log = |source| failed(name, source, String::new());
    if let Some(policy) = &injected.policy {
        let set = runtime.redirect_group(name, policy).await;
        set.map_err(without_log)?;
    }
    let addresses = group.addresses.ok_or_else(|| {
        without_log(RuntimeError::NotFound {
            kind: "address of group",
            name: name.to_string(),
        })
    })?;
    let place = Place {
        directory: &group.directory,
        addresses,
        token,
    };
    let units = injected.units(&place).map_err(without_log)?;
    match start(runtime, name, &units, limit).await {
        Ok(()) => Ok(()),
        Err(source) => {
            // With the group its logs would be gone.
            let log = log_of(runtime, &source).await;
            Err(failed(name, source, log))
        }
    }
}

async fn start(
    runtime: &dyn Runtime,
    group: &Name,
    units: &[UnitSpec],
    limit: Duration,
) -> Result<(), RuntimeError> {
    let made = units.iter().map(|unit| runtime.create_unit(group, unit));
    try_join_all(made).await?;
    start_units(runtime, group, units, limit).await
}

async fn log_of(runtime: &dyn Runtime, error: &RuntimeError) -> String {
    let (RuntimeError::NotStarted { group, unit, .. }
    | RuntimeError::NotReady { group, unit, .. }
    | RuntimeError::Ended { group, unit, .. }) = error
    else {
        return String::new();
    };
    let options = LogOptions {
        tail: Some(20),
        follow: false,
    };
    let read = async {
        let stream = runtime.logs(group, unit, options).await?;
        stream.try_concat().await
    };
    // The first failure is what counts; that its log cannot be read says nothing new.
    read.await.map_or_else(
        |_| String::new(),
        |log| String::from_utf8_lossy(&log).into_owned(),
    )
}

fn failed(group: &Name, source: RuntimeError, log: String) -> EnrolError {
    EnrolError::Runtime {
        group: group.clone(),
        source,
        log,
    }
}
