//! Where a request or a connection goes, by the `VirtualService`s that hold for it, and why.
//!
//! Both halves are here: [`http_routes`] and [`tcp_routes`] settle what is known before any
//! request, as configuration for a proxy needs it; [`route_http`] and [`route_tcp`] settle the
//! rest for one request or connection.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::host::{HostPattern, canonical, is_exported};
use crate::istio::virtual_service::{
    Destination, DirectResponse, Fault, Headers, HttpMatch, HttpRoute, L4Match, Redirect, Retries,
    Rewrite, RouteDestination, TcpRoute, TlsMatch, TlsRoute,
};
use crate::istio::{Duration, VirtualService};
use crate::{HttpRequest, Object, ObjectRef, gateway};

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The namespace of the calling workload.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The `Gateway` at which the call came in from outside; `None` for a sidecar.
    pub gateway: Option<&'a ObjectRef>,
}

/// A route that holds for a caller and a port, whatever the request is.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate<'a, R, M> {
    /// Its place in the object's list.
    pub index: usize,
    /// The route.
    pub route: &'a R,
    /// What a request must still meet one of; `None` when every request does.
    pub conditions: Option<Vec<&'a M>>,
}

/// What happens to a request, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision<'a> {
    /// What happens.
    pub action: Action<'a>,
    /// Why.
    pub because: Because,
}

/// What happens to a request or a connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Action<'a> {
    /// It is sent on.
    Forward(Box<Forward<'a>>),
    /// It is answered with a redirect.
    Redirect(&'a Redirect),
    /// It is answered with a fixed response.
    Respond(&'a DirectResponse),
    /// It is answered with 404.
    NotFound,
}

/// How a request is sent on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward<'a> {
    /// Where to, by weight; never empty.
    pub destinations: Vec<Share>,
    /// Faults that are made first.
    pub fault: Option<&'a Fault>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// How failures are tried again.
    pub retries: Option<&'a Retries>,
    /// What is changed of path and authority.
    pub rewrite: Option<&'a Rewrite>,
    /// Changes to headers.
    pub headers: Option<&'a Headers>,
}

/// A destination with its share.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The canonical host.
    pub host: String,
    /// The subset; empty for all endpoints.
    pub subset: String,
    /// The port of the service that the route names; what it means without is said by
    /// [`destination_port`].
    pub port: Option<u16>,
    /// Its share of the sum of all weights.
    pub weight: u32,
}

/// Why a request goes where it goes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Because {
    /// No object holds for the host, the caller and the port, so it goes to the host itself.
    NoVirtualService,
    /// A route of an object matches.
    Route {
        /// The object.
        object: ObjectRef,
        /// The place of the route in its list.
        route: usize,
        /// Its name, if it has one.
        name: String,
        /// The place of the condition that was met among those that hold for the caller; `None`
        /// when there is none.
        condition: Option<usize>,
    },
    /// An object holds, and none of its routes matches.
    NothingMatches {
        /// The object.
        object: ObjectRef,
    },
}

/// The object that holds for a canonical host and callers in a namespace.
///
/// The one with the most exact host wins, then the oldest: routes of several objects are not
/// mixed. Objects for gateways only do not count.
pub fn virtual_service_for<'a>(
    host: &str,
    caller_namespace: &str,
    objects: impl IntoIterator<Item = &'a Object<VirtualService>>,
) -> Option<&'a Object<VirtualService>> {
    objects
        .into_iter()
        .filter(|object| {
            let owner = &object.metadata.namespace;
            object.spec.is_for_sidecars()
                && is_exported(&object.spec.export_to, owner, caller_namespace)
        })
        .filter_map(|object| {
            let patterns = object
                .spec
                .hosts
                .iter()
                .map(|text| HostPattern::resolve(text, &object.metadata.namespace));
            Some((
                patterns.filter(|pattern| pattern.matches(host)).max()?,
                object,
            ))
        })
        .min_by(|(one, a), (other, b)| {
            other
                .cmp(one)
                .then_with(|| a.metadata.age().cmp(&b.metadata.age()))
        })
        .map(|(_, object)| object)
}

