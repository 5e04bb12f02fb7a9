//! How a host is reached, by the `DestinationRule`s that hold for it: subsets and policies.

use std::collections::BTreeMap;

use crate::host::{HostPattern, is_exported};
use crate::istio::DestinationRule;
use crate::istio::destination_rule::{PortTrafficPolicy, Subset, TrafficPolicy};
use crate::{Namespace, Object, ObjectRef};

/// The rules that hold for one host, taken together.
#[derive(Clone, Debug, Default)]
pub struct HostRules<'a> {
    /// The objects, the oldest first; none when no rule holds.
    objects: Vec<&'a Object<DestinationRule>>,
}

/// The rules that hold for callers in a namespace that call a canonical host, which belongs to
/// `service_namespace`.
///
/// They are looked for in the caller's namespace, then in the service's, then in the root
/// namespace; the first that has one for the host decides. There, the most exact host wins, and
/// objects of the same host are taken together: the oldest policy, and all their subsets.
///
/// Source: <https://istio.io/latest/docs/ops/best-practices/traffic-management/#cross-namespace-configuration>.
pub fn rules_for<'a>(
    host: &str,
    service_namespace: &str,
    caller_namespace: &str,
    objects: impl IntoIterator<Item = &'a Object<DestinationRule>>,
) -> HostRules<'a> {
    let visible: Vec<_> = objects
        .into_iter()
        .filter(|object| {
            let owner = &object.metadata.namespace;
            // Not supported; to apply the rule to every caller would be more than was written.
            object.spec.workload_selector.is_none()
                && is_exported(&object.spec.export_to, owner, caller_namespace)
        })
        .collect();
    let root = Namespace::root();
    let root = root.as_str();
    // What the root namespace says for the whole mesh must not hide a service's own rule from
    // callers that happen to live there: of theirs, only what is for them alone comes first.
    let own = |object: &Object<DestinationRule>| {
        object.metadata.namespace == caller_namespace
            && (caller_namespace != root || object.spec.export_to == ["."])
    };
    let rules = [
        most_exact(visible.iter().copied().filter(|object| own(object)), host),
        most_exact(in_namespace(&visible, service_namespace), host),
        most_exact(in_namespace(&visible, root), host),
    ];
    rules
        .into_iter()
        .find(|rules| !rules.objects.is_empty())
        .unwrap_or_default()
}

fn in_namespace<'a>(
    objects: &[&'a Object<DestinationRule>],
    namespace: &str,
) -> impl Iterator<Item = &'a Object<DestinationRule>> {
    objects
        .iter()
        .copied()
        .filter(move |object| object.metadata.namespace == namespace)
}

/// The rules with the most exact host that means `host`, the oldest first.
fn most_exact<'a>(
    objects: impl Iterator<Item = &'a Object<DestinationRule>>,
    host: &str,
) -> HostRules<'a> {
    let matching: Vec<_> = objects
        .map(|object| {
            (
                HostPattern::resolve(&object.spec.host, &object.metadata.namespace),
                object,
            )
        })
        .filter(|(pattern, _)| pattern.matches(host))
        .collect();
    let best = matching.iter().map(|(pattern, _)| pattern).max().cloned();
    let mut objects: Vec<_> = matching
        .into_iter()
        .filter(|(pattern, _)| best.as_ref() == Some(pattern))
        .map(|(_, object)| object)
        .collect();
    objects.sort_by(|a, b| a.metadata.age().cmp(&b.metadata.age()));
    HostRules { objects }
}

// === impl HostRules ===

impl<'a> HostRules<'a> {
    /// The objects that it is made of, the oldest first.
    pub fn objects(&self) -> Vec<ObjectRef> {
        self.objects
            .iter()
            .map(|object| ObjectRef::from(&object.metadata))
            .collect()
    }

    /// The subsets, each name once.
    pub fn subsets(&self) -> Vec<&'a Subset> {
        let mut by_name = BTreeMap::new();
        for subset in self.objects.iter().flat_map(|object| &object.spec.subsets) {
            by_name.entry(subset.name.as_str()).or_insert(subset);
        }
        by_name.into_values().collect()
    }

    /// The subset of this name.
    pub fn subset(&self, name: &str) -> Option<&'a Subset> {
        self.objects
            .iter()
            .flat_map(|object| &object.spec.subsets)
            .find(|subset| subset.name == name)
    }

    /// What holds for a port of the host, or of one of its subsets (empty for none).
    ///
    /// A subset's fields replace the host's one by one; settings of a port replace all, so that
    /// what they leave out has its default, not the value of the host.
    pub fn policy(&self, port: u16, subset: &str) -> PortTrafficPolicy {
        let mut policy = PortTrafficPolicy::default();
        let of_host = self
            .objects
            .iter()
            .find_map(|object| object.spec.traffic_policy.as_ref());
        let of_subset = self
            .subset(subset)
            .and_then(|subset| subset.traffic_policy.as_ref());
        for layer in [of_host, of_subset].into_iter().flatten() {
            lay_over(&mut policy, layer, port);
        }
        policy
    }
}

impl Subset {
    /// Whether an endpoint with these labels is part of it.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

fn lay_over(policy: &mut PortTrafficPolicy, layer: &TrafficPolicy, port: u16) {
    fn replace<T: Clone>(target: &mut Option<T>, source: Option<&T>) {
        if let Some(source) = source {
            *target = Some(source.clone());
        }
    }
    replace(&mut policy.load_balancer, layer.load_balancer.as_ref());
    replace(&mut policy.connection_pool, layer.connection_pool.as_ref());
    replace(
        &mut policy.outlier_detection,
        layer.outlier_detection.as_ref(),
    );
    replace(&mut policy.tls, layer.tls.as_ref());
    let of_port = layer.port_level_settings.iter().find(|settings| {
        settings
            .port
            .as_ref()
            .is_some_and(|selector| selector.number == port)
    });
    if let Some(settings) = of_port {
        policy.clone_from(settings);
    }
}

#[cfg(test)]
mod tests;
