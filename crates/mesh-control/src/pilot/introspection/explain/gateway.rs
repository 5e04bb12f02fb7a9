//! Why a request from outside goes where it goes.

use std::collections::BTreeMap;

use mesh_model::istio::VirtualService;
use mesh_model::istio::gateway::ServerProtocol;
use mesh_model::route::{Action, Because, Caller, Decision, Share, route_at_gateway};
use mesh_model::{Host, Object, ObjectRef, Protocol, Workload};

use super::{Explanation, Question, To, Unanswered, destination};
use crate::pilot::Resolved;
use crate::pilot::mesh::{Edge, Served};

/// Says what becomes of a request from outside at a gateway.
///
/// # Errors
///
/// When the gateway does not serve it, with the reason.
pub(super) fn explain<'a>(
    resolved: &'a Resolved,
    question: &'a Question,
    workload: &'a Workload,
) -> Result<Explanation<'a>, Unanswered> {
    let mesh = &resolved.mesh;
    let edge = mesh.edge(workload);
    let refused = |reason: String| Unanswered::NotServed {
        gateway: workload.id.clone(),
        name: question.name.clone(),
        reason,
    };
    let ports: Vec<u16> = edge.ports.keys().copied().collect();
    let port = match (question.port, ports.as_slice()) {
        (Some(port), _) => port,
        (None, [only]) => *only,
        (None, _) => return Err(refused(format!("say at which of its ports {ports:?}"))),
    };
    let Some(servers) = edge.ports.get(&port) else {
        return Err(refused(nothing_at(&edge, port)));
    };
    let host = question.name.to_ascii_lowercase();
    let is_read = |served: &&Served<'_>| {
        matches!(
            served.protocol,
            ServerProtocol::Http | ServerProtocol::Https
        )
    };
    if redirects(servers, &host) {
        return Err(refused(
            "every request is answered with a redirect to HTTPS".to_owned(),
        ));
    }
    let mut found: Option<(String, ObjectRef, Vec<&Object<VirtualService>>)> = None;
    for served in servers.iter().filter(is_read) {
        let bound: BTreeMap<_, _> = mesh.routes_at(served, workload);
        for (own, objects) in bound {
            // The longest is the most exact: a star stands for at least one letter.
            let is_better = found.as_ref().is_none_or(|(best, ..)| {
                (!own.starts_with('*'), own.len()) > (!best.starts_with('*'), best.len())
            });
            if matches_host(&own, &host) && is_better {
                found = Some((own, served.gateway.clone(), objects));
            }
        }
    }
    let Some((_, gateway, objects)) = found else {
        let reason = format!(
            "no VirtualService is bound to a server for it; {}",
            nothing_at(&edge, port)
        );
        return Err(refused(reason));
    };
    let caller = Caller {
        namespace: workload.namespace.as_str(),
        labels: &workload.labels,
        gateway: Some(&gateway),
    };
    let route = route_at_gateway(&objects, caller, port, &question.request);
    let route = route.unwrap_or_else(|| nothing_matches(&objects, &gateway));
    let shares: &[Share] = match &route.action {
        Action::Forward(forward) => &forward.destinations,
        _ => &[],
    };
    let from = &question.from;
    let request = Some(&question.request);
    let destinations = shares
        .iter()
        .map(|share| destination(resolved, from, share, port, request))
        .collect();
    let named: Host = host
        .parse()
        .map_err(|_wrong| refused("it is not the name of a host".to_owned()))?;
    Ok(Explanation {
        from,
        entrance: None,
        to: To {
            host: named,
            namespace: workload.namespace.clone(),
            port,
            protocol: Protocol::Http,
        },
        route: Some(route),
        destinations,
    })
}

/// Whether requests for a host are only redirected.
fn redirects(servers: &[Served<'_>], host: &str) -> bool {
    let mut redirecting = servers.iter().filter(|served| served.server.redirects());
    redirecting.any(|served| served.hosts.iter().any(|own| matches_host(own, host)))
}

/// The answer where no route of these objects takes a request.
fn nothing_matches(objects: &[&Object<VirtualService>], gateway: &ObjectRef) -> Decision<'static> {
    let first = objects.first();
    let object = first.map_or_else(|| gateway.clone(), |first| ObjectRef::from(&first.metadata));
    Decision {
        action: Action::NotFound,
        because: Because::NothingMatches { object },
    }
}

/// What is known of a port at which nothing is served, or not all.
fn nothing_at(edge: &Edge<'_>, port: u16) -> String {
    let marker = format!("(port {port})");
    let warnings = edge.warnings.iter();
    let said: Vec<_> = warnings
        .filter(|warning| warning.message.contains(&marker))
        .map(ToString::to_string)
        .collect();
    if said.is_empty() {
        "no Gateway that selects it says so".to_owned()
    } else {
        said.join("; ")
    }
}

/// Whether a host is one that a server's host means.
fn matches_host(own: &str, host: &str) -> bool {
    match own.strip_prefix('*') {
        Some(ending) => host.ends_with(ending),
        None => own == host,
    }
}
