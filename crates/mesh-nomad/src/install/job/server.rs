//! The roles of `mesh server`: each a job, or all of them in one.

use super::etcd::endpoints;
use super::{Component, Jobs, constraint, host_network, restart, rolling, root_tags, size, spread};
use crate::install::API_NAME;
use crate::install::secret::variable_path;
use crate::install::settings::{Runner, Settings};
use crate::model::{
    Check, Job, Nanoseconds, Resources, Service, TaskGroup, VolumeMount, VolumeRequest,
};

/// The name of the volume with everything of a `--dev` install.
pub(in crate::install) const DEV_VOLUME: &str = "mesh-data";

/// Where a `--dev` install has its store and keys: on a volume, or in a directory of the node.
pub(super) fn dev_home(settings: &Settings) -> String {
    match settings.delivery.runner {
        Runner::Docker => "/var/lib/mesh".to_owned(),
        Runner::RawExec => format!("{}/server", settings.directory),
    }
}

impl Jobs<'_> {
    /// A role of its own.
    pub(super) fn role(&self, component: Component, count: u16) -> Job {
        // Of the task's own memory file system: keys are on no disk, and gone with the allocation.
        let home = "${NOMAD_SECRETS_DIR}/mesh";
        let mut words = vec!["server".to_owned()];
        let mut flag =
            |name: &str, value: &str| words.extend([format!("--{name}"), value.to_owned()]);
        flag("home", home);
        flag("nomad-files", &variable_path(component));
        flag("metrics-listen", "${NOMAD_ADDR_metrics}");
        let endpoints = endpoints(self.members).join(",");
        let (role, port, number, memory) = match component {
            Component::Api => {
                flag("api-listen", "${NOMAD_ADDR_api}");
                flag("advertise", "${NOMAD_IP_api}");
                flag("api-name", API_NAME);
                flag("store", "etcd");
                flag("etcd-endpoints", &endpoints);
                flag("etcd-cafile", &format!("{home}/etcd/ca.crt"));
                flag("etcd-certfile", &format!("{home}/etcd/client.crt"));
                flag("etcd-keyfile", &format!("{home}/etcd/client.key"));
                ("api", "api", Some(self.settings.api_port), 256)
            }
            Component::Mixer => {
                flag("mixer-listen", "${NOMAD_ADDR_mixer}");
                flag("advertise", "${NOMAD_IP_mixer}");
                flag("api-service", Component::Api.job_id());
                ("mixer", "mixer", None, 256)
            }
            _ => {
                flag("grpc-listen", "${NOMAD_ADDR_grpc}");
                flag("advertise", "${NOMAD_IP_grpc}");
                flag("api-service", Component::Api.job_id());
                let is_pilot = component == Component::Pilot;
                (
                    if is_pilot { "pilot" } else { "ca" },
                    "grpc",
                    None,
                    if is_pilot { 512 } else { 128 },
                )
            }
        };
        flag("roles", role);
        if let (Component::Ca, Some(domain)) = (component, &self.settings.trust_domain) {
            flag("trust-domain", &domain.to_string());
        }
        words.push("--nomad".to_owned());

        let task = self.mesh_task(role, &words, size(200, memory));
        let mut group = TaskGroup {
            name: role.into(),
            count: i64::from(count).into(),
            networks: host_network(&[(port, number), ("metrics", None)]),
            services: vec![self.service(component.job_id(), port)].into(),
            update: rolling(5, true),
            restart_policy: restart(),
            // Callers go elsewhere before it ends.
            shutdown_delay: Nanoseconds::seconds(5).into(),
            tasks: vec![task].into(),
            ..TaskGroup::default()
        };
        if number.is_some() {
            group.constraints = vec![constraint("", "distinct_hosts", "true")].into();
        }
        group.extra.extend([spread()]);
        self.job(component, "service", group)
    }

    /// Every role in one process, with a file as the store.
    pub(super) fn dev(&self) -> Job {
        let is_container = self.settings.delivery.runner == Runner::Docker;
        let home = dev_home(self.settings);
        let mut words = vec!["server".to_owned()];
        let mut flag =
            |name: &str, value: &str| words.extend([format!("--{name}"), value.to_owned()]);
        flag("home", &home);
        flag("nomad-files", &variable_path(Component::Dev));
        flag("api-listen", "${NOMAD_ADDR_api}");
        flag("grpc-listen", "${NOMAD_ADDR_grpc}");
        flag("mixer-listen", "${NOMAD_ADDR_mixer}");
        flag("metrics-listen", "${NOMAD_ADDR_metrics}");
        flag("advertise", "${NOMAD_IP_grpc}");
        flag("api-name", API_NAME);
        if let Some(domain) = &self.settings.trust_domain {
            flag("trust-domain", &domain.to_string());
        }
        words.push("--nomad".to_owned());
        let memory = Resources { ..size(500, 512) };
        let mut task = self.mesh_task("server", &words, memory);
        let services = [
            (Component::Api, "api"),
            (Component::Ca, "grpc"),
            (Component::Pilot, "grpc"),
            (Component::Mixer, "mixer"),
        ];
        let mut group = TaskGroup {
            name: "mesh".into(),
            count: 1.into(),
            networks: host_network(&[
                ("api", Some(self.settings.api_port)),
                ("grpc", None),
                ("mixer", None),
                ("metrics", None),
            ]),
            services: services
                .map(|(component, port)| self.service(component.job_id(), port))
                .to_vec()
                .into(),
            update: rolling(3, true),
            restart_policy: restart(),
            shutdown_delay: Nanoseconds::seconds(1).into(),
            ..TaskGroup::default()
        };
        if is_container {
            let volume = VolumeRequest {
                name: "data".into(),
                kind: "host".into(),
                source: DEV_VOLUME.into(),
                sticky: true.into(),
                access_mode: "single-node-single-writer".into(),
                attachment_mode: "file-system".into(),
                ..VolumeRequest::default()
            };
            group.volumes.or_default().insert("data".to_owned(), volume);
            task.volume_mounts = vec![VolumeMount {
                volume: "data".into(),
                destination: home.into(),
                ..VolumeMount::default()
            }]
            .into();
        } else {
            // The store is a file of this node; a move would be another mesh.
            group.constraints = vec![self.on_members()].into();
        }
        group.tasks = vec![task].into();
        self.job(Component::Dev, "service", group)
    }

    fn service(&self, name: &str, port: &str) -> Service {
        let mut service = Service {
            name: name.into(),
            provider: "nomad".into(),
            port_label: port.into(),
            checks: vec![Check {
                name: "ready".into(),
                kind: "http".into(),
                path: "/ready".into(),
                port_label: "metrics".into(),
                interval: Nanoseconds::seconds(3).into(),
                timeout: Nanoseconds::seconds(2).into(),
                ..Check::default()
            }]
            .into(),
            ..Service::default()
        };
        if name == Component::Ca.job_id() && !self.roots.is_empty() {
            service.tags = root_tags(self.roots).into();
        }
        service
    }
}
