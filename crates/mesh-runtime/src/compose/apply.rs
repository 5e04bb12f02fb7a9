//! Carries a plan out: networks, groups, units, each started after what it depends on.

use std::time::Duration;

use super::plan::Plan;
use crate::order::await_condition;
use crate::{Creation, Name, Runtime, RuntimeError, Start};

/// What was done for a plan.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A network is there.
    Network(&'a Name, Creation),
    /// A group is there, with its units, none of which was started by this.
    Group(&'a Name, Creation),
    /// The unit of a service runs.
    Started(&'a str, Start),
    /// The unit of a service is ready.
    Ready(&'a str),
}

/// Makes and starts everything in a plan; returns when all that can be asked is ready. `limit`
/// holds for each wait. Repeated, it completes what is not there.
///
/// # Errors
///
/// The first thing that could not be done. What was done before stays.
pub async fn apply(
    runtime: &dyn Runtime,
    plan: &Plan,
    limit: Duration,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<(), RuntimeError> {
    for directory in &plan.volumes {
        let made = tokio::fs::create_dir_all(directory).await;
        let action = || format!("make directory `{}` of a volume", directory.display());
        made.map_err(|error| RuntimeError::system(action(), error))?;
    }
    for network in &plan.networks {
        let made = runtime.create_network(network).await?;
        progress(Progress::Network(&network.name, made));
    }
    for group in &plan.groups {
        let (made, _) = runtime.create_group(&group.group).await?;
        for unit in &group.units {
            runtime.create_unit(&group.group.name, unit).await?;
        }
        progress(Progress::Group(&group.group.name, made));
    }
    for step in &plan.steps {
        for first in &step.after {
            let unit = first.unit.clone();
            await_condition(runtime, &first.group, unit, first.condition, limit).await?;
        }
        let started = runtime.start_unit(&step.group, &step.unit).await?;
        progress(Progress::Started(&step.service, started));
    }
    for step in &plan.steps {
        let group = plan.groups.iter().find(|it| it.group.name == step.group);
        let mut units = group.iter().flat_map(|it| &it.units);
        let is_asked = |unit: &crate::UnitSpec| unit.name == step.unit && unit.readiness.is_some();
        if units.any(is_asked) {
            runtime.wait_ready(&step.group, &step.unit, limit).await?;
            progress(Progress::Ready(&step.service));
        }
    }
    Ok(())
}
