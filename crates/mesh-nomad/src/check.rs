//! What an injected job would lack on a cluster, before it is registered.
//!
//! Pure: [`check`] compares a job with what was read of the cluster, and [`of_plan`] words what
//! the scheduler says itself. Nothing that is found changes anything.
//!
//! ```
//! use mesh_nomad::check::{Cluster, Severity, check};
//! use mesh_nomad::inject::{Options, inject};
//! use mesh_nomad::model::Job;
//!
//! let job: Job = serde_json::from_str(r#"{
//!     "ID": "web",
//!     "TaskGroups": [{
//!         "Name": "web",
//!         "Networks": [{ "Mode": "bridge" }],
//!         "Tasks": [{ "Name": "app", "Driver": "raw_exec" }]
//!     }]
//! }"#)?;
//! let injected = inject(&job, &Options::default())?.job;
//! let findings = check(&injected, &Cluster::default());
//! assert!(findings.iter().all(|finding| finding.severity == Severity::Problem));
//! assert!(findings[0].to_string().contains("mesh-pilot"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod discovery;
mod node;

use std::collections::BTreeSet;
use std::fmt;

pub use self::node::{EligibleNode, is_eligible};
use crate::inject;
use crate::model::Job;
use crate::model::namespace::{Namespace, NamespaceCapabilities};
use crate::model::registration::Registration;
use crate::model::reply::Plan;
use crate::sidecar::ROOT_TAG;

/// What was read of a cluster.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct Cluster {
    /// The nodes that may take the job; see [`is_eligible`].
    pub nodes: Vec<EligibleNode>,
    /// The job's namespace; none if there is no such namespace.
    pub namespace: Option<Namespace>,
    /// The jobs of its namespace, whole; one of the same ID is what this one replaces.
    pub jobs: Vec<Job>,
    /// Registrations of Pilot's service.
    pub pilots: Vec<Registration>,
    /// Registrations of the CA's service.
    pub authorities: Vec<Registration>,
}

/// One thing that an operator should know.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, as in `TaskGroups[web]`, or a part of the cluster.
    pub path: String,
    /// What was found, without a final period.
    pub reason: String,
    /// What to do about it; empty if nothing can be done.
    pub hint: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "there is nothing between")]
pub enum Severity {
    /// The job would not run, or not in the mesh.
    Problem,
    /// It would run; something is less than it could be.
    Warning,
}

/// What an injected job would lack on the cluster; problems first, then in the job's order.
pub fn check(job: &Job, cluster: &Cluster) -> Vec<Finding> {
    let mut findings = Findings::default();
    check_control_plane(cluster, &mut findings);
    check_namespace(job, cluster.namespace.as_ref(), &mut findings);
    for group in job.task_groups.items() {
        if inject::is_injected(group) {
            node::check_group(group, &cluster.nodes, &mut findings);
        }
    }
    discovery::check_callers(job, &cluster.jobs, &mut findings);
    findings.0.sort_by_key(|finding| finding.severity);
    findings.0
}

/// What the scheduler says of a job that it has planned.
pub fn of_plan(plan: &Plan) -> Vec<Finding> {
    let mut findings = Findings::default();
    for (group, placement) in plan.failed_groups.get().into_iter().flatten() {
        let mut reasons: Vec<String> = Vec::new();
        let ruled_out = placement.constraint_filtered.get().into_iter().flatten();
        reasons.extend(ruled_out.map(|(what, nodes)| format!("{what} rules out {nodes}")));
        let short = placement.dimension_exhausted.get().into_iter().flatten();
        reasons.extend(short.map(|(what, nodes)| format!("{what} is short on {nodes}")));
        let looked_at = placement.nodes_evaluated.value();
        let reason = match reasons.as_slice() {
            [] => format!("no place on the {looked_at} nodes that were looked at"),
            _ => format!("no place: of {looked_at} nodes, {}", reasons.join(", ")),
        };
        findings.problem(format!("TaskGroups[{group}]"), reason, "");
    }
    findings.0
}

fn check_control_plane(cluster: &Cluster, findings: &mut Findings) {
    let hint = "install the mesh (`mesh nomad install`), or name its namespace";
    if cluster.pilots.is_empty() {
        findings.problem("mesh-pilot", "nothing is registered as this service", hint);
    }
    if cluster.authorities.is_empty() {
        findings.problem("mesh-ca", "nothing is registered as this service", hint);
        return;
    }
    let mut tags = cluster.authorities.iter().flat_map(|ca| ca.tags.items());
    if !tags.any(|tag| tag.starts_with(ROOT_TAG)) {
        findings.problem(
            "mesh-ca",
            "its registrations do not tell the hash of the mesh's root, so no sidecar can trust it",
            format!("give the service a tag `{ROOT_TAG}<SHA-256 of the root>`; `mesh nomad install` does"),
        );
    }
}

fn check_namespace(job: &Job, namespace: Option<&Namespace>, findings: &mut Findings) {
    let Some(namespace) = namespace else {
        let reason = format!("there is no namespace `{}`", job.namespace());
        findings.problem("Namespace", reason, "create it, or name another");
        return;
    };
    let Some(capabilities) = namespace.capabilities.get() else {
        return;
    };
    for group in job.task_groups.items() {
        let path = format!("TaskGroups[{}]", group.name.text());
        for network in group.networks.items() {
            if !capabilities.allow_mode(network.mode()) {
                let reason = format!(
                    "namespace `{}` forbids the network mode `{}`",
                    job.namespace(),
                    network.mode()
                );
                let hint = "allow it in the namespace, or choose another mode with --mode";
                findings.problem(format!("{path}.Networks[0].Mode"), reason, hint);
            }
        }
        let drivers: BTreeSet<_> = group
            .tasks
            .items()
            .iter()
            .map(|task| task.driver.text())
            .collect();
        for driver in drivers {
            if !capabilities.allow_driver(driver) {
                let reason = format!(
                    "namespace `{}` forbids the driver `{driver}`",
                    job.namespace()
                );
                findings.problem(&path, reason, "allow it in the namespace");
            }
        }
    }
}

/// Findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

// === impl Findings ===

impl Findings {
    fn add(
        &mut self,
        severity: Severity,
        path: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.0.push(Finding {
            severity,
            path: path.into(),
            reason: reason.into(),
            hint: hint.into(),
        });
    }

    fn problem(
        &mut self,
        path: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Severity::Problem, path, reason, hint);
    }

    fn warning(
        &mut self,
        path: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Severity::Warning, path, reason, hint);
    }
}

// === impl Finding ===

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

// === impl Severity ===

impl Severity {
    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
        }
    }
}

// === impl NamespaceCapabilities ===

impl NamespaceCapabilities {
    /// Whether groups may have this network mode.
    pub fn allow_mode(&self, mode: &str) -> bool {
        allows(
            self.enabled_network_modes.items(),
            self.disabled_network_modes.items(),
            mode,
        )
    }

    /// Whether tasks may have this driver.
    pub fn allow_driver(&self, driver: &str) -> bool {
        allows(
            self.enabled_drivers.items(),
            self.disabled_drivers.items(),
            driver,
        )
    }
}

/// Nomad takes an empty list for none.
fn allows(enabled: &[String], disabled: &[String], what: &str) -> bool {
    let is_listed = |list: &[String]| list.iter().any(|item| item == what);
    (enabled.is_empty() || is_listed(enabled)) && !is_listed(disabled)
}

#[cfg(test)]
mod tests;
