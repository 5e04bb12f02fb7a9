//! A job: what an operator registers, and what injection changes.

mod document;
mod group;
mod network;
mod service;
mod task;

use std::collections::BTreeMap;

use serde_json::Value;

pub use self::document::JobDocument;
pub use self::group::{RestartPolicy, TaskGroup, Update, VolumeRequest};
pub use self::network::{Cni, Dns, Network, Port};
pub use self::service::{Check, Service};
pub use self::task::{
    Artifact, Identity, Lifecycle, LogConfig, Resources, Task, Template, VolumeMount,
};

object! {
    /// A job, as `GET /v1/job/:id` returns it and `POST /v1/jobs` takes it in its envelope.
    ///
    /// Source: <https://developer.hashicorp.com/nomad/api-docs/json-jobs>.
    pub struct Job {
        /// Its name among the jobs of its namespace.
        id: String = "ID",
        /// What people call it; the ID unless said otherwise.
        name: String = "Name",
        /// The namespace; `default` if none is said.
        namespace: String = "Namespace",
        /// The region.
        region: String = "Region",
        /// `service`, `batch`, `system` or `sysbatch`.
        kind: String = "Type",
        /// Which datacenters it may run in; globs.
        datacenters: Vec<String> = "Datacenters",
        /// The node pool.
        node_pool: String = "NodePool",
        /// Where it may run.
        constraints: Vec<Constraint> = "Constraints",
        /// Groups of tasks that run together.
        task_groups: Vec<TaskGroup> = "TaskGroups",
        /// How new versions come out, for groups that do not say.
        update: Update = "Update",
        /// Words of the operator; annotations of the mesh are here. Any change restarts
        /// allocations.
        meta: BTreeMap<String, String> = "Meta",
        /// The job that this one was dispatched from, or is a period of.
        parent_id: String = "ParentID",
        /// Set for jobs that run at times.
        periodic: Value = "Periodic",
        /// Set for jobs that run when dispatched.
        parameterized: Value = "ParameterizedJob",
        /// Whether it is to stop.
        stop: bool = "Stop",
        /// `pending`, `running` or `dead`.
        status: String = "Status",
        /// Counts the operator's changes, from 0.
        version: u64 = "Version",
        /// When it was first registered, as an index of the servers' log.
        create_index: u64 = "CreateIndex",
        /// When anything of it changed last.
        modify_index: u64 = "ModifyIndex",
        /// When its specification changed last; what a register with enforced index names.
        job_modify_index: u64 = "JobModifyIndex",
    }
}

object! {
    /// A condition on the node that something is placed on.
    #[derive(Eq)]
    pub struct Constraint {
        /// The left side, as `${attr.kernel.name}`.
        l_target: String = "LTarget",
        /// The right side.
        r_target: String = "RTarget",
        /// How they compare; `=` if none is said.
        operand: String = "Operand",
    }
}

// === impl Job ===

impl Job {
    /// The namespace, with Nomad's default.
    pub fn namespace(&self) -> &str {
        match self.namespace.text() {
            "" => "default",
            name => name,
        }
    }

    /// The type, with Nomad's default.
    pub fn kind(&self) -> &str {
        match self.kind.text() {
            "" => "service",
            kind => kind,
        }
    }

    /// The group of this name.
    pub fn group(&self, name: &str) -> Option<&TaskGroup> {
        self.task_groups
            .items()
            .iter()
            .find(|group| group.name.text() == name)
    }
}
