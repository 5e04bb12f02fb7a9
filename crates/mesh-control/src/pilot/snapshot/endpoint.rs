//! Which places serve a cluster at this moment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_model::service::EndpointAddress;
use mesh_model::{Endpoint, Health, Service};
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::config::endpoint::v3 as eds;

use super::cluster::{self, Part};
use super::wire;
use crate::pilot::mesh::Mesh;

/// Labels by which a subset selects endpoints; empty selects all.
pub(super) type Labels = BTreeMap<String, String>;

/// The metadata namespace by which Envoy picks an endpoint's transport socket.
const SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// The key and value that mark an endpoint with a sidecar, as Istio writes them.
pub(super) const TLS_MODE: (&str, &str) = ("tlsMode", "istio");

/// The healthy endpoints of a part of a service, under its cluster's name.
///
/// Nobody healthy is an empty assignment, never a missing one: a cluster without an answer would
/// hold back everything behind it.
pub(super) fn assignment(
    mesh: &Mesh,
    service: &Service,
    part: &Part,
) -> eds::ClusterLoadAssignment {
    let mixed = cluster::transport(mesh, service, part.port) == cluster::Transport::Mixed;
    let endpoints: Vec<_> = service
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.health == Health::Healthy && has(endpoint, &part.labels))
        .filter_map(|endpoint| lb_endpoint(mesh, endpoint, part.port, mixed))
        .collect();
    let locality = eds::LocalityLbEndpoints {
        lb_endpoints: endpoints,
        ..Default::default()
    };
    eds::ClusterLoadAssignment {
        cluster_name: part.name.clone(),
        endpoints: if locality.lb_endpoints.is_empty() {
            Vec::new()
        } else {
            vec![locality]
        },
        ..Default::default()
    }
}

/// Whether an endpoint has all these labels.
fn has(endpoint: &Endpoint, labels: &Labels) -> bool {
    labels
        .iter()
        .all(|(key, value)| endpoint.labels.get(key) == Some(value))
}

fn lb_endpoint(
    mesh: &Mesh,
    endpoint: &Endpoint,
    port: u16,
    mixed: bool,
) -> Option<eds::LbEndpoint> {
    let target = called_at(mesh, endpoint, port)?;
    let mut addresses = addresses(mesh, endpoint).into_iter();
    let first = addresses.next()?;
    let weight = endpoint.weight;
    if weight == 0 {
        return None;
    }
    let host = eds::Endpoint {
        address: wire::address(first, target),
        additional_addresses: addresses
            .map(|address| eds::endpoint::AdditionalAddress {
                address: wire::address(address, target),
            })
            .collect(),
        ..Default::default()
    };
    Some(eds::LbEndpoint {
        metadata: (mixed && cluster::takes_mesh_tls(mesh, endpoint, port)).then(metadata),
        load_balancing_weight: wire::uint(weight),
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(host)),
        ..Default::default()
    })
}

/// The port of an endpoint to which calls for a port of its service go: where it listens, the
/// port of its sidecar that takes them, or the port of its host that leads there.
pub(in crate::pilot) fn called_at(mesh: &Mesh, endpoint: &Endpoint, port: u16) -> Option<u16> {
    let own = *endpoint.ports.get(&port)?;
    let known = endpoint.workload.as_ref().and_then(|id| mesh.workload(id));
    match known {
        Some((workload, _)) => workload.called_at(own),
        None => Some(own),
    }
}

/// Marks an endpoint that has a sidecar, for clusters where not all of them do.
fn metadata() -> core::Metadata {
    let (key, value) = TLS_MODE;
    wire::metadata(SOCKET_MATCH, key, value)
}

/// All addresses of an endpoint, v4 first: Envoy tries the others when the first does not answer.
fn addresses(mesh: &Mesh, endpoint: &Endpoint) -> Vec<String> {
    let own = match &endpoint.address {
        EndpointAddress::Ip(address) => *address,
        EndpointAddress::Name(name) => return vec![name.clone()],
    };
    let mut all: Vec<IpAddr> = endpoint
        .workload
        .as_ref()
        .and_then(|id| mesh.workload(id))
        .map(|(workload, _)| workload.addresses.clone())
        .unwrap_or_default();
    if !all.contains(&own) {
        all.insert(0, own);
    }
    let mut families: Vec<&IpAddr> = Vec::new();
    for v4 in [true, false] {
        families.extend(all.iter().find(|address| address.is_ipv4() == v4));
    }
    families.iter().map(ToString::to_string).collect()
}
