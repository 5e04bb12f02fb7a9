//! Clusters: where a proxy sends what it took, and how it secures the way there.

mod policy;
mod protocol;

use std::net::SocketAddr;
use std::time::Duration;

use mesh_model::istio::destination_rule::{
    ClientTls, PortTrafficPolicy, SimpleLoadBalancer, TlsMode,
};
use mesh_model::istio::peer_authentication::MutualTlsMode;
use mesh_model::service::{Location, Resolution};
use mesh_model::{Endpoint, Host, Namespace, Protocol, Service, SpiffeId};
use mesh_proto::envoy::config::cluster::v3 as cds;
use mesh_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbPolicy,
};
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::config::endpoint::v3 as eds;
use mesh_proto::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig as ForwardConfig;
use mesh_proto::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use mesh_proto::envoy::r#type::v3::Percent;

use super::endpoint::{self, Labels};
use super::{View, access_log, tls, wire};
use crate::pilot::mesh::{Entry, Mesh};
use protocol::Http;

/// What goes to addresses that no service has.
pub(super) const PASSTHROUGH: &str = "PassthroughCluster";

/// What goes nowhere.
pub(super) const BLACK_HOLE: &str = "BlackHoleCluster";

/// What the forward proxy of an explicit workload sends to hosts that no service is.
pub(super) const FORWARD: &str = "ForwardProxyCluster";

/// What was taken on a port that the workload does not declare.
pub(super) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// Where access logs go.
pub(super) const MIXER: &str = "mixer";

/// The source addresses of connections to the application, by which the redirect rules know them.
const INBOUND_SOURCES: (&str, &str) = ("127.0.0.6", "::6");

/// How long a connection may take to be made unless a `DestinationRule` says otherwise; Istio's.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer of DNS holds that says nothing of it.
const DNS_REFRESH: Duration = Duration::from_secs(60);

/// A part of a service's port that has a cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// The cluster's name.
    pub(super) name: String,
    /// The service's port.
    pub(super) port: u16,
    /// The labels of its endpoints; none means all.
    pub(super) labels: Labels,
    /// How connections are made.
    policy: PortTrafficPolicy,
}

/// How the way to a service's endpoints is secured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    /// All have sidecars: mutual TLS.
    Mesh,
    /// Some have: each endpoint says so of itself.
    Mixed,
    /// None has.
    Plain,
}

/// How a cluster's connections are secured.
#[derive(Clone, Copy, Debug)]
enum Way<'a> {
    /// As the endpoints' sidecars do it.
    To(Transport),
    /// With TLS that a rule asks for.
    Origination(&'a ClientTls),
}

// === impl Part ===

impl Part {
    /// How its endpoints are found.
    pub(super) fn resolution(&self, service: &Service) -> Resolution {
        let balancer = self.policy.load_balancer.as_ref();
        match balancer.and_then(|balancer| balancer.simple) {
            Some(SimpleLoadBalancer::Passthrough) => Resolution::None,
            _ => service.resolution,
        }
    }
}

/// The name of an outbound cluster; without a subset the middle is empty.
pub(super) fn outbound_name(port: u16, subset: &str, host: &Host) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// The name of the cluster that leads to the application's port.
pub(super) fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}

/// How the way to a service's endpoints is secured on one of its ports.
pub(super) fn transport(mesh: &Mesh, service: &Service, port: u16) -> Transport {
    let secured = service
        .endpoints
        .iter()
        .filter(|endpoint| takes_mesh_tls(mesh, endpoint, port))
        .count();
    if service.location == Location::MeshExternal {
        Transport::Plain
    } else if secured == service.endpoints.len() {
        // Also when nobody is there yet: who comes will have a sidecar.
        Transport::Mesh
    } else if secured == 0 {
        Transport::Plain
    } else {
        Transport::Mixed
    }
}

/// Whether an endpoint has a sidecar, and one that takes the mesh's TLS on this port.
pub(super) fn takes_mesh_tls(mesh: &Mesh, endpoint: &Endpoint, port: u16) -> bool {
    let known = endpoint.workload.as_ref().and_then(|id| mesh.workload(id));
    let refuses = known
        .zip(endpoint.ports.get(&port))
        .is_some_and(|((workload, _), target)| {
            mesh.mutual_tls(workload, *target) == MutualTlsMode::Disable
        });
    endpoint.identity.is_some() && !refuses
}

/// The clusters that every proxy has for traffic that leaves it.
pub(super) fn fixed(mesh: &Mesh) -> Vec<cds::Cluster> {
    vec![passthrough(), black_hole(), mixer(mesh)]
}

/// The parts of a service's port that have clusters: all its endpoints, and each subset.
pub(super) fn parts(view: &View<'_>, entry: &Entry, port: u16) -> Vec<Part> {
    let host = &entry.service.host;
    let rules = view.rules(host);
    let none = Labels::new();
    let subsets = rules.subsets().into_iter();
    std::iter::once(("", &none))
        .chain(subsets.map(|subset| (subset.name.as_str(), &subset.labels)))
        .map(|(subset, labels)| Part {
            name: outbound_name(port, subset, host),
            port,
            labels: labels.clone(),
            policy: rules.policy(port, subset),
        })
        .collect()
}

