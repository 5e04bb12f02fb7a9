//! Nomad's services as workloads of the mesh, kept up to date.
//!
//! Blocking queries are the truth and the event stream is a hint, since some changes emit no
//! event. [`Catalogue`] decides: it takes answers as [`Input`], says what to read next, and gives
//! snapshots and deltas. With the feature `client`, [`Follower`] feeds it from a server.

#[cfg(feature = "client")]
mod follow;
mod instance;
mod listed;
mod state;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::{Problems, WorkloadId};

#[cfg(feature = "client")]
pub use self::follow::{FollowSettings, Follower, Status};
pub use self::instance::Instance;
pub use self::listed::Listed;
pub use self::state::{Catalogue, Input, Name, Read};

/// Everything that is known, at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Counts the changes of this catalogue; 0 before the first snapshot is whole. Indexes of
    /// Nomad are of single tables and go back when servers are restored, so they cannot serve.
    pub sequence: u64,
    /// The instances, in the order of their ids.
    pub instances: BTreeMap<WorkloadId, Arc<Instance>>,
    /// Why allocations with registrations are not among them, by allocation.
    pub problems: BTreeMap<String, Problems>,
}

/// What changed from one snapshot to the next.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Delta {
    /// The sequence that it leads to.
    pub sequence: u64,
    /// New instances, and those that changed.
    pub changed: BTreeMap<WorkloadId, Arc<Instance>>,
    /// Those that are gone.
    pub removed: Vec<WorkloadId>,
}

// === impl Snapshot ===

impl Snapshot {
    /// What changed since an earlier snapshot of the same catalogue. Equal instances are one in
    /// memory, so this compares pointers.
    pub fn since(&self, earlier: &Self) -> Delta {
        let is_same = |id: &WorkloadId, instance| {
            let known: Option<&Arc<Instance>> = earlier.instances.get(id);
            known.is_some_and(|known| Arc::ptr_eq(known, instance))
        };
        let changed = self
            .instances
            .iter()
            .filter(|(id, found)| !is_same(id, found));
        let gone = earlier.instances.keys();
        let gone = gone.filter(|id| !self.instances.contains_key(*id));
        Delta {
            sequence: self.sequence,
            changed: changed
                .map(|(id, found)| (id.clone(), Arc::clone(found)))
                .collect(),
            removed: gone.cloned().collect(),
        }
    }
}

// === impl Delta ===

impl Delta {
    /// Brings a snapshot up to date, its problems aside.
    pub fn apply(&self, instances: &mut BTreeMap<WorkloadId, Arc<Instance>>) {
        for id in &self.removed {
            instances.remove(id);
        }
        for (id, instance) in &self.changed {
            instances.insert(id.clone(), Arc::clone(instance));
        }
    }
}
