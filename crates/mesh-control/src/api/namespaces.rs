//! Ends namespaces that are to be deleted, one after another, until shutdown.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::cache::{Cache, Recent};
use super::json::has;
use super::kind::Kind;
use super::objects::{Objects, Wanted, name_of};
use super::selector::Selector;
use super::status::Failure;

/// Follows the namespaces; what fails is tried again.
pub(super) async fn finish(objects: Objects, cache: Arc<Cache>, shutdown: CancellationToken) {
    let mut position = cache.position();
    let mut place = 0;
    let mut epoch = 0;
    let mut ending: BTreeSet<String> = BTreeSet::new();
    loop {
        let now = *position.borrow_and_update();
        if now.epoch == epoch {
            match cache.recent(place, usize::MAX) {
                Recent::Changes(changes, next) => {
                    place = next;
                    // Any change may be the one a namespace waited for: its last object has gone.
                    for change in changes.iter().filter(|change| change.kind.is_namespace()) {
                        if let Some(object) = change.value()
                            && has(object, "metadata.deletionTimestamp")
                        {
                            ending.insert(name_of(object));
                        }
                    }
                }
                Recent::Gone { .. } => epoch = 0,
            }
        } else {
            match terminating(&objects).await {
                Ok((found, revision)) => (ending, place, epoch) = (found, revision, now.epoch),
                Err(failure) => {
                    tracing::warn!(error = failure.message, "namespaces cannot be listed");
                }
            }
        }
        let mut left = BTreeSet::new();
        for name in std::mem::take(&mut ending) {
            match objects.finish_namespace(&name).await {
                Ok(true) => tracing::info!(namespace = name, "namespace deleted"),
                Ok(false) => {
                    left.insert(name);
                }
                Err(failure) => {
                    tracing::warn!(namespace = name, error = failure.message, "will try again");
                    left.insert(name);
                }
            }
        }
        ending = left;
        let is_waiting = !ending.is_empty() || epoch == 0;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY), if is_waiting => {}
            changed = position.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn terminating(objects: &Objects) -> Result<(BTreeSet<String>, u64), Failure> {
    let listed = objects
        .list(Wanted {
            kind: Kind::namespace(),
            version: "v1",
            namespace: None,
            selector: &Selector::default(),
            limit: None,
            token: None,
            at: None,
        })
        .await?;
    let names = listed
        .items
        .iter()
        .filter(|object| has(object, "metadata.deletionTimestamp"))
        .map(name_of)
        .collect();
    Ok((names, listed.revision))
}

/// Between attempts: a finalizer may take its time, a store may be away.
const RETRY: Duration = Duration::from_secs(1);
