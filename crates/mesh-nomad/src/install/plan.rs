//! From settings and facts to the steps of an install, in their order.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::job::{Component, Jobs, Member, roots_of};
use super::secret::{VariableFiles, item_of, variables};
use super::settings::{Counts, Ingress, Runner, Settings, Shape};
use super::{OWNER, OWNER_KEY, is_ours};
use crate::model::Job;
use crate::model::acl::{JobAcl, Policy};
use crate::model::namespace::Namespace;
use crate::model::node::Node;
use crate::model::volume::{HostVolume, VolumeCapability};
use crate::refusal::Refusals;

/// What an install does, in its order.
#[derive(Clone, Debug, Default)]
#[must_use]
#[non_exhaustive]
pub struct Plan {
    /// The steps. Objects that are as they should be have none; of jobs only the server can say,
    /// so each has one.
    pub steps: Vec<Step>,
    /// The members of etcd; of a `--dev` install the node of its store.
    pub members: Vec<Member>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// Make the namespace.
    Namespace(Namespace),
    /// Write a policy.
    Policy(Policy),
    /// Make the files that a variable lacks; the others are kept.
    Variable {
        /// The variable.
        variable: VariableFiles,
        /// The files that it lacks.
        missing: Vec<&'static str>,
    },
    /// Make a volume.
    Volume(HostVolume),
    /// Register a job if it is not so already, and wait for it.
    Job(Box<Job>),
    /// End the job of a piece that is not wanted any more.
    End(Component),
}

// === impl Step ===

impl Step {
    /// What it makes, in a few words.
    pub fn title(&self) -> String {
        match self {
            Self::Namespace(namespace) => format!("namespace {}", namespace.name.text()),
            Self::Policy(policy) => format!("policy {}", policy.name.text()),
            Self::Variable { variable, .. } => format!("variable {}", variable.path),
            Self::Volume(volume) => {
                format!(
                    "volume {} on node {}",
                    volume.name.text(),
                    short(volume.node_id.text())
                )
            }
            Self::Job(job) => format!("job {}", job.id.text()),
            Self::End(component) => format!("job {}", component.job_id()),
        }
    }
}

/// The steps from what the cluster has to what the settings say.
///
/// # Errors
///
/// Everything that stands in the way, at once: what bears our names and is not ours, too few nodes.
pub fn plan(settings: &Settings, facts: &Facts) -> Result<Plan, Refusals> {
    let mut refusals = Refusals::default();
    let mut steps = Vec::new();
    let found = facts.namespace.as_ref();
    steps.extend(namespace(
        &settings.namespace,
        "Control plane of the service mesh",
        found,
        &mut refusals,
    ));
    ingress(settings, facts, &mut steps, &mut refusals);
    for job in &facts.jobs {
        if Component::of_job(job.id.text()).is_some() && !is_ours(job) {
            refusals.add(
                format!("job {}", job.id.text()),
                "is not of an install of the mesh",
                "rename it, or install into another namespace (--namespace)",
            );
        }
    }
    shape(settings, facts, &mut refusals);
    policies(settings, facts, &mut steps, &mut refusals);
    let members = members(settings, facts, &mut refusals);
    for variable in variables(settings) {
        let found = facts.variables.get(&variable.path);
        let has = |file: &str| found.is_some_and(|items| items.contains(&item_of(file)));
        let missing: Vec<_> = variable
            .files
            .iter()
            .copied()
            .filter(|file| !has(file))
            .collect();
        if !missing.is_empty() {
            steps.push(Step::Variable { variable, missing });
        }
    }
    volumes(settings, facts, &members, &mut steps);
    let ca = match settings.shape {
        Shape::Dev => Component::Dev,
        Shape::Cluster(_) => Component::Ca,
    };
    let roots = facts.job(ca.job_id()).map(roots_of).unwrap_or_default();
    let jobs = Jobs {
        settings,
        members: &members,
        roots: &roots,
    };
    steps.extend(jobs.all().into_iter().map(|job| Step::Job(Box::new(job))));
    let gateways = facts.job(Component::Ingress.job_id());
    if settings.ingress.count == 0 && gateways.is_some_and(is_ours) {
        steps.push(Step::End(Component::Ingress));
    }
    refusals.into_result(Plan { steps, members })
}

/// The step that makes a namespace, if there is none.
fn namespace(
    name: &str,
    description: &str,
    found: Option<&Namespace>,
    refusals: &mut Refusals,
) -> Option<Step> {
    let Some(found) = found else {
        return Some(Step::Namespace(Namespace {
            name: name.into(),
            description: description.into(),
            meta: std::collections::BTreeMap::from([(OWNER_KEY.to_owned(), OWNER.to_owned())])
                .into(),
            ..Namespace::default()
        }));
    };
    if !is_our_namespace(found) {
        refusals.add(
            format!("namespace {name}"),
            "exists and is not of an install of the mesh",
            format!("choose another (--namespace), or set its meta `{OWNER_KEY}` to `{OWNER}`"),
        );
    }
    None
}

