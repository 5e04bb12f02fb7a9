//! Work on nodes: what a node needs for injected groups, and whether it can get the programs.

use std::time::Duration;

use super::{Component, Jobs, Member, owner, size};
use crate::install::settings::{Runner, Settings, Shape};
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
        Some(self.sysbatch(id, vec![Self::once("node", task)]))
    }

    /// A group whose task is done or failed after one start.
    fn once(name: &str, task: Task) -> TaskGroup {
        TaskGroup {
            name: name.into(),
            tasks: vec![task].into(),
            restart_policy: RestartPolicy {
                attempts: 0.into(),
                mode: "fail".into(),
                ..RestartPolicy::default()
            }
            .into(),
            ..TaskGroup::default()
        }
    }

    fn sysbatch(&self, id: &str, groups: Vec<TaskGroup>) -> Job {
        let job = self.job(Component::Node, "sysbatch", TaskGroup::default());
        Job {
            id: id.into(),
            name: id.into(),
            task_groups: groups.into(),
            // Workloads may be in any pool.
            node_pool: "all".into(),
            meta: owner(id),
            ..job
        }
    }
}

/// A job that fetches the programs on every node and asks for their version. The image of etcd is
/// needed where its members are alone; other ways bring etcd together with `mesh`.
pub fn check(settings: &Settings, members: &[Member]) -> Job {
    let jobs = Jobs {
        settings,
        members,
        roots: &[],
    };
    let version = ["--version".to_owned()];
    let mesh = jobs.mesh_task("mesh", &version, size(50, 64));
    let mut groups = vec![Jobs::once("node", mesh)];
    let has_image = settings.delivery.runner == Runner::Docker;
    if has_image && matches!(settings.shape, Shape::Cluster(_)) {
        let etcd = &settings.delivery.etcd;
        let etcd = jobs.task("etcd", etcd, "etcd", &version, size(50, 64));
        let mut store = Jobs::once("store", etcd);
        store.constraints = vec![jobs.on_members()].into();
        groups.push(store);
    }
    jobs.sysbatch("mesh-check", groups)
}

/// A job that takes out of every node what the preparation put there, and the data if it is to go;
/// each node waits so long for groups in the network that end, without a time takes it from them.
/// None where nothing was put there.
///
/// Nomad's servers forget the allocations of a job that is purged at once, so nobody but the node
/// knows of these.
pub fn removal(settings: &Settings, purge_data: bool, wait: Option<Duration>) -> Option<Job> {
    let jobs = Jobs {
        settings,
        members: &[],
        roots: &[],
    };
    let wait = wait.map(|wait| wait.as_secs().to_string());
    let mut words = vec!["nomad", "node", "remove"];
    match &wait {
        Some(wait) => words.extend(["--wait", wait]),
        None => words.push("--force"),
    }
    if let Some(network) = &settings.network {
        words.extend(["--network", &network.name]);
    }
    if purge_data {
        words.extend(["--purge-data", &settings.directory]);
    }
    jobs.on_nodes("mesh-node-removal", &words)
}
