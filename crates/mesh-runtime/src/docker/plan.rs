//! What the daemon is asked to make, for each network, group and unit: pure.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig,
    HostConfigLogConfig, Ipam, IpamConfig, Mount, MountType, NetworkCreateRequest,
    NetworkingConfig, PortBinding, RestartPolicy as DockerRestart, RestartPolicyNameEnum,
};

use super::label::{self, Names, Place};
use crate::{
    Attachment, GroupSpec, MountSpec, NetworkSpec, Protocol, PublishedPort, RestartPolicy,
    RuntimeError, UnitSpec,
};

/// A network with a bridge of the name that was asked for, and subnets of both families.
pub(super) fn network(
    names: &Names,
    spec: &NetworkSpec,
) -> Result<NetworkCreateRequest, RuntimeError> {
    let (v4, v6) = spec.gateways();
    let subnet = |subnet: String, gateway: String| IpamConfig {
        subnet: Some(subnet),
        gateway: Some(gateway),
        ..IpamConfig::default()
    };
    let mut labels = names.labels("network");
    let text = label::write(spec, label::SPEC, spec.name.as_str())?;
    labels.insert(label::SPEC.to_owned(), text);
    Ok(NetworkCreateRequest {
        name: names.network(&spec.name),
        driver: Some("bridge".to_owned()),
        enable_ipv6: Some(true),
        ipam: Some(Ipam {
            config: Some(vec![
                subnet(spec.v4.to_string(), v4.to_string()),
                subnet(spec.v6.to_string(), v6.to_string()),
            ]),
            ..Ipam::default()
        }),
        options: Some([(BRIDGE_OPTION.to_owned(), spec.bridge.clone())].into()),
        labels: Some(labels),
        ..NetworkCreateRequest::default()
    })
}

/// The pause container of a group: it has the group's namespace, addresses, names and ports.
pub(super) fn pause(
    names: &Names,
    spec: &GroupSpec,
    place: &Place,
) -> Result<ContainerCreateBody, RuntimeError> {
    let of = spec.name.as_str();
    // What the caller calls labels is seen by `docker ps` too, and cannot pass for one of ours.
    let mut labels: HashMap<_, _> = spec.labels.clone().into_iter().collect();
    labels.extend(names.labels("group"));
    labels.insert(label::GROUP.to_owned(), of.to_owned());
    labels.insert(label::SPEC.to_owned(), label::write(spec, label::SPEC, of)?);
    labels.insert(
        label::PLACE.to_owned(),
        label::write(place, label::PLACE, of)?,
    );
    let dns = spec.dns.as_ref();
    let mut host = HostConfig {
        dns: dns.map(|dns| dns.servers.iter().map(ToString::to_string).collect()),
        dns_search: dns.map(|dns| dns.search.clone()),
        // After a restart of the daemon the namespace would come back without its redirect rules,
        // and units in it would speak past them. So it stays away until the engine makes it.
        restart_policy: Some(restart(RestartPolicy::Never)),
        port_bindings: (!spec.ports.is_empty()).then(|| bindings(&spec.ports)),
        ..hardened()
    };
    let mut networking = None;
    match &spec.attachment {
        Attachment::Host => host.network_mode = Some("host".to_owned()),
        // Everything about the network is the container's that is joined.
        Attachment::Container { id, .. } => host.network_mode = Some(joining(id)),
        Attachment::Network(network) => {
            let network = names.network(network);
            host.network_mode = Some(network.clone());
            // All ports belong to the group alone, so no right is needed to listen on a low one.
            let ports = ("net.ipv4.ip_unprivileged_port_start", "0");
            host.sysctls = Some([(ports.0.to_owned(), ports.1.to_owned())].into());
            let endpoint = EndpointSettings {
                aliases: Some(spec.aliases.clone()),
                ipam_config: place.addresses.map(|addresses| EndpointIpamConfig {
                    ipv4_address: Some(addresses.v4.to_string()),
                    ipv6_address: Some(addresses.v6.to_string()),
                    ..EndpointIpamConfig::default()
                }),
                ..EndpointSettings::default()
            };
            networking = Some(NetworkingConfig {
                endpoints_config: Some([(network, endpoint)].into()),
            });
        }
    }
    Ok(ContainerCreateBody {
        image: Some(names.pause_image()),
        entrypoint: Some(vec![format!("/{}", super::image::PAUSE)]),
        hostname: matches!(spec.attachment, Attachment::Network(_))
            .then(|| spec.hostname.clone().unwrap_or_else(|| host_name(of))),
        labels: Some(labels),
        exposed_ports: Some(spec.ports.iter().map(port).collect()),
        host_config: Some(host),
        networking_config: networking,
        ..ContainerCreateBody::default()
    })
}

