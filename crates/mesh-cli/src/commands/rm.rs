//! `mesh rm`: removes workloads of this machine, and nothing else.

use mesh_runtime::{Name, Removal, RuntimeError};

use crate::connect::Home;
use crate::exit::{FAILURE, Failure, OK, Outcome, REFUSED};
use crate::{engine, ground};

/// Stop workloads with their sidecars and remove them.
///
/// Their services end with them; objects of the API stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The groups, as `mesh status` names them.
    #[arg(required = true)]
    group: Vec<Name>,
    #[command(flatten)]
    engine: engine::Choice,
    #[command(flatten)]
    home: Home,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    if let Some(group) = args
        .group
        .iter()
        .find(|group| group.as_str() == engine::CONTROL_PLANE)
    {
        return Err(no_workload(group));
    }
    ground::check()?;
    let engine = engine::open(&args.engine, &args.home.home).await?;
    for name in &args.group {
        match engine.group(name).await {
            Ok(group) if engine::is_control_plane(&group.spec) => return Err(no_workload(name)),
            // What is not there is said below, after what is there is gone.
            Ok(_) | Err(RuntimeError::NotFound { .. }) => {}
            Err(error) => return Err(Failure::of(&error)),
        }
    }
    let mut absent = Vec::new();
    for group in &args.group {
        match engine.remove_group(group).await {
            Ok(Removal::Removed) => println!("{group} removed"),
            Ok(Removal::Absent) => absent.push(group.to_string()),
            Err(error) => return Err(Failure::of(&error)),
        }
    }
    if absent.is_empty() {
        return Ok(OK.into());
    }
    Err(
        Failure::new(format!("there is no group `{}`", absent.join("`, `")))
            .with_code(FAILURE)
            .with_hint("`mesh status` lists the groups"),
    )
}

fn no_workload(group: &Name) -> Failure {
    Failure::new(format!(
        "`{group}` is no workload, and the workloads need it"
    ))
    .with_code(REFUSED)
    .with_hint("`mesh down` removes everything of this machine")
}
