//! What becomes of a group's services, their ports and their checks.

use std::collections::BTreeMap;

use mesh_model::sidecar::{FORWARD_PROXY_PORT, READINESS_PORT};
use mesh_model::{Protocol, ServiceName};

use super::{GroupPlan, HEALTH_LABEL, annotation};
use crate::model::{Check, Field, Nanoseconds, Network, Port, Service, TaskGroup};
use crate::refusal::Refusals;
use crate::sidecar::{
    DNS_LABEL, METRICS_LABEL, Mode, PortRef, Probe, ProbeKind, Sidecar, SidecarService, Upstream,
    variable,
};

/// Services of a group as they are changed, and what the proxy is told of them.
pub(super) struct Services<'p, 'a> {
    pub(super) plan: &'p GroupPlan<'a>,
    pub(super) sidecar: &'p mut Sidecar,
    pub(super) refusals: &'p mut Refusals,
    /// Probes by service, so that two services of a name do not share one.
    count: BTreeMap<String, usize>,
    /// In mode `explicit`, ports of the proxy by the port that they stand for.
    listeners: BTreeMap<String, Port>,
}

impl<'p, 'a> Services<'p, 'a> {
    pub(super) fn new(
        plan: &'p GroupPlan<'a>,
        sidecar: &'p mut Sidecar,
        refusals: &'p mut Refusals,
    ) -> Self {
        Self {
            plan,
            sidecar,
            refusals,
            count: BTreeMap::new(),
            listeners: BTreeMap::new(),
        }
    }

    /// Changes the services of the group and of its tasks, and adds the ports of the proxy.
    pub(super) fn change(mut self, group: &mut TaskGroup) {
        let plan = self.plan;
        let owner = format!("{}-{}", plan.job.name_or_id(), group.name.text());
        for (index, service) in group.services.items_mut().iter_mut().enumerate() {
            let path = format!("{}.Services[{index}]", plan.path);
            self.service(service, &path, &owner);
        }
        for task in group.tasks.items_mut() {
            let name = task.name.text().to_owned();
            let owner = format!("{owner}-{name}");
            for (index, service) in task.services.items_mut().iter_mut().enumerate() {
                let path = format!("{}.Tasks[{name}].Services[{index}]", plan.path);
                self.service(service, &path, &owner);
            }
        }
        self.upstreams(group);
        add_ready_check(group);
        let listeners = self.listeners.into_values();
        let ports = plan
            .proxy_ports()
            .into_iter()
            .chain(listeners.map(|port| (port, Fixed::No)));
        let ports: Vec<_> = ports.chain(plan.upstream_ports()).collect();
        if group.networks.items().is_empty() {
            let network = Network {
                mode: "host".into(),
                ..Network::default()
            };
            group.networks.or_default().push(network);
        }
        if let Some(network) = group.networks.items_mut().first_mut() {
            for (port, fixed) in ports {
                match fixed {
                    Fixed::Yes => network.reserved_ports.or_default().push(port),
                    Fixed::No => network.dynamic_ports.or_default().push(port),
                }
            }
        }
    }

    fn service(&mut self, service: &mut Service, path: &str, default_name: &str) {
        let name = match service.name.text() {
            "" => default_name.to_owned(),
            name => name.to_owned(),
        };
        if name.parse::<ServiceName>().is_err() {
            self.refusals.add(
                format!("{path}.Name"),
                format!("`{name}` is no name of a service in the mesh"),
                "write it out in lower-case letters, digits and dashes, at most 63",
            );
        }
        let port = self.plan.port(service.port_label.text());
        if port.is_none() && !service.port_label.text().is_empty() {
            self.refusals.add(
                format!("{path}.PortLabel"),
                format!("the group has no port `{}`", service.port_label.text()),
                "name a port of the group's network, or a number",
            );
        }
        for (at, check) in service.checks.items_mut().iter_mut().enumerate() {
            let port = match check.port_label.text() {
                "" => port.clone(),
                label => self.plan.port(label),
            };
            let path = format!("{path}.Checks[{at}]");
            self.check(check, &name, port, &path);
        }
        let Some(port) = port else { return };
        let protocol = self.protocol(service, path);
        let said = &self.plan.annotations.ports;
        let number = said
            .get(&name)
            .or_else(|| said.get(service.port_label.text()));
        let number = number.copied();
        let listen = (self.plan.mode == Mode::Explicit).then(|| {
            let listener = self.listener(service.port_label.text(), path, service);
            service.port_label = listener.label.clone();
            self.plan.reference(&listener)
        });
        self.sidecar.services.push(SidecarService {
            name,
            port,
            number,
            listen,
            protocol,
        });
        let meta = service.meta.get().into_iter().flatten();
        let labels = meta.filter(|(key, _)| !key.starts_with("mesh"));
        self.sidecar
            .labels
            .extend(labels.map(|(key, value)| (key.clone(), value.clone())));
    }

