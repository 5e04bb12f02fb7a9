//! The store: one group whose members stay where they are.
//!
//! Three groups of one member would be updated at the same time; one group of three is updated one
//! after the other. A member's identity is its node, so nothing in the job tells members apart.

use serde_json::{Value, json};

use super::{Component, Jobs, Member, constraint, host_network, restart, rolling, size};
use crate::install::secret::variable_path;
use crate::install::settings::{Counts, Runner, Settings};
use crate::model::{
    Check, Field, Job, Lifecycle, Nanoseconds, Service, TaskGroup, VolumeMount, VolumeRequest,
};

/// Client, peer and metrics ports of a member. The last speaks no TLS, for Nomad's checks have no
/// certificate, and tells of health and numbers only.
const PORTS: [(&str, Option<u16>); 3] = [
    ("client", Some(2379)),
    ("peer", Some(2380)),
    ("metrics", Some(2381)),
];

/// The name of the volume of a member's node.
pub(in crate::install) const VOLUME: &str = "mesh-etcd";

/// Where a member keeps its data: on a volume, or in a directory of the node.
pub fn directory(settings: &Settings) -> String {
    match settings.delivery.runner {
        Runner::Docker => "/data".to_owned(),
        Runner::RawExec => format!("{}/etcd", settings.directory),
    }
}

/// How the API reaches the members.
pub fn endpoints(members: &[Member]) -> Vec<String> {
    let endpoint = |member: &Member| format!("https://{}:2379", bracketed(&member.address));
    members.iter().map(endpoint).collect()
}

