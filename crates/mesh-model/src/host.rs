//! What hosts are called: short names, the two names of a service, names with `*`.

use std::cmp::Ordering;

use crate::{Host, Namespace, Problem, ServiceName};

/// The end of the hosts of services in the mesh.
const MESH: &str = ".mesh";
/// The end that Istio's users write for the same hosts.
const KUBERNETES: &str = ".svc.cluster.local";

/// One host, or all hosts that end in the same way; what rules are written for.
///
/// ```
/// # use mesh_model::host::HostPattern;
/// let short = HostPattern::resolve("reviews", "shop");
/// assert!(short.matches("reviews.shop.mesh"));
/// let wide = HostPattern::resolve("*.shop.svc.cluster.local", "default");
/// assert!(wide.matches("reviews.shop.mesh") && !wide.matches("reviews.bank.mesh"));
/// assert!(short > wide);
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HostPattern {
    /// Canonical, in lower case; without its `*` when it is an ending.
    text: String,
    is_ending: bool,
}

/// The canonical form of a host that an object of `namespace` names.
///
/// A name without a dot is a service of that namespace; `<service>.<namespace>.svc.cluster.local`
/// is the same host as `<service>.<namespace>.mesh`; case does not matter, nor does a final dot.
///
/// ```
/// # use mesh_model::host::canonical;
/// assert_eq!(canonical("reviews", "shop"), "reviews.shop.mesh");
/// assert_eq!(canonical("Reviews.shop.svc.cluster.local.", "bank"), "reviews.shop.mesh");
/// assert_eq!(canonical("example.com", "shop"), "example.com");
/// ```
pub fn canonical(host: &str, namespace: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match host.strip_suffix(KUBERNETES) {
        Some(service) => format!("{service}{MESH}"),
        None if host.is_empty() || host.contains(['.', '*']) => host,
        None => format!("{host}.{namespace}{MESH}"),
    }
}

// === impl HostPattern ===

impl HostPattern {
    /// The pattern that an object of `namespace` writes as `text`.
    pub fn resolve(text: &str, namespace: &str) -> Self {
        let text = canonical(text, namespace);
        match text.strip_prefix('*') {
            Some(ending) => Self {
                text: ending.to_owned(),
                is_ending: true,
            },
            None => Self {
                text,
                is_ending: false,
            },
        }
    }

    /// The pattern without regard to what a short name means.
    pub(crate) fn verbatim(text: &str) -> Self {
        let (text, is_ending) = match text.strip_prefix('*') {
            Some(ending) => (ending, true),
            None => (text, false),
        };
        Self {
            text: text.to_ascii_lowercase(),
            is_ending,
        }
    }

    /// Whether it means one host only.
    pub fn is_exact(&self) -> bool {
        !self.is_ending
    }

    /// Whether it means a host, which must be canonical. A host with `*` is meant if all that it
    /// stands for is.
    pub fn matches(&self, host: &str) -> bool {
        if !self.is_ending {
            return self.text == host;
        }
        // `*.local` is Istio's usual way to mean every service.
        let other_name = || {
            let service = host.strip_suffix(MESH)?;
            Some(format!("{service}{KUBERNETES}").ends_with(&self.text))
        };
        host.ends_with(&self.text) || other_name().unwrap_or(false)
    }

    /// Whether it means every host that the other one means.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.is_ending, other.is_ending) {
            (false, true) => false,
            (true, true) => self.matches(&format!("*{}", other.text)),
            (_, false) => self.matches(&other.text),
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let star = if self.is_ending { "*" } else { "" };
        write!(f, "{star}{}", self.text)
    }
}

