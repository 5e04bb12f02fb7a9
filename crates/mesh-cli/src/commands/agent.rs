//! `mesh agent`: the sidecar's companion, and the gate that an application's start waits at.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_model::SidecarConfig;
use mesh_model::sidecar::READINESS_PORT;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Failure, OK, Outcome};

/// Run a sidecar: identity, configuration, DNS, readiness, and Envoy.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    /// What the sidecar is told, as JSON.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Wait until the sidecar of this network namespace is ready.
    Wait {
        /// For how long, in seconds.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
        /// Where it is asked.
        #[arg(long, default_value_t = SocketAddr::from(([127, 0, 0, 1], READINESS_PORT)))]
        address: SocketAddr,
    },
}

pub(crate) async fn run(args: &Args) -> Outcome {
    if let Some(Verb::Wait { timeout, address }) = &args.verb {
        let limit = Duration::from_secs(*timeout);
        mesh_agent::wait_ready(*address, limit)
            .await
            .map_err(|error| Failure::of(&error))?;
        return Ok(OK.into());
    }
    let Some(file) = &args.config else {
        return Err(Failure::usage("--config is missing"));
    };
    let config = read(file)?;
    let shutdown = CancellationToken::new();
    let _guard = shutdown.clone().drop_guard();
    end_on_signals(shutdown.clone())?;
    mesh_agent::run(config, shutdown)
        .await
        .map_err(|error| Failure::of(&error))?;
    Ok(OK.into())
}

/// Reads the file; all that is wrong with it is told at once.
fn read(file: &Path) -> Result<SidecarConfig, Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::doing(format!("reading {name}"), &error))?;
    let config: SidecarConfig =
        serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    config
        .validate()
        .map_err(|problems| Failure::usage(format!("{name}: {problems}")))?;
    Ok(config)
}

/// The first signal asks the agent to end, which it does after draining Envoy.
fn end_on_signals(shutdown: CancellationToken) -> Result<(), Failure> {
    let on = |kind| signal(kind).map_err(|error| Failure::doing("waiting for signals", &error));
    let (mut interrupt, mut terminate) =
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = shutdown.cancelled() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}
