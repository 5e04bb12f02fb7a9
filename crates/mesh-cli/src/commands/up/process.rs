//! The control plane as units of the process engine, in the machine's own network.

mod plan;

use std::path::Path;
use std::time::Duration;

use mesh_runtime::{Creation, ProcessEngine, Runtime as _, RuntimeError, start_group};

use self::plan::Plan;
use super::install::Install;
use crate::engine;
use crate::exit::Failure;

/// How long a unit may take to become ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes what is missing, and returns when every unit is ready.
pub(super) async fn bring_up(
    engine: &ProcessEngine,
    install: &Install,
    home: &Path,
) -> Result<(), Failure> {
    let of = |error: RuntimeError| Failure::of(&error);
    let network = engine::network(engine::Kind::Process, install.subnet, install.subnet6);
    engine.create_network(&network).await.map_err(of)?;
    let plan = Plan {
        program: engine::program()?,
        home: home.to_path_buf(),
        gateway: network.gateways().0,
        separate: install.separate,
        certificate_ttl: install.certificate_ttl,
    };
    let group = Plan::group()?;
    engine.create_group(&group).await.map_err(of)?;
    let units = plan.units()?;
    for unit in &units {
        let state = match engine.create_unit(&group.name, unit).await.map_err(of)? {
            Creation::Created => "created",
            Creation::Exists => "is there",
        };
        eprintln!("{}: {state}", unit.name);
    }
    let hint = format!("see `mesh logs {}`", group.name);
    let late = |error: RuntimeError| Failure::of(&error).with_hint(&hint);
    start_group(engine, &group.name, PATIENCE)
        .await
        .map_err(late)?;
    for unit in &units {
        engine
            .wait_ready(&group.name, &unit.name, PATIENCE)
            .await
            .map_err(late)?;
    }
    Ok(())
}