/// Whether a namespace was made by an install.
pub fn is_our_namespace(namespace: &Namespace) -> bool {
    let meta = namespace.meta.get();
    let owner = meta.and_then(|meta| meta.get(OWNER_KEY));
    owner.map(String::as_str) == Some(OWNER)
}

/// What gateways stand on.
fn ingress(settings: &Settings, facts: &Facts, steps: &mut Vec<Step>, refusals: &mut Refusals) {
    let Ingress { count, ports } = &settings.ingress;
    if *count == 0 {
        return;
    }
    let namespace_of = settings.ingress_namespace();
    let found = facts.ingress_namespace.as_ref();
    let description = "Gateways of the service mesh";
    steps.extend(namespace(&namespace_of, description, found, refusals));
    let mut known = BTreeSet::new();
    for port in ports {
        if *port == 0 || !known.insert(port) {
            refusals.add(
                "--ingress-port",
                format!("{port}"),
                "ports from 1 to 65535, each once",
            );
        }
    }
    if ports.contains(&settings.api_port) {
        refusals.add(
            "--ingress-port",
            format!("{} is the API server's port", settings.api_port),
            "choose another, or move the API server (--api-port)",
        );
    }
}

/// The shape of an install stays what it was: the stores do not turn into each other.
fn shape(settings: &Settings, facts: &Facts, refusals: &mut Refusals) {
    let has = |component: Component| facts.job(component.job_id()).is_some();
    let (other, wish) = match settings.shape {
        Shape::Dev => (Component::Api, "--dev"),
        Shape::Cluster(_) => (Component::Dev, "a cluster"),
    };
    if has(other) {
        refusals.add(
            format!("job {}", other.job_id()),
            format!("is there, and {wish} is wanted"),
            "`mesh nomad uninstall` first",
        );
    }
}

fn policies(settings: &Settings, facts: &Facts, steps: &mut Vec<Step>, refusals: &mut Refusals) {
    if !facts.acl {
        return;
    }
    for component in Component::ALL {
        let is_wanted = match settings.shape {
            Shape::Dev => component == Component::Dev,
            Shape::Cluster(_) => component != Component::Dev,
        };
        let rules = if component.reads_catalogue() {
            CATALOGUE_RULES
        } else if component == Component::Node && settings.delivery.runner == Runner::RawExec {
            NODE_RULES
        } else {
            continue;
        };
        if !is_wanted && component != Component::Node {
            continue;
        }
        let name = policy_name(settings, component);
        let wanted = Policy {
            name: name.as_str().into(),
            description: POLICY_DESCRIPTION.into(),
            rules: rules.into(),
            job_acl: JobAcl {
                namespace: settings.namespace.as_str().into(),
                job_id: component.job_id().into(),
                ..JobAcl::default()
            }
            .into(),
            ..Policy::default()
        };
        let found = facts
            .policies
            .iter()
            .find(|policy| policy.name.text() == name);
        match found {
            Some(found) if found.description.text() != POLICY_DESCRIPTION => refusals.add(
                format!("policy {name}"),
                "is not of an install of the mesh",
                "rename it",
            ),
            Some(found) if found.rules.text() == rules => {}
            _ => steps.push(Step::Policy(wanted)),
        }
    }
}

/// The name of a job's policy: policies have no namespace, so it is in the name.
fn policy_name(settings: &Settings, component: Component) -> String {
    format!("{}-{}", settings.namespace, component.job_id())
}

/// Whether a policy was made by the install of these settings.
pub fn is_our_policy(policy: &Policy, settings: &Settings) -> bool {
    policy.description.text() == POLICY_DESCRIPTION
        && Component::ALL
            .into_iter()
            .any(|component| policy_name(settings, component) == policy.name.text())
}

