//! `mesh rm`: removes workloads of this machine, and nothing else.

use mesh_runtime::{Name, Removal, Runtime as _};

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
    home: Home,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    if args
        .group
        .iter()
        .any(|group| group.as_str() == engine::CONTROL_PLANE)
    {
        let message = "`control-plane` is no workload, and the workloads need it";
        return Err(Failure::new(message)
            .with_code(REFUSED)
            .with_hint("`mesh down` removes everything of this machine"));
    }
    ground::check()?;
    let engine = engine::open(&args.home.home)?;
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
