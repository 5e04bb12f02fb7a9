//! What injection does to one task group: reads what it says, then changes a copy.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_model::ServiceAccount;
use mesh_netfilter::{IdSet, Policy};

use super::annotation::{Annotations, ModeChoice};
use super::policy::{Policies, of_host, of_namespace};
use super::service::Services;
use super::task::Driver;
use super::{CNI_KEY, GroupReport, INJECTED, Options, SCHEMA};
use crate::model::{Constraint, Job, Network, TaskGroup};
use crate::refusal::Refusals;
use crate::sidecar::{Mode, Sidecar};

/// What is to be done to a group.
#[derive(Debug)]
pub(super) struct GroupPlan<'a> {
    pub(super) job: &'a Job,
    pub(super) group: TaskGroup,
    pub(super) path: String,
    pub(super) options: &'a Options,
    pub(super) annotations: Annotations,
    pub(super) mode: Mode,
    pub(super) driver: Driver,
    /// The image, empty for processes.
    pub(super) image: String,
    /// Whether the group has a network namespace of its own.
    pub(super) has_namespace: bool,
}

impl<'a> GroupPlan<'a> {
    /// Reads what the group says. An error has a report if the group is simply left alone.
    pub(super) fn new(
        job: &'a Job,
        group: &TaskGroup,
        path: String,
        options: &'a Options,
        refusals: &mut Refusals,
    ) -> Result<Self, Option<GroupReport>> {
        let annotations = Annotations::read(job, group, &path, refusals);
        let driver = Driver::beside(group.tasks.items());
        if annotations.inject == Some(false) {
            return Err(Some(GroupReport {
                group: group.name.text().to_owned(),
                mode: None,
                driver,
                warnings: Vec::new(),
            }));
        }
        let Some(mode) = mode(&annotations, options, &path, refusals) else {
            return Err(None);
        };
        let image = annotations
            .proxy_image
            .clone()
            .or_else(|| options.image.clone());
        if driver.is_container() && image.is_none() {
            refusals.add(
                &path,
                format!(
                    "the proxy is a container of {}, of which image is not known",
                    driver.as_str()
                ),
                "say --image, or `mesh.proxy_image` in the meta of the job or group",
            );
        }
        let has_namespace = group.network().is_some_and(Network::has_namespace);
        let plan = Self {
            job,
            group: group.clone(),
            path,
            options,
            annotations,
            mode,
            driver,
            image: image.unwrap_or_default(),
            has_namespace,
        };
        plan.check(refusals);
        Ok(plan)
    }

    /// The injected group, without the way back, and what an operator should know.
    pub(super) fn inject(
        &self,
        policies: &mut Policies,
        refusals: &mut Refusals,
    ) -> (TaskGroup, Vec<String>) {
        let mut group = self.group.clone();
        let mut sidecar = Sidecar {
            gateway: false,
            mode: self.mode,
            trust_domain: self.options.trust_domain.clone(),
            mesh_namespace: self.options.mesh_namespace.clone(),
            service_account: self.service_account(refusals),
            labels: self.annotations.labels.clone(),
            services: Vec::new(),
            upstreams: Vec::new(),
            probes: Vec::new(),
        };
        Services::new(self, &mut sidecar, refusals).change(&mut group);
        self.check_labels(&sidecar, refusals);
        let policy = self.policy(policies, refusals);
        if self.mode == Mode::Cni
            && let (Some(policy), Some(network)) = (&policy, group.networks.items_mut().first_mut())
        {
            if network.mode() == "bridge" {
                network.mode = format!("cni/{}", self.options.cni_network).into();
            }
            let args = network.cni.or_default().args.or_default();
            args.insert(CNI_KEY.to_owned(), URL_SAFE_NO_PAD.encode(policy));
        }
        let policy = policy.filter(|_| self.has_guard());
        let text = serde_json::to_string(&sidecar).unwrap_or_default();
        let tasks = self.tasks(&text, policy.as_deref());
        group.tasks.or_default().extend(tasks);
        let constraints = self.constraints();
        if !constraints.is_empty() {
            group.constraints.or_default().extend(constraints);
        }
        let meta = group.meta.or_default();
        meta.insert(INJECTED.to_owned(), SCHEMA.to_owned());
        meta.insert("mesh.mode".to_owned(), self.mode.to_string());
        (group, self.warnings())
    }

    /// Whether a task of the job sets the rules.
    pub(super) fn has_guard(&self) -> bool {
        self.mode == Mode::Guard || self.mode.is_host()
    }

    fn service_account(&self, refusals: &mut Refusals) -> ServiceAccount {
        if let Some(account) = &self.annotations.service_account {
            return account.clone();
        }
        // Children of dispatched and periodic jobs act for their parent.
        let id = match self.job.parent_id.text() {
            "" => self.job.id.text(),
            parent => parent,
        };
        id.parse().unwrap_or_else(|_| {
            refusals.add(
                "ID",
                format!("`{id}` is no name of a service account"),
                "name one with `mesh.service_account` in the job's meta",
            );
            #[expect(clippy::expect_used, reason = "the literal is a valid name")]
            "default".parse().expect("a valid name")
        })
    }

