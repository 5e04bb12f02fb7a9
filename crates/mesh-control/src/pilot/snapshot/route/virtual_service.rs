//! The routes of a host: its `VirtualService` in Envoy's terms, or everything to the service.
//!
//! Which routes hold for a caller and a port is the model's decision, the same that explains them.

use std::collections::BTreeMap;

use mesh_model::istio::VirtualService;
use mesh_model::istio::virtual_service::{Destination, HttpMatch, HttpRoute, RouteDestination};
use mesh_model::route::{Caller, Candidate, destination_port, http_routes, tcp_routes};
use mesh_model::{Host, Object, Service};
use mesh_proto::envoy::config::route::v3 as rds;
use mesh_proto::envoy::config::route::v3::route::Action;

use super::super::listener::Weighted;
use super::super::{View, cluster};
use super::{action, everything, matching, service_metadata, to};

/// What routes are made for.
pub(in super::super) struct Target<'a> {
    /// Who calls.
    pub(super) view: &'a View<'a>,
    /// The object that says how, whose namespace short names are of.
    source: &'a Object<VirtualService>,
    /// The host that is called, if it is one host.
    host: Option<&'a Host>,
    /// The port that is called.
    port: u16,
}

/// All callers of a namespace have the same routes: labels of one of them cannot be looked at.
const NO_LABELS: &BTreeMap<String, String> = &BTreeMap::new();

/// The routes of a service's port.
pub(super) fn of_service(view: &View<'_>, service: &Service, port: u16) -> Vec<rds::Route> {
    let routes = of_host(view, &service.host, port);
    if routes.is_empty() {
        return vec![plain(view, service, port)];
    }
    routes
}

/// The routes that a `VirtualService` gives a host, in its order; none if nobody says anything.
pub(super) fn of_host(view: &View<'_>, host: &Host, port: u16) -> Vec<rds::Route> {
    let Some(source) = view.virtual_service(host) else {
        return Vec::new();
    };
    let target = Target {
        view,
        source,
        host: Some(host),
        port,
    };
    let candidates = http_routes(source, target.caller(), port).into_iter();
    candidates
        .flat_map(|candidate| target.routes(&candidate))
        .collect()
}

/// The clusters that connections to a TCP port are spread over; never none.
pub(in super::super) fn connections(view: &View<'_>, service: &Service, port: u16) -> Weighted {
    let source = view.virtual_service(&service.host);
    let routed = source.and_then(|source| {
        let target = Target {
            view,
            source,
            host: Some(&service.host),
            port,
        };
        let route = tcp_routes(source, target.caller(), port)
            .into_iter()
            .next()?;
        Some(target.spread(&route.route.route))
    });
    match routed {
        Some(clusters) if clusters.is_empty() => vec![(cluster::BLACK_HOLE.to_owned(), 1)],
        Some(clusters) => clusters,
        None => vec![(cluster::outbound_name(port, "", &service.host), 1)],
    }
}

/// Everything to the service itself.
fn plain(view: &View<'_>, service: &Service, port: u16) -> rds::Route {
    let mut action = to(cluster::outbound_name(port, "", &service.host));
    action.hash_policy = action::hash_policy(view, &service.host, "", port);
    rds::Route {
        name: "default".to_owned(),
        r#match: Some(everything()),
        metadata: Some(service_metadata(&service.host)),
        action: Some(Action::Route(action)),
        ..Default::default()
    }
}

// === impl Target ===

impl<'a> Target<'a> {
    /// What routes of an object are made for that is bound to a gateway.
    pub(in super::super) fn at_gateway(
        view: &'a View<'a>,
        source: &'a Object<VirtualService>,
        host: Option<&'a Host>,
        port: u16,
    ) -> Self {
        Self {
            view,
            source,
            host,
            port,
        }
    }

    /// The routes of one rule: one for each of its conditions that must still be met.
    pub(in super::super) fn routes(
        &self,
        candidate: &Candidate<'_, HttpRoute, HttpMatch>,
    ) -> Vec<rds::Route> {
        let conditions = match &candidate.conditions {
            Some(conditions) => conditions.as_slice(),
            None => return vec![self.route(candidate.route, &HttpMatch::default())],
        };
        let one = |condition: &&HttpMatch| self.route(candidate.route, condition);
        conditions.iter().map(one).collect()
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            namespace: self.view.namespace.as_str(),
            labels: NO_LABELS,
            gateway: None,
        }
    }

    fn route(&self, rule: &HttpRoute, condition: &HttpMatch) -> rds::Route {
        let mut route = rds::Route {
            name: match (rule.name.as_str(), condition.name.as_str()) {
                ("", name) | (name, "") => name.to_owned(),
                (rule, condition) => format!("{rule}.{condition}"),
            },
            r#match: Some(matching::request(condition)),
            metadata: self.reported(rule).as_ref().map(service_metadata),
            ..Default::default()
        };
        action::apply(self, rule, &mut route);
        route
    }

    /// The service that logs name: the one destination, or the one that was called.
    fn reported(&self, rule: &HttpRoute) -> Option<Host> {
        let mut hosts = rule
            .route
            .iter()
            .filter_map(|route| self.resolve(route.destination.as_ref()?));
        let first = hosts.next();
        first
            .filter(|first| hosts.all(|host| host == *first))
            .or_else(|| self.host.cloned())
    }

    /// The host that a destination means.
    fn resolve(&self, destination: &Destination) -> Option<Host> {
        let namespace = self.source.metadata.namespace.parse().ok()?;
        Host::resolve(&destination.host, &namespace).ok()
    }

    /// The cluster of a destination, on the port that it means.
    pub(super) fn cluster(&self, destination: &Destination) -> Option<(Host, u16, String)> {
        let host = self.resolve(destination)?;
        let named = destination.port.as_ref().map(|port| port.number);
        let ports = self.view.entry(&host).map(|entry| &entry.service.ports);
        let port = destination_port(named, ports, self.port);
        let name = cluster::outbound_name(port, &destination.subset, &host);
        Some((host, port, name))
    }

    /// The clusters that connections are spread over.
    pub(in super::super) fn spread(&self, destinations: &[RouteDestination]) -> Weighted {
        let single = destinations.len() == 1;
        destinations
            .iter()
            .filter(|destination| single || destination.weight > 0)
            .filter_map(|destination| {
                let (_, _, name) = self.cluster(destination.destination.as_ref()?)?;
                Some((name, destination.weight.max(1)))
            })
            .collect()
    }
}
