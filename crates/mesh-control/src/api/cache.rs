//! The one watch on the store, and what is derived from it: recent changes for the watchers of the API,
//! roles for the authorizer, the key of tokens.
//!
//! Watchers read from a ring. One that is too slow finds its place overwritten and is told 410 Gone; nobody
//! waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authorization::Policy;
use super::kind::{Kind, RBAC_GROUP};
use super::token::{self, Tokens};
use crate::store::{Batch, Event, Range, Revision, Store, StoreError};

/// What is known of the store without asking it.
pub struct Cache {
    ring: RwLock<Ring>,
    position: watch::Sender<Position>,
    policy: ArcSwap<Policy>,
}

/// How far the cache is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Position {
    /// Every change up to here is in the ring or was.
    pub revision: Revision,
    /// Counts the times that the history broke and everybody must list again.
    pub epoch: u64,
    /// Whether the cache has seen what was in the store when it started.
    pub is_ready: bool,
}

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// Its revision.
    pub revision: Revision,
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty if the kind has none.
    pub namespace: String,
    value: Option<Bytes>,
    previous: Option<Bytes>,
    parsed: OnceLock<Parsed>,
}

#[derive(Debug)]
struct Parsed {
    value: Option<Arc<Value>>,
    previous: Option<Arc<Value>>,
}

/// What a watcher gets from the ring.
#[derive(Debug)]
pub enum Recent {
    /// The changes after its place, perhaps not all, and its new place.
    Changes(Vec<Arc<Change>>, Revision),
    /// Its place is gone: it must list again.
    Gone {
        /// The oldest place that is left.
        oldest: Revision,
    },
}

#[derive(Debug, Default)]
struct Ring {
    changes: VecDeque<Arc<Change>>,
    /// Changes up to here are not in the ring any more.
    oldest: Revision,
    /// Changes up to here are or were in the ring.
    revision: Revision,
}

// === impl Cache ===

impl Cache {
    /// Empty; [`Self::follow`] fills it.
    pub fn empty() -> Self {
        Self {
            ring: RwLock::default(),
            position: watch::Sender::new(Position::default()),
            policy: ArcSwap::default(),
        }
    }

