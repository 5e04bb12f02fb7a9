//! `mesh vm`: a virtual or bare machine becomes a workload of the mesh, and stops being one.
//!
//! What joining changes is decided in `plan`; all others carry it out, and `record` remembers it, so
//! that leaving takes back exactly that.

mod confirm;
mod files;
mod invite;
mod join;
mod leave;
mod plan;
mod record;
mod rehearsal;
mod request;
mod rollback;
mod rules;
mod status;
mod system;

use crate::exit::Outcome;

/// Make this machine a workload of the mesh, without containers.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Invite(invite::Args),
    Join(Box<join::Args>),
    Confirm(confirm::Args),
    Status(status::Args),
    Leave(leave::Args),
    /// Wait for the confirmation of a join, and take it back if none comes.
    #[command(hide = true)]
    Rollback(rollback::Args),
}

/// Runs a verb.
pub(crate) async fn run(command: &Command) -> Outcome {
    match command {
        Command::Invite(args) => invite::run(args).await,
        Command::Join(args) => join::run(args).await,
        Command::Confirm(args) => confirm::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Leave(args) => leave::run(args).await,
        Command::Rollback(args) => rollback::run(args).await,
    }
}
