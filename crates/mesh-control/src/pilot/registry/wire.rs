//! Workloads on the wire: what agents say is checked whole before anything is done with it.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use mesh_model::{
    Capture, Explicit, Health, Problem, Problems, Protocol, Sidecar, Upstream, Workload,
    WorkloadPort, WorkloadService, label,
};
use mesh_proto::mesh::agent::v1 as wire;

/// Reads a workload.
///
/// # Errors
///
/// Everything that is wrong with it, with the paths of the message's fields.
pub fn read_workload(message: &wire::Workload) -> Result<Workload, Problems> {
    let mut problems = Problems::default();
    let id = parse("id", &message.id, &mut problems);
    let namespace = parse("namespace", &message.namespace, &mut problems);
    let service_account = parse("service_account", &message.service_account, &mut problems);
    let mut addresses = Vec::new();
    for (index, text) in message.addresses.iter().enumerate() {
        let address = text.parse().ok().filter(is_callable);
        match address {
            Some(address) => addresses.push(address),
            None => problems.push(Problem::new(
                format!("addresses[{index}]"),
                text,
                "an IP address that others can call",
            )),
        }
    }
    if !(1..=MAX_ADDRESSES).contains(&message.addresses.len()) {
        problems.push(Problem::new(
            "addresses",
            message.addresses.len().to_string(),
            format!("a number of addresses from 1 to {MAX_ADDRESSES}"),
        ));
    }
    limit("labels", message.labels.len(), &mut problems);
    label::validate(&message.labels, "labels", &mut problems);
    limit("services", message.services.len(), &mut problems);
    let services = message.services.iter().enumerate();
    let services: Vec<_> = services
        .filter_map(|(index, service)| {
            read_service(&format!("services[{index}]"), service, &mut problems)
        })
        .collect();
    let mut names = BTreeSet::new();
    for (index, service) in services.iter().enumerate() {
        if !names.insert(&service.name) {
            problems.push(Problem::new(
                format!("services[{index}].name"),
                service.name.as_str(),
                "a name that no other service of the workload has",
            ));
        }
    }
    let explicit = message
        .explicit
        .as_ref()
        .and_then(|explicit| read_explicit(explicit, &mut problems));
    if let (Some(explicit), Some(namespace)) = (&explicit, &namespace) {
        explicit.validate(namespace, &services, "explicit", &mut problems);
    }
    let capture = match &message.capture {
        None => Capture::default(),
        Some(capture) => read_capture(*capture, &mut problems),
    };
    if message.gateway && (!services.is_empty() || explicit.is_some()) {
        let expected = "`false`: a gateway has no application that could serve or call";
        problems.push(Problem::new("gateway", "true", expected));
    }
    match (id, namespace, service_account) {
        (Some(id), Some(namespace), Some(service_account)) => problems.into_result(Workload {
            id,
            namespace,
            service_account,
            addresses,
            labels: message.labels.clone(),
            services,
            // Whoever registers is one.
            sidecar: Sidecar::Present,
            explicit,
            capture,
            gateway: message.gateway,
        }),
        _ => Err(problems),
    }
}

/// Writes a workload.
pub fn write_workload(workload: &Workload) -> wire::Workload {
    let port = |port: &WorkloadPort| wire::WorkloadPort {
        name: port.name.clone(),
        number: port.number.into(),
        target: port.target.into(),
        protocol: protocol_name(port.protocol).to_owned(),
        inside: port.inside.unwrap_or(0).into(),
    };
    let services = workload
        .services
        .iter()
        .map(|service| wire::WorkloadService {
            name: service.name.to_string(),
            ports: service.ports.iter().map(port).collect(),
        });
    wire::Workload {
        id: workload.id.to_string(),
        namespace: workload.namespace.to_string(),
        service_account: workload.service_account.to_string(),
        addresses: workload.addresses.iter().map(IpAddr::to_string).collect(),
        labels: workload.labels.clone(),
        services: services.collect(),
        explicit: workload.explicit.as_ref().map(write_explicit),
        capture: (!workload.capture.is_usual()).then(|| wire::Capture {
            outbound: workload.capture.outbound.into(),
            inbound: workload.capture.inbound.into(),
        }),
        gateway: workload.gateway,
    }
}