/// The cluster of one part.
pub(super) fn outbound(mesh: &Mesh, entry: &Entry, part: &Part) -> cds::Cluster {
    let service = &entry.service;
    let name = part.name.clone();
    let mut cluster = match part.resolution(service) {
        Resolution::None => original_destination(name),
        Resolution::Static => by_endpoints(name),
        Resolution::Dns => by_dns(name, endpoint::assignment(mesh, service, part)),
    };
    let declared = service.ports.get(&part.port);
    let protocol = declared.map_or(Protocol::Tcp, |declared| declared.protocol);
    let mut http = Http::default();
    policy::apply(&mut cluster, &mut http, &part.policy);
    let way = way(mesh, service, part);
    match way {
        Way::To(Transport::Mesh) => http.speak_on(&mut cluster, protocol),
        _ => http.speak_to_application(&mut cluster, protocol),
    }
    match way {
        Way::To(transport) => secure(mesh, service, transport, &mut cluster),
        Way::Origination(settings) => {
            let http2 = matches!(protocol, Protocol::Http2 | Protocol::Grpc);
            cluster.transport_socket = Some(tls::origination(settings, entry, http2));
        }
    }
    cluster
}

/// How the way to a part is secured: as its rule says, else as its endpoints can.
fn way<'a>(mesh: &Mesh, service: &Service, part: &'a Part) -> Way<'a> {
    match &part.policy.tls {
        Some(settings) => match settings.mode {
            TlsMode::Disable => Way::To(Transport::Plain),
            TlsMode::Simple | TlsMode::Mutual => Way::Origination(settings),
            _ => Way::To(Transport::Mesh),
        },
        None => Way::To(transport(mesh, service, part.port)),
    }
}

fn secure(mesh: &Mesh, service: &Service, transport: Transport, cluster: &mut cds::Cluster) {
    let client = || tls::client(&mesh.trust_domain, &service.identities);
    match transport {
        Transport::Mesh => cluster.transport_socket = Some(client()),
        Transport::Plain => {}
        Transport::Mixed => {
            let (key, value) = endpoint::TLS_MODE;
            // An endpoint without the mark finds no match, and gets what a cluster without a
            // transport socket has: plaintext.
            cluster.transport_socket_matches = vec![cds::cluster::TransportSocketMatch {
                name: "mesh".to_owned(),
                r#match: Some(wire::structure(key, value)),
                transport_socket: Some(client()),
            }];
        }
    }
}

/// The cluster of an application's port: to the address that was called, from the address that
/// the redirect rules let through.
pub(super) fn inbound(port: u16, protocol: Option<Protocol>) -> cds::Cluster {
    let mut cluster = to_application(inbound_name(port));
    Http::default().speak_to_application(&mut cluster, protocol.unwrap_or(Protocol::Tcp));
    cluster
}

/// The cluster of an application's port where the sidecar takes calls at a port of its own: the
/// application listens on loopback, of either family.
pub(super) fn inbound_on_loopback(port: u16, protocol: Option<Protocol>) -> cds::Cluster {
    let name = inbound_name(port);
    let application = eds::Endpoint {
        address: wire::address("127.0.0.1", port),
        additional_addresses: vec![eds::endpoint::AdditionalAddress {
            address: wire::address("::1", port),
        }],
        ..Default::default()
    };
    let mut cluster = cds::Cluster {
        load_assignment: Some(assigned(name.clone(), [application])),
        ..of_type(name, DiscoveryType::Static)
    };
    Http::default().speak_to_application(&mut cluster, protocol.unwrap_or(Protocol::Tcp));
    cluster
}

/// The cluster of all ports that the workload does not declare.
pub(super) fn inbound_passthrough() -> cds::Cluster {
    to_application(INBOUND_PASSTHROUGH.to_owned())
}

