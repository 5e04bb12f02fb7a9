//! Evaluations: the scheduler's work on a job.

use std::collections::BTreeMap;

object! {
    /// One evaluation.
    pub struct Evaluation {
        /// Its UUID.
        id: String = "ID",
        /// The namespace of its job.
        namespace: String = "Namespace",
        /// The job.
        job_id: String = "JobID",
        /// The job's type.
        kind: String = "Type",
        /// What caused it.
        triggered_by: String = "TriggeredBy",
        /// `pending`, `blocked`, `complete`, `failed` or `canceled`.
        status: String = "Status",
        /// Why.
        status_description: String = "StatusDescription",
        /// The deployment that it made.
        deployment_id: String = "DeploymentID",
        /// The evaluation that waits for room.
        blocked_eval: String = "BlockedEval",
        /// The one that follows.
        next_eval: String = "NextEval",
        /// Groups that found no place, and why.
        failed_groups: BTreeMap<String, Placement> = "FailedTGAllocs",
        /// Allocations of each group that wait for a place.
        queued: BTreeMap<String, i64> = "QueuedAllocations",
        /// What was planned.
        annotations: PlanAnnotations = "PlanAnnotations",
        /// Index of its creation.
        create_index: u64 = "CreateIndex",
        /// Index of its last change.
        modify_index: u64 = "ModifyIndex",
    }
}

object! {
    /// How the search for a node went.
    pub struct Placement {
        /// Nodes that were looked at.
        nodes_evaluated: u64 = "NodesEvaluated",
        /// Nodes that constraints ruled out.
        nodes_filtered: u64 = "NodesFiltered",
        /// Nodes without room.
        nodes_exhausted: u64 = "NodesExhausted",
        /// How many nodes each constraint ruled out.
        constraint_filtered: BTreeMap<String, u64> = "ConstraintFiltered",
        /// What was short on how many nodes.
        dimension_exhausted: BTreeMap<String, u64> = "DimensionExhausted",
    }
}

object! {
    /// What the scheduler plans.
    pub struct PlanAnnotations {
        /// By group.
        updates: BTreeMap<String, GroupUpdate> = "DesiredTGUpdates",
    }
}

object! {
    /// What the scheduler plans for the allocations of one group.
    #[derive(Eq)]
    pub struct GroupUpdate {
        /// Left alone.
        ignore: u64 = "Ignore",
        /// New.
        place: u64 = "Place",
        /// Moved away.
        migrate: u64 = "Migrate",
        /// Stopped.
        stop: u64 = "Stop",
        /// Changed where they run.
        in_place: u64 = "InPlaceUpdate",
        /// Stopped and placed anew.
        destructive: u64 = "DestructiveUpdate",
        /// Canaries.
        canary: u64 = "Canary",
    }
}

object! {
    /// How many evaluations there are.
    #[derive(Eq)]
    pub struct EvaluationCount {
        /// The number.
        count: u64 = "Count",
    }
}

// === impl Evaluation ===

impl Evaluation {
    /// Whether the scheduler is through with it.
    pub fn is_done(&self) -> bool {
        matches!(self.status.text(), "complete" | "failed" | "canceled")
    }
}