fn write_explicit(explicit: &Explicit) -> wire::Explicit {
    let pairs = explicit.inbound.iter();
    let upstreams = explicit.upstreams.iter().map(|upstream| wire::Upstream {
        name: upstream.name.clone(),
        port: upstream.port.into(),
        listen: upstream.listen.to_string(),
    });
    wire::Explicit {
        inbound: pairs
            .map(|(target, port)| (u32::from(*target), u32::from(*port)))
            .collect(),
        upstreams: upstreams.collect(),
    }
}

/// Reads a health; what we do not know is not healthy.
pub fn read_health(number: i32) -> Health {
    match wire::Health::try_from(number) {
        Ok(wire::Health::Starting) => Health::Starting,
        Ok(wire::Health::Healthy) => Health::Healthy,
        Ok(wire::Health::Unhealthy) | Err(_) => Health::Unhealthy,
    }
}

/// Writes a health.
pub fn write_health(health: Health) -> wire::Health {
    match health {
        Health::Starting => wire::Health::Starting,
        Health::Healthy => wire::Health::Healthy,
        Health::Unhealthy => wire::Health::Unhealthy,
    }
}

fn read_service(
    path: &str,
    message: &wire::WorkloadService,
    problems: &mut Problems,
) -> Option<WorkloadService> {
    let name = parse(&format!("{path}.name"), &message.name, problems);
    limit(&format!("{path}.ports"), message.ports.len(), problems);
    let mut ports = Vec::<WorkloadPort>::new();
    for (index, port) in message.ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        if !is_port_name(&port.name) || ports.iter().any(|other| other.name == port.name) {
            problems.push(Problem::new(
                format!("{path}.name"),
                &port.name,
                "a port name (1 to 63 of a-z, 0-9, `-`) that no other port of the service has",
            ));
        }
        let number = read_port(&format!("{path}.number"), port.number, problems);
        let target = read_port(&format!("{path}.target"), port.target, problems);
        let inside = match port.inside {
            0 => None,
            inside => read_port(&format!("{path}.inside"), inside, problems),
        };
        let protocol = read_protocol(&port.protocol);
        if protocol.is_none() {
            problems.push(Problem::new(
                format!("{path}.protocol"),
                &port.protocol,
                "a protocol (http, http2, grpc, tcp, tls)",
            ));
        }
        let (Some(number), Some(target), Some(protocol)) = (number, target, protocol) else {
            continue;
        };
        if ports.iter().any(|other| other.number == number) {
            problems.push(Problem::new(
                format!("{path}.number"),
                number.to_string(),
                "a port that the service does not have already",
            ));
        }
        ports.push(WorkloadPort {
            name: port.name.clone(),
            number,
            target,
            inside,
            protocol,
        });
    }
    Some(WorkloadService { name: name?, ports })
}

/// What cannot be read is left out, and said; what contradicts itself is the model's to find.
fn read_explicit(message: &wire::Explicit, problems: &mut Problems) -> Option<Explicit> {
    limit("explicit.inbound", message.inbound.len(), problems);
    limit("explicit.upstreams", message.upstreams.len(), problems);
    let mut explicit = Explicit::default();
    let before = problems.0.len();
    for (target, port) in &message.inbound {
        let path = format!("explicit.inbound[{target}]");
        let target = read_port(&path, *target, problems);
        let port = read_port(&path, *port, problems);
        explicit.inbound.extend(target.zip(port));
    }
    for (index, upstream) in message.upstreams.iter().enumerate() {
        let path = format!("explicit.upstreams[{index}]");
        let port = read_port(&format!("{path}.port"), upstream.port, problems);
        let Ok(listen) = upstream.listen.parse() else {
            let expected = "an address with a port";
            problems.add(format!("{path}.listen"), &upstream.listen, expected);
            continue;
        };
        if let Some(port) = port {
            let name = upstream.name.clone();
            explicit.upstreams.push(Upstream { name, port, listen });
        }
    }
    (problems.0.len() == before).then_some(explicit)
}

/// What is wrong is said; what is given back then is of no use to anybody.
fn read_capture(message: wire::Capture, problems: &mut Problems) -> Capture {
    let outbound = read_port("capture.outbound", message.outbound, problems);
    let inbound = read_port("capture.inbound", message.inbound, problems);
    let usual = Capture::default();
    if inbound.is_some() && inbound == outbound {
        let expected = "another port than that of outbound traffic";
        problems.add("capture.inbound", message.inbound.to_string(), expected);
    }
    Capture {
        outbound: outbound.unwrap_or(usual.outbound),
        inbound: inbound.unwrap_or(usual.inbound),
    }
}

