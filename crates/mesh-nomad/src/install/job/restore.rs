//! A task beside the store of a `--dev` install, in which `mesh restore` fills it before the control
//! plane begins. The backup comes over the connection of the command: no variable could hold it.

use super::server::{DEV_VOLUME, dev_home};
use super::{Component, Jobs, Member, size};
use crate::install::settings::{Runner, Settings};
use crate::model::{Job, Nanoseconds, TaskGroup, Update, VolumeMount, VolumeRequest};

/// A job that waits where the store is: its ID and the name of its task are `mesh-restore`.
pub fn job(settings: &Settings, members: &[Member]) -> Job {
    let jobs = Jobs {
        settings,
        members,
        roots: &[],
    };
    let words = ["nomad", "node", "wait"].map(str::to_owned);
    let mut task = jobs.mesh_task(ID, &words, size(100, 128));
    task.kill_timeout = Nanoseconds::seconds(5).into();
    let mut group = TaskGroup {
        name: "restore".into(),
        count: 1.into(),
        constraints: vec![jobs.on_members()].into(),
        update: Update {
            max_parallel: 1.into(),
            health_check: "task_states".into(),
            min_healthy_time: Nanoseconds::seconds(1).into(),
            healthy_deadline: Nanoseconds::seconds(120).into(),
            progress_deadline: Nanoseconds::seconds(180).into(),
            ..Update::default()
        }
        .into(),
        ..TaskGroup::default()
    };
    if settings.delivery.runner == Runner::Docker {
        // Not sticky: the volume is to be claimed by the job that stays.
        let volume = VolumeRequest {
            name: "data".into(),
            kind: "host".into(),
            source: DEV_VOLUME.into(),
            access_mode: "single-node-single-writer".into(),
            attachment_mode: "file-system".into(),
            ..VolumeRequest::default()
        };
        group.volumes.or_default().insert("data".to_owned(), volume);
        task.volume_mounts = vec![VolumeMount {
            volume: "data".into(),
            destination: dev_home(settings).into(),
            ..VolumeMount::default()
        }]
        .into();
    }
    group.tasks = vec![task].into();
    let job = jobs.job(Component::Dev, "service", group);
    Job {
        id: ID.into(),
        name: ID.into(),
        meta: super::owner(ID),
        ..job
    }
}

/// What is run in the task, with the backup as its standard input.
pub fn command(settings: &Settings) -> Vec<String> {
    let home = dev_home(settings);
    let delivery = &settings.delivery;
    let words = match delivery.runner {
        Runner::Docker => vec!["mesh", "restore", "-", "--home", &home],
        Runner::RawExec => {
            // Such commands begin in the root directory of the node, not in that of the task.
            let script = match delivery.mesh.strip_prefix("local/") {
                Some(_) => "exec \"${NOMAD_TASK_DIR}/${0#local/}\" \"$@\"",
                None => "exec \"$0\" \"$@\"",
            };
            let mesh = delivery.mesh.as_str();
            vec![
                "/bin/sh", "-c", script, mesh, "restore", "-", "--home", &home,
            ]
        }
    };
    words.into_iter().map(str::to_owned).collect()
}

/// The ID of the job.
const ID: &str = "mesh-restore";
