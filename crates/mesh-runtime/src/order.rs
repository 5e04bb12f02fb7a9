//! In which order the units of a group start: dependencies first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use mesh_model::{Problem, Problems};

use crate::{Condition, Exit, Name, Runtime, RuntimeError, UnitSpec, UnitState};

/// Units in an order in which each comes after all that it depends on; otherwise as given.
///
/// # Errors
///
/// A name that is there twice, a dependency that is not there, units that wait for each other.
pub fn order(units: &[UnitSpec]) -> Result<Vec<&UnitSpec>, Problems> {
    let mut problems = Problems::default();
    let mut known = BTreeMap::new();
    for (index, unit) in units.iter().enumerate() {
        if known.insert(&unit.name, unit).is_some() {
            problems.push(Problem::new(
                format!("units[{index}].name"),
                unit.name.as_str(),
                "a name of its own in the group",
            ));
        }
    }
    for (index, unit) in units.iter().enumerate() {
        for (at, dependency) in unit.after.iter().enumerate() {
            if !known.contains_key(&dependency.unit) {
                problems.push(Problem::new(
                    format!("units[{index}].after[{at}].unit"),
                    dependency.unit.as_str(),
                    "a unit of the group",
                ));
            }
        }
    }
    if !problems.0.is_empty() {
        return Err(problems);
    }

    let mut placed = BTreeSet::new();
    let mut ordered = Vec::with_capacity(units.len());
    while ordered.len() < units.len() {
        let next = units.iter().find(|unit| {
            !placed.contains(&unit.name) && unit.after.iter().all(|it| placed.contains(&it.unit))
        });
        if let Some(unit) = next {
            placed.insert(&unit.name);
            ordered.push(unit);
        } else {
            let circle = units.iter().filter(|unit| !placed.contains(&unit.name));
            let names: Vec<_> = circle.map(|unit| unit.name.as_str()).collect();
            let problem = Problem::new("units", names.join(", "), "free of circles in `after`");
            return Err(problem.into());
        }
    }
    Ok(ordered)
}

/// Starts the units of a group in their order, each after what it depends on; returns when all are
/// ready. `limit` holds for each wait.
///
/// # Errors
///
/// [`RuntimeError::Invalid`] for dependencies that cannot be met; whatever stopped the first unit
/// that did not come up. Units that did start are left running.
pub async fn start_group(
    runtime: &dyn Runtime,
    group: &Name,
    limit: Duration,
) -> Result<(), RuntimeError> {
    let no_labels = BTreeMap::new();
    let groups = runtime.list(&no_labels).await?;
    let Some(found) = groups.iter().find(|it| it.group.spec.name == *group) else {
        return Err(RuntimeError::NotFound {
            kind: "group",
            name: group.to_string(),
        });
    };
    let mut units = Vec::new();
    for unit in &found.units {
        units.push(runtime.unit(group, &unit.name).await?);
    }
    start_units(runtime, group, &units, limit).await
}

/// Starts these units of a group in their order; returns when all are ready.
pub(crate) async fn start_units(
    runtime: &dyn Runtime,
    group: &Name,
    units: &[UnitSpec],
    limit: Duration,
) -> Result<(), RuntimeError> {
    let mut waiting = order(units).map_err(RuntimeError::invalid("group", group))?;
    while !waiting.is_empty() {
        // Units that wait for none of each other start at the same time.
        let names: Vec<_> = waiting.iter().map(|unit| unit.name.clone()).collect();
        let waits = |unit: &&UnitSpec| unit.after.iter().any(|it| names.contains(&it.unit));
        let (later, now): (Vec<_>, Vec<_>) = waiting.into_iter().partition(waits);
        let started = now
            .into_iter()
            .map(|unit| start_unit(runtime, group, unit, limit));
        try_join_all(started).await?;
        waiting = later;
    }
    // Where readiness is not asked for, running was enough, and may be over already.
    for unit in units.iter().filter(|unit| unit.readiness.is_some()) {
        runtime.wait_ready(group, &unit.name, limit).await?;
    }
    Ok(())
}

/// Starts a unit once what it depends on is as it asks.
async fn start_unit(
    runtime: &dyn Runtime,
    group: &Name,
    unit: &UnitSpec,
    limit: Duration,
) -> Result<(), RuntimeError> {
    for dependency in &unit.after {
        let (first, condition) = (dependency.unit.clone(), dependency.condition);
        await_condition(runtime, group, first, condition, limit).await?;
    }
    runtime.start_unit(group, &unit.name).await.map(drop)
}

pub(crate) async fn await_condition(
    runtime: &dyn Runtime,
    group: &Name,
    unit: Name,
    condition: Condition,
    limit: Duration,
) -> Result<(), RuntimeError> {
    match condition {
        // Order alone: it was started before, and that returned once its command ran.
        Condition::Started => Ok(()),
        Condition::Ready => runtime.wait_ready(group, &unit, limit).await.map(drop),
        Condition::Finished => {
            let ended = tokio::time::timeout(limit, runtime.wait_ended(group, &unit)).await;
            let status = match ended {
                Ok(status) => status?,
                Err(_elapsed) => runtime.status(group, &unit).await?,
            };
            match status.state {
                UnitState::Finished {
                    exit: Exit::Code(0),
                } => Ok(()),
                state => Err(RuntimeError::Ended {
                    group: group.clone(),
                    unit,
                    state,
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dependency;

    fn unit(name: &str, after: &[&str]) -> UnitSpec {
        let mut unit = UnitSpec::new(name.parse().unwrap(), ["true"]);
        unit.after = after
            .iter()
            .map(|name| Dependency {
                unit: name.parse().unwrap(),
                condition: Condition::Ready,
            })
            .collect();
        unit
    }

    fn names(units: &[UnitSpec]) -> Vec<&str> {
        let ordered = order(units).unwrap();
        ordered.iter().map(|unit| unit.name.as_str()).collect()
    }

    #[test]
    fn dependencies_come_first_and_the_rest_stays_as_given() {
        let units = [
            unit("app", &["sidecar"]),
            unit("sidecar", &["rules"]),
            unit("rules", &[]),
        ];
        assert_eq!(names(&units), ["rules", "sidecar", "app"]);
        let units = [unit("b", &[]), unit("a", &[])];
        assert_eq!(names(&units), ["b", "a"]);
    }

    #[test]
    fn units_that_wait_for_each_other_are_named() {
        let units = [unit("a", &["b"]), unit("b", &["a"]), unit("c", &[])];
        let problems = order(&units).unwrap_err();
        assert_eq!(
            problems.to_string(),
            "units: `a, b` is not free of circles in `after`"
        );
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let units = [unit("a", &["x"]), unit("a", &["y"])];
        assert_eq!(order(&units).unwrap_err().0.len(), 3);
    }
}
