//! Whether this sidecar may be sent requests: looked at all the time, told to probes and to Pilot.

pub(crate) mod application;
mod probe;
mod report;
pub(crate) mod serve;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use mesh_identity::CredentialStore;
use mesh_model::Health;
use mesh_netfilter::Verdict;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::envoy::EnvoyStatus;
use crate::envoy::admin::Admin;
use crate::names::NameTable;
use crate::relay::Registered;
use probe::Arrival;
use report::{CertificateFacts, Facts, HealthTracker, Report, RulesFacts};

/// What is looked at, and where the result is told.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// The certificate.
    pub(crate) store: CredentialStore,
    /// Envoy.
    pub(crate) admin: Admin,
    /// The file of the rules' watcher; absent when there are no rules.
    pub(crate) verdict: Option<PathBuf>,
    /// How old its verdict may be.
    pub(crate) verdict_age: Duration,
    /// The workload's own addresses, which are called to see whether the rules catch it.
    pub(crate) addresses: Vec<IpAddr>,
    /// The application, as far as Pilot is to be told of it.
    pub(crate) application: application::Application,
    /// How often it is looked once it was ready.
    pub(crate) interval: Duration,
    /// The agent ends.
    pub(crate) leaving: CancellationToken,
    /// Where the result is told to probes.
    pub(crate) report: watch::Sender<Report>,
    /// Where it is told to Pilot.
    pub(crate) health: watch::Sender<Health>,
}

/// The result for probes, with what else is known for the curious.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    /// The last report.
    pub(crate) report: watch::Receiver<Report>,
    /// The Envoy process.
    pub(crate) envoy: watch::Receiver<EnvoyStatus>,
    /// Replicas of Pilot that hold the registration.
    pub(crate) registered: watch::Receiver<Registered>,
    /// The replica that gives configuration.
    pub(crate) source: watch::Receiver<Option<SocketAddr>>,
    /// The name table.
    pub(crate) names: watch::Receiver<Arc<NameTable>>,
}

impl Watcher {
    /// A channel for the report, before anything was looked at.
    pub(crate) fn channel() -> (watch::Sender<Report>, watch::Receiver<Report>) {
        watch::channel(Report::default())
    }

    /// Looks until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tracker = HealthTracker::default();
        let mut self_call = SelfCall::default();
        loop {
            tokio::select! {
                () = self.look(&mut tracker, &mut self_call) => {}
                () = stop.cancelled() => return,
            }
            let interval = match *self.health.borrow() {
                Health::Healthy if tracker.is_in_doubt() => self.interval.min(UNHEALTHY_INTERVAL),
                Health::Healthy => self.interval,
                Health::Starting => self.interval.min(STARTING_INTERVAL),
                Health::Unhealthy => self.interval.min(UNHEALTHY_INTERVAL),
            };
            let leaves = self.leaving.is_cancelled();
            tokio::select! {
                () = sleep(interval) => {}
                () = self.leaving.cancelled(), if !leaves => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn look(&self, tracker: &mut HealthTracker, self_call: &mut SelfCall) {
        let envoy = self.admin.ready().await.map_err(|error| error.to_string());
        let rules = match &self.verdict {
            None => None,
            Some(file) => Some(RulesFacts {
                verdict: read_verdict(file).await,
                self_call: match &envoy {
                    Ok(()) => self_call.result(&self.addresses).await,
                    Err(_) => Err("envoy is not there to take a call".to_owned()),
                },
            }),
        };
        let leaving = self.leaving.is_cancelled();
        let facts = Facts {
            certificate: self.store.current().map(|current| CertificateFacts {
                serial: current.serial(),
                not_before: current.not_before(),
                not_after: current.not_after(),
            }),
            envoy,
            rules,
            leaving,
        };
        let report = Report::new(&facts, SystemTime::now(), self.verdict_age);
        // The gate that holds the application asks for the report: that must not wait for it.
        let serves = report.is_ready() && self.application.takes_connections().await;
        let health = tracker.look(serves, leaving);
        self.report.send_if_modified(|known| {
            let changed = known.is_ready() != report.is_ready();
            if changed {
                let text = report.text(false);
                info!(
                    ready = report.is_ready(),
                    report = text.trim(),
                    "readiness changed"
                );
            }
            *known = report;
            changed
        });
        self.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }
}

/// The last calls to own addresses, repeated now and then.
#[derive(Debug, Default)]
struct SelfCall {
    arrived: BTreeMap<IpAddr, Instant>,
}

impl SelfCall {
    async fn result(&mut self, addresses: &[IpAddr]) -> Result<(), String> {
        let is_due = |address: &&IpAddr| {
            let recent = self.arrived.get(*address);
            recent.is_none_or(|when| when.elapsed() >= SELF_CALL_INTERVAL)
        };
        let due: Vec<_> = addresses.iter().copied().filter(|it| is_due(&it)).collect();
        let arrivals = join_all(due.iter().map(|address| probe::call(*address))).await;
        for (address, arrival) in due.into_iter().zip(arrivals) {
            match arrival {
                Ok(Arrival::Captured) => {
                    self.arrived.insert(address, Instant::now());
                }
                Ok(Arrival::Direct) => {
                    self.arrived.remove(&address);
                    return Err(format!("a call to {address} went past envoy"));
                }
                Err(error) => {
                    self.arrived.remove(&address);
                    return Err(format!("{address} cannot be called: {error}"));
                }
            }
        }
        Ok(())
    }
}

impl Readiness {
    /// Whether it is ready, and the text that says so.
    pub(crate) fn text(&self, verbose: bool) -> (bool, String) {
        let report = self.report.borrow();
        let mut text = report.text(verbose);
        if verbose {
            let envoy = *self.envoy.borrow();
            let registered: Vec<_> = self
                .registered
                .borrow()
                .keys()
                .map(ToString::to_string)
                .collect();
            let source = *self.source.borrow();
            let process = envoy
                .id
                .map_or_else(|| "none".to_owned(), |id| id.to_string());
            let source =
                source.map_or_else(|| "the accepted one".to_owned(), |one| one.to_string());
            let more = [
                format!("envoy process: {process}, starts: {}", envoy.starts),
                format!("registered with: {}", registered.join(", ")),
                format!("configuration from: {source}"),
                format!("names: {}\n", self.names.borrow().len()),
            ];
            text.push_str(&more.join("\n"));
        }
        (report.is_ready(), text)
    }
}

async fn read_verdict(file: &Path) -> Result<Verdict, String> {
    let unknown = |error: &dyn Display| format!("no verdict at {}: {error}", file.display());
    let text = tokio::fs::read(file)
        .await
        .map_err(|error| unknown(&error))?;
    serde_json::from_slice(&text).map_err(|error| unknown(&error))
}

/// What is missing at the start comes within moments, and the application waits for it.
const STARTING_INTERVAL: Duration = Duration::from_millis(10);
/// What is missing later may be so for long.
const UNHEALTHY_INTERVAL: Duration = Duration::from_millis(100);
/// The watcher of the rules looks every second; this call is the second witness.
const SELF_CALL_INTERVAL: Duration = Duration::from_secs(60);