    /// The roles and bindings as of now.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// How far the cache is, and when it moves.
    pub fn position(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// At most `limit` changes after `after`.
    pub fn recent(&self, after: Revision, limit: usize) -> Recent {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        if after < ring.oldest {
            return Recent::Gone {
                oldest: ring.oldest,
            };
        }
        let start = ring
            .changes
            .partition_point(|change| change.revision <= after);
        let mut changes: Vec<_> = ring
            .changes
            .range(start..)
            .take(limit)
            .map(Arc::clone)
            .collect();
        let is_cut = changes.len() == limit && start + limit < ring.changes.len();
        let place = if is_cut {
            // Changes of one revision stay together, else the rest would be skipped.
            let last = changes.last().map_or(after, |change| change.revision);
            let rest = ring
                .changes
                .range(start + limit..)
                .take_while(|change| change.revision == last);
            changes.extend(rest.map(Arc::clone));
            last
        } else {
            ring.revision.max(after)
        };
        Recent::Changes(changes, place)
    }

    /// Follows the store until shutdown; whatever breaks the history starts it again.
    pub async fn follow(
        &self,
        store: Arc<dyn Store>,
        tokens: Arc<Tokens>,
        shutdown: CancellationToken,
    ) {
        loop {
            let run = self.run(&*store, &tokens);
            let error = tokio::select! {
                () = shutdown.cancelled() => return,
                error = run => error,
            };
            if error.needs_list() {
                tracing::warn!(%error, "history of the store broke, every watcher lists again");
            } else {
                tracing::warn!(%error, "store cannot be watched");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// One list and the watch after it; returns why it ended.
    async fn run(&self, store: &dyn Store, tokens: &Tokens) -> StoreError {
        let prefix = format!("{RBAC_GROUP}/");
        let page = match store
            .list(Range {
                prefix: &prefix,
                ..Range::default()
            })
            .await
        {
            Ok(page) => page,
            Err(error) => return error,
        };
        let listed = page.revision;
        let mut roles: BTreeMap<String, Bytes> = page
            .entries
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        self.set_policy(&roles);
        // Some history from before the start lets watchers resume after a restart without a list.
        let mut start = listed.saturating_sub(RING as Revision);
        let mut changes = loop {
            match store.watch("", start).await {
                Ok(changes) => break changes,
                Err(StoreError::Compacted { oldest, .. }) if start < listed => {
                    start = oldest.clamp(start + 1, listed);
                }
                Err(error) => return error,
            }
        };
        self.begin(start, listed);
        loop {
            match changes.next().await {
                Some(Ok(batch)) => {
                    let mut is_policy = false;
                    for event in &batch.events {
                        if event.revision > listed {
                            is_policy |= take_role(&mut roles, &prefix, event);
                            learn_key(tokens, event);
                        }
                    }
                    if is_policy {
                        // Before the watchers: who sees a role may rely on it.
                        self.set_policy(&roles);
                    }
                    self.append(batch, listed);
                }
                Some(Err(error)) => return error,
                None => return StoreError::unavailable("the store ended the watch"),
            }
        }
    }

    fn set_policy(&self, roles: &BTreeMap<String, Bytes>) {
        let policy = Policy::new(roles.values().map(AsRef::as_ref));
        self.policy.store(Arc::new(policy));
    }

    fn begin(&self, start: Revision, listed: Revision) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        ring.changes.clear();
        ring.oldest = start;
        ring.revision = start;
        drop(ring);
        self.position.send_modify(|position| {
            *position = Position {
                revision: start,
                epoch: position.epoch + 1,
                is_ready: start >= listed,
            };
        });
    }

    fn append(&self, batch: Batch, listed: Revision) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        for event in batch.events {
            let Some(change) = Change::new(event) else {
                continue;
            };
            ring.changes.push_back(Arc::new(change));
            if ring.changes.len() > RING
                && let Some(dropped) = ring.changes.pop_front()
            {
                ring.oldest = dropped.revision;
            }
        }
        ring.revision = batch.revision;
        drop(ring);
        self.position.send_modify(|position| {
            position.revision = batch.revision;
            position.is_ready = position.is_ready || batch.revision >= listed;
        });
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("position", &*self.position.borrow())
            .finish_non_exhaustive()
    }
}

// === impl Change ===

impl Change {
    /// None for a key that is of no kind we serve.
    fn new(event: Event) -> Option<Self> {
        let mut parts = event.key.split('/');
        let kind = Kind::of_key(parts.next()?, parts.next()?)?;
        let namespace = if kind.namespaced {
            parts.next()?.to_owned()
        } else {
            String::new()
        };
        Some(Self {
            revision: event.revision,
            kind,
            namespace,
            value: event.value,
            previous: event.previous,
            parsed: OnceLock::new(),
        })
    }

    /// The object after the change; none if it was deleted.
    pub fn value(&self) -> Option<&Arc<Value>> {
        self.parsed().value.as_ref()
    }

    /// The object before the change, with the revision of the change; none if it was created.
    pub fn previous(&self) -> Option<&Arc<Value>> {
        self.parsed().previous.as_ref()
    }

    /// Parsed once, by the first watcher that wants it.
    fn parsed(&self) -> &Parsed {
        self.parsed.get_or_init(|| {
            let parse = |bytes: &Bytes| super::objects::read(bytes, self.revision).map(Arc::new);
            Parsed {
                value: self.value.as_ref().and_then(parse),
                previous: self.previous.as_ref().and_then(parse),
            }
        })
    }
}

/// Keeps the role of an event; whether it was one.
fn take_role(roles: &mut BTreeMap<String, Bytes>, prefix: &str, event: &Event) -> bool {
    if !event.key.starts_with(prefix) {
        return false;
    }
    match &event.value {
        Some(value) => roles.insert(event.key.clone(), value.clone()),
        None => roles.remove(&event.key),
    };
    true
}

fn learn_key(tokens: &Tokens, event: &Event) {
    if event.key == token::key_of_secret()
        && let Some(value) = &event.value
        && let Err(failure) = tokens.learn(value)
    {
        tracing::error!(error = failure.message, "changed signing key is not used");
    }
}

/// Changes that are kept for watchers: minutes of a busy mesh, some tens of megabytes at worst.
const RING: usize = 4096;

/// Between attempts to watch a store that fails.
const RETRY: Duration = Duration::from_millis(500);
