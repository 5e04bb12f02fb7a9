//! Which objects can speak for a host, so that not every object is asked for every host.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::host::{HostPattern, canonical};
use mesh_model::istio::{DestinationRule, VirtualService};
use mesh_model::{Host, Object};

use super::{Config, Warning};

/// Objects by the hosts that they name.
#[derive(Clone, Debug)]
pub(super) struct ByHost<S> {
    exact: BTreeMap<String, Vec<Arc<Object<S>>>>,
    /// Those that name hosts by a `*`.
    wide: Vec<Arc<Object<S>>>,
    /// The wildcards that are hosts in Envoy's eyes.
    wildcards: Vec<Host>,
}

// === impl ByHost ===

impl<S> Default for ByHost<S> {
    fn default() -> Self {
        Self {
            exact: BTreeMap::new(),
            wide: Vec::new(),
            wildcards: Vec::new(),
        }
    }
}

impl<S> ByHost<S> {
    /// The objects that may speak for a host; the model decides between them.
    pub(super) fn candidates(&self, host: &Host) -> impl Iterator<Item = &Object<S>> {
        let exact = self.exact.get(host.as_str()).into_iter().flatten();
        exact.chain(&self.wide).map(|object| &**object)
    }

    /// The hosts and wildcards that are named.
    pub(super) fn hosts(&self) -> impl Iterator<Item = Host> {
        let exact = self.exact.keys().filter_map(|host| host.parse().ok());
        exact.chain(self.wildcards.iter().cloned())
    }

    /// Whether the same objects speak for the same hosts.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (one, two) = (&self.exact, &other.exact);
        one.len() == two.len()
            && one
                .iter()
                .zip(two)
                .all(|((host, list), (other, others))| host == other && are_same(list, others))
            && are_same(&self.wide, &other.wide)
    }

    fn insert(&mut self, text: &str, object: &Arc<Object<S>>) {
        let namespace = &object.metadata.namespace;
        let name = canonical(text, namespace);
        let list = if HostPattern::resolve(text, namespace).is_exact() {
            self.exact.entry(name).or_default()
        } else {
            self.wildcards.extend(name.parse::<Host>().ok());
            &mut self.wide
        };
        // One object may name a host twice.
        if !list.iter().any(|known| Arc::ptr_eq(known, object)) {
            list.push(Arc::clone(object));
        }
    }
}

/// The routes for sidecars.
pub(super) fn virtual_services(
    config: &Config,
    warnings: &mut Vec<Warning>,
) -> ByHost<VirtualService> {
    let mut found = ByHost::default();
    for object in &config.virtual_services {
        if !object.spec.is_for_sidecars() {
            continue;
        }
        let http = object.spec.http.iter().flat_map(|route| &route.matches);
        let tcp = object.spec.tcp.iter().flat_map(|route| &route.matches);
        let labelled = http.into_iter().any(|one| !one.source_labels.is_empty())
            || tcp.into_iter().any(|one| !one.source_labels.is_empty());
        if labelled {
            warnings.push(Warning::of(
                "VirtualService",
                &object.metadata,
                "matches with `sourceLabels` never hold: callers of one namespace share their routes",
            ));
        }
        for host in &object.spec.hosts {
            found.insert(host, object);
        }
    }
    found
}

/// The rules for connections.
pub(super) fn destination_rules(config: &Config) -> ByHost<DestinationRule> {
    let mut found = ByHost::default();
    for object in &config.destination_rules {
        found.insert(&object.spec.host, object);
    }
    found
}

/// Whether these are the same objects, in the same order.
pub(super) fn are_same<S>(one: &[Arc<Object<S>>], other: &[Arc<Object<S>>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
}