/// The routes for HTTP of an object that hold for a caller at a port, in order.
///
/// Routes after one without conditions are left out: no request reaches them. When nothing is left
/// the object says nothing about that port, and requests go to the host itself.
pub fn http_routes<'a>(
    object: &'a Object<VirtualService>,
    caller: Caller<'_>,
    port: u16,
) -> Vec<Candidate<'a, HttpRoute, HttpMatch>> {
    // A delegate is not supported: its routes are passed over.
    let routes = object
        .spec
        .http
        .iter()
        .enumerate()
        .filter(|(_, r)| r.delegate.is_none());
    candidates(
        routes.map(|(index, route)| (index, route, route.matches.as_slice())),
        |condition: &HttpMatch| {
            holds_at(&condition.gateways, object, caller.gateway)
                && condition.port.is_none_or(|number| number == port)
                && is_from(
                    &condition.source_namespace,
                    &condition.source_labels,
                    caller,
                )
        },
        says_nothing_of_request,
    )
}

/// The routes for connections of an object that hold for a caller at a port, in order; see
/// [`http_routes`]. Their conditions are all settled.
pub fn tcp_routes<'a>(
    object: &'a Object<VirtualService>,
    caller: Caller<'_>,
    port: u16,
) -> Vec<Candidate<'a, TcpRoute, L4Match>> {
    let routes = object.spec.tcp.iter().enumerate();
    candidates(
        routes.map(|(index, route)| (index, route, route.matches.as_slice())),
        |condition: &L4Match| {
            holds_at(&condition.gateways, object, caller.gateway)
                && condition.port.is_none_or(|number| number == port)
                && is_from(&condition.source_namespace, &condition.source_labels, caller)
                // Not supported; to ignore it would route more than its author wrote.
                && condition.destination_subnets.is_empty()
        },
        |_| true,
    )
}

/// The routes for TLS of an object that hold at a gateway's port, in order, each with the conditions
/// that hold there; what is left of them is the server name.
pub fn tls_routes<'a>(
    object: &'a Object<VirtualService>,
    caller: Caller<'_>,
    port: u16,
) -> Vec<(&'a TlsRoute, Vec<&'a TlsMatch>)> {
    let holds = |condition: &&TlsMatch| {
        holds_at(&condition.gateways, object, caller.gateway)
            && condition.port.is_none_or(|number| number == port)
            && is_from(&condition.source_namespace, &condition.source_labels, caller)
            // Not supported, as for connections.
            && condition.destination_subnets.is_empty()
    };
    let routes = object.spec.tls.iter();
    let routes = routes.map(|route| {
        (
            route,
            route.matches.iter().filter(holds).collect::<Vec<_>>(),
        )
    });
    routes.filter(|(_, held)| !held.is_empty()).collect()
}

/// Where a request to the canonical `host` at `port` goes.
pub fn route_http<'a>(
    objects: impl IntoIterator<Item = &'a Object<VirtualService>>,
    caller: Caller<'_>,
    host: &str,
    port: u16,
    request: &HttpRequest,
) -> Decision<'a> {
    let Some(object) = virtual_service_for(host, caller.namespace, objects) else {
        return Decision::to_itself(host);
    };
    let routes = http_routes(object, caller, port);
    if routes.is_empty() {
        return Decision::to_itself(host);
    }
    take(object, routes, request).unwrap_or_else(|| {
        let object = ObjectRef::from(&object.metadata);
        Decision {
            action: Action::NotFound,
            because: Because::NothingMatches { object },
        }
    })
}

/// What becomes of a request that came in at a gateway, by the objects that are bound to one of its
/// hosts, the oldest first; `None` when none of their routes takes it, which is answered with 404.
///
/// Routes of several objects are tried one after the other, as by Istio, those that take every
/// request last.
pub fn route_at_gateway<'a>(
    objects: &[&'a Object<VirtualService>],
    caller: Caller<'_>,
    port: u16,
    request: &HttpRequest,
) -> Option<Decision<'a>> {
    let routes = http_routes_at_gateway(objects, caller, port);
    routes
        .into_iter()
        .find_map(|(object, candidate)| take(object, vec![candidate], request))
}

