//! Envoy's life: started with its bootstrap, started again when it dies, ended when the agent ends.

pub(crate) mod admin;
mod process;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use process::Process;

pub(crate) use process::find;

/// What is known of the Envoy process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct EnvoyStatus {
    /// Its process id, while it runs.
    pub(crate) id: Option<u32>,
    /// How often it was started.
    pub(crate) starts: u64,
}

/// Starts Envoy and keeps it running.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// The binary, already found.
    pub(crate) program: PathBuf,
    /// Its command line.
    pub(crate) arguments: Vec<OsString>,
    /// Where the process is noted.
    pub(crate) record: PathBuf,
    /// How long it may take to end by itself.
    pub(crate) kill_after: Duration,
    /// Where its state is told.
    pub(crate) status: watch::Sender<EnvoyStatus>,
}

impl Supervisor {
    /// Runs until `stop`; then Envoy is asked to end, and killed if it does not in time.
    pub(crate) async fn run(self, stop: CancellationToken) {
        match process::end_left_over(&self.record) {
            Ok(None) => {}
            Ok(Some(id)) => warn!(id, "ended an envoy that a former agent left"),
            Err(error) => warn!(%error, "cannot tell whether a former agent left an envoy"),
        }
        let mut backoff = Backoff::new(RESTART_MIN, RESTART_MAX);
        while !stop.is_cancelled() {
            let begun = Instant::now();
            match Process::start(&self.program, self.arguments.clone()) {
                Ok(process) => {
                    if self.supervise(process, &stop).await {
                        return;
                    }
                }
                Err(error) => {
                    error!(program = %self.program.display(), %error, "envoy cannot be started");
                }
            }
            if begun.elapsed() > STABLE {
                backoff.reset();
            }
            tokio::select! {
                () = sleep(backoff.next_delay()) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Stays with one process until it ends; whether that was asked for.
    async fn supervise(&self, mut process: Process, stop: &CancellationToken) -> bool {
        let id = process.id();
        if let Err(error) = process.record(&self.record) {
            warn!(%error, "cannot note the process of envoy");
        }
        self.status.send_modify(|status| {
            status.id = Some(id);
            status.starts += 1;
        });
        info!(id, "envoy started");
        let (status, asked) = tokio::select! {
            status = process.ended() => (status, false),
            () = stop.cancelled() => (end(&mut process, self.kill_after).await, true),
        };
        self.status.send_modify(|status| status.id = None);
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if asked {
            info!(id, status, "envoy ended");
        } else {
            error!(id, status, "envoy died");
        }
        asked
    }
}

async fn end(process: &mut Process, kill_after: Duration) -> io::Result<std::process::ExitStatus> {
    process.terminate()?;
    if let Ok(status) = timeout(kill_after, process.ended()).await {
        return status;
    }
    warn!(id = process.id(), "envoy does not end by itself");
    process.kill()?;
    process.ended().await
}

/// The first restart is almost at once: connections wait in vain meanwhile.
const RESTART_MIN: Duration = Duration::from_millis(100);
/// An Envoy that cannot live is not tried more often than this.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// An Envoy that lived this long died of something else than its start.
const STABLE: Duration = Duration::from_secs(10);
