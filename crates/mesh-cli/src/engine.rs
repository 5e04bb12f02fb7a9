//! The process engine of this machine, as every verb that touches workloads opens it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mesh_runtime::{Name, ProcessEngine, Runtime as _};

use crate::exit::Failure;

/// The group of the control plane's own units.
pub(crate) const CONTROL_PLANE: &str = "control-plane";

/// The engine, whose state is in the mesh's directory.
pub(crate) fn open(home: &Path) -> Result<ProcessEngine, Failure> {
    let supervisor = [
        program()?.into_os_string(),
        "supervise".into(),
        "--unit".into(),
    ];
    ProcessEngine::open(home.join("engine"), supervisor).map_err(|error| Failure::of(&error))
}

/// This program: units of the mesh run it again.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::doing("looking for this program", &error))
}

/// A name of the runtime.
pub(crate) fn name(text: &str) -> Result<Name, Failure> {
    text.parse()
        .map_err(|error: mesh_model::Problem| Failure::usage(error.to_string()))
}

/// One unit of a group, or all of them in the order of their names.
pub(crate) async fn units(
    engine: &ProcessEngine,
    group: &Name,
    unit: Option<&Name>,
) -> Result<Vec<Name>, Failure> {
    if let Some(unit) = unit {
        return Ok(vec![unit.clone()]);
    }
    let groups = engine
        .list(&BTreeMap::new())
        .await
        .map_err(|error| Failure::of(&error))?;
    groups
        .into_iter()
        .find(|status| status.group.spec.name == *group)
        .map(|status| status.units.into_iter().map(|unit| unit.name).collect())
        .ok_or_else(|| {
            Failure::new(format!("there is no group `{group}`"))
                .with_hint("`mesh status` lists the groups")
        })
}