/// A container that joins the namespace of its group.
#[derive(Debug)]
pub(super) struct UnitPlan<'a> {
    pub(super) group: &'a GroupSpec,
    /// The pause container.
    pub(super) pause: &'a str,
    pub(super) spec: &'a UnitSpec,
    pub(super) image: &'a str,
    /// The group's directory, if the unit has files there.
    pub(super) directory: Option<&'a std::path::Path>,
    pub(super) limits_logs: bool,
}

// === impl UnitPlan ===

impl UnitPlan<'_> {
    pub(super) fn body(&self, names: &Names) -> Result<ContainerCreateBody, RuntimeError> {
        let (spec, group) = (self.spec, &self.group.name);
        let mut labels = names.labels("unit");
        labels.insert(label::GROUP.to_owned(), group.to_string());
        labels.insert(label::UNIT.to_owned(), spec.name.to_string());
        let text = label::write(spec, label::SPEC, spec.name.as_str())?;
        labels.insert(label::SPEC.to_owned(), text);
        let network = match &self.group.attachment {
            Attachment::Host => "host".to_owned(),
            Attachment::Network(_) | Attachment::Container { .. } => joining(self.pause),
        };
        let log = HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(
                [("max-size", "8m"), ("max-file", "2")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
        };
        let host = HostConfig {
            network_mode: Some(network),
            restart_policy: Some(restart(spec.restart)),
            cap_add: Some(spec.capabilities.iter().map(ToString::to_string).collect()),
            binds: self
                .directory
                .map(|it| vec![format!("{0}:{0}", it.display())]),
            // Unlike a bind, a mount of something that is not there is refused, not made.
            mounts: Some(spec.mounts.iter().map(mount).collect()),
            log_config: self.limits_logs.then_some(log),
            ..hardened()
        };
        let environment = spec.environment.iter();
        Ok(ContainerCreateBody {
            image: Some(self.image.to_owned()),
            // As entry point: the image's own would become its first words otherwise.
            entrypoint: (!spec.command.is_empty()).then(|| spec.command.clone()),
            cmd: (!spec.arguments.is_empty()).then(|| spec.arguments.clone()),
            env: Some(
                environment
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect(),
            ),
            user: (!spec.image_user).then(|| format!("{}:{}", spec.uid, spec.gid)),
            working_dir: Some(spec.working_directory.display().to_string())
                .filter(|directory| !directory.is_empty()),
            stop_timeout: Some(grace_seconds(spec)),
            // The engine asks itself, as often as is needed.
            healthcheck: Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..HealthConfig::default()
            }),
            labels: Some(labels),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        })
    }
}

/// The network mode of a container that joins the network namespace of another.
fn joining(container: &str) -> String {
    format!("container:{container}")
}

fn mount(spec: &MountSpec) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(spec.source.display().to_string()),
        target: Some(spec.target.display().to_string()),
        read_only: Some(spec.read_only),
        ..Mount::default()
    }
}

/// What the daemon waits between TERM and KILL: whole seconds.
pub(super) fn grace_seconds(spec: &UnitSpec) -> i64 {
    let rounded = spec.stop_grace.as_millis().div_ceil(1000);
    i64::try_from(rounded).unwrap_or(i64::MAX)
}

/// No capability but those that are added, and none to be had by starting a program.
fn hardened() -> HostConfig {
    HostConfig {
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        ..HostConfig::default()
    }
}

fn restart(policy: RestartPolicy) -> DockerRestart {
    DockerRestart {
        name: Some(match policy {
            RestartPolicy::Never => RestartPolicyNameEnum::NO,
            RestartPolicy::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
            RestartPolicy::Always => RestartPolicyNameEnum::ALWAYS,
        }),
        maximum_retry_count: None,
    }
}

fn port(port: &PublishedPort) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{}/{protocol}", port.group)
}

fn bindings(ports: &[PublishedPort]) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut bindings = HashMap::<_, Option<Vec<_>>>::new();
    for it in ports {
        let binding = PortBinding {
            host_ip: it.address.map(|address| address.to_string()),
            host_port: Some(it.host.to_string()),
        };
        bindings
            .entry(port(it))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    bindings
}

/// A name of a group as a host's: at most 63 bytes, as the kernel has it.
fn host_name(group: &str) -> String {
    let short = group.get(..63).unwrap_or(group);
    short.trim_end_matches(['-', '.']).to_owned()
}

/// Source: Docker's bridge driver, option "bridge name".
const BRIDGE_OPTION: &str = "com.docker.network.bridge.name";