/// The routes for HTTP that hold at a gateway's port, of several objects, the oldest first; see
/// [`route_at_gateway`].
pub fn http_routes_at_gateway<'a>(
    objects: &[&'a Object<VirtualService>],
    caller: Caller<'_>,
    port: u16,
) -> Vec<(
    &'a Object<VirtualService>,
    Candidate<'a, HttpRoute, HttpMatch>,
)> {
    let bound = objects.iter().filter(|object| {
        let (names, owner) = (&object.spec.gateways, &object.metadata.namespace);
        gateway::is_among(names, owner, caller.gateway)
    });
    let all = bound.flat_map(|object| {
        let routes = http_routes(object, caller, port);
        routes.into_iter().map(|candidate| (*object, candidate))
    });
    let (mut some, every): (Vec<_>, Vec<_>) =
        all.partition(|(_, candidate)| candidate.conditions.is_some());
    some.extend(every.into_iter().take(1));
    some
}

/// What the first of these routes of an object says that takes a request.
fn take<'a>(
    object: &'a Object<VirtualService>,
    routes: Vec<Candidate<'a, HttpRoute, HttpMatch>>,
    request: &HttpRequest,
) -> Option<Decision<'a>> {
    for candidate in routes {
        let condition = match &candidate.conditions {
            None => None,
            Some(conditions) => match conditions.iter().position(|c| is_met(c, request)) {
                None => continue,
                met => met,
            },
        };
        let because = Because::Route {
            object: ObjectRef::from(&object.metadata),
            route: candidate.index,
            name: candidate.route.name.clone(),
            condition,
        };
        let action = action_of(candidate.route, &object.metadata.namespace);
        return Some(Decision { action, because });
    }
    None
}

/// Where a connection to the canonical `host` at `port` goes.
pub fn route_tcp<'a>(
    objects: impl IntoIterator<Item = &'a Object<VirtualService>>,
    caller: Caller<'_>,
    host: &str,
    port: u16,
) -> Decision<'a> {
    let object = virtual_service_for(host, caller.namespace, objects);
    let found = object
        .and_then(|object| Some((object, tcp_routes(object, caller, port).into_iter().next()?)));
    let Some((object, candidate)) = found else {
        return Decision::to_itself(host);
    };
    let forward = Forward {
        destinations: tcp_shares(&candidate.route.route, &object.metadata.namespace),
        ..Forward::default()
    };
    let because = Because::Route {
        object: ObjectRef::from(&object.metadata),
        route: candidate.index,
        name: String::new(),
        condition: None,
    };
    Decision {
        action: Action::Forward(Box::new(forward)),
        because,
    }
}

/// Destinations of a route of an object in `namespace`, without those that get nothing.
pub fn http_shares(route: &HttpRoute, namespace: &str) -> Vec<Share> {
    let destinations = route
        .route
        .iter()
        .map(|target| (target.destination.as_ref(), target.weight));
    shares(destinations, namespace)
}

/// The same for connections.
pub fn tcp_shares(route: &[RouteDestination], namespace: &str) -> Vec<Share> {
    let destinations = route
        .iter()
        .map(|target| (target.destination.as_ref(), target.weight));
    shares(destinations, namespace)
}

/// The port that a destination means: the one that it names, else the only one that its service
/// has, else the one that was called.
///
/// Source: <https://istio.io/latest/docs/reference/config/networking/virtual-service/#Destination>.
///
/// ```
/// # use std::collections::BTreeMap;
/// # use mesh_model::route::destination_port;
/// let only = BTreeMap::from([(8080, ())]);
/// assert_eq!(destination_port(None, Some(&only), 80), 8080);
/// assert_eq!(destination_port(Some(90), Some(&only), 80), 90);
/// let two = BTreeMap::from([(8080, ()), (9090, ())]);
/// assert_eq!(destination_port(None, Some(&two), 80), 80);
/// assert_eq!(destination_port::<()>(None, None, 80), 80);
/// ```
pub fn destination_port<P>(
    named: Option<u16>,
    ports: Option<&BTreeMap<u16, P>>,
    called: u16,
) -> u16 {
    let only = || {
        let mut numbers = ports?.keys();
        let first = numbers.next()?;
        numbers.next().is_none().then_some(*first)
    };
    named.or_else(only).unwrap_or(called)
}

// === impl Decision ===

impl Decision<'_> {
    /// The host itself, without any rule.
    fn to_itself(host: &str) -> Self {
        let share = Share {
            host: host.to_owned(),
            subset: String::new(),
            port: None,
            weight: 1,
        };
        let forward = Forward {
            destinations: vec![share],
            ..Forward::default()
        };
        Self {
            action: Action::Forward(Box::new(forward)),
            because: Because::NoVirtualService,
        }
    }
}