    /// The policy as JSON, where rules are set.
    fn policy(&self, policies: &mut Policies, refusals: &mut Refusals) -> Option<String> {
        let policy: Result<Policy, _> = match self.mode {
            Mode::Explicit => return None,
            Mode::Cni | Mode::Guard => of_namespace(&self.annotations),
            Mode::HostExclusive | Mode::HostUid => {
                of_host(&self.annotations, &self.users().unwrap_or_default())
            }
        };
        match policy {
            Ok(policy) => Some(policies.text(policy)),
            Err(problems) => {
                let hint = "look at the `mesh.*` keys of the meta";
                refusals.add(
                    &self.path,
                    format!("the redirect policy is not valid: {problems}"),
                    hint,
                );
                None
            }
        }
    }

    /// The users whose connections are captured where the host has others: those that the meta
    /// names, else those of the tasks if each has one by number; root is never among them.
    pub(super) fn users(&self) -> Option<IdSet> {
        let named = &self.annotations.include_uids;
        if !named.is_empty() {
            return Some(named.clone()).filter(|users| !users.contains(0));
        }
        let tasks = self.group.tasks.items().iter();
        tasks
            .map(|task| {
                let user = task.user.text().split(':').next()?;
                user.parse::<u32>().ok().filter(|number| *number > 0)
            })
            .collect()
    }

    /// What a node must be, unless the job speaks of the same thing itself, as Nomad does it.
    fn constraints(&self) -> Vec<Constraint> {
        let nomad = match self.mode {
            // The first that gives plugins arguments of a job; older ones drop them in silence.
            Mode::Cni => ">= 1.8.2",
            // The first with identities for others than itself.
            _ => ">= 1.7.0",
        };
        let mut wanted = vec![
            ("${attr.kernel.name}", "=", "linux"),
            ("${attr.nomad.version}", "semver", nomad),
        ];
        if self.mode == Mode::Cni {
            wanted.push(("${attr.plugins.cni.version.mesh-cni}", "semver", MESH_CNI));
        }
        let said: Vec<&str> = (self.job.constraints.items().iter())
            .chain(self.group.constraints.items())
            .map(|constraint| constraint.l_target.text())
            .collect();
        wanted
            .into_iter()
            .filter(|(left, ..)| !said.contains(left))
            .map(|(left, operand, right)| Constraint {
                l_target: left.into(),
                r_target: right.into(),
                operand: operand.into(),
                ..Constraint::default()
            })
            .collect()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for key in &self.annotations.unknown {
            warnings.push(format!(
                "`mesh.{key}` is no annotation that injection knows"
            ));
        }
        let tasks = self.group.tasks.items();
        for task in tasks {
            let name = task.name.text();
            if task
                .lifecycle
                .get()
                .is_some_and(|lifecycle| lifecycle.hook.text() == "prestart")
            {
                warnings.push(format!(
                    "task `{name}` starts beside the proxy: what it calls is refused until that is ready"
                ));
            }
            let privileged = task
                .config
                .get()
                .and_then(|config| config.get("privileged"));
            let can_change_rules = task.driver.text() == "raw_exec" && task.user.text().is_empty()
                || privileged.is_some_and(|value| value == &serde_json::Value::Bool(true));
            if can_change_rules && self.mode != Mode::Explicit {
                warnings.push(format!(
                    "task `{name}` runs with the power to remove the redirect rules"
                ));
            }
        }
        if self.mode == Mode::Explicit {
            warnings.push(
                "the application's own ports stay open beside the proxy's: let it listen on 127.0.0.1"
                    .to_owned(),
            );
        } else if !self.annotations.upstreams.is_empty() {
            warnings.push(format!(
                "`mesh.upstreams` means nothing in mode `{}`",
                self.mode
            ));
        }
        warnings
    }
}

/// The mode that the group, its job, or the options ask for.
fn mode(
    annotations: &Annotations,
    options: &Options,
    path: &str,
    refusals: &mut Refusals,
) -> Option<Mode> {
    match annotations.mode.unwrap_or(options.mode) {
        ModeChoice::Mode(mode) => Some(mode),
        ModeChoice::Auto => match options.every_node_has_cni {
            Some(true) => Some(Mode::Cni),
            Some(false) => {
                refusals.add(
                    path,
                    "not every node that may take the job has `mesh-cni` and its network",
                    "prepare the nodes, or choose mode `guard` or `explicit`",
                );
                None
            }
            None => {
                let hint = "name a mode";
                refusals.add(path, "mode `auto` needs to know the nodes", hint);
                None
            }
        },
    }
}

/// The first plugin that understands what injection writes; raised when the form changes.
const MESH_CNI: &str = ">= 0.1.0";
