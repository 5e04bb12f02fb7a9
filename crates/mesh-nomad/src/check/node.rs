//! What a node lacks for an injected group.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::sidecar::PROXY_UID;
use serde_json::Value;

use super::Findings;
use crate::inject::PROXY_USER;
use crate::model::agent::Agent;
use crate::model::node::Node;
use crate::model::{Job, Network, Task, TaskGroup};

/// A node that may take a job.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "plain data")]
pub struct EligibleNode {
    /// The node, as a single read has it.
    pub node: Node,
    /// What its agent says of itself, if the token allows to ask: how plugins are configured is
    /// nowhere else.
    pub agent: Option<Agent>,
    /// What the preparation of the node has said of directories that the proxy's user cannot get
    /// through, as far as its log is there: the API has no modes of directories.
    pub closed: Vec<String>,
}

/// Whether the scheduler looks at a node for a job: it is ready and takes work, and the job names
/// its datacenter and its pool. Constraints are left to the scheduler.
pub fn is_eligible(node: &Node, job: &Job) -> bool {
    let takes_work = node.status.text() == "ready"
        && node.eligibility.text() != "ineligible"
        && !node.drain.value();
    let pool = match job.node_pool.text() {
        "" => "default",
        pool => pool,
    };
    let of_node = match node.node_pool.text() {
        "" => "default",
        pool => pool,
    };
    let datacenters = job.datacenters.items();
    // A job that names none may run in all.
    let is_named = datacenters.is_empty()
        || datacenters
            .iter()
            .any(|pattern| matches(pattern, node.datacenter.text()));
    takes_work && (pool == "all" || pool == of_node) && is_named
}

/// Whether a pattern, in which `*` stands for any text, is of a datacenter.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len())
        .filter_map(|at| rest.get(at..))
        .any(|rest| matches(tail, rest))
}

/// Reports what nodes lack for a group, one finding for each lack, and none at all if no node may
/// take it: then the scheduler says why.
pub(super) fn check_group(group: &TaskGroup, nodes: &[EligibleNode], findings: &mut Findings) {
    let path = format!("TaskGroups[{}]", group.name.text());
    if nodes.is_empty() {
        findings.problem(path, "no node of its datacenters and pool is ready", "");
        return;
    }
    let mut lacking: BTreeMap<Lack, Vec<&str>> = BTreeMap::new();
    let mut unfit = BTreeSet::new();
    for node in nodes {
        let lacks = lacks(group, node);
        if lacks.iter().any(Lack::rules_out) {
            unfit.insert(node.node.id.text());
        }
        for lack in lacks {
            lacking.entry(lack).or_default().push(node.node.name.text());
        }
    }
    let has_place = unfit.len() < nodes.len();
    for (lack, names) in lacking {
        let who = if names.len() == nodes.len() {
            "every node".to_owned()
        } else {
            format!(
                "{} of {} nodes ({})",
                names.len(),
                nodes.len(),
                listed(&names)
            )
        };
        let reason = format!("{who}: {}", lack.sentence());
        if lack.rules_out() && !has_place {
            findings.problem(&path, reason, lack.hint());
        } else {
            findings.warning(&path, reason, lack.hint());
        }
    }
}

/// Something that a node does not have.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Lack {
    /// The CNI plugin that sets the rules.
    Plugin,
    /// The CNI network of the group.
    Network(String),
    /// A plugin of bridges new enough for Nomad to have rules checked.
    Check(String),
    /// A driver.
    Driver(String),
    /// A right that a driver gives to tasks.
    Capability { driver: String, names: String },
    /// A sight of how the driver is configured.
    Sight(String),
    /// The user of the proxy.
    User,
    /// A way for that user to the files of its tasks.
    Way(String),
}

/// Everything that a node lacks for a group.
fn lacks(group: &TaskGroup, eligible: &EligibleNode) -> BTreeSet<Lack> {
    let node = &eligible.node;
    let mut lacks = BTreeSet::new();
    let networks = group.networks.items().iter();
    for mode in networks.map(Network::mode) {
        let Some(name) = mode.strip_prefix("cni/") else {
            continue;
        };
        if attribute(node, "plugins.cni.version.mesh-cni").is_none() {
            lacks.insert(Lack::Plugin);
        }
        let resources = node.resources.get();
        let has_network = resources.is_some_and(|has| {
            let mut networks = has.networks.items().iter();
            networks.any(|network| network.mode.text() == mode)
        });
        if !has_network {
            lacks.insert(Lack::Network(name.to_owned()));
        }
        match attribute(node, "plugins.cni.version.bridge") {
            Some(version) if !is_at_least(version, FIRST_WITH_CHECK) => {
                lacks.insert(Lack::Check(version.to_owned()));
            }
            _ => {}
        }
    }
    for task in group.tasks.items() {
        lacks.extend(lacks_of_task(task, eligible));
    }
    lacks
}

