//! Deployments: a version of a job on its way out.

use std::collections::BTreeMap;

use super::Nanoseconds;

object! {
    /// One deployment.
    pub struct Deployment {
        /// Its UUID.
        id: String = "ID",
        /// The namespace of its job.
        namespace: String = "Namespace",
        /// The job.
        job_id: String = "JobID",
        /// The version of the job.
        job_version: u64 = "JobVersion",
        /// `running`, `paused`, `pending`, `blocked`, `unblocking`, `initializing`, `successful`,
        /// `failed` or `cancelled`.
        status: String = "Status",
        /// Why.
        status_description: String = "StatusDescription",
        /// Its groups.
        task_groups: BTreeMap<String, DeploymentGroup> = "TaskGroups",
        /// Index of its creation.
        create_index: u64 = "CreateIndex",
        /// Index of its last change.
        modify_index: u64 = "ModifyIndex",
    }
}

object! {
    /// How far one group is.
    pub struct DeploymentGroup {
        /// Whether canaries are promoted by Nomad itself.
        auto_promote: bool = "AutoPromote",
        /// Whether a failure brings the last good version back.
        auto_revert: bool = "AutoRevert",
        /// Whether the canaries were promoted.
        promoted: bool = "Promoted",
        /// Canaries wanted.
        desired_canaries: u64 = "DesiredCanaries",
        /// Allocations wanted.
        desired_total: u64 = "DesiredTotal",
        /// Allocations placed.
        placed: u64 = "PlacedAllocs",
        /// Those that are healthy.
        healthy: u64 = "HealthyAllocs",
        /// Those that are not.
        unhealthy: u64 = "UnhealthyAllocs",
        /// The canaries placed.
        placed_canaries: Vec<String> = "PlacedCanaries",
        /// How long it may stand still.
        progress_deadline: Nanoseconds = "ProgressDeadline",
    }
}

object! {
    /// The answer to a change of a deployment.
    #[derive(Eq)]
    pub struct DeploymentChanged {
        /// The evaluation that follows, if any.
        eval_id: String = "EvalID",
        /// Index of that evaluation.
        eval_create_index: u64 = "EvalCreateIndex",
        /// Index of the change.
        deployment_modify_index: u64 = "DeploymentModifyIndex",
        /// The version of the job that came back, if one did.
        reverted_job_version: u64 = "RevertedJobVersion",
    }
}

// === impl Deployment ===

impl Deployment {
    /// Whether nothing more will happen to it.
    pub fn is_done(&self) -> bool {
        matches!(self.status.text(), "successful" | "failed" | "cancelled")
    }

    /// Whether it ended well.
    pub fn is_successful(&self) -> bool {
        self.status.text() == "successful"
    }
}
