//! What a gateway serves, by the `Gateway`s that select it and the `VirtualService`s that are bound
//! to them.

use crate::host::{HostPattern, is_exported};
use crate::istio::gateway::Server;
use crate::istio::{Gateway, VirtualService};
use crate::{Object, ObjectRef, Workload};

/// The gateway that an object of `namespace` names: `<namespace>/<name>`, a name of the same
/// namespace, or a host of old, `<name>.<namespace>…`.
///
/// ```
/// # use mesh_model::gateway::named;
/// for text in ["edge", "shop/edge", "edge.shop.svc.cluster.local"] {
///     let gateway = named(text, "shop");
///     assert_eq!((gateway.namespace.as_str(), gateway.name.as_str()), ("shop", "edge"));
/// }
/// ```
pub fn named(text: &str, namespace: &str) -> ObjectRef {
    let (namespace, name) = match (text.split_once('/'), text.split_once('.')) {
        (Some(parts), _) => parts,
        (None, Some((name, rest))) => (rest.split('.').next().unwrap_or(rest), name),
        (None, None) => (namespace, text),
    };
    ObjectRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// Whether one of these names, in an object of `namespace`, is the gateway; without a gateway,
/// whether one is `mesh`, which is every sidecar.
pub fn is_among(names: &[String], namespace: &str, gateway: Option<&ObjectRef>) -> bool {
    names.iter().any(|name| match gateway {
        None => name == "mesh",
        Some(gateway) => name != "mesh" && named(name, namespace) == *gateway,
    })
}

/// Whether a workload serves what the object says: it is a gateway, and has the labels.
///
/// As by Istio unless it is told otherwise, the object may be of any namespace.
pub fn selects(object: &Object<Gateway>, workload: &Workload) -> bool {
    let mut labels = object.spec.selector.iter();
    workload.gateway && labels.all(|(key, value)| workload.labels.get(key) == Some(value))
}

/// The hosts of a server without the namespaces before them, in lower case.
pub fn hosts(server: &Server) -> impl Iterator<Item = String> {
    server.hosts.iter().map(|text| split(text).1)
}

/// The hosts at which requests to a server go by the routes of a `VirtualService`: of its own
/// hosts those that the server has too, the narrower where one covers the other.
///
/// None if it is not bound to the gateway, not exported to callers of `namespace`, where the
/// gateway's workload is, or of a namespace that the server does not take routes from.
pub fn bound_hosts(
    server: &Server,
    gateway: &ObjectRef,
    routes: &Object<VirtualService>,
    namespace: &str,
) -> Vec<String> {
    let owner = routes.metadata.namespace.as_str();
    let is_bound = is_among(&routes.spec.gateways, owner, Some(gateway))
        && is_exported(&routes.spec.export_to, owner, namespace);
    if !is_bound {
        return Vec::new();
    }
    let mut found: Vec<String> = Vec::new();
    for text in &server.hosts {
        let (from, host) = split(text);
        let is_from = match from.as_str() {
            "*" => true,
            "." => owner == gateway.namespace,
            from => owner == from,
        };
        if !is_from {
            continue;
        }
        let wide = HostPattern::resolve(&host, &gateway.namespace);
        for text in &routes.spec.hosts {
            let own = HostPattern::resolve(text, owner);
            let narrower = if wide.covers(&own) {
                own.to_string()
            } else if own.covers(&wide) {
                wide.to_string()
            } else {
                continue;
            };
            if !found.contains(&narrower) {
                found.push(narrower);
            }
        }
    }
    found
}

/// A host of a server: from which namespaces routes are taken for it, and the host.
fn split(text: &str) -> (String, String) {
    let text = text.to_ascii_lowercase();
    match text.split_once('/') {
        Some((namespace, host)) => (namespace.to_owned(), host.to_owned()),
        None => ("*".to_owned(), text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::gateway::ServerPort;
    use crate::testing::objects_of;

    fn server(hosts: &[&str]) -> Server {
        Server {
            port: Some(ServerPort::default()),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..Server::default()
        }
    }

    fn routes(spec: &str) -> Object<VirtualService> {
        let yaml = format!(
            "{{ apiVersion: networking.istio.io/v1, kind: VirtualService, \
             metadata: {{ name: a, namespace: shop }}, \
             spec: {{ http: [{{ route: [{{ destination: {{ host: web }} }}] }}], {spec} }} }}"
        );
        objects_of!(VirtualService, &yaml).remove(0)
    }

    fn bound(hosts: &[&str], spec: &str) -> Vec<String> {
        let gateway = named("edge", "infra");
        bound_hosts(&server(hosts), &gateway, &routes(spec), "infra")
    }

    #[test]
    fn the_narrower_of_two_hosts_is_served() {
        let spec = "gateways: [infra/edge], hosts: [a.example.com, '*.example.org']";
        assert_eq!(bound(&["*"], spec), ["a.example.com", "*.example.org"]);
        assert_eq!(bound(&["*.example.com"], spec), ["a.example.com"]);
        assert_eq!(bound(&["b.example.org"], spec), ["b.example.org"]);
        assert_eq!(bound(&["A.Example.Com"], spec), ["a.example.com"]);
        assert!(bound(&["example.net"], spec).is_empty());
    }

    #[test]
    fn routes_come_only_from_namespaces_that_the_server_names() {
        let spec = "gateways: [infra/edge], hosts: [a.example.com]";
        assert_eq!(bound(&["shop/*"], spec).len(), 1);
        assert_eq!(bound(&["*/a.example.com"], spec).len(), 1);
        assert!(bound(&["./*"], spec).is_empty());
        assert!(bound(&["bank/*"], spec).is_empty());
    }

    #[test]
    fn routes_that_are_bound_elsewhere_or_hidden_are_not_served() {
        for spec in [
            "hosts: [a.example.com]",
            "gateways: [mesh], hosts: [a.example.com]",
            "gateways: [edge], hosts: [a.example.com]",
            "gateways: [infra/edge], hosts: [a.example.com], exportTo: ['.']",
        ] {
            assert!(bound(&["*"], spec).is_empty(), "{spec}");
        }
        let exported = "gateways: [infra/edge], hosts: [a.example.com], exportTo: [infra]";
        assert_eq!(bound(&["*"], exported).len(), 1);
    }
}
