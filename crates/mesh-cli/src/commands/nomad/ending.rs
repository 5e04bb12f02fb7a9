//! Groups of the mesh that were told to stop and have not ended: their networks are taken down by
//! what is on their nodes, which has to stay that long.

use std::time::{Duration, Instant};

use mesh_nomad::install::CniNetwork;
use mesh_nomad::model::allocation::Allocation;
use mesh_nomad::model::node::Node;
use mesh_nomad::model::reply::JobStub;

use super::cluster::Cluster;
use super::rollout::{PAUSE, is_lost};
use super::{failed, trouble};
use crate::exit::Failure;

impl Cluster {
    /// Waits until no group in the network is ending, also of jobs that are gone already. What is on
    /// a lost node counts as ended, for nobody will ever hear that it has.
    pub(super) async fn quiet(&self, network: &CniNetwork, limit: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        let mut told = Vec::new();
        loop {
            let ending = self.ending(network).await?;
            if ending.is_empty() {
                return Ok(());
            }
            let names = ending.join(", ");
            if start.elapsed() >= limit {
                return Err(Failure::new(format!(
                    "groups in cni/{} have not ended within {limit:?}: {names}",
                    network.name
                ))
                .with_hint("nothing was changed; wait longer with --wait, or look at `nomad alloc status` for what keeps them"));
            }
            if told != ending {
                eprintln!("waiting for groups that end: {names}");
                told = ending;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The groups in the network that are ending, for people.
    async fn ending(&self, network: &CniNetwork) -> Result<Vec<String>, Failure> {
        let doing = |error| failed("looking for groups that end", &error);
        // Before the jobs: what is of no job then has lost it, and is about to be told to stop.
        let allocations = self.client.allocations("*").await.map_err(doing)?.value;
        let jobs = self.client.jobs("*").await.map_err(doing)?.value;
        let nodes = self.client.nodes().await.map_err(doing)?.value;
        let mut names: Vec<_> = ending(&allocations, &jobs, &nodes, network)
            .map(|found| {
                format!(
                    "{}/{} ({} on {})",
                    found.namespace.text(),
                    found.job_id.text(),
                    trouble::short(found.id.text()),
                    found.node_name.text()
                )
            })
            .collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// The allocations in the network that have not ended, and were told to or lost their job.
fn ending<'a>(
    allocations: &'a [Allocation],
    jobs: &'a [JobStub],
    nodes: &'a [Node],
    network: &CniNetwork,
) -> impl Iterator<Item = &'a Allocation> {
    let mode = format!("cni/{}", network.name);
    let has_job = |found: &Allocation| {
        let mut jobs = jobs.iter().filter(|job| !job.stop.value());
        jobs.any(|job| job.id == found.job_id && job.namespace == found.namespace)
    };
    let ends = move |found: &&Allocation| {
        (found.desired_status.text() != "run" || !has_job(found))
            && !found.is_terminal()
            && is_in(found, &mode)
            && !is_lost(found, nodes)
    };
    allocations.iter().filter(ends)
}

/// Whether the network of an allocation is of this mode.
fn is_in(allocation: &Allocation, mode: &str) -> bool {
    let resources = allocation.allocated_resources.get();
    let networks = resources
        .and_then(|resources| resources.shared.get())
        .and_then(|shared| shared.networks.get())
        .and_then(|networks| networks.as_array());
    let mut networks = networks.into_iter().flatten();
    networks.any(|network| network.get("Mode").and_then(|found| found.as_str()) == Some(mode))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_ends_in_the_network_is_waited_for_and_nothing_else() {
        let allocation = |id: &str, desired: &str, client: &str, mode: &str, node: &str| {
            let found = json!({
                "ID": id, "JobID": id, "Namespace": "default", "DesiredStatus": desired, "ClientStatus": client, "NodeID": node,
                "AllocatedResources": { "Shared": { "Networks": [{ "Mode": mode }] } },
            });
            serde_json::from_value::<Allocation>(found).unwrap()
        };
        let allocations = [
            allocation("ends", "stop", "running", "cni/mesh", "a"),
            allocation("evicted", "evict", "running", "cni/mesh", "a"),
            allocation("ended", "stop", "complete", "cni/mesh", "a"),
            allocation("runs", "run", "running", "cni/mesh", "a"),
            allocation("stopped", "run", "running", "cni/mesh", "a"),
            allocation("purged", "run", "running", "cni/mesh", "a"),
            allocation("other", "stop", "running", "cni/mesh2", "a"),
            allocation("host", "stop", "running", "host", "a"),
            allocation("lost", "stop", "running", "cni/mesh", "b"),
        ];
        let node = |id: &str, status: &str| Node {
            id: id.into(),
            status: status.into(),
            ..Node::default()
        };
        let nodes = [node("a", "ready"), node("b", "down")];
        let network = CniNetwork::default();
        let job = |id: &str, stop: bool| JobStub {
            id: id.into(),
            namespace: "default".into(),
            stop: stop.into(),
            ..JobStub::default()
        };
        let jobs = [job("ends", false), job("runs", false), job("stopped", true)];
        let found = ending(&allocations, &jobs, &nodes, &network);
        let found: Vec<_> = found.map(|found| found.id.text()).collect();
        assert_eq!(found, ["ends", "evicted", "stopped", "purged"]);
    }
}
