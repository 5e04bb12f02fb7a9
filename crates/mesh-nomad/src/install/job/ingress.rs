//! Gateways that let callers outside the mesh in.

use std::collections::BTreeMap;

use mesh_model::ServiceAccount;
use serde_json::json;

use super::{Component, Jobs, constraint, host_network, restart, rolling, size, spread};
use crate::identity::ROLE_META;
use crate::inject::{HEALTH_LABEL, identity_for, sidecar_file};
use crate::install::settings::{Ingress, Runner};
use crate::model::{Check, Job, Nanoseconds, Service, Task, TaskGroup};
use crate::sidecar::{DNS_LABEL, METRICS_LABEL, Mode, Sidecar};

/// The account of the gateways: that of a job is named as the job.
pub const ACCOUNT: &str = "mesh-ingress";

impl Jobs<'_> {
    /// The gateways; none where none are wanted.
    ///
    /// They are as far apart as their ports ask for, and called by nobody in the mesh: what the
    /// catalogue has of them is for whoever leads callers to them.
    pub(super) fn ingress(&self) -> Option<Job> {
        let Ingress { count, ports } = &self.settings.ingress;
        if *count == 0 {
            return None;
        }
        let labels: Vec<_> = ports.iter().map(|port| format!("port_{port}")).collect();
        let numbers = labels.iter().zip(ports);
        let mut network: Vec<_> = numbers
            .map(|(label, port)| (label.as_str(), Some(*port)))
            .collect();
        // On a node there may be other proxies in the same network.
        network.extend([HEALTH_LABEL, DNS_LABEL, METRICS_LABEL].map(|label| (label, None)));
        let mut group = TaskGroup {
            name: "ingress".into(),
            count: i64::from(*count).into(),
            constraints: vec![constraint("", "distinct_hosts", "true")].into(),
            networks: host_network(&network),
            services: vec![service(labels.first().map_or(HEALTH_LABEL, String::as_str))].into(),
            update: rolling(5, true),
            restart_policy: restart(),
            // Callers go elsewhere before it ends.
            shutdown_delay: Nanoseconds::seconds(5).into(),
            tasks: vec![self.gateway()].into(),
            ..TaskGroup::default()
        };
        group.extra.extend([spread()]);
        let job = self.job(Component::Ingress, "service", group);
        Some(Job {
            namespace: self.settings.ingress_namespace().into(),
            ..job
        })
    }

    fn gateway(&self) -> Task {
        let words = [
            "agent",
            "--as-proxy-user",
            "--nomad",
            "${NOMAD_TASK_DIR}/mesh.json",
        ];
        let words = words.map(str::to_owned);
        let mut task = self.mesh_task("gateway", &words, size(250, 256));
        if self.settings.delivery.runner == Runner::Docker {
            let rights = json!(["net_bind_service", "setgid", "setuid"]);
            task.config
                .or_default()
                .insert("cap_add".to_owned(), rights);
        }
        let sidecar = serde_json::to_string(&self.sidecar()).unwrap_or_default();
        task.identities = vec![identity_for("mesh-ca")].into();
        task.templates = vec![sidecar_file(&sidecar)].into();
        let role = (ROLE_META.to_owned(), "proxy".to_owned());
        task.meta = BTreeMap::from([role]).into();
        task
    }

    fn sidecar(&self) -> Sidecar {
        #[expect(
            clippy::expect_used,
            reason = "a constant, which the golden jobs would notice wrong"
        )]
        let service_account: ServiceAccount = ACCOUNT.parse().expect("an account");
        let label = ("istio".to_owned(), "ingressgateway".to_owned());
        Sidecar {
            mode: Mode::Explicit,
            trust_domain: self.settings.trust_domain.clone().unwrap_or_default(),
            mesh_namespace: self.settings.namespace.clone(),
            service_account,
            gateway: true,
            labels: BTreeMap::from([label]),
            services: Vec::new(),
            upstreams: Vec::new(),
            probes: Vec::new(),
        }
    }
}

fn service(port: &str) -> Service {
    Service {
        name: Component::Ingress.job_id().into(),
        provider: "nomad".into(),
        port_label: port.into(),
        checks: vec![Check {
            name: "ready".into(),
            kind: "http".into(),
            path: "/ready".into(),
            port_label: HEALTH_LABEL.into(),
            interval: Nanoseconds::seconds(3).into(),
            timeout: Nanoseconds::seconds(2).into(),
            ..Check::default()
        }]
        .into(),
        ..Service::default()
    }
}