fn lacks_of_task(task: &Task, eligible: &EligibleNode) -> Vec<Lack> {
    let node = &eligible.node;
    let driver = task.driver.text();
    let mut lacks = Vec::new();
    let drivers = node.drivers.get();
    let works = drivers
        .and_then(|drivers| drivers.get(driver))
        .is_some_and(|driver| driver.detected.value() && driver.healthy.value());
    if !works {
        lacks.push(Lack::Driver(driver.to_owned()));
        return lacks;
    }
    if task.user.text() == PROXY_USER {
        let number = PROXY_UID.to_string();
        let meta = node.meta.get();
        if meta.and_then(|meta| meta.get("mesh.proxy_uid")) != Some(&number) {
            lacks.push(Lack::User);
        }
        // A chroot begins at the task's own directory, so what is above it is in nobody's way.
        if driver == "raw_exec" {
            lacks.extend(eligible.closed.iter().cloned().map(Lack::Way));
        }
    }
    let wanted = task.config.get().and_then(|config| config.get("cap_add"));
    let wanted: Vec<_> = wanted
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if wanted.is_empty() {
        return lacks;
    }
    match eligible.agent.as_ref().map(|agent| allowed(agent, driver)) {
        None => lacks.push(Lack::Sight(driver.to_owned())),
        Some(allowed) => {
            let missing: Vec<_> = wanted
                .into_iter()
                .filter(|name| !allowed.contains(&plain(name)) && !allowed.contains("all"))
                .collect();
            if !missing.is_empty() {
                lacks.push(Lack::Capability {
                    driver: driver.to_owned(),
                    names: missing.join(", "),
                });
            }
        }
    }
    lacks
}

/// The capabilities that a driver's plugin may give, in lower case without `cap_`.
fn allowed(agent: &Agent, driver: &str) -> BTreeSet<String> {
    let plugins = agent.config.get().and_then(|config| config.get("Plugins"));
    let plugins = plugins.and_then(Value::as_array).into_iter().flatten();
    let mut of_driver =
        plugins.filter(|plugin| plugin.get("Name").and_then(Value::as_str) == Some(driver));
    let caps = of_driver.find_map(|plugin| plugin.pointer("/Config/allow_caps")?.as_array());
    // None of Nomad's own defaults is one that a guard asks for.
    let caps = caps.into_iter().flatten().filter_map(Value::as_str);
    caps.map(plain).collect()
}

fn plain(capability: &str) -> String {
    let lower = capability.to_ascii_lowercase();
    lower.strip_prefix("cap_").unwrap_or(&lower).to_owned()
}

fn attribute<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    let attributes = node.attributes.get()?;
    attributes.get(name).map(String::as_str)
}

/// Whether a version, as in `v1.9.1`, is this one or a later one.
fn is_at_least(version: &str, wanted: [u64; 3]) -> bool {
    let version = version.trim_start_matches('v');
    let version = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let version = [(); 3].map(|()| parts.next().unwrap_or(0));
    version >= wanted
}

/// A few names, and how many more there are.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).copied();
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Below this version of the standard plugins Nomad does not call CHECK.
const FIRST_WITH_CHECK: [u64; 3] = [1, 3, 0];

// === impl Lack ===

impl Lack {
    /// Whether the group does not run there because of it.
    fn rules_out(&self) -> bool {
        matches!(
            self,
            Self::Plugin | Self::Network(_) | Self::Driver(_) | Self::Capability { .. }
        )
    }

    fn sentence(&self) -> String {
        match self {
            Self::Plugin => "no CNI plugin `mesh-cni`".to_owned(),
            Self::Network(name) => format!("no CNI network `{name}`"),
            Self::Check(version) => format!(
                "the CNI plugin `bridge` is {version}, and below 1.3.0 Nomad never has rules checked: what somebody changes in them stays until the sidecar says that it is not ready"
            ),
            Self::Driver(driver) => format!("driver `{driver}` is not there or not healthy"),
            Self::Capability { driver, names } => {
                format!("driver `{driver}` may not give the capabilities {names}")
            }
            Self::Sight(driver) => {
                format!("nobody may see which capabilities driver `{driver}` may give")
            }
            Self::User => {
                format!("nothing says that user `{PROXY_USER}` is number {PROXY_UID} there")
            }
            Self::Way(told) => told.clone(),
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Plugin | Self::Network(_) => {
                "prepare the node (`mesh nomad install` does), or use mode `guard` or `explicit`"
            }
            Self::Check(_) => "install the CNI plugins 1.3.0 or later in the client's cni_path",
            Self::Driver(_) => "",
            Self::Capability { .. } => {
                "add them to allow_caps of the driver's plugin block, or use mode `cni` or `explicit`"
            }
            Self::Sight(_) => "use a token with `agent { policy = \"read\" }` to have it checked",
            Self::User => {
                "make the user, and say so in the client's meta: \"mesh.proxy_uid\" = \"1337\""
            }
            Self::Way(_) => {
                "open the directory on the node, run `mesh nomad install` again, or use the driver docker"
            }
        }
    }
}
