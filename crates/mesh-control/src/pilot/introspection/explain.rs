//! Why a call goes where it goes: the same decisions that proxies are configured by, for one call.

mod address;
mod gateway;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mesh_model::istio::destination_rule::TlsMode;
use mesh_model::istio::peer_authentication::MutualTlsMode;
use mesh_model::route::{Action, Caller, Share, route_http, route_tcp};
use mesh_model::service::{EndpointAddress, Location, Resolution};
use mesh_model::sidecar::FORWARD_PROXY_PORT;
use mesh_model::{
    Endpoint, Health, Host, HttpRequest, Namespace, Problem, Problems, Protocol, ServiceAccount,
    SpiffeId, Workload, WorkloadId, authorization, destination, mutual_tls, route,
};
use mesh_proto::mesh::agent::v1::ExplainRequest;
use serde::Serialize;

use crate::pilot::Resolved;
use crate::pilot::mesh::{Entry, Mesh, OutboundPolicy};
use crate::pilot::snapshot::direct;
use crate::pilot::snapshot::endpoint::called_at;

/// A call that somebody asks about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who calls.
    pub from: From,
    /// The name that is called, as it was written.
    pub name: String,
    /// The host that it means to the caller; `None` when it means none.
    pub host: Option<Host>,
    /// The address that is called, if it is none of a service's but some machine's.
    pub address: Option<SocketAddr>,
    /// The port; the service's only one when absent.
    pub port: Option<u16>,
    /// The request, at a port of HTTP.
    pub request: HttpRequest,
}

/// Who calls.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct From {
    /// The workload, if one was named or runs as the account.
    pub workload: Option<WorkloadId>,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it calls from, if that is known.
    #[serde(skip)]
    pub address: Option<IpAddr>,
    /// What of its calls comes to a sidecar.
    pub calls: Calls,
}

/// What of a caller's calls comes to a sidecar of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Calls {
    /// Every one: redirect rules bring them there.
    Redirected,
    /// Those that its application brings there.
    Explicit,
    /// None: it has no sidecar.
    Plain,
}

/// What becomes of the call, and why.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation<'a> {
    /// Who calls.
    pub from: &'a From,
    /// What is called.
    pub to: To,
    /// Where its application comes to its sidecar with the call; absent where redirect rules bring
    /// every call there.
    pub entrance: Option<Entrance>,
    /// The route that is taken; none holds for a call to an address.
    pub route: Option<route::Decision<'a>>,
    /// Where it leads; the weights are shares of their sum.
    pub destinations: Vec<Destination>,
}

/// What is called.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct To {
    /// The host.
    pub host: Host,
    /// The namespace that it belongs to.
    pub namespace: Namespace,
    /// The port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// Where the application of an explicit workload comes to its sidecar with a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Entrance {
    /// At the address of an upstream that it declares.
    Upstream(SocketAddr),
    /// At the forward proxy.
    ForwardProxy(SocketAddr),
    /// Nowhere: it declares no upstream for it, and only HTTP goes through the forward proxy.
    Nowhere,
}

/// Where a route leads.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The destination, with its weight.
    #[serde(flatten)]
    pub share: Share,
    /// The name of the cluster in the caller's proxy.
    pub cluster: String,
    /// What stands in the way of it, if anything does.
    pub problem: Option<String>,
    /// The endpoints that it may go to.
    pub endpoints: Vec<Target>,
}

/// An endpoint, as the call finds it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The workload, if it is one of ours.
    pub workload: Option<WorkloadId>,
    /// Where it is.
    pub address: EndpointAddress,
    /// The port at which it is called: its own, its sidecar's if it is explicit, or the one of its
    /// host that leads there.
    pub port: u16,
    /// Whether it may be sent requests.
    pub health: Health,
    /// Who must answer there, if the call is under mutual TLS.
    pub identity: Option<SpiffeId>,
    /// What it takes, and why; absent for what is not ours.
    pub mutual_tls: Option<mutual_tls::Decision>,
    /// Whether the call is under mutual TLS.
    pub secured: bool,
    /// Whether it lets the call in, and why; absent for what is not ours.
    pub authorization: Option<authorization::Decision>,
}

