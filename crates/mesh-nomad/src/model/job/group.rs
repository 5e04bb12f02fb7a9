//! A task group: tasks that run together on one node, in one network namespace if it says so.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Constraint, Network, Service, Task};
use crate::model::Nanoseconds;

object! {
    /// A task group.
    pub struct TaskGroup {
        /// Its name within the job.
        name: String = "Name",
        /// How many allocations; 1 if none is said.
        count: i64 = "Count",
        /// Where it may run.
        constraints: Vec<Constraint> = "Constraints",
        /// The tasks.
        tasks: Vec<Task> = "Tasks",
        /// Its network; Nomad takes one at most.
        networks: Vec<Network> = "Networks",
        /// Services of the group.
        services: Vec<Service> = "Services",
        /// Volumes that tasks may mount, by name.
        volumes: BTreeMap<String, VolumeRequest> = "Volumes",
        /// Words of the operator. Any change restarts allocations.
        meta: BTreeMap<String, String> = "Meta",
        /// How new versions come out.
        update: Update = "Update",
        /// What happens when a task ends on its own.
        restart_policy: RestartPolicy = "RestartPolicy",
        /// How long the tasks run on after the services were taken from the catalogue.
        shutdown_delay: Nanoseconds = "ShutdownDelay",
    }
}

object! {
    /// How a new version of a job replaces the one before.
    #[derive(Eq)]
    pub struct Update {
        /// How many allocations of a group at a time.
        max_parallel: i64 = "MaxParallel",
        /// What makes an allocation healthy: `checks`, `task_states` or `manual`.
        health_check: String = "HealthCheck",
        /// How long it must be healthy before the next one.
        min_healthy_time: Nanoseconds = "MinHealthyTime",
        /// How long it may take to become healthy.
        healthy_deadline: Nanoseconds = "HealthyDeadline",
        /// How long the deployment may make no progress.
        progress_deadline: Nanoseconds = "ProgressDeadline",
        /// Whether a failed deployment goes back to the version before.
        auto_revert: bool = "AutoRevert",
        /// Whether healthy canaries are promoted without a person.
        auto_promote: bool = "AutoPromote",
        /// How many canaries come first.
        canary: i64 = "Canary",
        /// The pause between batches.
        stagger: Nanoseconds = "Stagger",
    }
}

object! {
    /// What happens when a task ends on its own.
    #[derive(Eq)]
    pub struct RestartPolicy {
        /// How often it is started again within the interval.
        attempts: i64 = "Attempts",
        /// The interval.
        interval: Nanoseconds = "Interval",
        /// How long to wait before each start.
        delay: Nanoseconds = "Delay",
        /// What comes after the attempts: `fail` or `delay`.
        mode: String = "Mode",
    }
}

object! {
    /// A volume that a group asks for.
    pub struct VolumeRequest {
        /// Its name within the group.
        name: String = "Name",
        /// `host` or `csi`.
        kind: String = "Type",
        /// The volume on the node, or the CSI volume.
        source: String = "Source",
        /// Whether no task may write to it.
        read_only: bool = "ReadOnly",
        /// Whether the volume stays with the allocation's index.
        sticky: bool = "Sticky",
        /// How many may use it, and how.
        access_mode: String = "AccessMode",
        /// `file-system` or `block-device`.
        attachment_mode: String = "AttachmentMode",
        /// Whether the source gets the allocation's index appended.
        per_alloc: bool = "PerAlloc",
        /// Options of the mount.
        mount_options: Value = "MountOptions",
    }
}

// === impl TaskGroup ===

impl TaskGroup {
    /// The task of this name.
    pub fn task(&self, name: &str) -> Option<&Task> {
        self.tasks
            .items()
            .iter()
            .find(|task| task.name.text() == name)
    }

    /// The network, if there is exactly one.
    pub fn network(&self) -> Option<&Network> {
        match self.networks.items() {
            [network] => Some(network),
            _ => None,
        }
    }
}
