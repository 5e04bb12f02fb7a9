//! Objects of Istio's kinds as they were last right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use mesh_model::Object;
use mesh_model::istio::{
    AuthorizationPolicy, DestinationRule, Gateway, IstioKind, IstioObject, PeerAuthentication,
    ServiceEntry, VirtualService, WorkloadEntry, check,
};
use tracing::warn;

use crate::pilot::mesh::Config;

/// Every object of every kind.
#[derive(Debug, Default)]
pub(super) struct Objects {
    virtual_services: Kept<VirtualService>,
    destination_rules: Kept<DestinationRule>,
    gateways: Kept<Gateway>,
    service_entries: Kept<ServiceEntry>,
    workload_entries: Kept<WorkloadEntry>,
    peer_authentications: Kept<PeerAuthentication>,
    authorization_policies: Kept<AuthorizationPolicy>,
    /// The names of a list that is not complete yet, by kind.
    listed: BTreeMap<IstioKind, BTreeSet<Key>>,
    /// Kinds that were listed whole at least once.
    known: BTreeSet<IstioKind>,
}

/// Namespace and name.
type Key = (String, String);

/// Objects of one kind.
type Kept<S> = BTreeMap<Key, Arc<Object<S>>>;

impl Objects {
    /// Takes an event; whether the objects as a whole are worth looking at again.
    pub(super) fn take(&mut self, kind: IstioKind, event: Event<DynamicObject>) -> bool {
        match event {
            Event::Apply(object) => {
                self.put(kind, &object);
                true
            }
            Event::Delete(object) => {
                self.remove(kind, &key(&object));
                true
            }
            Event::Init => {
                self.listed.insert(kind, BTreeSet::new());
                false
            }
            Event::InitApply(object) => {
                self.put(kind, &object);
                self.listed.entry(kind).or_default().insert(key(&object));
                false
            }
            Event::InitDone => {
                let listed = self.listed.remove(&kind).unwrap_or_default();
                for key in self.keys(kind) {
                    if !listed.contains(&key) {
                        self.remove(kind, &key);
                    }
                }
                self.known.insert(kind);
                true
            }
        }
    }

    /// Whether every kind was listed whole.
    pub(super) fn is_known(&self) -> bool {
        IstioKind::ALL.iter().all(|kind| self.known.contains(kind))
    }

    /// The config with the objects in it.
    pub(super) fn add_to(&self, config: Config) -> Config {
        fn all<S>(kept: &Kept<S>) -> Vec<Arc<Object<S>>> {
            kept.values().cloned().collect()
        }
        Config {
            virtual_services: all(&self.virtual_services),
            destination_rules: all(&self.destination_rules),
            gateways: all(&self.gateways),
            service_entries: all(&self.service_entries),
            workload_entries: all(&self.workload_entries),
            peer_authentications: all(&self.peer_authentications),
            authorization_policies: all(&self.authorization_policies),
            ..config
        }
    }

    /// Takes over an object, unless it is wrong: then it stays as it was.
    ///
    /// The API server refuses wrong objects, but this may be another one, or another version.
    fn put(&mut self, kind: IstioKind, object: &DynamicObject) {
        let key = key(object);
        let (namespace, name) = &key;
        let value = match serde_json::to_value(object) {
            Ok(value) => value,
            Err(error) => {
                warn!(kind = kind.as_str(), namespace, name, %error, "object cannot be read");
                return;
            }
        };
        let checked = check(kind, &value);
        let Some(object) = checked.object else {
            for problem in &checked.problems {
                warn!(kind = kind.as_str(), namespace, name, %problem, "object is wrong and not used");
            }
            return;
        };
        match object {
            IstioObject::VirtualService(object) => {
                self.virtual_services.insert(key, Arc::new(object));
            }
            IstioObject::DestinationRule(object) => {
                self.destination_rules.insert(key, object.into());
            }
            IstioObject::Gateway(object) => {
                self.gateways.insert(key, Arc::new(object));
            }
            IstioObject::ServiceEntry(object) => {
                self.service_entries.insert(key, Arc::new(object));
            }
            IstioObject::WorkloadEntry(object) => {
                self.workload_entries.insert(key, Arc::new(object));
            }
            IstioObject::PeerAuthentication(object) => {
                self.peer_authentications.insert(key, Arc::new(object));
            }
            IstioObject::AuthorizationPolicy(object) => {
                self.authorization_policies.insert(key, Arc::new(object));
            }
            _ => warn!(kind = kind.as_str(), "Pilot does not know this kind"),
        }
    }

    fn remove(&mut self, kind: IstioKind, key: &Key) {
        match kind {
            IstioKind::VirtualService => drop(self.virtual_services.remove(key)),
            IstioKind::DestinationRule => drop(self.destination_rules.remove(key)),
            IstioKind::Gateway => drop(self.gateways.remove(key)),
            IstioKind::ServiceEntry => drop(self.service_entries.remove(key)),
            IstioKind::WorkloadEntry => drop(self.workload_entries.remove(key)),
            IstioKind::PeerAuthentication => drop(self.peer_authentications.remove(key)),
            IstioKind::AuthorizationPolicy => drop(self.authorization_policies.remove(key)),
            _ => {}
        }
    }

    fn keys(&self, kind: IstioKind) -> Vec<Key> {
        match kind {
            IstioKind::VirtualService => self.virtual_services.keys().cloned().collect(),
            IstioKind::DestinationRule => self.destination_rules.keys().cloned().collect(),
            IstioKind::Gateway => self.gateways.keys().cloned().collect(),
            IstioKind::ServiceEntry => self.service_entries.keys().cloned().collect(),
            IstioKind::WorkloadEntry => self.workload_entries.keys().cloned().collect(),
            IstioKind::PeerAuthentication => self.peer_authentications.keys().cloned().collect(),
            IstioKind::AuthorizationPolicy => self.authorization_policies.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }
}

fn key(object: &DynamicObject) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}
