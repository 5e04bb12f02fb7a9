//! Calls to an address that the application took from a catalogue itself, past every service's name.
//!
//! Such a call goes to an address of a node, at a port that leads to one workload. Which of the
//! node's ports do changes with every allocation, so no listener lists them: at its first call to
//! an address the proxy asks for the cluster of just that address, by its name, and Pilot tells it
//! from then on when somebody else is there. Who never calls an address never hears of it.
//!
//! Source: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/tcp_proxy_filter>
//! (`envoy.tcp_proxy.cluster`, on-demand cluster discovery).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_model::istio::destination_rule::TlsMode;
use mesh_model::service::{Location, Resolution};
use mesh_model::{Endpoint, Health, Host, Namespace, SpiffeId, WorkloadId};
use mesh_proto::envoy::config::listener::v3 as lds;
use mesh_proto::envoy::extensions::filters::common::set_filter_state::v3 as state;
use mesh_proto::envoy::extensions::filters::network::set_filter_state::v3::Config;
use xxhash_rust::xxh3::xxh3_64;

use super::access_log::{self, Side};
use super::{View, cluster, endpoint, listener, wire};
use crate::pilot::mesh::{Entry, Mesh, OutboundPolicy};
use crate::pilot::resource::Resource;

/// What the names of these clusters begin with: `direct|24080||10.0.0.5` is the cluster of port
/// 24080 of that address.
pub(in crate::pilot) const PREFIX: &str = "direct|";

/// The name, as Envoy makes it of the address that was called.
const NAME: &str = "direct|%DOWNSTREAM_LOCAL_PORT%||%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%";

/// The object by which `tcp_proxy` takes a cluster of this one connection's.
const CLUSTER: &str = "envoy.tcp_proxy.cluster";

/// How long a connection waits for its cluster: longer than a Pilot that has just started takes to
/// know enough, shorter than applications wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Filter chains over which addresses are spread. Envoy closes the connections of a chain that
/// changes, so a node that comes or goes disturbs few others; one chain for each node would make
/// the listener of a large cluster some megabytes.
const CHAINS: u64 = 64;

/// The workloads that can be called at addresses of nodes, as callers of one namespace see them.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Directory {
    occupants: BTreeMap<SocketAddr, Arc<Occupant>>,
}

/// Who is called at an address.
#[derive(Debug)]
struct Occupant {
    /// The service that is said to be there.
    host: Host,
    /// Who must answer under the mesh's TLS; none who is called in plaintext.
    identity: Option<SpiffeId>,
    /// Its cluster, made when somebody asks for it first.
    cluster: OnceLock<Resource>,
}

/// What decides between several that claim one address: whether it can answer, whether the service
/// is the workload's own, then names.
type Rank<'a> = (u8, bool, Option<&'a WorkloadId>, &'a Host, u16);

/// An endpoint that is said to be at an address.
#[derive(Clone, Copy, Debug)]
struct Claim<'a> {
    rank: Rank<'a>,
    entry: &'a Entry,
    endpoint: &'a Endpoint,
    /// Whether callers of its service speak the mesh's TLS to it.
    secured: bool,
}

// === impl Directory ===

impl Directory {
    /// What callers of the view's namespace find, if the outbound policy lets them call by address.
    pub(super) fn of(view: &View<'_>) -> Option<Self> {
        if view.mesh.outbound != OutboundPolicy::AllowAny {
            return None;
        }
        let occupants = claims(*view).into_iter().map(|(address, claim)| {
            let identity = claim.endpoint.identity.clone();
            let occupant = Occupant {
                host: claim.entry.service.host.clone(),
                identity: identity.filter(|_| claim.secured),
                cluster: OnceLock::new(),
            };
            (address, Arc::new(occupant))
        });
        Some(Self {
            occupants: occupants.collect(),
        })
    }

    /// The cluster of a name, if it is one of an address at which a workload is.
    pub fn cluster(&self, name: &str) -> Option<Resource> {
        let address = parse(name)?;
        let occupant = self.occupants.get(&address)?;
        let made = occupant.cluster.get_or_init(|| {
            let cluster = match &occupant.identity {
                Some(identity) => cluster::direct(name, address, &occupant.host, identity),
                None => cluster::original_destination(name.to_owned()),
            };
            Resource::encode(name, &cluster)
        });
        Some(made.clone())
    }

