//! Work on nodes: what a node needs for injected groups, and whether it can get the programs.

use super::{Component, Jobs, owner, size};
use crate::install::settings::{Runner, Settings};
use crate::model::{Job, RestartPolicy, Task, TaskGroup};

impl Jobs<'_> {
    /// Preparation of every node that runs processes: plugin, network, user. None where the mesh is
    /// in images only, for a container cannot change its node.
    pub(super) fn node(&self) -> Option<Job> {
        let network = self.settings.network.as_ref()?;
        let words = [
            "nomad",
            "node",
            "prepare",
            "--network",
            &network.name,
            "--bridge",
            &network.bridge,
            "--subnet",
            &network.subnet,
        ];
        self.on_nodes(Component::Node.job_id(), &words)
    }

    fn on_nodes(&self, id: &str, words: &[&str]) -> Option<Job> {
        if self.settings.delivery.runner != Runner::RawExec {
            return None;
        }
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let task = self.mesh_task("prepare", &words, size(50, 128));
        Some(self.sysbatch(id, vec![task]))
    }

    fn sysbatch(&self, id: &str, tasks: Vec<Task>) -> Job {
        let group = TaskGroup {
            name: "node".into(),
            tasks: tasks.into(),
            restart_policy: RestartPolicy {
                attempts: 0.into(),
                mode: "fail".into(),
                ..RestartPolicy::default()
            }
            .into(),
            ..TaskGroup::default()
        };
        let job = self.job(Component::Node, "sysbatch", group);
        Job {
            id: id.into(),
            name: id.into(),
            // Workloads may be in any pool.
            node_pool: "all".into(),
            meta: owner(id),
            ..job
        }
    }
}

/// A job that fetches the programs on every node and asks each for its version.
pub fn check(settings: &Settings) -> Job {
    let jobs = Jobs {
        settings,
        members: &[],
        roots: &[],
    };
    let version = ["--version".to_owned()];
    let mesh = jobs.mesh_task("mesh", &version, size(50, 64));
    jobs.sysbatch("mesh-check", vec![mesh])
}

/// A job that takes out of every node what the preparation put there, and the data if it is to go.
/// None where nothing was put there.
pub fn removal(settings: &Settings, purge_data: bool) -> Option<Job> {
    let jobs = Jobs {
        settings,
        members: &[],
        roots: &[],
    };
    let mut words = vec!["nomad", "node", "remove"];
    if let Some(network) = &settings.network {
        words.extend(["--network", &network.name]);
    }
    if purge_data {
        words.extend(["--purge-data", &settings.directory]);
    }
    jobs.on_nodes("mesh-node-removal", &words)
}