/// The nodes of the store: those that have it, else the first by name.
fn members(settings: &Settings, facts: &Facts, refusals: &mut Refusals) -> Vec<Member> {
    let (component, count) = match settings.shape {
        Shape::Dev => (Component::Dev, 1),
        Shape::Cluster(Counts { etcd, .. }) => (Component::Etcd, usize::from(etcd)),
    };
    if !matches!(count, 1 | 3 | 5) {
        refusals.add(
            "--etcd",
            format!("{count} members"),
            "1 for a trial, 3 or 5 else",
        );
        return Vec::new();
    }
    let before = nodes_before(settings, facts, component);
    if !before.is_empty() && before.len() != count {
        refusals.add(
            format!("job {}", component.job_id()),
            format!("has {} members, and {count} are wanted", before.len()),
            "their number does not change",
        );
    }
    let is_fit = |node: &&Node| {
        let driver = settings.delivery.runner.as_str();
        let drivers = node.drivers.get();
        let driver = drivers.and_then(|drivers| drivers.get(driver));
        let pool = settings.node_pool.as_deref().unwrap_or("default");
        let is_in_pool =
            pool == "all" || pool == node.node_pool.text() || node.node_pool.text().is_empty();
        is_in_pool && driver.is_some_and(|driver| driver.healthy.value()) && address(node).is_some()
    };
    let nodes: Vec<&Node> = if before.is_empty() {
        let ready = facts.ready_nodes();
        let fit: Vec<_> = ready.into_iter().filter(is_fit).collect();
        // An empty cluster is planned too, for who wants to see the jobs.
        if fit.len() < count && !facts.nodes.is_empty() {
            refusals.add(
                "nodes",
                format!(
                    "{} of {} have the driver {} and are ready, {count} are needed for the store",
                    fit.len(),
                    facts.nodes.len(),
                    settings.delivery.runner.as_str()
                ),
                "add nodes, allow the driver, or ask for less (--etcd 1, --dev)",
            );
        }
        fit.into_iter().take(count).collect()
    } else {
        let known = |id: &String| facts.nodes.iter().find(|node| node.id.text() == id);
        before.iter().filter_map(known).collect()
    };
    let mut members: Vec<_> = nodes
        .iter()
        .map(|node| Member {
            node: node.id.text().to_owned(),
            address: address(node).unwrap_or_default().to_owned(),
        })
        .collect();
    members.sort_by(|a, b| a.node.cmp(&b.node));
    members
}

/// The nodes that have the store: by the volumes, or by the constraint of the job.
fn nodes_before(settings: &Settings, facts: &Facts, component: Component) -> Vec<String> {
    let mut nodes: Vec<String> = if settings.delivery.runner == Runner::Docker {
        let name = volume_name(component);
        let volumes = facts.volumes.iter();
        let ours = volumes.filter(|volume| volume.name.text() == name);
        ours.map(|volume| volume.node_id.text().to_owned())
            .collect()
    } else {
        let groups = facts
            .job(component.job_id())
            .map(|job| job.task_groups.items());
        let constraints = groups
            .unwrap_or_default()
            .iter()
            .flat_map(|group| group.constraints.items());
        constraints
            .filter(|constraint| constraint.operand.text() == "set_contains_any")
            .flat_map(|constraint| constraint.r_target.text().split(','))
            .map(str::to_owned)
            .collect()
    };
    nodes.sort_unstable();
    nodes
}

fn volumes(settings: &Settings, facts: &Facts, members: &[Member], steps: &mut Vec<Step>) {
    if settings.delivery.runner != Runner::Docker {
        return;
    }
    let component = match settings.shape {
        Shape::Dev => Component::Dev,
        Shape::Cluster(_) => Component::Etcd,
    };
    let name = volume_name(component);
    for member in members {
        let is_there = facts
            .volumes
            .iter()
            .any(|volume| volume.name.text() == name && volume.node_id.text() == member.node);
        if is_there {
            continue;
        }
        steps.push(Step::Volume(HostVolume {
            name: name.into(),
            namespace: settings.namespace.as_str().into(),
            plugin_id: "mkdir".into(),
            node_id: member.node.as_str().into(),
            parameters: [("mode".to_owned(), "0700".to_owned())]
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>()
                .into(),
            capabilities: vec![VolumeCapability {
                access_mode: "single-node-single-writer".into(),
                attachment_mode: "file-system".into(),
                ..VolumeCapability::default()
            }]
            .into(),
            ..HostVolume::default()
        }));
    }
}

fn volume_name(component: Component) -> &'static str {
    match component {
        Component::Dev => "mesh-data",
        _ => "mesh-etcd",
    }
}

fn address(node: &Node) -> Option<&str> {
    let attributes = node.attributes.get()?;
    attributes
        .get("unique.network.ip-address")
        .map(String::as_str)
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// What marks a policy as ours.
const POLICY_DESCRIPTION: &str = "Made by `mesh nomad install`";
/// To know every workload and whether it lives, and nothing else.
const CATALOGUE_RULES: &str = r#"namespace "*" { capabilities = ["list-jobs", "read-job"] }
node { policy = "read" }
"#;
/// Where the agent of the node looks for plugins and networks.
const NODE_RULES: &str = r#"agent { policy = "read" }
"#;