/// Why there is nothing to explain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unanswered {
    /// Nothing is known by that name.
    #[error(
        "`{name}` is no service that callers of namespace `{namespace}` know; \
         a call to it leaves the mesh, or finds no address"
    )]
    NoHost {
        /// The name.
        name: String,
        /// The caller's namespace.
        namespace: Namespace,
    },
    /// A gateway does not serve that host.
    #[error("gateway `{gateway}` does not serve `{name}`: {reason}")]
    NotServed {
        /// The gateway.
        gateway: WorkloadId,
        /// The name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The caller has no sidecar that would know a host.
    #[error(
        "`{workload}` has no sidecar: no name of the mesh means anything to it, and no route or rule \
         for callers holds"
    )]
    NoSidecar {
        /// The caller.
        workload: WorkloadId,
    },
    /// No workload is known to be at the address.
    #[error("no workload of the mesh is known at `{address}`: {outcome}")]
    NoWorkload {
        /// The address.
        address: SocketAddr,
        /// What becomes of the call.
        outcome: &'static str,
    },
    /// The outbound policy refuses calls to addresses.
    #[error(
        "a call to `{address}` is refused: the outbound policy is `REGISTRY_ONLY`, so call a service by its name"
    )]
    NotByAddress {
        /// The address.
        address: SocketAddr,
    },
    /// The service has no such port.
    #[error("`{host}` has the ports {ports}, not {port}", port = .port.map_or("none given".to_owned(), |port| port.to_string()))]
    NoPort {
        /// The host.
        host: Host,
        /// The port asked for.
        port: Option<u16>,
        /// Those that there are.
        ports: String,
    },
}

// === impl Question ===

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn read(message: &ExplainRequest, mesh: &Mesh) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let from = From::read(&message.from, mesh);
        if from.is_none() {
            problems.push(Problem::new(
                "from",
                &message.from,
                "a registered workload's id or `<namespace>/<service account>`",
            ));
        }
        let (name, port) = match message.to.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (message.to.as_str(), None),
        };
        let number = port.and_then(|port| port.parse().ok().filter(|number| *number != 0));
        let dialed = message.to.parse::<SocketAddr>().ok();
        let is_bare = message.to.parse::<IpAddr>().is_ok();
        if name.is_empty() || port.is_some() != number.is_some() || is_bare {
            problems.push(Problem::new(
                "to",
                &message.to,
                "a host with a port (`reviews:9080`), or an address with a port (`10.0.0.5:24080`)",
            ));
        }
        let default = HttpRequest::default();
        let or = |text: &str, default: String| {
            if text.is_empty() {
                default
            } else {
                text.to_owned()
            }
        };
        let request = HttpRequest {
            method: or(&message.method, default.method).to_ascii_uppercase(),
            path: or(&message.path, default.path),
            authority: message.to.clone(),
            headers: message
                .headers
                .iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                .collect(),
            ..default
        };
        if !request.path.starts_with('/') {
            problems.push(Problem::new("path", &request.path, "a path (`/reviews/1`)"));
        }
        match from {
            Some(from) => problems.into_result(Self {
                host: match dialed {
                    Some(address) => address::of_service(mesh, &from.namespace, address.ip()),
                    None => host(mesh, name, &from.namespace),
                },
                address: dialed,
                from,
                name: name.to_owned(),
                port: number,
                request,
            }),
            None => Err(problems),
        }
    }

    /// The namespace of what is called, if that is known.
    pub fn to_namespace(&self, mesh: &Mesh) -> Option<Namespace> {
        let entry = match (&self.host, self.address) {
            (Some(host), _) => mesh.entries.get(host)?,
            (None, Some(address)) => direct::at(mesh, &self.from.namespace, address)?.0,
            (None, None) => return None,
        };
        Some(entry.service.namespace.clone())
    }
}

// === impl From ===

impl From {
    /// The workload of that id, else one that runs as that account, else the account alone.
    fn read(text: &str, mesh: &Mesh) -> Option<Self> {
        let id = text.parse::<WorkloadId>().ok();
        if let Some((workload, _)) = id.and_then(|id| mesh.workload(&id)) {
            return Some(Self::workload(workload, mesh));
        }
        let (namespace, account) = text.split_once('/')?;
        let namespace: Namespace = namespace.parse().ok()?;
        let service_account: ServiceAccount = account.parse().ok()?;
        let mut workloads = mesh.workloads().map(|(workload, _)| workload);
        let runs = |workload: &&Workload| {
            workload.namespace == namespace && workload.service_account == service_account
        };
        if let Some(workload) = workloads.find(runs) {
            return Some(Self::workload(workload, mesh));
        }
        Some(Self {
            workload: None,
            identity: SpiffeId {
                trust_domain: mesh.trust_domain.clone(),
                namespace: namespace.clone(),
                service_account,
            },
            namespace,
            labels: BTreeMap::new(),
            address: None,
            calls: Calls::Redirected,
        })
    }

