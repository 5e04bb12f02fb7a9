//! Forgetting old history, so that a store does not grow with every change.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Store, StoreError};

/// Every `interval`, forgets what is older than one interval; ends on shutdown.
///
/// So a watcher that comes back within an interval misses nothing. Several servers on one store may all do
/// this: compacting what is compacted does nothing.
pub async fn compact_periodically(
    store: &dyn Store,
    interval: Duration,
    shutdown: CancellationToken,
) {
    let mut last = None;
    loop {
        match store.revision().await {
            Ok(revision) => {
                if let Some(old) = last.replace(revision) {
                    match store.compact(old).await {
                        Ok(()) => tracing::debug!(revision = old, "history compacted"),
                        Err(StoreError::Compacted { .. }) => {}
                        Err(error) => {
                            tracing::warn!(%error, "history could not be compacted");
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "history could not be compacted"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}
