//! `mesh docker prepare`: a network namespace with rules and sidecar, for containers to join.

use std::time::Duration;

use mesh_runtime::{Creation, Runner, enrol};

use super::{Socket, network};
use crate::commands::run::{Part, not_enrolled};
use crate::connect::Connection;
use crate::engine::Kind;
use crate::exit::{OK, Outcome};
use crate::sidecar::SidecarArgs;
use crate::{engine, ground};

/// Make a network with rules and a ready sidecar in it, for a container to join from its first
/// instruction on.
///
/// Prints what to say to Docker: `docker run --network "$(mesh docker prepare --name web)" …`, or
/// `network_mode` in a Compose file. The container has no network of its own, and so no published
/// ports. `mesh rm` removes what was made.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    part: Part,
    #[command(flatten)]
    sidecar: SidecarArgs,
    /// How long the sidecar may take to become ready, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
    #[command(flatten)]
    socket: Socket,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: &Args) -> Outcome {
    ground::check()?;
    let mut application = args.part.application(&[])?;
    application.runner = Runner::Joining;
    let engine = args.socket.open(&args.connection.home.home).await?;
    let network = network(&engine, engine::network(Kind::Docker, None, None)).await?;
    let ground = args.sidecar.on_docker(&engine, network).await?;
    let client = args.connection.client().await?;
    let (injected, token) = ground.inject(&client, &application).await?;
    let limit = Duration::from_secs(args.timeout);
    let enrolled = enrol(&engine, &injected, &token, limit)
        .await
        .map_err(|error| not_enrolled(&error))?;
    let group = enrolled.group.spec.name;
    let words = match enrolled.creation {
        Creation::Created => "is ready",
        Creation::Exists => "was ready",
    };
    eprintln!("{group} {words}; a container joins it by this network:");
    println!("container:{}", engine.namespace_container(&group));
    Ok(OK.into())
}