fn to_application(name: String) -> cds::Cluster {
    let (v4, v6) = INBOUND_SOURCES;
    cds::Cluster {
        upstream_bind_config: Some(core::BindConfig {
            source_address: Some(wire::socket(v4, 0)),
            extra_source_addresses: vec![core::ExtraSourceAddress {
                address: Some(wire::socket(v6, 0)),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..original_destination(name)
    }
}

/// To wherever the caller was going.
pub(super) fn original_destination(name: String) -> cds::Cluster {
    cds::Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        ..of_type(name, DiscoveryType::OriginalDst)
    }
}

/// To one address, for calls to just that one, where a sidecar of `identity` takes them.
pub(super) fn direct(
    name: &str,
    address: SocketAddr,
    host: &Host,
    identity: &SpiffeId,
) -> cds::Cluster {
    let endpoint = eds::Endpoint {
        address: wire::address(address.ip().to_string(), address.port()),
        ..Default::default()
    };
    let identities = std::slice::from_ref(identity);
    cds::Cluster {
        load_assignment: Some(assigned(name.to_owned(), [endpoint])),
        transport_socket: Some(tls::client(&identity.trust_domain, identities)),
        metadata: Some(wire::metadata(
            wire::METADATA,
            access_log::SERVICE,
            host.as_str(),
        )),
        ..of_type(name.to_owned(), DiscoveryType::Static)
    }
}

/// To endpoints that ADS gives under the cluster's name.
fn by_endpoints(name: String) -> cds::Cluster {
    cds::Cluster {
        eds_cluster_config: Some(cds::cluster::EdsClusterConfig {
            eds_config: wire::ads(),
            ..Default::default()
        }),
        ..balanced(of_type(name, DiscoveryType::Eds))
    }
}

/// To endpoints whose names the proxy looks up itself.
#[expect(
    deprecated,
    reason = "the cluster type that replaces these fields is younger than the oldest Envoy we take"
)]
fn by_dns(name: String, assignment: eds::ClusterLoadAssignment) -> cds::Cluster {
    cds::Cluster {
        load_assignment: Some(assignment),
        dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
        dns_refresh_rate: wire::duration(DNS_REFRESH),
        respect_dns_ttl: true,
        ..balanced(of_type(name, DiscoveryType::StrictDns))
    }
}

/// Chooses the less busy endpoint of two, as Istio does, and never an unhealthy one.
fn balanced(cluster: cds::Cluster) -> cds::Cluster {
    cds::Cluster {
        lb_policy: LbPolicy::LeastRequest.into(),
        common_lb_config: Some(cds::cluster::CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..Default::default()
        }),
        ..cluster
    }
}

fn passthrough() -> cds::Cluster {
    let mut cluster = original_destination(PASSTHROUGH.to_owned());
    Http::default().speak_on(&mut cluster, Protocol::Http);
    cluster
}

fn black_hole() -> cds::Cluster {
    of_type(BLACK_HOLE.to_owned(), DiscoveryType::Static)
}

/// The Mixer's addresses; none is a cluster without endpoints, and logs are dropped there.
fn mixer(mesh: &Mesh) -> cds::Cluster {
    let identity = mesh_model::ServiceAccount::try_from("mixer".to_owned())
        .ok()
        .map(|service_account| SpiffeId {
            trust_domain: mesh.trust_domain.clone(),
            namespace: Namespace::mesh_system(),
            service_account,
        });
    let endpoints = mesh.mixer.iter().map(|address| eds::Endpoint {
        address: wire::address(address.ip().to_string(), address.port()),
        ..Default::default()
    });
    let mut cluster = cds::Cluster {
        load_assignment: Some(assigned(MIXER.to_owned(), endpoints)),
        transport_socket: Some(tls::control_plane(&mesh.trust_domain, identity.as_slice())),
        ..of_type(MIXER.to_owned(), DiscoveryType::Static)
    };
    Http::default().speak_on(&mut cluster, Protocol::Grpc);
    cluster
}

/// Endpoints in the cluster itself.
fn assigned(
    cluster_name: String,
    endpoints: impl IntoIterator<Item = eds::Endpoint>,
) -> eds::ClusterLoadAssignment {
    let endpoints = endpoints.into_iter().map(|endpoint| eds::LbEndpoint {
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    });
    eds::ClusterLoadAssignment {
        cluster_name,
        endpoints: vec![eds::LocalityLbEndpoints {
            lb_endpoints: endpoints.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The cluster of hosts that a request names and the proxy looks up.
pub(super) fn forward() -> cds::Cluster {
    let config = ForwardConfig {
        dns_cache_config: Some(dns_cache()),
    };
    let mut cluster = cds::Cluster {
        name: FORWARD.to_owned(),
        lb_policy: LbPolicy::ClusterProvided.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(
            cds::cluster::CustomClusterType {
                name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
                typed_config: Some(wire::any(&config)),
            },
        )),
        ..of_type(FORWARD.to_owned(), DiscoveryType::Static)
    };
    let http = Http {
        // Envoy wants the name checked wherever it looks a host up, also where there is no TLS.
        name: Some(core::UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: true,
            ..Default::default()
        }),
        ..Http::default()
    };
    http.speak_on(&mut cluster, Protocol::Http);
    cluster
}

/// How the forward proxy looks hosts up; its filter and its cluster must say the same.
pub(super) fn dns_cache() -> DnsCacheConfig {
    DnsCacheConfig {
        name: "forwardProxy".to_owned(),
        dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
    }
}

/// A cluster with what all of them share: no limits but those that somebody sets.
fn of_type(name: String, kind: DiscoveryType) -> cds::Cluster {
    cds::Cluster {
        name,
        connect_timeout: wire::duration(CONNECT_TIMEOUT),
        circuit_breakers: Some(cds::CircuitBreakers {
            thresholds: vec![unlimited()],
            ..Default::default()
        }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        ..Default::default()
    }
}

/// Envoy's own limits (1,024 connections and requests) would refuse calls that nobody limited.
fn unlimited() -> cds::circuit_breakers::Thresholds {
    cds::circuit_breakers::Thresholds {
        max_connections: wire::uint(u32::MAX),
        max_pending_requests: wire::uint(u32::MAX),
        max_requests: wire::uint(u32::MAX),
        max_retries: wire::uint(u32::MAX),
        ..Default::default()
    }
}
