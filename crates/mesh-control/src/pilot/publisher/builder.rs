//! From config and workloads to snapshots: only what may have changed is made again, and what came
//! out as before stays the same memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::{Health, Host, Mode, Namespace, Workload, WorkloadId};

use crate::pilot::mesh::{Config, CredentialKey};
use crate::pilot::resource::{Layer, Snapshot};

/// How views are made, as pure functions of what was assembled last.
pub trait Assembly: Send + 'static {
    /// Resolves config and workloads against each other.
    fn assemble(&mut self, config: &Arc<Config>, workloads: &[(Workload, Health)]);

    /// Hosts that need virtual addresses and have none in the config.
    fn unaddressed(&self) -> BTreeSet<Host>;

    /// The Secrets that gateways need.
    fn credentials(&self) -> BTreeSet<CredentialKey>;

    /// The addresses of nodes at which workloads are called.
    fn nodes(&self) -> &BTreeSet<IpAddr>;

    /// What every proxy of a namespace gets whose traffic comes to it in that way. Depends on all
    /// that was assembled.
    ///
    /// `before` is what it was of what was assembled before that, if it was made then.
    fn shared(&self, namespace: &Namespace, mode: Mode, before: Option<&Layer>) -> Layer;

    /// What the proxy of one workload gets besides. Depends on the config, [`Self::nodes`] and that
    /// workload, and for an explicit one, which may have upstreams, and a gateway on all that was assembled.
    fn own(&self, workload: &Workload) -> Layer;
}

/// Makes snapshots again and again.
#[derive(Debug)]
pub(super) struct Builder<A> {
    assembly: A,
    config: Option<Arc<Config>>,
    workloads: Vec<(Workload, Health)>,
    nodes: BTreeSet<IpAddr>,
    shared: BTreeMap<(Namespace, Mode), Arc<Layer>>,
    own: BTreeMap<WorkloadId, Arc<Layer>>,
}

/// What there is to make.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) config: Arc<Config>,
    /// In the order of ids.
    pub(super) workloads: Vec<(Workload, Health)>,
    /// Workloads whose snapshots somebody waits for.
    pub(super) wanted: Vec<WorkloadId>,
}

/// What came out.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) snapshots: Vec<(WorkloadId, Snapshot)>,
    /// Wanted, but not there.
    pub(super) gone: Vec<WorkloadId>,
    pub(super) unaddressed: BTreeSet<Host>,
    pub(super) credentials: BTreeSet<CredentialKey>,
}

impl<A: Assembly> Builder<A> {
    pub(super) fn new(assembly: A) -> Self {
        Self {
            assembly,
            config: None,
            workloads: Vec::new(),
            nodes: BTreeSet::new(),
            shared: BTreeMap::new(),
            own: BTreeMap::new(),
        }
    }

    /// Makes the snapshots that are wanted.
    pub(super) fn build(&mut self, input: Input) -> Output {
        let Input {
            config,
            workloads,
            wanted,
        } = input;
        let is_config = self
            .config
            .as_ref()
            .is_some_and(|old| Arc::ptr_eq(old, &config));
        let is_same = is_config && self.workloads == workloads;
        if !is_same {
            self.assembly.assemble(&config, &workloads);
        }
        let is_place = is_same || self.nodes == *self.assembly.nodes();
        if !is_place {
            self.nodes.clone_from(self.assembly.nodes());
        }
        let old_shared = std::mem::take(&mut self.shared);
        let old_own = std::mem::take(&mut self.own);
        let mut output = Output {
            unaddressed: self.assembly.unaddressed(),
            credentials: self.assembly.credentials(),
            ..Output::default()
        };
        for id in wanted {
            let Some(workload) = find(&workloads, &id) else {
                output.gone.push(id);
                continue;
            };
            let (namespace, mode) = (&workload.namespace, workload.mode());
            let key = (namespace.clone(), mode);
            let shared = if let Some(shared) = self.shared.get(&key) {
                Arc::clone(shared)
            } else {
                let shared = match old_shared.get(&key) {
                    Some(old) if is_same => Arc::clone(old),
                    old => {
                        let before = old.map(AsRef::as_ref);
                        keep(old, self.assembly.shared(namespace, mode, before))
                    }
                };
                self.shared.insert(key, Arc::clone(&shared));
                shared
            };
            let is_known = is_same || (is_place && mode == Mode::Transparent);
            let is_own = is_config && is_known && find(&self.workloads, &id) == Some(workload);
            let own = match old_own.get(&id) {
                Some(old) if is_own => Arc::clone(old),
                old => keep(old, self.assembly.own(workload)),
            };
            self.own.insert(id.clone(), Arc::clone(&own));
            output.snapshots.push((id, Snapshot { shared, own }));
        }
        self.config = Some(config);
        self.workloads = workloads;
        output
    }
}

/// The old layer if nothing in it changed, else the new one, sharing what did not.
fn keep(old: Option<&Arc<Layer>>, mut new: Layer) -> Arc<Layer> {
    let Some(old) = old else {
        return Arc::new(new);
    };
    new.share_with(old);
    if new.is_same(old) {
        Arc::clone(old)
    } else {
        Arc::new(new)
    }
}

fn find<'a>(workloads: &'a [(Workload, Health)], id: &WorkloadId) -> Option<&'a Workload> {
    let index = workloads
        .binary_search_by(|(workload, _)| workload.id.cmp(id))
        .ok()?;
    workloads.get(index).map(|(workload, _)| workload)
}