    /// The port of the proxy that stands for the application's.
    fn listener(&mut self, label: &str, path: &str, service: &Service) -> Port {
        if service.address_mode.text() == "driver" {
            self.refusals.add(
                format!("{path}.AddressMode"),
                "`driver` gives the address of the application, not of the proxy",
                "leave it out, or use another mode than `explicit`",
            );
        }
        let index = i64::try_from(self.listeners.len()).unwrap_or(i64::MAX);
        let network = self.plan.group.network();
        let original = network.and_then(|network| network.port(label));
        let listener = Port {
            label: format!("mesh_in_{index}").into(),
            to: if self.plan.has_namespace {
                FIRST_LISTENER.saturating_add(index).into()
            } else {
                Field::Absent
            },
            host_network: original.map_or(Field::Absent, |port| port.host_network.clone()),
            ..Port::default()
        };
        self.listeners
            .entry(label.to_owned())
            .or_insert(listener)
            .clone()
    }

    /// What is spoken: by annotation, by the service's meta, by the name of the port.
    fn protocol(&mut self, service: &Service, path: &str) -> Protocol {
        let label = service.port_label.text();
        if let Some(protocol) = self.plan.annotations.protocols.get(label) {
            return *protocol;
        }
        let meta = service.meta.get();
        let said = ["mesh.protocol", "mesh_protocol", "protocol"]
            .into_iter()
            .find_map(|key| Some((key, meta?.get(key)?)));
        if let Some((key, text)) = said {
            return annotation::protocol(text).unwrap_or_else(|expected| {
                let path = format!("{path}.Meta[{key}]");
                self.refusals
                    .add(path, format!("`{text}` is not {expected}"), "");
                Protocol::Tcp
            });
        }
        let word = label.split(['-', '_']).next().unwrap_or_default();
        annotation::protocol(word).unwrap_or(Protocol::Tcp)
    }

    /// Nomad's checks come in plaintext from the host, so that strict mutual TLS refuses them:
    /// they go to the proxy, which makes them where the application is.
    fn check(&mut self, check: &mut Check, service: &str, port: Option<PortRef>, path: &str) {
        let kind = match check.kind.text() {
            "http" => ProbeKind::Http,
            "tcp" => ProbeKind::Tcp,
            "grpc" => ProbeKind::Grpc,
            // A script runs in a task, and a TTL is the application's own word.
            _ => return,
        };
        if self.plan.annotations.rewrite_checks == Some(false) {
            return;
        }
        let Some(port) = port else {
            let hint = "name a port of the group's network, or a number";
            self.refusals
                .add(format!("{path}.PortLabel"), "the check has no port", hint);
            return;
        };
        let is_tls = match kind {
            ProbeKind::Http => check.protocol.text() == "https",
            ProbeKind::Grpc => check.grpc_use_tls.value(),
            ProbeKind::Tcp => false,
        };
        if is_tls {
            self.refusals.add(
                path,
                "the check is made over TLS, which the proxy does not do in its place",
                "make it a tcp check, or say `mesh.rewrite_checks = false` and exclude its port",
            );
            return;
        }
        let count = self.count.entry(service.to_owned()).or_default();
        let index = *count;
        *count += 1;
        let timeout_ms = u64::try_from(check.timeout.value().to_duration().as_millis());
        self.sidecar.probes.push(Probe {
            service: service.to_owned(),
            index,
            kind,
            port,
            timeout_ms: timeout_ms.unwrap_or(u64::MAX),
            path: check.path.text().to_owned(),
            method: check.method.text().to_owned(),
            headers: check.header.get().cloned().unwrap_or_default(),
            body: check.body.text().to_owned(),
            grpc_service: check.grpc_service.text().to_owned(),
        });
        check.kind = "http".into();
        check.path = format!("/app-health/{service}/{index}").into();
        check.port_label = HEALTH_LABEL.into();
        for text in [
            &mut check.method,
            &mut check.protocol,
            &mut check.address_mode,
            &mut check.body,
            &mut check.grpc_service,
            &mut check.tls_server_name,
        ] {
            if !text.text().is_empty() {
                *text = Field::Absent;
            }
        }
        for flag in [
            &mut check.grpc_use_tls,
            &mut check.tls_skip_verify,
            &mut check.expose,
        ] {
            if flag.value() {
                *flag = Field::Absent;
            }
        }
        if check.header.get().is_some_and(|header| !header.is_empty()) {
            check.header = Field::Absent;
        }
    }

