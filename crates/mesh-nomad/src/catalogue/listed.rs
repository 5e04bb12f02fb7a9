//! An allocation as a list has it, read without what the catalogue does not need.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::model::allocation::{AllocatedPort, Allocation, TaskState};

/// An allocation in a list. What is not here is not kept, other than in [`Allocation`]: the list of
/// a large cluster has megabytes of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Listed {
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) namespace: String,
    #[serde(rename = "JobID")]
    pub(super) job_id: String,
    pub(super) job_version: u64,
    pub(super) task_group: String,
    #[serde(rename = "NodeID")]
    pub(super) node_id: String,
    pub(super) desired_status: String,
    pub(super) client_status: String,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
    pub(super) task_states: Option<BTreeMap<String, TaskState>>,
    deployment_status: Option<Verdict>,
    allocated_resources: Option<Resources>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Verdict {
    healthy: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Resources {
    shared: Shared,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Shared {
    ports: Option<Vec<AllocatedPort>>,
}

// === impl Listed ===

impl Listed {
    /// Whether it will never run again.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.client_status.as_str(), "complete" | "failed" | "lost")
    }

    /// What its deployment thinks of it, if anything yet.
    pub(super) fn verdict(&self) -> Option<bool> {
        self.deployment_status.as_ref()?.healthy
    }

    /// Its ports.
    pub(super) fn into_ports(self) -> Vec<AllocatedPort> {
        let ports = self.allocated_resources.and_then(|it| it.shared.ports);
        ports.unwrap_or_default()
    }
}

impl From<&Allocation> for Listed {
    fn from(whole: &Allocation) -> Self {
        let verdict = whole.deployment_status.get().map(|status| Verdict {
            healthy: status.healthy.get().copied(),
        });
        let shared = Shared {
            ports: Some(whole.ports().to_vec()),
        };
        Self {
            id: whole.id.text().to_owned(),
            namespace: whole.namespace.text().to_owned(),
            job_id: whole.job_id.text().to_owned(),
            job_version: whole.job_version.value(),
            task_group: whole.task_group.text().to_owned(),
            node_id: whole.node_id.text().to_owned(),
            desired_status: whole.desired_status.text().to_owned(),
            client_status: whole.client_status.text().to_owned(),
            create_index: whole.create_index.value(),
            modify_index: whole.modify_index.value(),
            task_states: whole.task_states.get().cloned(),
            deployment_status: verdict,
            allocated_resources: Some(Resources { shared }),
        }
    }
}
