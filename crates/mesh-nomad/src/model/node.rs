//! Nodes: the machines that run a client.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Nanoseconds;

object! {
    /// A node; a list leaves out the fields that only a single read has.
    pub struct Node {
        /// Its UUID.
        id: String = "ID",
        /// What people call it.
        name: String = "Name",
        /// Its datacenter.
        datacenter: String = "Datacenter",
        /// Its class.
        node_class: String = "NodeClass",
        /// Its pool.
        node_pool: String = "NodePool",
        /// Its address; lists only.
        address: String = "Address",
        /// Where its agent serves the HTTP API; single reads only.
        http_addr: String = "HTTPAddr",
        /// Version of its agent; lists only.
        version: String = "Version",
        /// `initializing`, `ready`, `down` or `disconnected`.
        status: String = "Status",
        /// `eligible` or `ineligible`.
        eligibility: String = "SchedulingEligibility",
        /// Whether it is being drained.
        drain: bool = "Drain",
        /// What was found out about it. Lists have a part, when asked.
        attributes: BTreeMap<String, String> = "Attributes",
        /// Words of its operator; single reads only.
        meta: BTreeMap<String, String> = "Meta",
        /// Its task drivers.
        drivers: BTreeMap<String, Driver> = "Drivers",
        /// Its host volumes.
        host_volumes: BTreeMap<String, Value> = "HostVolumes",
        /// What it has.
        resources: NodeResources = "NodeResources",
        /// Index of its creation.
        create_index: u64 = "CreateIndex",
        /// Index of its last change.
        modify_index: u64 = "ModifyIndex",
    }
}

object! {
    /// A task driver on a node.
    pub struct Driver {
        /// Whether it is there.
        detected: bool = "Detected",
        /// Whether it works.
        healthy: bool = "Healthy",
        /// Why not.
        health_description: String = "HealthDescription",
        /// What was found out about it.
        attributes: BTreeMap<String, String> = "Attributes",
    }
}

object! {
    /// What a node has.
    pub struct NodeResources {
        /// Networks that groups can be placed in. After a SIGHUP this only grows, so attributes
        /// are the better proof of a plugin.
        networks: Vec<NodeNetwork> = "Networks",
    }
}

object! {
    /// A network of a node.
    pub struct NodeNetwork {
        /// `host`, `bridge` or `cni/<name>`.
        mode: String = "Mode",
        /// The interface.
        device: String = "Device",
        /// The address.
        ip: String = "IP",
    }
}

object! {
    /// How to drain a node.
    pub struct DrainSpec {
        /// How long allocations may take to leave; below zero forces them out at once.
        deadline: Nanoseconds = "Deadline",
        /// Whether system jobs stay.
        ignore_system_jobs: bool = "IgnoreSystemJobs",
    }
}

object! {
    /// The answer to a change of a node.
    pub struct NodeChanged {
        /// Evaluations that follow.
        eval_ids: Vec<String> = "EvalIDs",
        /// Index of the change.
        node_modify_index: u64 = "NodeModifyIndex",
    }
}

object! {
    /// A pool of nodes.
    pub struct NodePool {
        /// Its name.
        name: String = "Name",
        /// What it is for.
        description: String = "Description",
        /// Words of the operator.
        meta: BTreeMap<String, String> = "Meta",
    }
}

// === impl Node ===

impl Node {
    /// Whether Nomad's servers have not heard of it for so long that they count it as lost.
    pub fn is_lost(&self) -> bool {
        matches!(self.status.text(), "down" | "disconnected")
    }
}
