//! Reading the file: each function sees one moment of the database.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Bound;

use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase as _};

use super::writer::{CHANGES, META, OBJECTS, State, state_of};
use crate::store::{Batch, Entry, Event, Page, Revision, StoreError};

/// Where the store stands.
pub(super) fn read_state(database: &Database) -> Result<State, StoreError> {
    let read = || -> Result<State, redb::Error> { state(&database.begin_read()?) };
    read().map_err(StoreError::unavailable)
}

/// Revision and value of one key.
pub(super) fn read_entry(
    database: &Database,
    key: &str,
) -> Result<Option<(Revision, Bytes)>, StoreError> {
    let read = || -> Result<_, redb::Error> {
        let objects = database.begin_read()?.open_table(OBJECTS)?;
        Ok(objects.get(key)?.map(|found| {
            let (revision, value) = found.value();
            (revision, Bytes::copy_from_slice(value))
        }))
    };
    read().map_err(StoreError::unavailable)
}

/// The entries under `prefix` after `after`, now or at a revision.
pub(super) fn read_page(
    database: &Database,
    prefix: &str,
    after: Option<&str>,
    limit: Option<NonZeroUsize>,
    at: Option<Revision>,
) -> Result<Page, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::unavailable)?;
    let current = state(&transaction).map_err(StoreError::unavailable)?;
    let revision = at.unwrap_or(current.revision);
    if revision > current.revision {
        return Err(StoreError::Future {
            asked: revision,
            current: current.revision,
        });
    }
    if revision < current.compacted {
        return Err(StoreError::Compacted {
            asked: revision,
            oldest: current.compacted,
        });
    }
    let read = || -> Result<Page, redb::Error> {
        let undone = undo(&transaction, prefix, revision, current.revision)?;
        let (entries, more) = merge(&transaction, prefix, after, limit, &undone)?;
        Ok(Page {
            entries,
            revision,
            more,
        })
    };
    read().map_err(StoreError::unavailable)
}

/// The changes under `prefix` after a revision, as many as fit one batch.
pub(super) fn read_batch(
    database: &Database,
    prefix: &str,
    after: Revision,
) -> Result<Batch, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::unavailable)?;
    let current = state(&transaction).map_err(StoreError::unavailable)?;
    if after < current.compacted {
        return Err(StoreError::Compacted {
            asked: after,
            oldest: current.compacted,
        });
    }
    let read = || -> Result<Batch, redb::Error> {
        let changes = transaction.open_table(CHANGES)?;
        let mut events = Vec::new();
        let mut revision = current.revision;
        for row in changes.range(after + 1..)? {
            let (at, row) = row?;
            let (key, value, _, previous) = row.value();
            if !key.starts_with(prefix) {
                continue;
            }
            events.push(Event {
                key: key.to_owned(),
                revision: at.value(),
                value: value.map(Bytes::copy_from_slice),
                previous: previous.map(Bytes::copy_from_slice),
            });
            if events.len() == MAX_BATCH {
                revision = at.value();
                break;
            }
        }
        Ok(Batch { revision, events })
    };
    read().map_err(StoreError::unavailable)
}

fn state(transaction: &ReadTransaction) -> Result<State, redb::Error> {
    Ok(state_of(&transaction.open_table(META)?)?)
}

/// For each key that changed after `revision`: what it was then.
fn undo(
    transaction: &ReadTransaction,
    prefix: &str,
    revision: Revision,
    current: Revision,
) -> Result<BTreeMap<String, Option<Entry>>, redb::Error> {
    let mut undone = BTreeMap::new();
    if revision == current {
        return Ok(undone);
    }
    for row in transaction.open_table(CHANGES)?.range(revision + 1..)? {
        let (_, row) = row?;
        let (key, _, before, previous) = row.value();
        if key.starts_with(prefix) && !undone.contains_key(key) {
            let was = previous.map(|value| Entry {
                key: key.to_owned(),
                value: Bytes::copy_from_slice(value),
                revision: before,
            });
            undone.insert(key.to_owned(), was);
        }
    }
    Ok(undone)
}

/// The current entries with the undone ones in their place, sorted, cut at the limit.
fn merge(
    transaction: &ReadTransaction,
    prefix: &str,
    after: Option<&str>,
    limit: Option<NonZeroUsize>,
    undone: &BTreeMap<String, Option<Entry>>,
) -> Result<(Vec<Entry>, bool), redb::Error> {
    let objects = transaction.open_table(OBJECTS)?;
    let from = match after {
        Some(key) if key >= prefix => Bound::Excluded(key),
        _ => Bound::Included(prefix),
    };
    let limit = limit.map_or(usize::MAX, NonZeroUsize::get);
    let is_listed = |key: &str| match from {
        Bound::Excluded(after) => key > after,
        _ => true,
    };
    let mut old = undone
        .iter()
        .filter(|(key, _)| is_listed(key))
        .filter_map(|(_, was)| was.clone())
        .peekable();
    let mut entries = Vec::new();
    for row in objects.range::<&str>((from, Bound::Unbounded))? {
        let (key, row) = row?;
        let key = key.value();
        if !key.starts_with(prefix) {
            break;
        }
        while let Some(entry) = old.next_if(|entry| entry.key.as_str() < key) {
            entries.push(entry);
        }
        if entries.len() > limit {
            break;
        }
        if undone.contains_key(key) {
            continue;
        }
        let (revision, value) = row.value();
        entries.push(Entry {
            key: key.to_owned(),
            value: Bytes::copy_from_slice(value),
            revision,
        });
    }
    entries.extend(old);
    let more = entries.len() > limit;
    entries.truncate(limit);
    Ok((entries, more))
}

/// Events in one batch: bounds the memory of a watcher that starts far behind.
const MAX_BATCH: usize = 1000;
