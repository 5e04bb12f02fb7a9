//! Allocations: task groups placed on nodes, as lists and single reads have them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Job;

object! {
    /// An allocation; a list leaves out the fields that only a single read has.
    pub struct Allocation {
        /// Its UUID.
        id: String = "ID",
        /// `<job>.<group>[<index>]`.
        name: String = "Name",
        /// The namespace of its job.
        namespace: String = "Namespace",
        /// The evaluation that placed it.
        eval_id: String = "EvalID",
        /// The node it is on.
        node_id: String = "NodeID",
        /// What people call the node.
        node_name: String = "NodeName",
        /// The job; of a dispatched or periodic child the child's own ID.
        job_id: String = "JobID",
        /// The job as it was when this was placed; single reads only.
        job: Job = "Job",
        /// Version of the job.
        job_version: u64 = "JobVersion",
        /// The group it is one of.
        task_group: String = "TaskGroup",
        /// `run`, `stop` or `evict`.
        desired_status: String = "DesiredStatus",
        /// Why.
        desired_description: String = "DesiredDescription",
        /// `pending`, `running`, `complete`, `failed`, `lost` or `unknown`.
        client_status: String = "ClientStatus",
        /// Why.
        client_description: String = "ClientDescription",
        /// The deployment it is part of.
        deployment_id: String = "DeploymentID",
        /// What that deployment thinks of it.
        deployment_status: AllocationHealth = "DeploymentStatus",
        /// Its tasks, by name.
        task_states: BTreeMap<String, TaskState> = "TaskStates",
        /// What it was given: ports are in here. Lists have it when asked for resources.
        allocated_resources: AllocatedResources = "AllocatedResources",
        /// Its network namespace, once there is one; single reads only.
        network_status: NetworkStatus = "NetworkStatus",
        /// The allocation that takes its place.
        next_allocation: String = "NextAllocation",
        /// Index of its creation.
        create_index: u64 = "CreateIndex",
        /// Index of its last change.
        modify_index: u64 = "ModifyIndex",
    }
}

object! {
    /// What a deployment thinks of an allocation.
    #[derive(Eq)]
    pub struct AllocationHealth {
        /// Whether it is healthy; unset while that is open.
        healthy: bool = "Healthy",
        /// Whether it is a canary.
        canary: bool = "Canary",
    }
}

object! {
    /// The state of one task.
    pub struct TaskState {
        /// `pending`, `running` or `dead`.
        state: String = "State",
        /// Whether it failed.
        failed: bool = "Failed",
        /// How often it was restarted.
        restarts: u64 = "Restarts",
        /// What happened to it, the oldest first.
        events: Vec<TaskEvent> = "Events",
    }
}

object! {
    /// Something that happened to a task.
    pub struct TaskEvent {
        /// What, as `Started` or `Driver Failure`.
        kind: String = "Type",
        /// When, nanoseconds since 1970.
        time: i64 = "Time",
        /// In a sentence for people.
        display_message: String = "DisplayMessage",
        /// Details by name.
        details: BTreeMap<String, String> = "Details",
    }
}

object! {
    /// What an allocation was given.
    pub struct AllocatedResources {
        /// What its tasks share.
        shared: SharedResources = "Shared",
    }
}

object! {
    /// What the tasks of an allocation share.
    pub struct SharedResources {
        /// The ports of its group, those of tasks with old network blocks aside.
        ports: Vec<AllocatedPort> = "Ports",
        /// Its networks, as the scheduler has them.
        networks: Value = "Networks",
    }
}

object! {
    /// A port that was allocated.
    #[derive(Eq)]
    pub struct AllocatedPort {
        /// Its label in the job.
        label: String = "Label",
        /// The port of the host.
        value: u16 = "Value",
        /// The port inside the group's network namespace; 0 in the host's, −1 for the same.
        to: i64 = "To",
        /// The address of the host that it is on.
        host_ip: String = "HostIP",
    }
}

object! {
    /// The network namespace of an allocation.
    pub struct NetworkStatus {
        /// Name of its interface.
        interface_name: String = "InterfaceName",
        /// Its IPv4 address.
        address: String = "Address",
        /// Its IPv6 address.
        address_ipv6: String = "AddressIPv6",
    }
}

object! {
    /// The result of one check of a service, as the client of the node keeps it.
    pub struct CheckResult {
        /// ID of the check.
        id: String = "ID",
        /// Name of the check.
        check: String = "Check",
        /// `<job>.<group>[<index>]`.
        group: String = "Group",
        /// `healthiness` or `readiness`.
        mode: String = "Mode",
        /// The service.
        service: String = "Service",
        /// `success`, `failure` or `pending`.
        status: String = "Status",
        /// What HTTP answered; absent for TCP and when nothing answered.
        status_code: u16 = "StatusCode",
        /// What was seen.
        output: String = "Output",
        /// When, seconds since 1970.
        timestamp: i64 = "Timestamp",
    }
}

object! {
    /// What the tasks of an allocation use.
    pub struct AllocationStats {
        /// The sum.
        resource_usage: Value = "ResourceUsage",
        /// By task.
        tasks: BTreeMap<String, Value> = "Tasks",
    }
}

// === impl Allocation ===

impl Allocation {
    /// Whether it will never run again.
    pub fn is_terminal(&self) -> bool {
        matches!(self.client_status.text(), "complete" | "failed" | "lost")
    }

    /// Whether it runs, or is about to, and is meant to.
    pub fn is_live(&self) -> bool {
        self.desired_status.text() == "run"
            && matches!(self.client_status.text(), "running" | "pending")
    }

    /// Its ports.
    pub fn ports(&self) -> &[AllocatedPort] {
        self.allocated_resources
            .get()
            .and_then(|resources| resources.shared.get())
            .map_or(&[], |shared| shared.ports.items())
    }
}
