//! What is wrong with the allocations of a job: events of tasks, last lines of logs, reasons why
//! none was placed.

use std::collections::{BTreeMap, BTreeSet};

use mesh_nomad::client::{Client, LogKind, LogOptions};
use mesh_nomad::install::Component;
use mesh_nomad::model::allocation::Allocation;
use mesh_nomad::model::evaluation::Placement;

/// How much of a log is shown.
const TAIL_BYTES: u64 = 3000;
/// How many of its lines.
const TAIL_LINES: usize = 15;

/// Tells each event of a failing task once.
#[derive(Debug, Default)]
pub(super) struct Teller {
    told: BTreeSet<(String, String, i64)>,
}

impl Teller {
    /// Prints what is new.
    pub(super) fn tell(&mut self, allocations: &[Allocation]) {
        for allocation in allocations {
            for (task, state) in allocation.task_states.get().into_iter().flatten() {
                for event in state.events.items() {
                    let kind = event.kind.text();
                    let key = (
                        allocation.id.text().to_owned(),
                        task.clone(),
                        event.time.value(),
                    );
                    // Work that is done ends too.
                    let is_done = event
                        .details
                        .get()
                        .and_then(|details| details.get("exit_code"))
                        == Some(&"0".to_owned());
                    if is_trouble(kind) && !is_done && self.told.insert(key) {
                        eprintln!(
                            "  {} on {}, task {task}: {kind}: {}",
                            short(allocation.id.text()),
                            allocation.node_name.text(),
                            event.display_message.text()
                        );
                    }
                }
            }
        }
    }
}

/// The last lines of the logs of tasks that failed, or did not get on.
pub(super) async fn logs(client: &Client, allocations: &[Allocation]) -> Vec<String> {
    let mut lines = Vec::new();
    for allocation in allocations {
        for (task, state) in allocation.task_states.get().into_iter().flatten() {
            let is_troubled = state.failed.value()
                || state.restarts.value() > 0
                || allocation
                    .deployment_status
                    .get()
                    .is_some_and(|status| !status.healthy.value());
            if !is_troubled {
                continue;
            }
            for kind in [LogKind::Stderr, LogKind::Stdout] {
                let text = tail(client, allocation.id.text(), task, kind).await;
                let last: Vec<_> = text.lines().rev().take(TAIL_LINES).collect();
                let place = format!("{} {task}", short(allocation.id.text()));
                lines.extend(
                    last.into_iter()
                        .rev()
                        .map(|line| format!("{place} | {line}")),
                );
            }
        }
    }
    lines
}

/// What the preparation of nodes complained of when it was last there, by node; nothing where its
/// log is not there any more, or is not for this token.
pub(super) async fn complaints(client: &Client, namespace: &str) -> BTreeMap<String, String> {
    let id = Component::Node.job_id();
    let allocations = client.job_allocations(namespace, id).await;
    let mut newest: BTreeMap<String, Allocation> = BTreeMap::new();
    for found in allocations.map(|reply| reply.value).unwrap_or_default() {
        let place = newest.entry(found.node_id.text().to_owned());
        let before = place.or_insert_with(|| found.clone());
        if before.create_index.value() < found.create_index.value() {
            *before = found;
        }
    }
    let mut said = BTreeMap::new();
    for (node, allocation) in newest {
        for task in allocation.task_states.get().into_iter().flatten() {
            let text = tail(client, allocation.id.text(), task.0, LogKind::Stderr).await;
            said.insert(node.clone(), text);
        }
    }
    said
}

async fn tail(client: &Client, id: &str, task: &str, kind: LogKind) -> String {
    let options = LogOptions {
        kind,
        follow: false,
        tail: Some(TAIL_BYTES),
    };
    let mut bytes = Vec::new();
    // A log that cannot be had is no news beside the failure itself.
    if let Ok(mut stream) = client.logs(id, task, options).await {
        while let Ok(Some(frame)) = stream.next().await {
            bytes.extend(frame.bytes().unwrap_or_default());
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Why groups found no place, a line for each.
pub(super) fn placements(groups: &BTreeMap<String, Placement>) -> Vec<String> {
    let line = |(group, placement): (&String, &Placement)| {
        let reasons = placement
            .constraint_filtered
            .get()
            .into_iter()
            .chain(placement.dimension_exhausted.get())
            .flatten()
            .map(|(reason, nodes)| format!("{reason} ({nodes})"));
        let reasons: Vec<_> = reasons.collect();
        format!(
            "group {group}: no place on any of {} nodes: {}",
            placement.nodes_evaluated.value(),
            if reasons.is_empty() {
                "none is eligible".to_owned()
            } else {
                reasons.join(", ")
            }
        )
    };
    groups.iter().map(line).collect()
}

fn is_trouble(kind: &str) -> bool {
    matches!(
        kind,
        "Driver Failure"
            | "Setup Failure"
            | "Failed Artifact Download"
            | "Not Restarting"
            | "Terminated"
            | "Task hook failed"
            | "Sibling Task Failed"
    )
}

pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