    /// Ports of loopback for the services that applications call, told to them by environment.
    fn upstreams(&mut self, group: &mut TaskGroup) {
        if self.plan.mode != Mode::Explicit {
            return;
        }
        for (index, (host, port)) in self.plan.annotations.upstreams.iter().enumerate() {
            let listen = self.plan.upstream_port(index);
            let reference = self.plan.reference(&listen);
            let number = match &reference {
                PortRef::Number(number) => number.to_string(),
                PortRef::Label(label) => format!("${{NOMAD_PORT_{label}}}"),
            };
            let name: String = host
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() {
                        c.to_ascii_uppercase()
                    } else {
                        '_'
                    }
                })
                .collect();
            let variables = [
                (
                    format!("MESH_UPSTREAM_ADDR_{name}"),
                    format!("127.0.0.1:{number}"),
                ),
                (format!("MESH_UPSTREAM_IP_{name}"), "127.0.0.1".to_owned()),
                (format!("MESH_UPSTREAM_PORT_{name}"), number),
            ];
            for task in group.tasks.items_mut() {
                let path = format!("{}.Tasks[{}].Env", self.plan.path, task.name.text());
                let env = task.env.or_default();
                for (key, value) in &variables {
                    if env.insert(key.clone(), value.clone()).is_some() {
                        let reason = format!("`{key}` is there already, or two upstreams share it");
                        self.refusals
                            .add(&path, reason, "rename the variable or the upstream");
                    }
                }
            }
            self.sidecar.upstreams.push(Upstream {
                host: host.clone(),
                port: *port,
                listen: reference,
            });
        }
    }
}

/// Whether the job picks the port on the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fixed {
    Yes,
    No,
}

