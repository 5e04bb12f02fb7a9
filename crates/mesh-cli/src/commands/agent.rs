//! `mesh agent`: the sidecar's companion, and the gate that an application's start waits at.

mod descent;
mod nomad;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_agent::{Agent, AgentError};
use mesh_model::SidecarConfig;
use mesh_model::sidecar::READINESS_PORT;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exit::{Failure, OK, Outcome};

/// Run a sidecar: identity, configuration, DNS, readiness, and Envoy.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    /// What the sidecar is told, as JSON.
    #[arg(long, value_name = "FILE", required_unless_present = "nomad")]
    config: Option<PathBuf>,
    /// The same for a task of Nomad's, as `mesh inject` writes it; the rest comes from Nomad.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    nomad: Option<PathBuf>,
    /// Go on as the proxy's user, with no right of root's but to listen at ports below 1024; for
    /// gateways of Nomad, whose tasks cannot get that right otherwise.
    #[arg(long, hide = true)]
    as_proxy_user: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Wait until the sidecar of this network namespace is ready.
    Wait {
        /// For how long, such as `60s` or `2m`; a bare number is of seconds.
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
        timeout: Duration,
        /// Where it is asked.
        #[arg(long, default_value_t = SocketAddr::from(([127, 0, 0, 1], READINESS_PORT)))]
        address: SocketAddr,
    },
}

/// Becomes the proxy's user first if that is asked for: call it without an event loop, whose threads
/// would keep their rights.
pub(crate) fn start(args: &Args) -> Outcome {
    if args.as_proxy_user {
        descent::to_proxy_user()?;
    }
    super::wait(run(args))
}

async fn run(args: &Args) -> Outcome {
    if let Some(Verb::Wait { timeout, address }) = &args.verb {
        mesh_agent::wait_ready(*address, *timeout)
            .await
            .map_err(|error| Failure::of(&error))?;
        return Ok(OK.into());
    }
    let shutdown = CancellationToken::new();
    let _guard = shutdown.clone().drop_guard();
    end_on_signals(shutdown.clone())?;
    // What follows Nomad for the agent; dropped, it ends.
    let mut following = JoinSet::new();
    let agent = match (&args.config, &args.nomad) {
        (Some(file), _) => Agent::new(read(file)?),
        (None, Some(file)) => tokio::select! {
            agent = nomad::agent(file, &mut following) => agent?,
            () = shutdown.cancelled() => return Ok(OK.into()),
        },
        (None, None) => return Err(Failure::usage("--config or --nomad is missing")),
    };
    agent
        .with_search_path(std::env::var_os("PATH"))
        .run(shutdown)
        .await
        .map_err(|error| refused(&error))?;
    Ok(OK.into())
}

/// Why the agent did not begin, with what to do about it.
fn refused(error: &AgentError) -> Failure {
    let failure = match error {
        AgentError::Config(_) => Failure::usage(error.to_string()),
        _ => Failure::of(error),
    };
    failure.with_hint_of(error.hint())
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

/// A duration of whole seconds or minutes: `60`, `60s`, `2m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, seconds) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 60),
        (None, None) => (text, 1),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is not a duration such as `60s` or `2m`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_unless_they_say_minutes() {
        for (text, seconds) in [("60", 60), ("60s", 60), ("2m", 120)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "1h", "-1s", "99999999999999999999m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
