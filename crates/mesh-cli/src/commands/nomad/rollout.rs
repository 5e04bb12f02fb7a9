//! One job from its plan to healthy allocations.

use std::time::{Duration, Instant};

use mesh_nomad::client::{Register, Stop};
use mesh_nomad::install::{self, is_ours};
use mesh_nomad::model::Job;
use mesh_nomad::model::allocation::Allocation;
use mesh_nomad::model::deployment::Deployment;
use mesh_nomad::model::node::Node;

use super::cluster::Cluster;
use super::failed;
use super::trouble::{self, Teller};
use crate::exit::{Failure, REFUSED};

/// What became of a job.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// It was as it should be.
    None,
    /// It was registered, and is well.
    Made,
}

/// How long to wait between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(700);
/// How long work on nodes, which has no deployment with a deadline, may take: downloads included.
pub(super) const NODE_WORK: Duration = Duration::from_secs(600);
/// When work on nodes is told how far it is.
const TELL_AFTER: Duration = Duration::from_secs(3);
/// How long allocations of a job that was not changed may take to be well.
const SETTLE: Duration = Duration::from_secs(180);

impl Cluster {
    /// Registers a job unless the stored one is the same, and waits until it is healthy.
    pub(super) async fn bring(&self, job: &Job) -> Result<Change, Failure> {
        self.bring_within(job, NODE_WORK).await
    }

    /// The same, of work on nodes that may take so long.
    pub(super) async fn bring_within(&self, job: &Job, limit: Duration) -> Result<Change, Failure> {
        let id = job.id.text();
        let doing = |what: &str| format!("{what} job {id}");
        let plan = self.client.plan_job(job).await;
        let plan = plan.map_err(|error| failed(doing("planning"), &error))?;
        let diff = plan.diff.get();
        let is_same = diff.is_some_and(|diff| diff.kind.text() == "None");
        if is_same && job.kind() == "sysbatch" {
            if !self.has_failed(id).await? {
                return Ok(Change::None);
            }
            // Nomad does not do such work again by itself, nor for the same job.
            self.end(id).await?;
            return Box::pin(self.bring_within(job, limit)).await;
        }
        if is_same {
            self.settle(job).await?;
            return Ok(Change::None);
        }
        if let Some(groups) = plan.failed_groups.get().filter(|groups| !groups.is_empty()) {
            let reasons = trouble::placements(groups).join("; ");
            return Err(Failure::new(format!("job {id} finds no place: {reasons}"))
                .with_hint("nothing was changed; `mesh nomad install` can be run again"));
        }
        let how = Register {
            enforce_index: Some(plan.job_modify_index.value()),
            ..Register::default()
        };
        let registered = self.client.register_job(job, &how).await;
        let registered = registered.map_err(|error| failed(doing("registering"), &error))?;
        eprintln!("job {id}: registered");
        let evaluation = self
            .client
            .wait_for_evaluation(registered.eval_id.text())
            .await;
        let evaluation = evaluation.map_err(|error| failed(doing("waiting for"), &error))?;
        if let Some(groups) = evaluation
            .failed_groups
            .get()
            .filter(|groups| !groups.is_empty())
        {
            let reasons = trouble::placements(groups).join("; ");
            return Err(Failure::new(format!("job {id} finds no place: {reasons}")));
        }
        if job.kind() == "sysbatch" {
            self.work(id, registered.job_modify_index.value(), limit)
                .await?;
        } else {
            self.deploy(job).await?;
        }
        Ok(Change::Made)
    }