/// The more exact is the greater: one host before endings, longer endings before shorter ones.
impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> Ordering {
        (!self.is_ending, self.text.len(), &self.text).cmp(&(
            !other.is_ending,
            other.text.len(),
            &other.text,
        ))
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// === impl Host ===

impl Host {
    /// The host that an object of `namespace` names; see [`canonical`].
    ///
    /// # Errors
    ///
    /// When the name is not that of a host.
    pub fn resolve(text: &str, namespace: &Namespace) -> Result<Self, Problem> {
        let problem = |problem: Problem| Problem {
            value: text.to_owned(),
            ..problem
        };
        canonical(text, namespace.as_str()).parse().map_err(problem)
    }

    /// Service and namespace, if it is the host of a service of the mesh.
    ///
    /// ```
    /// # use mesh_model::Host;
    /// let host: Host = "reviews.shop.mesh".parse().unwrap();
    /// let (service, namespace) = host.service().unwrap();
    /// assert_eq!((service.as_str(), namespace.as_str()), ("reviews", "shop"));
    /// ```
    pub fn service(&self) -> Option<(ServiceName, Namespace)> {
        let (service, namespace) = self.as_str().strip_suffix(MESH)?.split_once('.')?;
        Some((service.parse().ok()?, namespace.parse().ok()?))
    }

    /// Every name by which a caller in `namespace` may mean this host, the canonical one first.
    ///
    /// ```
    /// # use mesh_model::{Host, Namespace};
    /// let host: Host = "reviews.shop.mesh".parse().unwrap();
    /// let shop: Namespace = "shop".parse().unwrap();
    /// assert_eq!(host.names(&shop), [
    ///     "reviews.shop.mesh",
    ///     "reviews.shop.svc.cluster.local",
    ///     "reviews.shop.svc",
    ///     "reviews.shop",
    ///     "reviews",
    /// ]);
    /// ```
    pub fn names(&self, caller: &Namespace) -> Vec<String> {
        let mut names = vec![self.to_string()];
        if let Some((service, namespace)) = self.service() {
            names.push(format!("{service}.{namespace}{KUBERNETES}"));
            names.push(format!("{service}.{namespace}.svc"));
            names.push(format!("{service}.{namespace}"));
            if namespace == *caller {
                names.push(service.to_string());
            }
        }
        names
    }
}

/// Whether an object of `owner` with this `exportTo` holds for callers in `caller`.
///
/// ```
/// # use mesh_model::host::is_exported;
/// assert!(is_exported(&[], "shop", "bank"));
/// assert!(!is_exported(&[".".to_owned()], "shop", "bank"));
/// assert!(is_exported(&[".".to_owned()], "shop", "shop"));
/// assert!(!is_exported(&["~".to_owned()], "shop", "shop"));
/// ```
pub fn is_exported(export_to: &[String], owner: &str, caller: &str) -> bool {
    export_to.is_empty()
        || export_to.iter().any(|target| match target.as_str() {
            "*" => true,
            "." => owner == caller,
            namespace => namespace == caller,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_a_service_are_one_host() {
        let pattern = HostPattern::resolve("reviews.shop.svc.cluster.local", "bank");
        assert_eq!(
            pattern,
            HostPattern::resolve("reviews.shop.mesh", "default")
        );
        for wide in [
            "*.local",
            "*.cluster.local",
            "*.svc.cluster.local",
            "*.mesh",
            "*",
        ] {
            let wide = HostPattern::resolve(wide, "bank");
            assert!(wide.matches("reviews.shop.mesh"), "{wide:?}");
            assert!(wide.covers(&pattern) && !pattern.covers(&wide));
        }
        assert!(!HostPattern::resolve("*.local", "bank").matches("example.com"));
    }

    #[test]
    fn an_ending_means_names_of_any_depth_but_not_itself() {
        let pattern = HostPattern::resolve("*.example.com", "bank");
        assert!(pattern.matches("a.example.com") && pattern.matches("a.b.example.com"));
        assert!(pattern.matches("*.example.com") && pattern.matches("*.a.example.com"));
        assert!(!pattern.matches("example.com") && !pattern.matches("aexample.com"));
        assert!(HostPattern::resolve("*example.com", "bank").matches("aexample.com"));
    }

    #[test]
    fn the_more_exact_is_the_greater() {
        let order: Vec<_> = ["*", "*.com", "*.example.com", "a.b"]
            .iter()
            .map(|text| HostPattern::resolve(text, "bank"))
            .collect();
        assert!(order.is_sorted());
    }

    #[test]
    fn a_foreign_host_is_no_service() {
        for text in ["example.com", "a.b.c.mesh", "*.shop.mesh", "shop.mesh"] {
            let host: Host = text.parse().unwrap();
            assert!(host.service().is_none(), "{text}");
            assert_eq!(host.names(&Namespace::root()), [text]);
        }
    }
}
