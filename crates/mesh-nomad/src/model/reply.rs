//! Answers to what is done with jobs.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Job;
use super::evaluation::{Placement, PlanAnnotations};

object! {
    /// A job in a list.
    pub struct JobStub {
        /// Its ID.
        id: String = "ID",
        /// The job that it was dispatched from, or is a period of.
        parent_id: String = "ParentID",
        /// What people call it.
        name: String = "Name",
        /// The namespace.
        namespace: String = "Namespace",
        /// `service`, `batch`, `system` or `sysbatch`.
        kind: String = "Type",
        /// `pending`, `running` or `dead`.
        status: String = "Status",
        /// Whether it is to stop.
        stop: bool = "Stop",
        /// Words of the operator; only if the list was asked for them and there are any.
        meta: BTreeMap<String, String> = "Meta",
        /// When its specification changed last.
        job_modify_index: u64 = "JobModifyIndex",
        /// When anything of it changed last.
        modify_index: u64 = "ModifyIndex",
    }
}

object! {
    /// The answer to a register, scale, revert, stop or evaluate.
    pub struct Registered {
        /// The evaluation that follows; empty if none does.
        eval_id: String = "EvalID",
        /// Its index.
        eval_create_index: u64 = "EvalCreateIndex",
        /// The job's new index.
        job_modify_index: u64 = "JobModifyIndex",
        /// What to look at.
        warnings: String = "Warnings",
    }
}

object! {
    /// What a register would do.
    pub struct Plan {
        /// What the scheduler would do, by group.
        annotations: PlanAnnotations = "Annotations",
        /// What differs from the job that is stored.
        diff: JobDiff = "Diff",
        /// Groups that would find no place, and why.
        failed_groups: BTreeMap<String, Placement> = "FailedTGAllocs",
        /// The index to enforce at the register; 0 for a new job.
        job_modify_index: u64 = "JobModifyIndex",
        /// What to look at.
        warnings: String = "Warnings",
    }
}

object! {
    /// What differs between two jobs.
    pub struct JobDiff {
        /// `None`, `Added`, `Deleted` or `Edited`.
        kind: String = "Type",
        /// Its ID.
        id: String = "ID",
        /// Fields.
        fields: Vec<FieldDiff> = "Fields",
        /// Objects in it.
        objects: Vec<ObjectDiff> = "Objects",
        /// Its groups.
        task_groups: Vec<GroupDiff> = "TaskGroups",
    }
}

object! {
    /// What differs in a group.
    pub struct GroupDiff {
        /// `None`, `Added`, `Deleted` or `Edited`.
        kind: String = "Type",
        /// The group.
        name: String = "Name",
        /// Fields.
        fields: Vec<FieldDiff> = "Fields",
        /// Objects in it.
        objects: Vec<ObjectDiff> = "Objects",
        /// Its tasks.
        tasks: Vec<TaskDiff> = "Tasks",
    }
}

object! {
    /// What differs in a task.
    pub struct TaskDiff {
        /// `None`, `Added`, `Deleted` or `Edited`.
        kind: String = "Type",
        /// The task.
        name: String = "Name",
        /// Fields.
        fields: Vec<FieldDiff> = "Fields",
        /// Objects in it.
        objects: Vec<ObjectDiff> = "Objects",
    }
}

object! {
    /// What differs in an object.
    pub struct ObjectDiff {
        /// `None`, `Added`, `Deleted` or `Edited`.
        kind: String = "Type",
        /// The object.
        name: String = "Name",
        /// Fields.
        fields: Vec<FieldDiff> = "Fields",
        /// Objects in it.
        objects: Vec<Self> = "Objects",
    }
}

object! {
    /// A field that differs.
    pub struct FieldDiff {
        /// `None`, `Added`, `Deleted` or `Edited`.
        kind: String = "Type",
        /// The field.
        name: String = "Name",
        /// What it was.
        old: String = "Old",
        /// What it would be.
        new: String = "New",
    }
}

object! {
    /// What is wrong with a job.
    pub struct Validation {
        /// Each error.
        errors: Vec<String> = "ValidationErrors",
        /// All of them as one text.
        error: String = "Error",
        /// What to look at.
        warnings: String = "Warnings",
    }
}

object! {
    /// The versions of a job that the servers still have.
    pub struct Versions {
        /// The versions, the newest first.
        versions: Vec<Job> = "Versions",
        /// What changed from each to the next, if asked for.
        diffs: Value = "Diffs",
    }
}

object! {
    /// The answer to a dispatch.
    pub struct Dispatched {
        /// The job that was made.
        job_id: String = "DispatchedJobID",
        /// The evaluation that follows; empty if this repeats an idempotency token.
        eval_id: String = "EvalID",
    }
}

object! {
    /// How a job's groups are scaled.
    pub struct ScaleStatus {
        /// The job.
        job_id: String = "JobID",
        /// Whether it is stopped.
        job_stopped: bool = "JobStopped",
        /// By group.
        task_groups: BTreeMap<String, GroupScale> = "TaskGroups",
    }
}

object! {
    /// How one group is scaled.
    pub struct GroupScale {
        /// Allocations wanted.
        desired: i64 = "Desired",
        /// Allocations placed.
        placed: i64 = "Placed",
        /// Those that run.
        running: i64 = "Running",
        /// Those that are healthy.
        healthy: i64 = "Healthy",
        /// Those that are not.
        unhealthy: i64 = "Unhealthy",
    }
}

object! {
    /// The counts of a job's allocations.
    pub struct Summary {
        /// The job.
        job_id: String = "JobID",
        /// Counts by state, by group.
        groups: BTreeMap<String, BTreeMap<String, i64>> = "Summary",
    }
}

object! {
    /// The text a job was made from.
    pub struct Submission {
        /// The text.
        source: String = "Source",
        /// `hcl2` or `json`.
        format: String = "Format",
        /// Values given as flags.
        variable_flags: BTreeMap<String, String> = "VariableFlags",
        /// Values given as a file.
        variables: String = "Variables",
    }
}

object! {
    /// The answer to a stop of an allocation.
    #[derive(Eq)]
    pub struct AllocationStopped {
        /// The evaluation that follows.
        eval_id: String = "EvalID",
    }
}

// === impl Validation ===

impl Validation {
    /// Whether nothing is wrong.
    pub fn is_valid(&self) -> bool {
        self.error.text().is_empty() && self.errors.items().is_empty()
    }
}
