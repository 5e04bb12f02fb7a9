//! The state of groups and units, as `mesh status --json` prints it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_identity::CredentialDirectory;
use mesh_netfilter::{RuleState, Verdict};
use mesh_runtime::inject::{RULES_UNIT, SidecarFiles};
use mesh_runtime::{GroupStatus, UnitState, UnitStatus};
use serde::Serialize;

/// The unit of a group that is its sidecar.
const SIDECAR: &str = mesh_runtime::inject::SIDECAR_UNIT;
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
    /// What the watcher repaired last, if it ever had to.
    pub(super) repaired: Option<RepairView>,
}

/// A difference that the watcher took back.
#[derive(Debug, Serialize)]
pub(super) struct RepairView {
    /// When, in seconds since 1970 (UTC).
    pub(super) at: u64,
    /// What differed, in words.
    pub(super) drift: Vec<String>,
    /// Who had changed rules, as far as it is known.
    pub(super) by: Vec<String>,
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

// === impl Status ===

impl Status {
    /// What is not as it should be, one sentence each.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for group in &self.groups {
            for unit in group.units.iter().filter(|unit| !unit.ready) {
                wrong.push(format!("{}/{} is {}", group.name, unit.name, unit.state));
            }
            for rules in group.rules.iter().filter(|rules| rules.state != "intact") {
                let drift = rules.drift.join("; ");
                wrong.push(format!(
                    "{}: redirect rules are {}: {drift}",
                    group.name, rules.state
                ));
            }
        }
        wrong
    }

    /// What was not as it should be and is again, one sentence each.
    pub(super) fn repaired(&self, now: u64) -> Vec<String> {
        let of_group = |group: &GroupView| {
            let repaired = group.rules.as_ref()?.repaired.as_ref()?;
            let by = if repaired.by.is_empty() {
                "somebody".to_owned()
            } else {
                repaired.by.join(", ")
            };
            Some(format!(
                "{}: redirect rules were repaired {} s ago, after {by} changed them: {}",
                group.name,
                now.saturating_sub(repaired.at),
                repaired.drift.join("; ")
            ))
        };
        self.groups.iter().filter_map(of_group).collect()
    }
}

/// Looks at a group: what the engine knows, and the files of its units.
pub(super) fn look(status: &GroupStatus) -> GroupView {
    let group = &status.group;
    let files = SidecarFiles::from(group);
    let units = status.units.iter().map(|unit| {
        let of_sidecar = unit.name.as_str() == SIDECAR;
        let certificate = of_sidecar.then(|| certificate(&files.state())).flatten();
        view(unit, certificate)
    });
    GroupView {
        name: group.spec.name.to_string(),
        addresses: group
            .addresses
            .map(|addresses| addresses.both().to_vec())
            .unwrap_or_default(),
        netns: group.namespace.clone(),
        rules_applied_at: group.rules_applied_at_millis.map(seconds),
        // An explicit workload has no rules, and nobody who looks after them.
        rules: status
            .units
            .iter()
            .any(|unit| unit.name.as_str() == RULES_UNIT)
            .then(|| rules(&files.verdict())),
        units: units.collect(),
    }
}

fn view(unit: &UnitStatus, certificate: Option<CertificateView>) -> UnitView {
    UnitView {
        name: unit.name.to_string(),
        state: unit.state.to_string(),
        pid: match unit.state {
            UnitState::Running { pid } => Some(pid),
            _ => None,
        },
        ready: unit.ready,
        restarts: unit.restarts,
        started_at: unit.started_at_millis.map(seconds),
        ready_at: unit.ready_at_millis.map(seconds),
        certificate,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 fit 53 bits"
)]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// The watcher's last words, unless it has been silent for too long.
fn rules(file: &Path) -> RulesView {
    let unknown = |why: String| RulesView {
        state: "unknown".to_owned(),
        drift: vec![why],
        repaired: None,
    };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return unknown(format!("{}: {error}", file.display())),
    };
    let verdict: Verdict = match serde_json::from_str(&text) {
        Ok(verdict) => verdict,
        Err(error) => return unknown(format!("{}: {error}", file.display())),
    };
    let at = UNIX_EPOCH + Duration::from_secs(verdict.at);
    match SystemTime::now().duration_since(at) {
        Ok(age) if age > STALE => unknown(format!(
            "their watcher has been silent for {} s",
            age.as_secs()
        )),
        _ => RulesView {
            state: words(verdict.state).to_owned(),
            drift: verdict.drifts,
            repaired: verdict.repaired.map(|repaired| RepairView {
                at: repaired.at,
                drift: repaired.drifts,
                by: repaired.by,
            }),
        },
    }
}

fn words(state: RuleState) -> &'static str {
    match state {
        RuleState::Intact => "intact",
        RuleState::Drifted => "drifted",
        RuleState::Absent => "absent",
        _ => "unknown",
    }
}

/// The certificate that a sidecar keeps in its directory.
fn certificate(state_dir: &Path) -> Option<CertificateView> {
    let credentials = CredentialDirectory::new(state_dir.join("identity"))
        .load()
        .ok()??;
    let not_after = credentials.not_after().duration_since(UNIX_EPOCH).ok()?;
    Some(CertificateView {
        identity: credentials.identity().to_string(),
        serial: credentials.serial(),
        not_after: not_after.as_secs(),
    })
}
