//! A watch of the API: the changes of the ring that a client wants, as lines of JSON.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cache::{Cache, Change, Position, Recent};
use super::json::set;
use super::kind::Kind;
use super::objects::set_version;
use super::selector::Selector;
use super::status::Failure;
use super::table::Form;
use crate::store::Revision;

/// What a client wants to see.
#[derive(Debug)]
pub struct Subscription {
    /// The kind.
    pub kind: Kind,
    /// The version to answer in.
    pub version: String,
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only these.
    pub selector: Selector,
    /// As objects, tables or metadata.
    pub form: Form,
    /// Whether to tell the place when nothing happens.
    pub wants_bookmarks: bool,
    /// When it ends.
    pub until: Instant,
    /// Objects that exist at the beginning, told as added.
    pub initial: Vec<Value>,
    /// Whether the end of the initial objects is marked by a bookmark.
    pub marks_initial_end: bool,
    /// The place after which changes are told.
    pub after: Revision,
}

struct Watcher {
    cache: Arc<Cache>,
    position: tokio::sync::watch::Receiver<Position>,
    epoch: u64,
    want: Subscription,
    shutdown: CancellationToken,
    /// Lines that are ready.
    ready: VecDeque<Bytes>,
    next_bookmark: Instant,
    is_over: bool,
}

/// The lines of a watch; ends at its time, at shutdown, or after an error line.
///
/// `epoch` is the one in which the place was valid.
pub fn lines(
    cache: Arc<Cache>,
    epoch: u64,
    mut want: Subscription,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    let mut ready: VecDeque<Bytes> = std::mem::take(&mut want.initial)
        .into_iter()
        .map(|object| want.form.line("ADDED", want.kind, object))
        .collect();
    if want.marks_initial_end {
        ready.push_back(bookmark(&want, true));
    }
    let watcher = Watcher {
        position: cache.position(),
        cache,
        epoch,
        want,
        shutdown,
        ready,
        next_bookmark: Instant::now() + BOOKMARK_INTERVAL,
        is_over: false,
    };
    futures_util::stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok(line), watcher))
    })
}

// === impl Watcher ===

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            let position = *self.position.borrow_and_update();
            if position.epoch != self.epoch {
                return Some(self.end_with("the history of the store broke"));
            }
            if position.revision > self.want.after {
                match self.cache.recent(self.want.after, BATCH) {
                    Recent::Changes(changes, place) => {
                        self.want.after = place;
                        let lines = changes.iter().filter_map(|change| self.line(change));
                        let lines: Vec<_> = lines.collect();
                        self.ready.extend(lines);
                        continue;
                    }
                    Recent::Gone { oldest } => {
                        let why = format!("too old resource version, the oldest is {oldest}");
                        return Some(self.end_with(&why));
                    }
                }
            }
            let bookmark_at = if self.want.wants_bookmarks {
                self.next_bookmark
            } else {
                self.want.until
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.want.until) => return None,
                () = tokio::time::sleep_until(bookmark_at), if self.want.wants_bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    return Some(bookmark(&self.want, false));
                }
                changed = self.position.changed() => changed.ok()?,
            }
        }
    }

    /// The line of a change, if the client wants to know of it.
    fn line(&self, change: &Change) -> Option<Bytes> {
        let want = &self.want;
        if change.kind != want.kind
            || want
                .namespace
                .as_ref()
                .is_some_and(|namespace| *namespace != change.namespace)
        {
            return None;
        }
        let wanted = |object: Option<&Arc<Value>>| {
            object
                .filter(|object| want.selector.matches(object))
                .map(Arc::clone)
        };
        let (before, now) = (wanted(change.previous()), wanted(change.value()));
        // An object that stops matching is gone for this client, one that begins to match is new.
        let (event, object) = match (before, now) {
            (None, None) => return None,
            (None, Some(now)) => ("ADDED", now),
            (Some(_), Some(now)) => ("MODIFIED", now),
            (Some(before), None) => match change.value() {
                Some(now) => ("DELETED", Arc::clone(now)),
                None => ("DELETED", before),
            },
        };
        let mut object = (*object).clone();
        set_version(&mut object, want.kind, &want.version);
        Some(want.form.line(event, want.kind, object))
    }

    fn end_with(&mut self, why: &str) -> Bytes {
        self.is_over = true;
        let status = Failure::expired(why).to_value();
        encode(&json!({"type": "ERROR", "object": status}))
    }
}

/// A line that tells nothing but the place.
fn bookmark(want: &Subscription, ends_initial: bool) -> Bytes {
    let mut metadata =
        json!({"resourceVersion": want.after.to_string(), "creationTimestamp": null});
    if ends_initial {
        set(
            &mut metadata,
            "annotations",
            json!({"k8s.io/initial-events-end": "true"}),
        );
    }
    let object = json!({
        "kind": want.kind.kind,
        "apiVersion": want.kind.api_version(&want.version),
        "metadata": metadata,
    });
    want.form.line("BOOKMARK", want.kind, object)
}

/// One event as a line.
pub fn encode(event: &Value) -> Bytes {
    let mut line = event.to_string();
    line.push('\n');
    line.into()
}

/// Changes taken from the ring at once: bounds what waits for a client that reads slowly.
const BATCH: usize = 256;

/// Between bookmarks, as Kubernetes.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