fn candidates<'a, R, M>(
    routes: impl Iterator<Item = (usize, &'a R, &'a [M])>,
    holds: impl Fn(&M) -> bool,
    is_settled: impl Fn(&M) -> bool,
) -> Vec<Candidate<'a, R, M>> {
    let mut found = Vec::new();
    for (index, route, matches) in routes {
        let conditions: Vec<_> = matches
            .iter()
            .filter(|condition| holds(condition))
            .collect();
        if matches.is_empty() || conditions.iter().any(|condition| is_settled(condition)) {
            found.push(Candidate {
                index,
                route,
                conditions: None,
            });
            break;
        }
        if !conditions.is_empty() {
            found.push(Candidate {
                index,
                route,
                conditions: Some(conditions),
            });
        }
    }
    found
}

/// Whether a condition of an object holds at a gateway, or, without one, at sidecars.
fn holds_at(
    gateways: &[String],
    object: &Object<VirtualService>,
    gateway: Option<&ObjectRef>,
) -> bool {
    let gateways = if gateways.is_empty() {
        &object.spec.gateways
    } else {
        gateways
    };
    (gateways.is_empty() && gateway.is_none())
        || gateway::is_among(gateways, &object.metadata.namespace, gateway)
}

fn is_from(namespace: &str, labels: &BTreeMap<String, String>, caller: Caller<'_>) -> bool {
    (namespace.is_empty() || namespace == caller.namespace)
        && labels
            .iter()
            .all(|(key, value)| caller.labels.get(key) == Some(value))
}

/// Whether a condition asks nothing of the request itself.
fn says_nothing_of_request(condition: &HttpMatch) -> bool {
    let HttpMatch {
        uri,
        scheme,
        method,
        authority,
        headers,
        without_headers,
        query_params,
        ..
    } = condition;
    [uri, scheme, method, authority]
        .iter()
        .all(|part| part.is_none())
        && headers.is_empty()
        && without_headers.is_empty()
        && query_params.is_empty()
}

/// Whether a request meets what a condition asks of it.
pub fn is_met(condition: &HttpMatch, request: &HttpRequest) -> bool {
    let HttpMatch {
        uri,
        scheme,
        method,
        authority,
        headers,
        without_headers,
        query_params,
        ..
    } = condition;
    let path = Some(request.path_only());
    uri.as_ref().is_none_or(|uri| {
        if condition.ignore_uri_case {
            uri.matches_any_case(path)
        } else {
            uri.matches(path)
        }
    }) && scheme
        .as_ref()
        .is_none_or(|string| string.matches(Some(&request.scheme)))
        && method
            .as_ref()
            .is_none_or(|string| string.matches(Some(&request.method)))
        && authority
            .as_ref()
            .is_none_or(|string| string.matches(Some(&request.authority)))
        && headers
            .iter()
            .all(|(name, string)| string.matches(request.header(name)))
        && without_headers.iter().all(|(name, string)| {
            let value = request.header(name);
            // Istio's other way to say that a header must not be there.
            let absent = string.regex.as_deref() == Some("*");
            if absent {
                value.is_none()
            } else {
                !string.matches(value)
            }
        })
        && query_params
            .iter()
            .all(|(name, string)| string.matches(request.query_param(name)))
}

fn action_of<'a>(route: &'a HttpRoute, namespace: &str) -> Action<'a> {
    if let Some(redirect) = &route.redirect {
        return Action::Redirect(redirect);
    }
    if let Some(response) = &route.direct_response {
        return Action::Respond(response);
    }
    Action::Forward(Box::new(Forward {
        destinations: http_shares(route, namespace),
        fault: route.fault.as_ref(),
        timeout: route.timeout,
        retries: route.retries.as_ref(),
        rewrite: route.rewrite.as_ref(),
        headers: route.headers.as_ref(),
    }))
}

fn shares<'a>(
    destinations: impl ExactSizeIterator<Item = (Option<&'a Destination>, u32)>,
    namespace: &str,
) -> Vec<Share> {
    let single = destinations.len() == 1;
    destinations
        .filter_map(|(destination, weight)| {
            let destination = destination?;
            let weight = if single { weight.max(1) } else { weight };
            (weight > 0).then(|| Share {
                host: canonical(&destination.host, namespace),
                subset: destination.subset.clone(),
                port: destination.port.as_ref().map(|port| port.number),
                weight,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
