//! Which object speaks for a host, as seen from a namespace.
//!
//! An object holds for all callers of a host when it is of the host's own namespace or of a root
//! namespace, and for callers of its own namespace alone when it is of another: nobody routes
//! other people's calls to other people's services. Istio allows that; a namespace that must
//! not be trusted could then take over any host.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::istio::{DestinationRule, VirtualService};
use mesh_model::{Host, Namespace, Object};

use super::name::{self, Names};
use super::{Config, Mesh, Warning, by_age, namespace_of};

/// Who can see something: Istio's `exportTo`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Exported {
    /// Everybody.
    #[default]
    All,
    /// These namespaces.
    To(Vec<Namespace>),
}

/// Objects by the hosts that they name, a wildcard as it is written.
#[derive(Clone, Debug)]
pub(super) struct ByHost<S> {
    hosts: BTreeMap<Host, Vec<Scoped<S>>>,
}

/// An object and the callers that it holds for.
#[derive(Clone, Debug)]
struct Scoped<S> {
    object: Arc<Object<S>>,
    namespace: Namespace,
    exported: Exported,
    /// Whether it holds for callers of other namespaces too.
    speaks: bool,
    /// Whether it is of a root namespace, whose objects give way to the others.
    root: bool,
}

// === impl Exported ===

impl Exported {
    /// What `exportTo` of an object in `namespace` says; empty is everybody.
    pub(super) fn read(list: &[String], namespace: &Namespace) -> Self {
        if list.is_empty() || list.iter().any(|name| name == "*") {
            return Self::All;
        }
        let names = list.iter().filter_map(|name| match name.as_str() {
            "." => Some(namespace.clone()),
            name => name.parse().ok(),
        });
        Self::To(names.collect())
    }

    /// Whether callers of `namespace` see what an object of `own` exports.
    pub(super) fn to(&self, namespace: &Namespace, own: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::To(list) => list.contains(namespace) || list.is_empty() && namespace == own,
        }
    }
}

// === impl ByHost ===

impl<S> Default for ByHost<S> {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
        }
    }
}

impl<S> ByHost<S> {
    /// The hosts that are named.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.keys()
    }

    /// The object that speaks for `host` to callers of `from`: by its own name before a wildcard,
    /// the narrower wildcard before the wider; then the caller's own before the host's own before
    /// a root namespace's; then the oldest.
    pub(super) fn find(&self, host: &Host, from: &Namespace) -> Option<&Object<S>> {
        self.levels(host).find_map(|objects| {
            let holds = objects.iter().filter(|scoped| scoped.holds(from));
            holds
                .min_by_key(|scoped| (scoped.namespace != *from, scoped.root))
                .map(|scoped| &*scoped.object)
        })
    }

    /// The objects that name the host, then those that name wildcards over it.
    fn levels(&self, host: &Host) -> impl Iterator<Item = &Vec<Scoped<S>>> {
        let text = host.as_str();
        let wildcards = text
            .match_indices('.')
            .filter_map(|(dot, _)| text.get(dot..))
            .filter_map(|rest| format!("*{rest}").parse::<Host>().ok())
            .filter(move |wildcard| wildcard != host);
        std::iter::once(host.clone())
            .chain(wildcards)
            .filter_map(|name| self.hosts.get(&name))
    }

    fn insert(&mut self, host: Host, scoped: Scoped<S>) {
        self.hosts.entry(host).or_default().push(scoped);
    }
}

// === impl Scoped ===

impl<S> Scoped<S> {
    fn holds(&self, from: &Namespace) -> bool {
        (self.speaks || self.namespace == *from) && self.exported.to(from, &self.namespace)
    }
}

/// The routes for sidecars, by host.
pub(super) fn virtual_services(
    config: &Config,
    names: &Names,
    mesh: &Mesh,
    warnings: &mut Vec<Warning>,
) -> ByHost<VirtualService> {
    let mut found = ByHost::default();
    for object in by_age(&config.virtual_services) {
        let gateways = &object.spec.gateways;
        if !gateways.is_empty() && !gateways.iter().any(|gateway| gateway == "mesh") {
            continue;
        }
        let labels = object.spec.http.iter().flat_map(|route| &route.matches);
        if labels.into_iter().any(|m| !m.source_labels.is_empty()) {
            warnings.push(Warning::of(
                "VirtualService",
                &object.metadata,
                "matches with `sourceLabels` never hold: callers of one namespace share their routes",
            ));
        }
        for name in &object.spec.hosts {
            let scope = Scope {
                kind: "VirtualService",
                exported: &object.spec.export_to,
                name,
            };
            scope.insert(&object, names, mesh, &mut found, warnings);
        }
    }
    found
}

/// The rules for connections, by host.
pub(super) fn destination_rules(
    config: &Config,
    names: &Names,
    mesh: &Mesh,
    warnings: &mut Vec<Warning>,
) -> ByHost<DestinationRule> {
    let mut found = ByHost::default();
    for object in by_age(&config.destination_rules) {
        let scope = Scope {
            kind: "DestinationRule",
            exported: &object.spec.export_to,
            name: &object.spec.host,
        };
        scope.insert(&object, names, mesh, &mut found, warnings);
    }
    found
}

/// One host that one object names.
struct Scope<'a> {
    kind: &'static str,
    exported: &'a [String],
    name: &'a str,
}

// === impl Scope ===

impl Scope<'_> {
    fn insert<S>(
        &self,
        object: &Arc<Object<S>>,
        names: &Names,
        mesh: &Mesh,
        found: &mut ByHost<S>,
        warnings: &mut Vec<Warning>,
    ) {
        let mut warn = |message: String| {
            warnings.push(Warning::of(self.kind, &object.metadata, message));
        };
        let Some(namespace) = namespace_of(&object.metadata) else {
            return;
        };
        let Some(host) = names.resolve(self.name, &namespace) else {
            warn(format!("`{}` is not a host and has no effect", self.name));
            return;
        };
        let owner = mesh
            .entries
            .get(&host)
            .map(|entry| entry.service.namespace.as_str())
            .or(name::owner(&host));
        let root = namespace == Namespace::root() || namespace == Namespace::mesh_system();
        let speaks = root || owner.is_none_or(|owner| owner == namespace.as_str());
        if !speaks {
            warn(format!(
                "`{host}` is of another namespace: it holds for callers of `{namespace}` only"
            ));
        }
        let others = found.hosts.get(&host).into_iter().flatten();
        if let Some(older) = others.into_iter().find(|other| {
            other.namespace == namespace && other.object.metadata.name != object.metadata.name
        }) {
            warn(format!(
                "`{host}` is spoken for by the older {} {}/{}, and this one has no effect on it",
                self.kind, namespace, older.object.metadata.name
            ));
        }
        let scoped = Scoped {
            object: Arc::clone(object),
            exported: Exported::read(self.exported, &namespace),
            namespace,
            speaks,
            root,
        };
        found.insert(host, scoped);
    }
}
