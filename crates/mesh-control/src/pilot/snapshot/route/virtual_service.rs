//! The routes of a host: its `VirtualService` in Envoy's terms, or everything to the service.

use mesh_model::istio::virtual_service::{
    Destination, HttpMatch, HttpRoute, L4Match, RouteDestination, VirtualService,
};
use mesh_model::{Host, Object, Service};
use mesh_proto::envoy::config::route::v3 as rds;
use mesh_proto::envoy::config::route::v3::route::Action;

use super::super::listener::Weighted;
use super::super::{View, cluster};
use super::{action, everything, matching, service_metadata, to};

/// What a `VirtualService` means by itself when it names no gateway: every sidecar.
const MESH: &str = "mesh";

/// What routes are made for.
pub(super) struct Target<'a> {
    /// Who calls.
    pub(super) view: &'a View<'a>,
    /// The object that says how, whose namespace short names are of.
    pub(super) source: &'a Object<VirtualService>,
    /// The host that is called.
    pub(super) host: &'a Host,
    /// The port that is called.
    pub(super) port: u16,
}

/// The routes of a service's port.
pub(super) fn of_service(view: &View<'_>, service: &Service, port: u16) -> Vec<rds::Route> {
    let source = view.virtual_service(&service.host);
    if source.is_none_or(|source| source.spec.http.is_empty()) {
        return vec![plain(view, service, port)];
    }
    of_host(view, &service.host, port)
}

/// The routes that a `VirtualService` gives a host, in its order; none if there is none.
pub(super) fn of_host(view: &View<'_>, host: &Host, port: u16) -> Vec<rds::Route> {
    let Some(source) = view.virtual_service(host) else {
        return Vec::new();
    };
    let target = Target {
        view,
        source,
        host,
        port,
    };
    let mut routes = Vec::new();
    for rule in &source.spec.http {
        routes.extend(target.routes(rule));
        // What stands behind a route for everything is never reached.
        if routes.last().is_some_and(is_everything) {
            break;
        }
    }
    routes
}

/// The clusters that connections to a TCP port are spread over.
pub(in super::super) fn connections(view: &View<'_>, service: &Service, port: u16) -> Weighted {
    let own = || vec![(cluster::outbound_name(port, "", &service.host), 1)];
    let Some(source) = view.virtual_service(&service.host) else {
        return own();
    };
    let target = Target {
        view,
        source,
        host: &service.host,
        port,
    };
    let gateways = &source.spec.gateways;
    let route = source.spec.tcp.iter().find(|route| {
        let matches = |condition| target.takes_connection(condition, gateways);
        is_mesh(gateways) && route.matches.is_empty() || route.matches.iter().any(matches)
    });
    let clusters = match route {
        Some(route) => target.spread(&route.route),
        None => return own(),
    };
    if clusters.is_empty() {
        vec![(cluster::BLACK_HOLE.to_owned(), 1)]
    } else {
        clusters
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

impl Target<'_> {
    /// One route for each match of a rule, or one for everything.
    fn routes(&self, rule: &HttpRoute) -> Vec<rds::Route> {
        if rule.matches.is_empty() {
            let route = is_mesh(&self.source.spec.gateways)
                .then(|| self.route(rule, &HttpMatch::default()));
            return route.into_iter().collect();
        }
        rule.matches
            .iter()
            .filter(|condition| self.takes_request(condition))
            .map(|condition| self.route(rule, condition))
            .collect()
    }

    fn route(&self, rule: &HttpRoute, condition: &HttpMatch) -> rds::Route {
        let mut route = rds::Route {
            name: match (rule.name.as_str(), condition.name.as_str()) {
                ("", name) | (name, "") => name.to_owned(),
                (rule, condition) => format!("{rule}.{condition}"),
            },
            r#match: Some(matching::request(condition)),
            metadata: Some(service_metadata(&self.reported(rule))),
            ..Default::default()
        };
        action::apply(self, rule, &mut route);
        route
    }

    /// The service that logs name: the one destination, or the one that was called.
    fn reported(&self, rule: &HttpRoute) -> Host {
        let mut hosts = rule
            .route
            .iter()
            .filter_map(|route| self.resolve(route.destination.as_ref()?));
        let first = hosts.next();
        first
            .filter(|first| hosts.all(|host| host == *first))
            .unwrap_or_else(|| self.host.clone())
    }

    /// Whether a match can hold for this caller, on this port.
    fn takes_request(&self, condition: &HttpMatch) -> bool {
        let gateways = if condition.gateways.is_empty() {
            &self.source.spec.gateways
        } else {
            &condition.gateways
        };
        is_mesh(gateways)
            && condition.port.is_none_or(|port| port == self.port)
            && self.is_caller(&condition.source_namespace)
            // All callers of a namespace have the same routes: labels of one cannot be looked at.
            && condition.source_labels.is_empty()
    }

    fn takes_connection(&self, condition: &L4Match, gateways: &[String]) -> bool {
        let gateways = if condition.gateways.is_empty() {
            gateways
        } else {
            &condition.gateways
        };
        is_mesh(gateways)
            && condition.port.is_none_or(|port| port == self.port)
            && self.is_caller(&condition.source_namespace)
            && condition.source_labels.is_empty()
            && condition.destination_subnets.is_empty()
            && condition.source_subnet.is_empty()
    }

    fn is_caller(&self, namespace: &str) -> bool {
        namespace.is_empty() || namespace == self.view.namespace.as_str()
    }

    /// The host that a destination means.
    pub(super) fn resolve(&self, destination: &Destination) -> Option<Host> {
        let namespace = self.source.metadata.namespace.parse().ok()?;
        self.view.mesh.resolve(&destination.host, &namespace)
    }

    /// The cluster of a destination: on the port that it names, else on the only port of its
    /// service, else on the one that was called.
    pub(super) fn cluster(&self, destination: &Destination) -> Option<(Host, u16, String)> {
        let host = self.resolve(destination)?;
        let port = destination.port.as_ref().map(|port| port.number);
        let port = port.unwrap_or_else(|| {
            let ports = self.view.entry(&host).map(|entry| &entry.service.ports);
            match ports.map(|ports| (ports.len(), ports.keys().next())) {
                Some((1, Some(only))) => *only,
                _ => self.port,
            }
        });
        let name = cluster::outbound_name(port, &destination.subset, &host);
        Some((host, port, name))
    }

    fn spread(&self, destinations: &[RouteDestination]) -> Weighted {
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

/// Whether sidecars are meant.
fn is_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH)
}

/// Whether nothing behind this route is reached.
fn is_everything(route: &rds::Route) -> bool {
    route.r#match.as_ref() == Some(&everything())
}
