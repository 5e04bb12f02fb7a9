//! Which host a name means.

use std::collections::BTreeSet;

use mesh_model::{Host, Namespace};

/// What names mean in this mesh.
///
/// `reviews` is a service of the namespace it is said in; `reviews.shop` one of namespace `shop`
/// if there is such a namespace; `reviews.shop.svc` and `reviews.shop.svc.cluster.local` are
/// Kubernetes' forms of the same. Anything else is itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    namespaces: BTreeSet<Namespace>,
}

// === impl Names ===

impl Names {
    /// Names where these namespaces have workloads.
    pub(super) fn of<'a>(namespaces: impl Iterator<Item = &'a Namespace>) -> Self {
        Self {
            namespaces: namespaces.cloned().collect(),
        }
    }

    /// The host that `name` means when said in `namespace`.
    pub(super) fn resolve(&self, name: &str, namespace: &Namespace) -> Option<Host> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let labels: Vec<_> = name.split('.').collect();
        let full = match labels.as_slice() {
            [service] => format!("{service}.{namespace}.mesh"),
            [service, other] if self.namespaces.contains(*other) => {
                format!("{service}.{other}.mesh")
            }
            [service, other, "svc"] | [service, other, "svc", "cluster", "local"] => {
                format!("{service}.{other}.mesh")
            }
            _ => name.to_owned(),
        };
        full.parse().ok()
    }
}

/// The namespace that alone may speak for a host: the one in the name of a service of the mesh.
pub(super) fn owner(host: &Host) -> Option<&str> {
    let rest = host.as_str().strip_suffix(".mesh")?;
    Some(
        rest.rsplit_once('.')
            .map_or(rest, |(_, namespace)| namespace),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(name: &str) -> Option<String> {
        let shop: Namespace = "shop".parse().unwrap();
        let names = Names::of([shop].iter());
        let from = "front".parse().unwrap();
        names.resolve(name, &from).map(|host| host.to_string())
    }

    #[test]
    fn short_forms_mean_services_of_the_mesh() {
        for (name, host) in [
            ("web", "web.front.mesh"),
            ("web.shop", "web.shop.mesh"),
            ("web.shop.mesh", "web.shop.mesh"),
            ("web.shop.svc", "web.shop.mesh"),
            ("Web.Shop.svc.cluster.local.", "web.shop.mesh"),
            ("*.shop.svc.cluster.local", "*.shop.mesh"),
            ("example.com", "example.com"),
            ("*.example.com", "*.example.com"),
            ("api.example.com", "api.example.com"),
        ] {
            assert_eq!(resolve(name).as_deref(), Some(host), "{name}");
        }
        assert_eq!(resolve("a b"), None);
    }

    #[test]
    fn a_host_of_the_mesh_is_owned_by_its_namespace() {
        let owner_of = |host: &str| owner(&host.parse().unwrap()).map(str::to_owned);
        assert_eq!(owner_of("web.shop.mesh").as_deref(), Some("shop"));
        assert_eq!(owner_of("*.shop.mesh").as_deref(), Some("shop"));
        assert_eq!(owner_of("a.b.shop.mesh").as_deref(), Some("shop"));
        assert_eq!(owner_of("example.com"), None);
    }
}