    fn workload(workload: &Workload, mesh: &Mesh) -> Self {
        Self {
            workload: Some(workload.id.clone()),
            namespace: workload.namespace.clone(),
            identity: workload.identity(&mesh.trust_domain),
            labels: workload.labels.clone(),
            address: workload.addresses.first().copied(),
            calls: match (workload.sidecar.is_present(), &workload.explicit) {
                (false, _) => Calls::Plain,
                (true, Some(_)) => Calls::Explicit,
                (true, None) => Calls::Redirected,
            },
        }
    }
}

/// Says what becomes of a call.
///
/// # Errors
///
/// When the caller knows no such service or port.
pub fn explain<'a>(
    resolved: &'a Resolved,
    question: &'a Question,
) -> Result<Explanation<'a>, Unanswered> {
    let mesh = &resolved.mesh;
    let from = &question.from;
    // What a gateway calls is what callers outside ask it for, unless it is a service's own name.
    let known = from.workload.as_ref().and_then(|id| mesh.workload(id));
    if let Some((workload, _)) = known
        && workload.gateway
        && !question
            .host
            .as_ref()
            .is_some_and(|host| mesh.entries.contains_key(host))
    {
        return gateway::explain(resolved, question, workload);
    }
    if let (None, Some(address)) = (&question.host, question.address) {
        return address::explain(resolved, question, address);
    }
    if let (Calls::Plain, Some(workload)) = (from.calls, &from.workload) {
        let workload = workload.clone();
        return Err(Unanswered::NoSidecar { workload });
    }
    let entry = question
        .host
        .as_ref()
        .and_then(|host| mesh.entries.get(host))
        .filter(|entry| entry.is_seen_from(&from.namespace));
    let entry = entry.ok_or_else(|| Unanswered::NoHost {
        name: question.name.clone(),
        namespace: from.namespace.clone(),
    })?;
    let service = &entry.service;
    let only = || match service.ports.len() {
        1 => service.ports.keys().next().copied(),
        _ => None,
    };
    let port = question.port.or_else(only);
    let declared = port.and_then(|port| Some((port, service.ports.get(&port)?)));
    let (port, declared) = declared.ok_or_else(|| Unanswered::NoPort {
        host: service.host.clone(),
        port,
        ports: service
            .ports
            .keys()
            .map(u16::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    })?;
    let is_http = declared.protocol.is_http();
    let caller = Caller {
        namespace: from.namespace.as_str(),
        labels: &from.labels,
        gateway: None,
    };
    let host = service.host.as_str();
    let objects = mesh.virtual_service(&service.host, &from.namespace);
    let route = if is_http {
        route_http(objects, caller, host, port, &question.request)
    } else {
        route_tcp(objects, caller, host, port)
    };
    let shares: &[Share] = match &route.action {
        Action::Forward(forward) => &forward.destinations,
        _ => &[],
    };
    let request = is_http.then_some(&question.request);
    let destinations = shares
        .iter()
        .map(|share| destination(resolved, from, share, port, request))
        .collect();
    Ok(Explanation {
        from,
        entrance: entrance(mesh, from, &service.host, port, is_http),
        to: To {
            host: service.host.clone(),
            namespace: service.namespace.clone(),
            port,
            protocol: declared.protocol,
        },
        route: Some(route),
        destinations,
    })
}

/// Where the call comes to the caller's sidecar, if its application must know.
fn entrance(mesh: &Mesh, from: &From, called: &Host, port: u16, is_http: bool) -> Option<Entrance> {
    let (workload, _) = mesh.workload(from.workload.as_ref()?)?;
    let explicit = workload.explicit.as_ref()?;
    let upstream = explicit.upstreams.iter().find(|upstream| {
        upstream.port == port
            && host(mesh, &upstream.name, &from.namespace).as_ref() == Some(called)
    });
    Some(match upstream {
        Some(upstream) => Entrance::Upstream(upstream.listen),
        None if is_http => Entrance::ForwardProxy((Ipv4Addr::LOCALHOST, FORWARD_PROXY_PORT).into()),
        None => Entrance::Nowhere,
    })
}

