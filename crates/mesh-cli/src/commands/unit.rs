//! `mesh stop` and `mesh start`: one unit, or all of a group.

use std::time::Duration;

use mesh_runtime::{Name, Start, Stop};

use crate::connect::Home;
use crate::exit::{Failure, OK, Outcome};
use crate::{engine, ground};

/// How long a unit may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which units.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group: a workload's name, or `control-plane`.
    group: Name,
    /// One of its units; all without.
    unit: Option<Name>,
    #[command(flatten)]
    engine: engine::Choice,
    #[command(flatten)]
    home: Home,
}

/// `mesh stop`.
pub(crate) async fn stop(args: &Args) -> Outcome {
    ground::check()?;
    let engine = engine::open(&args.engine, &args.home.home).await?;
    let mut units = engine::units(&*engine, &args.group, args.unit.as_ref()).await?;
    units.reverse();
    for unit in units {
        let outcome = engine
            .stop_unit(&args.group, &unit)
            .await
            .map_err(|e| Failure::of(&e))?;
        let words = match outcome {
            Stop::Stopped => "stopped",
            Stop::NotRunning => "was not running",
        };
        println!("{}/{unit} {words}", args.group);
    }
    Ok(OK.into())
}

/// `mesh start`.
pub(crate) async fn start(args: &Args) -> Outcome {
    ground::check()?;
    let engine = engine::open(&args.engine, &args.home.home).await?;
    if args.unit.is_none() {
        mesh_runtime::start_group(&*engine, &args.group, PATIENCE)
            .await
            .map_err(|e| Failure::of(&e))?;
        println!("{} is ready", args.group);
        return Ok(OK.into());
    }
    for unit in engine::units(&*engine, &args.group, args.unit.as_ref()).await? {
        let outcome = engine
            .start_unit(&args.group, &unit)
            .await
            .map_err(|e| Failure::of(&e))?;
        let words = match outcome {
            Start::Started => "started",
            Start::AlreadyRunning => "was running",
        };
        println!("{}/{unit} {words}", args.group);
    }
    Ok(OK.into())
}
