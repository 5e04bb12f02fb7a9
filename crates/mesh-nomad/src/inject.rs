//! Sidecar injection: a job becomes the same job with a proxy in every task group.
//!
//! Pure and deterministic. Injecting twice is injecting once, and [`uninject`] gives back the job
//! that was: each injected group carries, in its meta, what takes it back. Nothing that a release
//! of the mesh changes is in the job, since any change of meta restarts every allocation.
//!
//! ```
//! use mesh_nomad::inject::{Options, inject, uninject};
//! use mesh_nomad::model::Job;
//!
//! let job: Job = serde_json::from_str(r#"{
//!     "ID": "web",
//!     "TaskGroups": [{
//!         "Name": "web",
//!         "Networks": [{ "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }] }],
//!         "Services": [{ "Name": "web", "Provider": "nomad", "PortLabel": "http" }],
//!         "Tasks": [{ "Name": "app", "Driver": "docker", "Config": { "image": "app:1" } }]
//!     }]
//! }"#)?;
//! let options = Options { image: Some("mesh:1".into()), ..Options::default() };
//! let injection = inject(&job, &options)?;
//! let group = &injection.job.task_groups.items()[0];
//! assert_eq!(group.networks.items()[0].mode.text(), "cni/mesh");
//! assert!(group.task("mesh-proxy").is_some());
//! assert_eq!(inject(&injection.job, &options)?, injection);
//! assert_eq!(uninject(&injection.job)?, job);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod annotation;
mod check;
mod group;
mod inverse;
mod policy;
mod service;
mod task;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_model::TrustDomain;

pub use self::annotation::ModeChoice;
use self::group::GroupPlan;
pub(crate) use self::policy::compact as policy_text;
pub use self::task::Driver;
pub(crate) use self::task::{identity_for, sidecar_file};
use crate::model::{Job, Object, TaskGroup};
pub use crate::refusal::{Refusal, Refusals};
use crate::sidecar::Mode;

/// What injection is told besides the job: the mesh, and the cluster as far as it matters.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mode for groups that do not say.
    pub mode: ModeChoice,
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Nomad's namespace with the control plane; jobs in it are not injected.
    pub mesh_namespace: String,
    /// The CNI network that has `mesh-cni` in its chain.
    pub cni_network: String,
    /// Other CNI networks to whose chain an operator appended `mesh-cni`.
    pub other_cni_networks: BTreeSet<String>,
    /// Whether every node that may take the job has `mesh-cni` and the network; none if nobody
    /// asked. Decides what `auto` is.
    pub every_node_has_cni: Option<bool>,
    /// The image with `mesh` and `envoy` in its PATH, for containers.
    pub image: Option<String>,
    /// Where `mesh` is on the node, for processes.
    pub program: String,
    /// What is downloaded to `local/bin/` of tasks that are processes, before they start.
    pub artifacts: Vec<Download>,
    /// Whether groups in Consul's own mesh are injected all the same.
    pub allow_connect: bool,
}

/// A file that Nomad downloads for a task.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct Download {
    /// From where.
    pub url: String,
    /// Its checksum, as `sha256:<hex>`.
    pub checksum: String,
}

/// An injected job, and what was done.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
#[non_exhaustive]
pub struct Injection {
    /// The job to register.
    pub job: Job,
    /// What was done to each group.
    pub report: Report,
}

/// What was done to each group of a job, in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The groups.
    pub groups: Vec<GroupReport>,
}

/// What was done to a group.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct GroupReport {
    /// Its name.
    pub group: String,
    /// How its traffic is captured; none if it says that it is not injected.
    pub mode: Option<Mode>,
    /// What runs the proxy.
    pub driver: Driver,
    /// What an operator should know, in sentences without a final period.
    pub warnings: Vec<String>,
}

/// Injects a proxy into every group of a job that does not forbid it.
///
/// # Errors
///
/// All reasons at once why it cannot be; then nothing is injected.
pub fn inject(job: &Job, options: &Options) -> Result<Injection, Refusals> {
    let mut changed = uninject(job)?;
    let mut refusals = Refusals::default();
    let mut report = Report::default();
    check_job(&changed, options, &mut refusals);
    let original = changed.clone();
    let mut policies = policy::Policies::default();
    for (index, group) in changed.task_groups.items_mut().iter_mut().enumerate() {
        let path = group_path(index, group);
        match GroupPlan::new(&original, group, path, options, &mut refusals) {
            Ok(plan) => {
                let (after, warnings) = plan.inject(&mut policies, &mut refusals);
                report.groups.push(GroupReport {
                    group: group.name.text().to_owned(),
                    mode: Some(plan.mode),
                    driver: plan.driver,
                    warnings,
                });
                *group = record(group, after);
            }
            Err(report_of_group) => report.groups.extend(report_of_group),
        }
    }
    refusals.into_result(Injection {
        job: changed,
        report,
    })
}

