//! The jobs of the control plane, each made from settings and where etcd is.

mod etcd;
mod ingress;
mod node;
mod restore;
mod server;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::settings::{Runner, Settings, Shape};
use super::{OWNER, OWNER_KEY};
use crate::model::{
    Artifact, Constraint, Field, Identity, Job, LogConfig, Nanoseconds, Network, Port, Resources,
    RestartPolicy, Task, TaskGroup, Update,
};
use crate::sidecar::ROOT_TAG;

pub use self::etcd::{directory as etcd_directory, endpoints as etcd_endpoints};
pub use self::ingress::ACCOUNT as INGRESS_ACCOUNT;
pub use self::node::{check as node_check, removal as node_removal};
pub use self::restore::{command as restore_command, job as restore_job};

/// A piece of the mesh that is a job.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Component {
    /// The store.
    Etcd,
    /// The API server.
    Api,
    /// The CA.
    Ca,
    /// Pilot.
    Pilot,
    /// The Mixer.
    Mixer,
    /// All roles in one.
    Dev,
    /// Preparation of nodes.
    Node,
    /// Gateways that let callers outside the mesh in.
    Ingress,
}

/// A member of etcd: where one runs, it stays.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// ID of the node, which is the member's name.
    pub node: String,
    /// The node's address.
    pub address: String,
}

/// What jobs are made from.
pub(super) struct Jobs<'a> {
    pub(super) settings: &'a Settings,
    pub(super) members: &'a [Member],
    /// Hashes of the mesh's roots, as far as they are known.
    pub(super) roots: &'a [String],
}

// === impl Component ===

impl Component {
    /// The pieces of a cluster, in the order in which they start.
    pub const CLUSTER: [Self; 5] = [Self::Etcd, Self::Api, Self::Ca, Self::Pilot, Self::Mixer];

    /// All of them, in the order in which they start.
    pub const ALL: [Self; 8] = [
        Self::Etcd,
        Self::Api,
        Self::Ca,
        Self::Pilot,
        Self::Mixer,
        Self::Dev,
        Self::Node,
        Self::Ingress,
    ];

    /// The job's ID.
    pub fn job_id(self) -> &'static str {
        match self {
            Self::Etcd => "mesh-etcd",
            Self::Api => "mesh-api",
            Self::Ca => "mesh-ca",
            Self::Pilot => "mesh-pilot",
            Self::Mixer => "mesh-mixer",
            Self::Dev => "mesh",
            Self::Node => "mesh-node",
            Self::Ingress => "mesh-ingress",
        }
    }

    /// The piece of a job's ID.
    pub fn of_job(id: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|component| component.job_id() == id)
    }

    /// Whether its tasks ask Nomad about other jobs, which takes a policy where access control is
    /// on.
    pub(super) fn reads_catalogue(self) -> bool {
        matches!(self, Self::Ca | Self::Pilot | Self::Dev)
    }
}

// === impl Jobs ===

impl Jobs<'_> {
    /// All jobs of the control plane, in the order in which they start.
    pub(super) fn all(&self) -> Vec<Job> {
        let mut jobs = match self.settings.shape {
            Shape::Dev => vec![self.dev()],
            Shape::Cluster(counts) => vec![
                self.etcd(counts),
                self.role(Component::Api, counts.api),
                self.role(Component::Ca, counts.ca),
                self.role(Component::Pilot, counts.pilot),
                self.role(Component::Mixer, counts.mixer),
            ],
        };
        jobs.extend(self.node());
        jobs.extend(self.ingress());
        jobs
    }

    /// A job of one group.
    fn job(&self, component: Component, kind: &str, group: TaskGroup) -> Job {
        let id = component.job_id();
        Job {
            id: id.into(),
            name: id.into(),
            namespace: self.settings.namespace.as_str().into(),
            kind: kind.into(),
            datacenters: self.settings.datacenters.clone().into(),
            node_pool: self
                .settings
                .node_pool
                .as_deref()
                .map_or(Field::Absent, Field::from),
            task_groups: vec![group].into(),
            meta: owner(component.job_id()),
            ..Job::default()
        }
    }

    /// A task that is `mesh` with these words.
    fn mesh_task(&self, name: &str, words: &[String], size: Resources) -> Task {
        self.task(name, &self.settings.delivery.mesh, "mesh", words, size)
    }

    /// A task: `program` is the image, or the file on the node; `entry` is what runs in the image.
    fn task(
        &self,
        name: &str,
        program: &str,
        entry: &str,
        words: &[String],
        size: Resources,
    ) -> Task {
        let delivery = &self.settings.delivery;
        let mut config = Map::new();
        match delivery.runner {
            Runner::RawExec => {
                config.insert("command".to_owned(), program.into());
                config.insert("args".to_owned(), words.into());
            }
            Runner::Docker => {
                config.insert("image".to_owned(), program.into());
                config.insert("entrypoint".to_owned(), json!([entry]));
                config.insert("args".to_owned(), words.into());
                config.insert("network_mode".to_owned(), "host".into());
                config.insert("cap_drop".to_owned(), json!(["all"]));
            }
        }
        Task {
            name: name.into(),
            driver: delivery.runner.as_str().into(),
            config: config.into(),
            artifacts: self.artifacts(),
            // By it the task reads its variable and the catalogue, on the socket of the Task API.
            identity: Identity {
                env: false.into(),
                file: true.into(),
                ..Identity::default()
            }
            .into(),
            resources: size.into(),
            kill_signal: "SIGTERM".into(),
            kill_timeout: Nanoseconds::seconds(20).into(),
            log_config: LogConfig {
                max_files: 3.into(),
                max_file_size_mb: 10.into(),
                ..LogConfig::default()
            }
            .into(),
            ..Task::default()
        }
    }

    /// On the nodes of the store alone.
    fn on_members(&self) -> Constraint {
        let nodes: Vec<_> = self.members.iter().map(|member| &member.node[..]).collect();
        constraint("${node.unique.id}", "set_contains_any", &nodes.join(","))
    }

    fn artifacts(&self) -> Field<Vec<Artifact>> {
        let delivery = &self.settings.delivery;
        if delivery.downloads.is_empty() || delivery.runner == Runner::Docker {
            return Field::Absent;
        }
        let artifact = |download: &super::settings::Artifact| Artifact {
            source: download.url.as_str().into(),
            options: BTreeMap::from([("checksum".to_owned(), download.checksum.clone())]).into(),
            destination: "local/bin/".into(),
            ..Artifact::default()
        };
        let artifacts: Vec<_> = delivery.downloads.iter().map(artifact).collect();
        artifacts.into()
    }
}

