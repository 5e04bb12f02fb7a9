//! Nomad's catalogue as a registry: followed for as long as this lives, forgotten never.

use std::sync::Arc;

use mesh_model::WorkloadId;
use mesh_nomad::catalogue::{FollowSettings, Follower, Instance, Snapshot, Status};
use mesh_nomad::client::Client;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

/// What Nomad's catalogue lists. Clones follow the same one.
///
/// While Nomad is away, what is known stays.
#[derive(Clone, Debug)]
pub struct NomadRegistry {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    status: watch::Receiver<Status>,
    metrics: CatalogueMetrics,
    /// Who reads; none if a test does.
    _follower: Option<Arc<Follower>>,
}

/// How following goes, in numbers.
#[derive(Clone, Debug, Default)]
pub struct CatalogueMetrics {
    instances: Gauge,
    problems: Gauge,
    readable: Gauge,
}

// === impl NomadRegistry ===

impl NomadRegistry {
    /// Begins to follow the catalogue of all namespaces, in a task of its own that ends with the
    /// last clone.
    pub fn start(client: Client, metrics: CatalogueMetrics) -> Self {
        let follower = Follower::start(client, FollowSettings::default());
        Self {
            snapshots: follower.snapshots(),
            status: follower.status(),
            metrics,
            _follower: Some(Arc::new(follower)),
        }
    }

    /// The same of snapshots that somebody else makes.
    pub fn of(snapshots: watch::Receiver<Arc<Snapshot>>, status: watch::Receiver<Status>) -> Self {
        Self {
            snapshots,
            status,
            metrics: CatalogueMetrics::default(),
            _follower: None,
        }
    }

    /// Everything as it is known now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// An instance, if the catalogue lists it.
    pub fn find(&self, id: &WorkloadId) -> Option<Arc<Instance>> {
        self.snapshots.borrow().instances.get(id).cloned()
    }

    /// How following goes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Follows the snapshots.
    pub(super) fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Counts what there is.
    pub(super) fn measure(&self) {
        let snapshot = self.snapshot();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let metrics = &self.metrics;
        metrics.instances.set(count(snapshot.instances.len()));
        metrics.problems.set(count(snapshot.problems.len()));
        let is_readable = self.status.borrow().failure.is_none();
        metrics.readable.set(is_readable.into());
    }
}

// === impl CatalogueMetrics ===

impl CatalogueMetrics {
    /// Metrics that `registry` shows.
    pub fn new(registry: &mut prometheus_client::registry::Registry) -> Self {
        let metrics = Self::default();
        for (name, help, gauge) in [
            (
                "mesh_nomad_instances",
                "Allocations that Nomad's catalogue lists and Pilot takes",
                &metrics.instances,
            ),
            (
                "mesh_nomad_problems",
                "Allocations that Nomad's catalogue lists and Pilot cannot take",
                &metrics.problems,
            ),
            (
                "mesh_nomad_readable",
                "Whether Nomad's catalogue can be read now",
                &metrics.readable,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        metrics
    }
}

/// What somebody who looks at this process should know of the catalogue; none if all is well.
pub fn complaint(status: &Status) -> Option<String> {
    let failure = status.failure.as_ref()?;
    Some(if status.is_whole {
        format!("ready, but Nomad's catalogue cannot be read; what is known stays: {failure}")
    } else {
        format!("ready, but Nomad's catalogue could not be read yet: {failure}")
    })
}