    /// The names of the clusters that lead to a sidecar, in the order of addresses.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.secured().map(name)
    }

    /// The addresses that are called under the mesh's TLS.
    fn secured(&self) -> impl Iterator<Item = &SocketAddr> {
        let secured = |(address, occupant): (_, &Arc<Occupant>)| {
            occupant.identity.is_some().then_some(address)
        };
        self.occupants.iter().filter_map(secured)
    }

    /// The same, with what `old` has of it already made; `old` itself if nothing changed.
    pub(in crate::pilot) fn sharing(&self, old: &Arc<Self>) -> Arc<Self> {
        if *self == **old {
            return Arc::clone(old);
        }
        let occupants = self.occupants.iter().map(|(address, occupant)| {
            let known = old.occupants.get(address);
            let known = known.filter(|known| *known == occupant);
            (*address, Arc::clone(known.unwrap_or(occupant)))
        });
        Arc::new(Self {
            occupants: occupants.collect(),
        })
    }
}

/// Who is called at every address.
fn claims(view: View<'_>) -> BTreeMap<SocketAddr, Claim<'_>> {
    let mut claims: BTreeMap<SocketAddr, Claim<'_>> = BTreeMap::new();
    for entry in view.mesh.seen_from(view.namespace) {
        let service = &entry.service;
        let is_ours = service.location == Location::MeshInternal;
        if !is_ours || service.resolution != Resolution::Static {
            continue;
        }
        for port in service.ports.keys() {
            let tls = view.rules(&service.host).policy(*port, "").tls;
            let tls = tls.map(|tls| tls.mode);
            for (address, endpoint) in called(view.mesh, entry, *port) {
                let claim = Claim {
                    rank: rank(entry, endpoint, *port),
                    entry,
                    endpoint,
                    secured: match tls {
                        None => cluster::takes_mesh_tls(view.mesh, endpoint, *port),
                        Some(mode) => mode == TlsMode::IstioMutual,
                    },
                };
                let best = claims.entry(address).or_insert(claim);
                if claim.rank < best.rank {
                    *best = claim;
                }
            }
        }
    }
    claims
}

/// Whom callers of a namespace call at an address: the service with its port, and the endpoint.
pub(in crate::pilot) fn at<'a>(
    mesh: &'a Mesh,
    namespace: &'a Namespace,
    address: SocketAddr,
) -> Option<(&'a Entry, u16, &'a Endpoint)> {
    let claim = *claims(View { mesh, namespace }).get(&address)?;
    let (_, _, _, _, port) = claim.rank;
    Some((claim.entry, port, claim.endpoint))
}

// === impl Occupant ===

impl PartialEq for Occupant {
    fn eq(&self, other: &Self) -> bool {
        (&self.host, &self.identity) == (&other.host, &other.identity)
    }
}

impl Eq for Occupant {}

/// The cluster of an address at which no workload is, if the name is one of an address: on to
/// wherever the application went, as it is.
///
/// One that a workload `left` bears a mark, by which another Pilot tells it from one at which there
/// may always have been something else.
pub(in crate::pilot) fn passing(name: &str, left: bool) -> Option<Resource> {
    parse(name)?;
    let mut through = cluster::original_destination(name.to_owned());
    through.metadata = left.then(|| wire::metadata(wire::METADATA, "left", "true"));
    Some(Resource::encode(name, &through))
}

/// Whether a name is one of these clusters'.
pub(in crate::pilot) fn is_name(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The address that a cluster is of; none of a name that Envoy would not make.
fn parse(name: &str) -> Option<SocketAddr> {
    let (port, address) = name.strip_prefix(PREFIX)?.split_once("||")?;
    let address = SocketAddr::new(address.parse().ok()?, port.parse().ok()?);
    (self::name(&address) == name).then_some(address)
}

/// The cluster of an address.
pub(in crate::pilot) fn name(address: &SocketAddr) -> String {
    format!("{PREFIX}{}||{}", address.port(), address.ip())
}

/// Where calls for a port of a service find its endpoints on nodes.
fn called<'a>(
    mesh: &'a Mesh,
    entry: &'a Entry,
    port: u16,
) -> impl Iterator<Item = (SocketAddr, &'a Endpoint)> {
    let endpoints = entry.service.endpoints.iter();
    endpoints.flat_map(move |endpoint| {
        let known = endpoint.workload.as_ref().and_then(|id| mesh.workload(id));
        let dialed = endpoint::called_at(mesh, endpoint, port);
        let addresses = known.into_iter().flat_map(|(it, _)| &it.addresses);
        let nodes = addresses.filter(|address| mesh.nodes.contains(address));
        nodes.filter_map(move |address| Some((SocketAddr::new(*address, dialed?), endpoint)))
    })
}

