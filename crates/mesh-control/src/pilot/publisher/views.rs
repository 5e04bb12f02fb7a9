//! What each proxy is to have, where streams wait for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_model::WorkloadId;
use tokio::sync::watch;

use crate::pilot::resource::Snapshot;

/// The newest snapshot of every workload that somebody waits for.
///
/// A view is made when a stream asks for it and dropped when none does any more.
#[derive(Clone, Debug)]
pub struct Views {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    views: Mutex<BTreeMap<WorkloadId, watch::Sender<Option<Snapshot>>>>,
    wanted: watch::Sender<()>,
    trusted: watch::Sender<bool>,
}

impl Views {
    /// No views; snapshots are not trusted to be complete yet.
    pub fn new() -> Self {
        let (wanted, _) = watch::channel(());
        let (trusted, _) = watch::channel(false);
        Self {
            inner: Arc::new(Inner {
                views: Mutex::default(),
                wanted,
                trusted,
            }),
        }
    }

    /// The view of a workload that is registered: `None` until it is made, closed when the
    /// workload is gone.
    pub fn subscribe(&self, workload: &WorkloadId) -> watch::Receiver<Option<Snapshot>> {
        let mut views = self.lock();
        if let Some(view) = views.get(workload) {
            return view.subscribe();
        }
        let (view, receiver) = watch::channel(None);
        views.insert(workload.clone(), view);
        drop(views);
        self.inner.wanted.send_replace(());
        receiver
    }

    /// Whether what snapshots lack is gone, not merely unknown yet.
    pub fn trusted(&self) -> watch::Receiver<bool> {
        self.inner.trusted.subscribe()
    }

    /// Changes when a view is asked for that is not made yet.
    pub(crate) fn wanted(&self) -> watch::Receiver<()> {
        self.inner.wanted.subscribe()
    }

    /// The workloads whose views somebody waits for; the others' views are dropped.
    pub(crate) fn workloads(&self) -> Vec<WorkloadId> {
        let mut views = self.lock();
        views.retain(|_, view| view.receiver_count() > 0);
        views.keys().cloned().collect()
    }

    /// Gives a workload's streams a snapshot, if it is not the one that they have.
    pub fn publish(&self, workload: &WorkloadId, snapshot: Snapshot) {
        if let Some(view) = self.lock().get(workload) {
            view.send_if_modified(|current| {
                let is_same = current.as_ref().is_some_and(|current| {
                    Arc::ptr_eq(&current.shared, &snapshot.shared)
                        && Arc::ptr_eq(&current.own, &snapshot.own)
                });
                if !is_same {
                    *current = Some(snapshot);
                }
                !is_same
            });
        }
    }

    /// Ends the streams of a workload that is gone.
    pub fn close(&self, workload: &WorkloadId) {
        self.lock().remove(workload);
    }

    /// What snapshots lack from now on is gone.
    pub fn trust(&self) {
        self.inner.trusted.send_replace(true);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkloadId, watch::Sender<Option<Snapshot>>>> {
        self.inner
            .views
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Views {
    fn default() -> Self {
        Self::new()
    }
}
