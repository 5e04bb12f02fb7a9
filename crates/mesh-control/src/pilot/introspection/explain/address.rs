//! Why a call to an address goes where it goes: one that an application has from the catalogue.

use std::net::{IpAddr, SocketAddr};

use mesh_model::route::Share;
use mesh_model::{Health, Host, Namespace, Protocol};

use super::{
    Calls, Destination, Explanation, From, OutboundPolicy, Question, To, Unanswered, target,
};
use crate::pilot::Resolved;
use crate::pilot::mesh::Mesh;
use crate::pilot::snapshot::direct;

/// The service that callers of a namespace know by an address, its virtual one or another of its own.
pub(super) fn of_service(mesh: &Mesh, namespace: &Namespace, address: IpAddr) -> Option<Host> {
    let mut entries = mesh.seen_from(namespace);
    let found = entries.find(|entry| {
        let is_virtual = entry.addresses.as_ref().is_some_and(|it| match address {
            IpAddr::V4(address) => it.v4 == address,
            IpAddr::V6(address) => it.v6 == address,
        });
        is_virtual || entry.own_addresses.contains(&address)
    });
    found.map(|entry| entry.service.host.clone())
}

/// Says what becomes of a call to an address that is no service's.
///
/// # Errors
///
/// When no workload is known there, or the sidecar lets nobody call addresses.
pub(super) fn explain<'a>(
    resolved: &'a Resolved,
    question: &'a Question,
    address: SocketAddr,
) -> Result<Explanation<'a>, Unanswered> {
    let mesh = &resolved.mesh;
    let from = &question.from;
    let is_meshed = from.calls == Calls::Redirected;
    if is_meshed && mesh.outbound == OutboundPolicy::RegistryOnly {
        return Err(Unanswered::NotByAddress { address });
    }
    let found = direct::at(mesh, &from.namespace, address);
    let (entry, port, endpoint) = found.ok_or(Unanswered::NoWorkload {
        address,
        outcome: if is_meshed {
            "the call passes the sidecar as it is"
        } else {
            "the call comes to no sidecar of the caller's"
        },
    })?;
    let service = &entry.service;
    let declared = service.ports.get(&port);
    let protocol = declared.map_or(Protocol::Tcp, |port| port.protocol);
    let request = protocol.is_http().then_some(&question.request);
    // Nobody brings it to the sidecar of an explicit workload.
    let caller = From {
        calls: if is_meshed { from.calls } else { Calls::Plain },
        ..from.clone()
    };
    let target = target(resolved, &caller, entry, endpoint, (port, ""), request);
    Ok(Explanation {
        from,
        to: To {
            host: service.host.clone(),
            namespace: service.namespace.clone(),
            port,
            protocol,
        },
        entrance: None,
        route: None,
        destinations: vec![Destination {
            share: Share {
                host: service.host.to_string(),
                subset: String::new(),
                port: Some(port),
                weight: 1,
            },
            cluster: if is_meshed {
                direct::name(&address)
            } else {
                String::new()
            },
            problem: (target.health != Health::Healthy).then(|| "it is not healthy".to_owned()),
            endpoints: vec![target],
        }],
    })
}