fn destination(
    resolved: &Resolved,
    from: &From,
    share: &Share,
    port: u16,
    request: Option<&HttpRequest>,
) -> Destination {
    let entry = share
        .host
        .parse::<Host>()
        .ok()
        .and_then(|host| resolved.mesh.entries.get(&host))
        .filter(|entry| entry.is_seen_from(&from.namespace));
    let ports = entry.map(|entry| &entry.service.ports);
    let port = route::destination_port(share.port, ports, port);
    let mut destination = Destination {
        cluster: format!("outbound|{port}|{}|{}", share.subset, share.host),
        share: share.clone(),
        problem: None,
        endpoints: Vec::new(),
    };
    let Some(entry) = entry else {
        destination.problem = Some(format!("no service `{}` is known", share.host));
        return destination;
    };
    let labels = match subset_labels(&resolved.mesh, entry, &from.namespace, &share.subset) {
        Ok(labels) => labels,
        Err(problem) => {
            destination.problem = Some(problem);
            return destination;
        }
    };
    let is_selected = |endpoint: &&Endpoint| {
        let selects = |(key, value): &(&String, &String)| endpoint.labels.get(*key) == Some(*value);
        called_at(&resolved.mesh, endpoint, port).is_some() && labels.iter().all(selects)
    };
    let endpoints = entry.service.endpoints.iter().filter(is_selected);
    destination.endpoints = endpoints
        .map(|endpoint| {
            target(
                resolved,
                from,
                entry,
                endpoint,
                (port, &share.subset),
                request,
            )
        })
        .collect();
    let is_ready = |target: &Target| target.health == Health::Healthy;
    if entry.service.resolution != Resolution::None && !destination.endpoints.iter().any(is_ready) {
        destination.problem = Some(if destination.endpoints.is_empty() {
            "it has no endpoint".to_owned()
        } else {
            "none of its endpoints is healthy".to_owned()
        });
    }
    destination
}

/// The host that a caller means, in any form in which its DNS would answer.
fn host(mesh: &Mesh, name: &str, namespace: &Namespace) -> Option<Host> {
    let with_namespace = format!("{name}.mesh");
    let mut forms = [name, with_namespace.as_str()]
        .into_iter()
        .filter_map(|form| Host::resolve(form, namespace).ok());
    let first = forms.next()?;
    if mesh.entries.contains_key(&first) {
        return Some(first);
    }
    forms
        .find(|host| mesh.entries.contains_key(host))
        .or(Some(first))
}

/// The labels that a subset selects by.
fn subset_labels<'a>(
    mesh: &'a Mesh,
    entry: &Entry,
    from: &Namespace,
    subset: &str,
) -> Result<Vec<(&'a String, &'a String)>, String> {
    if subset.is_empty() {
        return Ok(Vec::new());
    }
    mesh.destination_rules(&entry.service.host, from)
        .subset(subset)
        .map(|subset| subset.labels.iter().collect())
        .ok_or_else(|| {
            format!(
                "no DestinationRule has a subset `{subset}` for `{}`",
                entry.service.host
            )
        })
}

fn target(
    resolved: &Resolved,
    from: &From,
    entry: &Entry,
    endpoint: &Endpoint,
    (port, subset): (u16, &str),
    request: Option<&HttpRequest>,
) -> Target {
    let Resolved { config, mesh } = resolved;
    let service = &entry.service;
    let number = endpoint.ports.get(&port).copied().unwrap_or(port);
    let known = endpoint.workload.as_ref().and_then(|id| mesh.workload(id));
    // Nobody stands before what has no sidecar: no policy of ours is asked.
    let known = known.filter(|(workload, _)| workload.sidecar.is_present());
    let mutual_tls = known.map(|(workload, _)| {
        let policies = config.peer_authentications.iter().map(|object| &**object);
        mutual_tls::mode(
            policies,
            workload.namespace.as_str(),
            &workload.labels,
            number,
        )
    });
    let takes_tls = mutual_tls
        .as_ref()
        .is_none_or(|decision| decision.mode != MutualTlsMode::Disable);
    let rules = destination::rules_for(
        service.host.as_str(),
        service.namespace.as_str(),
        from.namespace.as_str(),
        config.destination_rules.iter().map(|object| &**object),
    );
    let speaks_tls = match rules.policy(port, subset).tls {
        Some(tls) => tls.mode == TlsMode::IstioMutual,
        None => service.location == Location::MeshInternal,
    };
    let has_proxy = from.calls != Calls::Plain;
    let secured = endpoint.identity.is_some() && takes_tls && speaks_tls && has_proxy;
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let destination_ip = match endpoint.address {
        EndpointAddress::Ip(address) => address,
        EndpointAddress::Name(_) => unspecified,
    };
    let authorization = known.map(|(workload, _)| {
        let call = authorization::Call {
            source: secured.then_some(&from.identity),
            source_ip: from.address.unwrap_or(unspecified),
            destination_ip,
            destination_port: number,
            sni: None,
            request,
        };
        let policies = config.authorization_policies.iter().map(|object| &**object);
        authorization::may(
            policies,
            workload.namespace.as_str(),
            &workload.labels,
            &call,
        )
    });
    Target {
        workload: endpoint.workload.clone(),
        address: endpoint.address.clone(),
        port: called_at(mesh, endpoint, port).unwrap_or(number),
        health: endpoint.health,
        identity: endpoint.identity.clone().filter(|_| secured),
        mutual_tls,
        secured,
        authorization,
    }
}