impl GroupPlan<'_> {
    /// The port of this label or number, as processes of the group see it.
    pub(super) fn port(&self, label: &str) -> Option<PortRef> {
        if let Some(port) = self.group.network().and_then(|network| network.port(label)) {
            return Some(self.reference(port));
        }
        let number = label.parse().ok().filter(|number| *number > 0);
        number.map(PortRef::Number)
    }

    /// How the proxy is told of a port.
    pub(super) fn reference(&self, port: &Port) -> PortRef {
        let number = if self.has_namespace {
            port.inside()
        } else {
            u16::try_from(port.value.value())
                .ok()
                .filter(|number| *number > 0)
        };
        match number {
            Some(number) => PortRef::Number(number),
            None => PortRef::Label(variable(port.label.text())),
        }
    }

    /// Ports of a group in the host's network at which others call it.
    pub(super) fn host_ports(&self) -> Vec<String> {
        let ports = self.group.network().into_iter().flat_map(Network::ports);
        ports
            .map(|port| match self.reference(port) {
                PortRef::Number(number) => number.to_string(),
                PortRef::Label(label) => format!("${{NOMAD_PORT_{label}}}"),
            })
            .collect()
    }

    /// The ports that the proxy needs whatever the services are.
    fn proxy_ports(&self) -> Vec<(Port, Fixed)> {
        let named = |label: &str| Port {
            label: label.into(),
            ..Port::default()
        };
        let fixed = |label: &str, number: u16| Port {
            value: i64::from(number).into(),
            ..named(label)
        };
        match self.mode {
            // Static ports are taken on a node once, across all jobs: the scheduler itself sees to
            // it that one such group runs there.
            Mode::HostExclusive => vec![
                (fixed(HEALTH_LABEL, READINESS_PORT), Fixed::Yes),
                (fixed("mesh_out", 15001), Fixed::Yes),
                (fixed("mesh_in", 15006), Fixed::Yes),
            ],
            Mode::HostUid => [
                HEALTH_LABEL,
                "mesh_out",
                "mesh_in",
                DNS_LABEL,
                METRICS_LABEL,
            ]
            .map(|label| (named(label), Fixed::No))
            .into(),
            _ if self.has_namespace => {
                let port = Port {
                    to: i64::from(READINESS_PORT).into(),
                    ..named(HEALTH_LABEL)
                };
                vec![(port, Fixed::No)]
            }
            // The forward proxy has one port on every loopback, and two proxies that shared it would
            // answer for each other: it is taken on a node once.
            _ => {
                let dynamic = [HEALTH_LABEL, DNS_LABEL, METRICS_LABEL];
                let mut ports: Vec<_> = dynamic.map(|it| (named(it), Fixed::No)).into();
                ports.push((fixed("mesh_forward", FORWARD_PROXY_PORT), Fixed::Yes));
                ports
            }
        }
    }

    /// Ports on the host for upstreams, where loopback is shared with others.
    fn upstream_ports(&self) -> Vec<(Port, Fixed)> {
        if self.mode != Mode::Explicit || self.has_namespace {
            return Vec::new();
        }
        let count = self.annotations.upstreams.len();
        (0..count)
            .map(|index| (self.upstream_port(index), Fixed::No))
            .collect()
    }

    fn upstream_port(&self, index: usize) -> Port {
        let number = i64::try_from(index).unwrap_or(i64::MAX);
        Port {
            label: format!("mesh_up_{index}").into(),
            to: if self.has_namespace {
                FIRST_UPSTREAM.saturating_add(number).into()
            } else {
                Field::Absent
            },
            ..Port::default()
        }
    }
}

/// A deployment waits for the proxy as well: one check asks for that.
fn add_ready_check(group: &mut TaskGroup) {
    let check = Check {
        name: "mesh-proxy".into(),
        kind: "http".into(),
        path: "/ready".into(),
        port_label: HEALTH_LABEL.into(),
        interval: Nanoseconds::seconds(5).into(),
        timeout: Nanoseconds::seconds(2).into(),
        ..Check::default()
    };
    if let Some(service) = group.services.items_mut().first_mut() {
        service.checks.or_default().push(check);
        return;
    }
    // A group has one provider for all its services; Nomad takes none said for `consul`.
    let of_task = group
        .tasks
        .items()
        .iter()
        .flat_map(|task| task.services.items())
        .next();
    let provider = of_task.map_or("nomad", |service| match service.provider.text() {
        "" => "consul",
        provider => provider,
    });
    let service = Service {
        name: ready_service(group.name.text()).into(),
        provider: provider.into(),
        port_label: HEALTH_LABEL.into(),
        checks: vec![check].into(),
        ..Service::default()
    };
    group.services.or_default().push(service);
}

/// The name of the service that a group gets which has none.
pub(super) fn ready_service(group: &str) -> String {
    let name: String = group
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(50)
        .collect();
    format!("mesh-proxy-{}", name.trim_matches('-'))
        .trim_matches('-')
        .to_owned()
}

const FIRST_LISTENER: i64 = 15100;
const FIRST_UPSTREAM: i64 = 15200;
