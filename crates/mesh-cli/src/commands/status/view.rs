//! The state of groups and units, as `mesh status --json` prints it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_identity::CredentialDirectory;
use mesh_netfilter::Verdict;
use mesh_runtime::{GroupStatus, UnitState, UnitStatus};
use serde::Serialize;

/// A verdict older than this says nothing: its watcher has died.
const STALE: Duration = Duration::from_secs(5);

/// Everything on this machine.
#[derive(Debug, Default, Serialize)]
pub(super) struct Status {
    /// Groups by name.
    pub(super) groups: Vec<GroupView>,
}

/// A group: a workload, or the control plane.
#[derive(Debug, Serialize)]
pub(super) struct GroupView {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Its network namespace.
    pub(super) netns: Option<PathBuf>,
    /// When its redirect rules were applied, in seconds since 1970 (UTC).
    pub(super) rules_applied_at: Option<f64>,
    /// What the watcher of its redirect rules says; absent when it has none.
    pub(super) rules: Option<RulesView>,
    pub(super) units: Vec<UnitView>,
}

/// The redirect rules of a group.
#[derive(Debug, Serialize)]
pub(super) struct RulesView {
    /// `intact`, `drifted`, `absent`, or `unknown` when the watcher is silent.
    pub(super) state: String,
    /// What differs, in words.
    pub(super) drift: Vec<String>,
}

/// A unit.
#[derive(Debug, Serialize)]
pub(super) struct UnitView {
    pub(super) name: String,
    /// In words.
    pub(super) state: String,
    pub(super) pid: Option<u32>,
    pub(super) ready: bool,
    pub(super) restarts: u32,
    /// In seconds since 1970 (UTC).
    pub(super) started_at: Option<f64>,
    /// When it was ready first since then.
    pub(super) ready_at: Option<f64>,
    /// The certificate of a sidecar.
    pub(super) certificate: Option<CertificateView>,
}

/// A workload certificate.
#[derive(Debug, Serialize)]
pub(super) struct CertificateView {
    pub(super) identity: String,
    /// In hex.
    pub(super) serial: String,
    /// In seconds since 1970 (UTC).
    pub(super) not_after: u64,
}
