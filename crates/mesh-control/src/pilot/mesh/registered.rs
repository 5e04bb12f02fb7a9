//! Services that exist because workloads declare them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_model::service::EndpointAddress;
use mesh_model::{
    Endpoint, Health, Host, Service, ServicePort, SpiffeId, TrustDomain, Workload, WorkloadId,
    WorkloadService,
};

use super::{Entry, Warning, is_reserved};

/// The services of these workloads.
///
/// The first workload that declares a port of a service decides what is spoken on it; another
/// that disagrees is not served on that port, and a warning says so.
pub(super) fn services(
    workloads: &BTreeMap<WorkloadId, (Workload, Health)>,
    trust_domain: &TrustDomain,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<Host, Entry> {
    let mut services = BTreeMap::new();
    for (workload, health) in workloads.values() {
        check_targets(workload, warnings);
        for declared in &workload.services {
            let host = Host::of_service(&declared.name, &workload.namespace);
            let entry = services
                .entry(host.clone())
                .or_insert_with(|| Entry::new(host, workload.namespace.clone()));
            let service = &mut entry.service;
            let ports = ports(service, workload, declared, warnings);
            let Some(address) = primary(&workload.addresses) else {
                // Who it is is not known yet, so nobody is to call it; its services are there.
                if *health != Health::Starting {
                    let source = format!("workload {}", workload.id);
                    warnings.push(Warning::new(source, "it has no address and is not served"));
                }
                continue;
            };
            service.endpoints.push(Endpoint {
                workload: Some(workload.id.clone()),
                address: EndpointAddress::Ip(address),
                ports,
                labels: workload.labels.clone(),
                identity: identity(workload, trust_domain),
                health: *health,
                weight: 1,
            });
        }
    }
    services
}

/// Who must answer at a workload's address; nobody in particular where no sidecar does.
pub(super) fn identity(workload: &Workload, trust_domain: &TrustDomain) -> Option<SpiffeId> {
    let has_sidecar = workload.sidecar.is_present();
    has_sidecar.then(|| workload.identity(trust_domain))
}

/// Warns of ports at which a workload is said to speak several protocols: what it says first holds
/// for its own proxy.
fn check_targets(workload: &Workload, warnings: &mut Vec<Warning>) {
    let mut spoken = BTreeMap::new();
    for port in workload.services.iter().flat_map(|service| &service.ports) {
        let first = spoken.entry(port.own()).or_insert(port.protocol);
        if *first != port.protocol {
            let message = format!(
                "its own port {} is said to speak {first:?}, then {:?}; the first holds",
                port.own(),
                port.protocol
            );
            warnings.push(Warning::new(format!("workload {}", workload.id), message));
        }
    }
}

/// The address by which a workload is known: its first v4 one, else its first.
pub(super) fn primary(addresses: &[IpAddr]) -> Option<IpAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    v4.or_else(|| addresses.first()).copied()
}

/// Joins what one workload says of a service's ports to what is known; its service ports to
/// ports of the application's own.
fn ports(
    service: &mut Service,
    workload: &Workload,
    declared: &WorkloadService,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<u16, u16> {
    let mut targets = BTreeMap::new();
    for port in &declared.ports {
        let mut warn = |what: String| {
            let source = format!("workload {}", workload.id);
            warnings.push(Warning::new(source, what));
        };
        if is_reserved(port.number) || is_reserved(port.own()) {
            warn(format!(
                "port {} (target {}) of service `{}` is one of the sidecar's own and is not served",
                port.number,
                port.own(),
                declared.name
            ));
            continue;
        }
        let known = service
            .ports
            .entry(port.number)
            .or_insert_with(|| ServicePort {
                name: port.name.clone(),
                protocol: port.protocol,
            });
        if known.protocol == port.protocol {
            targets.insert(port.number, port.own());
        } else {
            warn(format!(
                "port {} of service `{}` is {:?} to workloads before it; it says {:?} and is not served there",
                port.number, declared.name, known.protocol, port.protocol
            ));
        }
    }
    targets
}