fn rank<'a>(entry: &'a Entry, endpoint: &'a Endpoint, port: u16) -> Rank<'a> {
    let health = match endpoint.health {
        Health::Healthy => 0,
        Health::Starting => 1,
        Health::Unhealthy => 2,
    };
    let workload = endpoint.workload.as_ref();
    (health, entry.foreign, workload, &entry.service.host, port)
}

/// The filter chains of calls to addresses of nodes; none where such calls may not leave.
pub(super) fn chains(mesh: &Mesh) -> Vec<lds::FilterChain> {
    if mesh.outbound != OutboundPolicy::AllowAny {
        return Vec::new();
    }
    spread(mesh.nodes.iter().copied())
        .into_iter()
        .map(|(number, nodes)| {
            let matching = lds::FilterChainMatch {
                prefix_ranges: nodes.into_iter().map(wire::network).collect(),
                ..Default::default()
            };
            listener::chain(format!("direct/{number}"), Some(matching), filters())
        })
        .collect()
}

/// The listeners of calls to addresses at which somebody is, at a port that is one of HTTP too:
/// the listener of that port takes what no listener of the very address does.
pub(super) fn listeners(view: &View<'_>, directory: &Directory) -> Vec<lds::Listener> {
    let http = view.http_ports();
    let mut called: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    for at in directory.secured() {
        if http.contains(&at.port()) {
            called.entry(at.port()).or_default().insert(at.ip());
        }
    }
    // Two listeners of one address would be refused.
    for entry in view.mesh.seen_from(view.namespace) {
        for port in entry.service.ports.keys() {
            if let Some(addresses) = called.get_mut(port) {
                addresses.retain(|address| !entry.own_addresses.contains(address));
            }
        }
    }
    let listeners = called.into_iter().flat_map(|(port, addresses)| {
        let spread = spread(addresses.into_iter()).into_iter();
        spread.filter_map(move |(number, addresses)| {
            let mut addresses = addresses.into_iter();
            let first = addresses.next()?;
            let name = format!("{PREFIX}{port}/{number}");
            Some(lds::Listener {
                address: wire::address(first.to_string(), port),
                additional_addresses: addresses
                    .map(|address| listener::also(address.to_string(), port))
                    .collect(),
                bind_to_port: wire::truth(false),
                filter_chains: vec![listener::chain("direct", None, filters())],
                ..listener::on_every_address(&name, port, Side::Outbound)
            })
        })
    });
    listeners.collect()
}

/// Addresses by the chain that is theirs.
fn spread(nodes: impl Iterator<Item = IpAddr>) -> BTreeMap<u64, Vec<IpAddr>> {
    let mut spread: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for node in nodes {
        let chain = match node {
            IpAddr::V4(address) => xxh3_64(&address.octets()),
            IpAddr::V6(address) => xxh3_64(&address.octets()),
        } % CHAINS;
        spread.entry(chain).or_default().push(node);
    }
    spread
}

/// Names the cluster of the called address, and waits for it.
fn filters() -> Vec<lds::Filter> {
    let cluster = state::FilterStateValue {
        key: Some(state::filter_state_value::Key::ObjectKey(
            CLUSTER.to_owned(),
        )),
        value: Some(state::filter_state_value::Value::FormatString(
            wire::format(NAME),
        )),
        ..Default::default()
    };
    let named = Config {
        on_new_connection: vec![cluster],
        ..Default::default()
    };
    vec![
        listener::filter("envoy.filters.network.set_filter_state", wire::any(&named)),
        listener::on_demand("direct", access_log::direct(), PATIENCE),
    ]
}

#[cfg(test)]
mod tests;