fn parse<T>(path: &str, text: &str, problems: &mut Problems) -> Option<T>
where
    T: FromStr<Err = Problem>,
{
    match text.parse() {
        Ok(value) => Some(value),
        Err(problem) => {
            problems.push(Problem {
                path: path.to_owned(),
                ..problem
            });
            None
        }
    }
}

fn limit(path: &str, length: usize, problems: &mut Problems) {
    if length > MAX_ENTRIES {
        let expected = format!("a number of entries up to {MAX_ENTRIES}");
        problems.push(Problem::new(path, length.to_string(), expected));
    }
}

fn read_port(path: &str, number: u32, problems: &mut Problems) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    if port.is_none() {
        let expected = "a port between 1 and 65535";
        problems.push(Problem::new(path, number.to_string(), expected));
    }
    port
}

fn read_protocol(text: &str) -> Option<Protocol> {
    serde_json::from_value(text.into()).ok()
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tls => "tls",
        _ => "tcp",
    }
}

fn is_port_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(allowed)
}

/// Whether somebody else may reach a workload at this address.
fn is_callable(address: &IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_link_local)
}

/// Shown when an agent's workload is refused.
pub(super) fn describe(what: &str, problems: &impl Display) -> String {
    format!("the {what} is not valid: {problems}")
}

/// A machine has a few addresses of each family.
const MAX_ADDRESSES: usize = 16;

/// Of labels, services, ports: far above what a workload has, far below what hurts others.
const MAX_ENTRIES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> wire::Workload {
        wire::Workload {
            id: "default/web-1".to_owned(),
            namespace: "default".to_owned(),
            service_account: "web".to_owned(),
            addresses: vec!["10.213.0.2".to_owned(), "fd00::2".to_owned()],
            labels: [("version".to_owned(), "v1".to_owned())].into(),
            services: vec![wire::WorkloadService {
                name: "web".to_owned(),
                ports: vec![wire::WorkloadPort {
                    name: "http".to_owned(),
                    number: 80,
                    target: 24411,
                    protocol: "http".to_owned(),
                    inside: 8080,
                }],
            }],
            gateway: false,
            explicit: Some(wire::Explicit {
                inbound: [(8080, 15100)].into(),
                upstreams: vec![wire::Upstream {
                    name: "reviews".to_owned(),
                    port: 9080,
                    listen: "127.0.0.1:15200".to_owned(),
                }],
            }),
            capture: Some(wire::Capture {
                outbound: 24001,
                inbound: 24002,
            }),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let workload = read_workload(&message()).unwrap();
        assert_eq!(write_workload(&workload), message());
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let mut wrong = message();
        wrong.namespace = "Default".to_owned();
        wrong.labels.insert("version".to_owned(), "v 1".to_owned());
        wrong.addresses = vec!["127.0.0.1".to_owned(), "x".to_owned()];
        wrong.services[0].ports[0].target = 70_000;
        wrong.services[0].ports[0].inside = 70_001;
        wrong.services[0].ports[0].protocol = "udp".to_owned();
        wrong.services.push(wrong.services[0].clone());
        let explicit = wrong.explicit.as_mut().unwrap();
        explicit.inbound.insert(70_000, 15101);
        explicit.upstreams[0].listen = "localhost:1".to_owned();
        wrong.capture.as_mut().unwrap().inbound = 24001;
        let problems = read_workload(&wrong).unwrap_err();
        let paths: Vec<_> = problems.0.iter().map(|problem| &*problem.path).collect();
        assert_eq!(
            paths,
            [
                "namespace",
                "addresses[0]",
                "addresses[1]",
                "labels[version]",
                "services[0].ports[0].target",
                "services[0].ports[0].inside",
                "services[0].ports[0].protocol",
                "services[1].ports[0].target",
                "services[1].ports[0].inside",
                "services[1].ports[0].protocol",
                "services[1].name",
                "explicit.inbound[70000]",
                "explicit.upstreams[0].listen",
                "capture.inbound",
            ]
        );
    }

    #[test]
    fn every_protocol_survives_the_wire() {
        for protocol in [
            Protocol::Http,
            Protocol::Http2,
            Protocol::Grpc,
            Protocol::Tcp,
            Protocol::Tls,
        ] {
            assert_eq!(read_protocol(protocol_name(protocol)), Some(protocol));
        }
    }
}