impl Jobs<'_> {
    pub(super) fn etcd(&self, counts: Counts) -> Job {
        let directory = directory(self.settings);
        let has_volume = self.settings.delivery.runner == Runner::Docker;
        let mut constraints = vec![constraint("", "distinct_hosts", "true")];
        let mut volumes = Field::Absent;
        let mut mounts = Field::Absent;
        if has_volume {
            let volume = VolumeRequest {
                name: "data".into(),
                kind: "host".into(),
                source: VOLUME.into(),
                sticky: true.into(),
                access_mode: "single-node-single-writer".into(),
                attachment_mode: "file-system".into(),
                ..VolumeRequest::default()
            };
            volumes = [("data".to_owned(), volume)]
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>()
                .into();
            mounts = vec![VolumeMount {
                volume: "data".into(),
                destination: directory.as_str().into(),
                ..VolumeMount::default()
            }]
            .into();
        } else {
            // The data is in a directory of these nodes.
            constraints.push(self.on_members());
        }
        let words = self.words(&directory);
        let tls = format!("{directory}/tls");
        let etcd = &self.settings.delivery.etcd;
        // Written to the data's place, so that a start without Nomad's servers finds them.
        let variable = variable_path(Component::Etcd);
        let with_files = [
            "with-files",
            "--nomad-files",
            &variable,
            "--home",
            &tls,
            "--",
        ];
        let with_files = with_files.map(str::to_owned).into_iter();
        let mut tasks = Vec::new();
        let mut member = if has_volume {
            // The image of etcd has no `mesh`.
            let wrapped = ["mesh", "--version"].map(str::to_owned);
            let wrapped: Vec<_> = with_files.chain(wrapped).collect();
            let mut files = self.mesh_task("files", &wrapped, size(50, 64));
            files.lifecycle = Lifecycle {
                hook: "prestart".into(),
                sidecar: false.into(),
                ..Lifecycle::default()
            }
            .into();
            files.volume_mounts = mounts.clone();
            tasks.push(files);
            self.task("etcd", etcd, "etcd", &words, size(500, 512))
        } else {
            let wrapped: Vec<_> = with_files.chain([etcd.clone()]).chain(words).collect();
            self.mesh_task("etcd", &wrapped, size(500, 512))
        };
        member.kill_timeout = Nanoseconds::seconds(30).into();
        member.volume_mounts = mounts;
        tasks.push(member);
        let mut group = TaskGroup {
            name: "etcd".into(),
            count: i64::from(counts.etcd).into(),
            constraints: constraints.into(),
            networks: host_network(&PORTS),
            services: vec![service()].into(),
            volumes,
            update: rolling(10, false),
            restart_policy: restart(),
            tasks: tasks.into(),
            ..TaskGroup::default()
        };
        group.extra.extend(never_moved());
        self.job(Component::Etcd, "service", group)
    }

    fn words(&self, directory: &str) -> Vec<String> {
        let tls = format!("{directory}/tls");
        let initial = |member: &Member| {
            format!(
                "{}=https://{}:2380",
                member.node,
                bracketed(&member.address)
            )
        };
        let initial: Vec<_> = self.members.iter().map(initial).collect();
        let pairs = [
            ("name", "${node.unique.id}".to_owned()),
            ("data-dir", format!("{directory}/member")),
            (
                "listen-client-urls",
                "https://${NOMAD_ADDR_client}".to_owned(),
            ),
            (
                "advertise-client-urls",
                "https://${NOMAD_ADDR_client}".to_owned(),
            ),
            ("listen-peer-urls", "https://${NOMAD_ADDR_peer}".to_owned()),
            (
                "initial-advertise-peer-urls",
                "https://${NOMAD_ADDR_peer}".to_owned(),
            ),
            (
                "listen-metrics-urls",
                "http://${NOMAD_ADDR_metrics}".to_owned(),
            ),
            // These are for the first start alone: with data they are not looked at.
            ("initial-cluster", initial.join(",")),
            ("initial-cluster-state", "new".to_owned()),
            ("initial-cluster-token", "mesh-etcd".to_owned()),
            ("client-cert-auth", "true".to_owned()),
            ("trusted-ca-file", format!("{tls}/ca.crt")),
            ("cert-file", format!("{tls}/member.crt")),
            ("key-file", format!("{tls}/member.key")),
            ("peer-client-cert-auth", "true".to_owned()),
            ("peer-trusted-ca-file", format!("{tls}/ca.crt")),
            ("peer-cert-file", format!("{tls}/member.crt")),
            ("peer-key-file", format!("{tls}/member.key")),
            // The API compacts by itself; space is given back hourly all the same.
            ("auto-compaction-mode", "periodic".to_owned()),
            ("auto-compaction-retention", "1h".to_owned()),
        ];
        pairs
            .into_iter()
            .map(|(name, value)| format!("--{name}={value}"))
            .collect()
    }
}

/// A member is never placed anew by itself: its data is where it was.
fn never_moved() -> impl Iterator<Item = (String, Value)> {
    let fields = [
        (
            "ReschedulePolicy",
            json!({ "Attempts": 0, "Interval": 0, "Unlimited": false }),
        ),
        (
            "Disconnect",
            json!({ "LostAfter": DAY, "Replace": false, "Reconcile": "keep_original" }),
        ),
        (
            "Migrate",
            json!({
                "MaxParallel": 1, "HealthCheck": "checks",
                "MinHealthyTime": Nanoseconds::seconds(10), "HealthyDeadline": Nanoseconds::seconds(300),
            }),
        ),
    ];
    fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
}

fn service() -> Service {
    Service {
        name: "mesh-etcd".into(),
        provider: "nomad".into(),
        port_label: "client".into(),
        checks: vec![Check {
            name: "health".into(),
            kind: "http".into(),
            path: "/health".into(),
            port_label: "metrics".into(),
            interval: Nanoseconds::seconds(5).into(),
            timeout: Nanoseconds::seconds(3).into(),
            ..Check::default()
        }]
        .into(),
        ..Service::default()
    }
}

/// An address as a URL has it.
fn bracketed(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// How long a member may be cut off before its allocation counts as lost; nothing takes its place.
const DAY: Nanoseconds = Nanoseconds::seconds(24 * 3600);