/// The tags of the service `mesh-ca` that tell the roots.
pub fn root_tags(roots: &[String]) -> Vec<String> {
    let mut tags: Vec<_> = roots
        .iter()
        .map(|hash| format!("{ROOT_TAG}{hash}"))
        .collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// The same job with other roots in the tags of its service `mesh-ca`: a change in place.
#[must_use]
pub fn with_root_tags(mut job: Job, roots: &[String]) -> Job {
    for group in job.task_groups.items_mut() {
        for service in group.services.items_mut() {
            if service.name.text() == Component::Ca.job_id() {
                service.tags = root_tags(roots).into();
            }
        }
    }
    job
}

/// The hashes of the roots in the tags of a job's service `mesh-ca`.
pub fn roots_of(job: &Job) -> Vec<String> {
    let services = job
        .task_groups
        .items()
        .iter()
        .flat_map(|group| group.services.items());
    services
        .filter(|service| service.name.text() == Component::Ca.job_id())
        .flat_map(|service| service.tags.items())
        .filter_map(|tag| tag.strip_prefix(ROOT_TAG))
        .map(str::to_owned)
        .collect()
}

fn owner(component: &str) -> Field<BTreeMap<String, String>> {
    let pairs = [(OWNER_KEY, OWNER), ("mesh.component", component)];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    BTreeMap::from(pairs).into()
}

fn size(cpu_mhz: i64, memory_mb: i64) -> Resources {
    Resources {
        cpu: cpu_mhz.into(),
        memory_mb: memory_mb.into(),
        ..Resources::default()
    }
}

/// The host's network with these ports: those without a number are Nomad's to pick.
fn host_network(ports: &[(&str, Option<u16>)]) -> Field<Vec<Network>> {
    let mut network = Network {
        mode: "host".into(),
        ..Network::default()
    };
    for (label, number) in ports {
        let port = Port {
            label: (*label).into(),
            ..Port::default()
        };
        match number {
            None => network.dynamic_ports.or_default().push(port),
            Some(number) => network.reserved_ports.or_default().push(Port {
                value: i64::from(*number).into(),
                ..port
            }),
        }
    }
    vec![network].into()
}

/// One after the other, each healthy by its checks before the next.
fn rolling(min_healthy_seconds: u32, revert: bool) -> Field<Update> {
    Update {
        max_parallel: 1.into(),
        health_check: "checks".into(),
        min_healthy_time: Nanoseconds::seconds(min_healthy_seconds).into(),
        healthy_deadline: Nanoseconds::seconds(180).into(),
        progress_deadline: Nanoseconds::seconds(300).into(),
        auto_revert: revert.into(),
        ..Update::default()
    }
    .into()
}

/// A piece of the control plane is started again for ever: there is nobody else to do it.
fn restart() -> Field<RestartPolicy> {
    RestartPolicy {
        attempts: 10.into(),
        interval: Nanoseconds::seconds(600).into(),
        delay: Nanoseconds::seconds(3).into(),
        mode: "delay".into(),
        ..RestartPolicy::default()
    }
    .into()
}

fn constraint(left: &str, operand: &str, right: &str) -> Constraint {
    Constraint {
        l_target: left.into(),
        operand: operand.into(),
        r_target: right.into(),
        ..Constraint::default()
    }
}

/// Apart, as far as there are nodes.
fn spread() -> (String, Value) {
    let spread = json!([{ "Attribute": "${node.unique.id}", "Weight": 100 }]);
    ("Spreads".to_owned(), spread)
}
