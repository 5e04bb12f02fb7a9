//! What an application must not ask for.

use std::collections::BTreeMap;

use mesh_model::sidecar::PROXY_UID;
use mesh_model::{Mode, Problem, Problems, WorkloadPort, WorkloadService};

use super::{Application, MeshFacts, Resolver};

/// Everything that is wrong, with the paths of the fields.
pub(super) fn problems(application: &Application, facts: &MeshFacts) -> Problems {
    let mut problems = Problems::default();
    for (field, id) in [("uid", application.uid), ("gid", application.gid)] {
        if id == PROXY_UID {
            problems.push(Problem::new(
                field,
                id.to_string(),
                "other than the proxy's, whose traffic goes round the mesh",
            ));
        }
    }
    let needs_command = application.is_run_by_group()
        && (application.image.is_none() || !application.command.is_empty());
    if needs_command && application.command.first().is_none_or(String::is_empty) {
        problems.push(Problem::new("command", "", "a program and its arguments"));
    }
    if application.group_name().as_str() == CONTROL_PLANE {
        problems.push(Problem::new(
            "name",
            application.name.as_str(),
            "a name that the control plane does not use",
        ));
    }
    if application.mode == Mode::Gateway {
        check_gateway(application, &mut problems);
    }
    check_services(&application.services, &mut problems);
    match application.explicit() {
        Some(explicit) => explicit.validate(
            &application.namespace,
            &application.services,
            "explicit",
            &mut problems,
        ),
        None if application.upstreams.is_empty() => {}
        None => problems.push(Problem::new(
            "upstreams",
            application.upstreams.len().to_string(),
            "none but in explicit mode: elsewhere services are called by their names",
        )),
    }
    check_facts(facts, &mut problems);
    problems
}

/// A gateway has no application: whatever is said of one is a mistake.
fn check_gateway(application: &Application, problems: &mut Problems) {
    let parts = [
        ("command", application.command.len()),
        ("services", application.services.len()),
        ("environment", application.environment.len()),
        ("mounts", application.mounts.len()),
        ("image", usize::from(application.image.is_some())),
    ];
    for (field, count) in parts.into_iter().filter(|(_, count)| *count > 0) {
        let expected = "nothing: a gateway has no application";
        problems.push(Problem::new(field, count.to_string(), expected));
    }
}

pub(super) fn check_services(services: &[WorkloadService], problems: &mut Problems) {
    // What is spoken at a port is one thing, also when two services share it.
    let mut spoken = BTreeMap::new();
    let mut seen = Vec::new();
    for (index, service) in services.iter().enumerate() {
        let path = format!("services[{index}]");
        if seen.contains(&&service.name) {
            let expected = "a service that is declared once";
            problems.push(Problem::new(
                format!("{path}.name"),
                service.name.as_str(),
                expected,
            ));
        }
        seen.push(&service.name);
        for (at, port) in service.ports.iter().enumerate() {
            let path = format!("{path}.ports[{at}]");
            check_port(&path, port, problems);
            let before = service.ports.get(..at).unwrap_or_default();
            if before.iter().any(|other| other.name == port.name) {
                let expected = "a name of its own in the service";
                problems.push(Problem::new(format!("{path}.name"), &port.name, expected));
            }
            if before.iter().any(|other| other.number == port.number) {
                let expected = "a number of its own in the service";
                let number = port.number.to_string();
                problems.push(Problem::new(format!("{path}.number"), number, expected));
            }
            if *spoken.entry(port.target).or_insert(port.protocol) != port.protocol {
                let expected = "a port at which one protocol is spoken";
                let target = port.target.to_string();
                problems.push(Problem::new(format!("{path}.target"), target, expected));
            }
        }
    }
}

fn check_port(path: &str, port: &WorkloadPort, problems: &mut Problems) {
    if port.name.is_empty() {
        problems.push(Problem::new(format!("{path}.name"), "", "a name of a port"));
    }
    for (field, number) in [("number", port.number), ("target", port.target)] {
        if number == 0 || RESERVED.contains(&number) {
            problems.push(Problem::new(
                format!("{path}.{field}"),
                number.to_string(),
                "a port from 1 to 65535 that the sidecar does not use (15000 to 15090)",
            ));
        }
    }
}

fn check_facts(facts: &MeshFacts, problems: &mut Problems) {
    let sees_none = matches!(&facts.resolver, Resolver::Servers { seen, .. } if seen.is_empty());
    let lists = [
        ("pilots", facts.pilots.is_empty(), "an address of Pilot"),
        ("cas", facts.cas.is_empty(), "an address of the CA"),
        (
            "root_hashes",
            facts.root_hashes.is_empty(),
            "the hash of a root to trust at first",
        ),
        (
            "resolver.seen",
            sees_none,
            "an address to send DNS queries to",
        ),
    ];
    for (field, is_empty, expected) in lists {
        if is_empty {
            problems.push(Problem::new(format!("mesh.{field}"), "", expected));
        }
    }
    let paths = [("mesh", Some(&facts.mesh)), ("envoy", facts.envoy.as_ref())];
    for (field, path) in paths {
        if let Some(path) = path.filter(|path| !path.is_absolute()) {
            let value = path.display().to_string();
            problems.push(Problem::new(
                format!("mesh.{field}"),
                value,
                "an absolute path",
            ));
        }
    }
}

/// Ports that the sidecar and the control plane take for themselves.
const RESERVED: std::ops::RangeInclusive<u16> = 15000..=15090;

/// The group of the control plane's own units.
const CONTROL_PLANE: &str = "control-plane";