/// The job without what injection put in; a job that was not injected is given back as it is.
///
/// # Errors
///
/// Where the job was edited after injection so that the way back no longer fits, or where the
/// record of it is gone.
pub fn uninject(job: &Job) -> Result<Job, Refusals> {
    let mut job = job.clone();
    let mut refusals = Refusals::default();
    for (index, group) in job.task_groups.items_mut().iter_mut().enumerate() {
        if is_injected(group) {
            let path = group_path(index, group);
            if let Some(before) = restore(group, &path, &mut refusals) {
                *group = before;
            }
        }
    }
    refusals.into_result(job)
}

/// Whether the group was injected.
pub fn is_injected(group: &TaskGroup) -> bool {
    let meta = group.meta.get();
    meta.is_some_and(|meta| meta.contains_key(INJECTED) || meta.contains_key(INVERSE))
}

/// The group after injection with the way back in its meta.
fn record(before: &TaskGroup, mut after: TaskGroup) -> TaskGroup {
    let as_value = |group: &TaskGroup| serde_json::to_value(group).unwrap_or_default();
    let inverse = inverse::encode(&as_value(before), &as_value(&after));
    let meta = after.meta.or_default();
    meta.insert(INVERSE.to_owned(), URL_SAFE_NO_PAD.encode(inverse));
    after
}

fn restore(group: &TaskGroup, path: &str, refusals: &mut Refusals) -> Option<TaskGroup> {
    let mut group = group.clone();
    let hint = "inject the original job instead";
    let inverse = group.meta.get_mut().and_then(|meta| meta.remove(INVERSE));
    let inverse = inverse
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(inverse) = inverse else {
        let at = format!("{path}.Meta[{INVERSE}]");
        refusals.add(
            at,
            "the record of what injection did is missing or damaged",
            hint,
        );
        return None;
    };
    let mut value = serde_json::to_value(&group).unwrap_or_default();
    if let Err(misfits) = inverse::apply(&inverse, &mut value) {
        for misfit in misfits {
            let at = [path, misfit.path.as_str()].join(".");
            refusals.add(
                at.trim_end_matches('.'),
                format!("edited since injection: {}", misfit.reason),
                hint,
            );
        }
        return None;
    }
    match serde_json::from_value(value) {
        Ok(group) => Some(group),
        Err(error) => {
            refusals.add(
                path,
                format!("the record of what injection did is damaged: {error}"),
                hint,
            );
            None
        }
    }
}

fn check_job(job: &Job, options: &Options, refusals: &mut Refusals) {
    misspelt(job, "Job", refusals);
    if job.id.text().is_empty() {
        refusals.add("ID", "the job has none", "give it one");
    }
    if job.namespace() == options.mesh_namespace {
        let reason = format!(
            "`{}` is the namespace of the control plane",
            job.namespace()
        );
        refusals.add("Namespace", reason, "run the job in a namespace of its own");
    }
    if job.task_groups.items().is_empty() {
        refusals.add("TaskGroups", "the job has none", "");
    }
}

/// Keys that Nomad would take for known ones.
fn misspelt(object: &impl Object, path: &str, refusals: &mut Refusals) {
    for (found, meant) in object.misspelt() {
        refusals.add(
            format!("{path}.{found}"),
            format!("Nomad takes the key for `{meant}`, which injection would miss"),
            format!("write `{meant}`"),
        );
    }
}

fn group_path(index: usize, group: &TaskGroup) -> String {
    match group.name.text() {
        "" => format!("TaskGroups[{index}]"),
        name => format!("TaskGroups[{name}]"),
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: ModeChoice::Mode(Mode::Cni),
            trust_domain: TrustDomain::default(),
            mesh_namespace: "mesh-system".to_owned(),
            cni_network: "mesh".to_owned(),
            other_cni_networks: BTreeSet::new(),
            every_node_has_cni: None,
            image: None,
            program: "/usr/local/bin/mesh".to_owned(),
            artifacts: Vec::new(),
            allow_connect: false,
        }
    }
}

impl Job {
    /// What Nomad calls the job where it has no name.
    fn name_or_id(&self) -> &str {
        match self.name.text() {
            "" => self.id.text(),
            name => name,
        }
    }
}

/// The name of the user on hosts that has the proxy's number.
pub(crate) const PROXY_USER: &str = "mesh-proxy";
/// The version of what injection writes; not of the mesh.
const SCHEMA: &str = "1";
const INJECTED: &str = "mesh.injected";
const INVERSE: &str = "mesh.inverse";
const PROXY: &str = "mesh-proxy";
const READY: &str = "mesh-ready";
const GUARD: &str = "mesh-guard";
const CLEANUP: &str = "mesh-cleanup";
/// Underscores only: Nomad does not clean labels in the names of all its variables.
pub(crate) const HEALTH_LABEL: &str = "mesh_health";
/// The key of the CNI arguments that is ours.
const CNI_KEY: &str = crate::cni::CONFIG_KEY;