    /// Waits for the deployment of a job that was just registered.
    async fn deploy(&self, job: &Job) -> Result<(), Failure> {
        let id = job.id.text();
        let stored = self.client.job(&self.namespace, id).await;
        let version = stored
            .map_err(|error| failed(format!("reading job {id}"), &error))?
            .version
            .value();
        let mut teller = Teller::default();
        let mut last = String::new();
        loop {
            let deployment = self.client.job_deployment(&self.namespace, id).await;
            let deployment = match deployment {
                Ok(deployment) => deployment.filter(|found| found.job_version.value() >= version),
                Err(error) if error.is_transient() => None,
                Err(error) => {
                    return Err(failed(format!("reading the deployment of {id}"), &error));
                }
            };
            let allocations: Vec<_> = self.allocations(id).await?;
            let newest: Vec<_> = allocations
                .into_iter()
                .filter(|found| found.job_version.value() >= version)
                .collect();
            teller.tell(&newest);
            if let Some(deployment) = deployment {
                let now = progress(&deployment);
                if now != last {
                    eprintln!("job {id}: {now}");
                    last = now;
                }
                if deployment.is_successful() {
                    return Ok(());
                }
                if deployment.is_done() {
                    return Err(self
                        .broken(id, deployment.status_description.text(), &newest)
                        .await);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until every allocation of work on nodes has ended.
    async fn work(&self, id: &str, since: u64, limit: Duration) -> Result<(), Failure> {
        let mut teller = Teller::default();
        let mut last = String::new();
        let start = Instant::now();
        loop {
            let allocations: Vec<_> = self
                .allocations(id)
                .await?
                .into_iter()
                .filter(|found| found.create_index.value() >= since)
                .collect();
            // The scheduler is through, so whatever has no allocation now gets none.
            if allocations.is_empty() {
                let message = format!("job {id}: no node has the driver that it needs");
                return Err(Failure::new(message)
                    .with_hint("`nomad node status -verbose NODE` tells the drivers of a node"));
            }
            teller.tell(&allocations);
            if allocations.iter().all(Allocation::is_terminal) {
                let bad: Vec<_> = allocations
                    .into_iter()
                    .filter(|found| found.client_status.text() != "complete")
                    .collect();
                if bad.is_empty() {
                    return Ok(());
                }
                let nodes: Vec<_> = bad.iter().map(|found| found.node_name.text()).collect();
                let why = format!("failed on {}", nodes.join(", "));
                return Err(self.broken(id, &why, &bad).await);
            }
            let ended = allocations.iter().filter(|found| found.is_terminal());
            let now = format!("{} of {} nodes are done", ended.count(), allocations.len());
            // What is done in no time needs no word.
            if now != last && start.elapsed() > TELL_AFTER {
                eprintln!("job {id}: {now}");
                last = now;
            }
            if start.elapsed() > limit {
                return Err(Failure::new(format!(
                    "job {id} has not ended within {limit:?}"
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether work failed on a node where it was not done later.
    async fn has_failed(&self, id: &str) -> Result<bool, Failure> {
        let allocations = self.allocations(id).await?;
        let is_newest = |found: &&Allocation| {
            allocations.iter().all(|other| {
                other.node_id != found.node_id
                    || other.create_index.value() <= found.create_index.value()
            })
        };
        let mut newest = allocations.iter().filter(is_newest);
        Ok(newest.any(|found| found.client_status.text() == "failed"))
    }

    /// Waits until a job that was not changed runs as often as it should.
    async fn settle(&self, job: &Job) -> Result<(), Failure> {
        let id = job.id.text();
        let wanted: i64 = job
            .task_groups
            .items()
            .iter()
            .map(|group| group.count.value())
            .sum();
        let start = Instant::now();
        let mut teller = Teller::default();
        loop {
            let live: Vec<_> = self
                .allocations(id)
                .await?
                .into_iter()
                .filter(Allocation::is_live)
                .collect();
            let running = live
                .iter()
                .filter(|found| found.client_status.text() == "running");
            if i64::try_from(running.count()).unwrap_or(0) >= wanted {
                return Ok(());
            }
            teller.tell(&live);
            if start.elapsed() > SETTLE {
                let why = format!("is as it should be, but does not run {wanted} times");
                return Err(self.broken(id, &why, &live).await);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends a job and forgets it, once its tasks have ended. True if there was one.
    pub(super) async fn end(&self, id: &str) -> Result<bool, Failure> {
        match self.client.job(&self.namespace, id).await {
            Ok(job) if !is_ours(&job) => {
                let message = format!("job {id} is not of an install of the mesh");
                return Err(Failure::new(message).with_code(REFUSED));
            }
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(failed(format!("reading job {id}"), &error)),
        }
        let doing = |error| failed(format!("stopping job {id}"), &error);
        let stop = Stop::default();
        self.client
            .stop_job(&self.namespace, id, stop)
            .await
            .map_err(doing)?;
        self.ended(id).await?;
        let purge = Stop {
            purge: true,
            ..stop
        };
        self.client
            .stop_job(&self.namespace, id, purge)
            .await
            .map_err(doing)?;
        Ok(true)
    }

    /// Waits until the allocations of a job that was stopped have ended. Of those on a lost node
    /// nobody will ever hear that: they count as ended.
    async fn ended(&self, id: &str) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            let allocations = self.allocations(id).await?;
            let unended = allocations.iter().filter(|found| !found.is_terminal());
            let unended: Vec<_> = unended.collect();
            if unended.is_empty() {
                return Ok(());
            }
            let nodes = self.client.nodes().await;
            let nodes = nodes.map(|reply| reply.value).unwrap_or_default();
            let (lost, live): (Vec<_>, Vec<_>) = unended
                .into_iter()
                .partition(|found| is_lost(found, &nodes));
            if live.is_empty() {
                for found in lost {
                    println!(
                        "job {id}: {} on {} counts as ended, for the node is lost",
                        trouble::short(found.id.text()),
                        found.node_name.text()
                    );
                }
                return Ok(());
            }
            if start.elapsed() > SETTLE {
                let live: Vec<_> = live
                    .iter()
                    .map(|found| trouble::short(found.id.text()))
                    .collect();
                let message = format!("job {id}: allocations do not end: {}", live.join(", "));
                return Err(Failure::new(message));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn allocations(&self, id: &str) -> Result<Vec<Allocation>, Failure> {
        let allocations = self.client.job_allocations(&self.namespace, id).await;
        match allocations {
            Ok(reply) => Ok(reply.value),
            Err(error) if error.is_transient() => Ok(Vec::new()),
            Err(error) => Err(failed(format!("reading the allocations of {id}"), &error)),
        }
    }

    /// What went wrong, with the last words of its tasks.
    async fn broken(&self, id: &str, why: &str, allocations: &[Allocation]) -> Failure {
        for line in trouble::logs(&self.client, allocations).await {
            eprintln!("  {line}");
        }
        Failure::new(format!("job {id}: {why}")).with_hint(format!(
            "what came before is in place and stays; look at `nomad job status -namespace {} {id}`, and run the same command again",
            self.namespace
        ))
    }
}

/// Whether the node of an allocation is one that Nomad counts as lost; of these lists, which have
/// none if Nomad did not answer.
pub(super) fn is_lost(allocation: &Allocation, nodes: &[Node]) -> bool {
    let mut nodes = nodes.iter();
    nodes.any(|node| node.id == allocation.node_id && node.is_lost())
}

fn progress(deployment: &Deployment) -> String {
    let groups = deployment.task_groups.get().into_iter().flatten();
    let (healthy, desired) = groups.fold((0, 0), |(healthy, desired), (_, group)| {
        (
            healthy + group.healthy.value(),
            desired + group.desired_total.value(),
        )
    });
    format!(
        "{healthy} of {desired} healthy, {}",
        deployment.status.text()
    )
}

/// Whether programs come from elsewhere than before for a job, or it is new.
pub(super) fn is_delivered_anew(facts: &install::Facts, job: &Job) -> bool {
    let of = |job: &Job| -> Vec<String> {
        let tasks = job
            .task_groups
            .items()
            .iter()
            .flat_map(|group| group.tasks.items());
        let parts = tasks.map(|task| {
            let config = task.config.get();
            let of = |key: &str| config.and_then(|config| config.get(key)).cloned();
            let sources: Vec<_> = task
                .artifacts
                .items()
                .iter()
                .map(|artifact| (artifact.source.text(), artifact.options.get()))
                .collect();
            serde_json::json!([of("image"), of("command"), sources]).to_string()
        });
        parts.collect()
    };
    facts
        .job(job.id.text())
        .is_none_or(|stored| of(stored) != of(job))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_lost_node_nobody_hears_that_an_allocation_ended() {
        let node = |id: &str, status: &str| Node {
            id: id.into(),
            status: status.into(),
            ..Node::default()
        };
        let nodes = [
            node("a", "down"),
            node("b", "disconnected"),
            node("c", "ready"),
            node("d", "initializing"),
        ];
        let on = |id: &str| Allocation {
            node_id: id.into(),
            ..Allocation::default()
        };
        for (id, lost) in [
            ("a", true),
            ("b", true),
            ("c", false),
            ("d", false),
            ("e", false),
        ] {
            assert_eq!(is_lost(&on(id), &nodes), lost, "{id}");
        }
    }
}
