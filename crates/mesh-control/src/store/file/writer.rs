//! The one thread that writes the file, and the tables it writes.

use bytes::Bytes;
use redb::{Database, ReadableTable as _, Table, TableDefinition, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use crate::store::{Revision, StoreError};

/// Key → revision, value: what is current.
pub(super) const OBJECTS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("objects");

/// Revision → the change that it was. Each write has a revision of its own.
pub(super) const CHANGES: TableDefinition<'_, u64, ChangeRow<'_>> = TableDefinition::new("changes");

/// `revision` and `compacted`, as in [`State`].
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Key, new value, and revision and value before (0 and none if there was none).
pub(super) type ChangeRow<'a> = (&'a str, Option<&'a [u8]>, u64, Option<&'a [u8]>);

/// Where the store stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct State {
    /// Of the last write.
    pub(super) revision: Revision,
    /// The history up to here is forgotten.
    pub(super) compacted: Revision,
}

/// A write and who waits for it.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) operation: Operation,
    pub(super) answer: oneshot::Sender<Result<Revision, StoreError>>,
}

/// A write; keys are absolute.
#[derive(Debug)]
pub(super) enum Operation {
    Create {
        key: String,
        value: Bytes,
        guard: Option<(String, Revision)>,
    },
    Update {
        key: String,
        value: Bytes,
        expected: Revision,
    },
    Delete {
        key: String,
        expected: Revision,
    },
    Compact {
        revision: Revision,
    },
}

/// Makes the tables and reads where the store stands.
pub(super) fn prepare(database: &Database) -> Result<State, StoreError> {
    let prepare = || -> Result<State, redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(CHANGES)?;
        let state = state_of(&transaction.open_table(META)?)?;
        transaction.commit()?;
        Ok(state)
    };
    prepare().map_err(StoreError::unavailable)
}

/// Reads [`META`].
pub(super) fn state_of(
    meta: &impl redb::ReadableTable<&'static str, u64>,
) -> Result<State, redb::StorageError> {
    let number = |name| -> Result<u64, redb::StorageError> {
        Ok(meta.get(name)?.map_or(0, |value| value.value()))
    };
    Ok(State {
        revision: number("revision")?,
        compacted: number("compacted")?,
    })
}

/// Writes until nobody can send commands any more.
pub(super) fn run(
    database: &Database,
    mut commands: mpsc::Receiver<Command>,
    state: &watch::Sender<State>,
    keep_changes: u64,
) {
    while let Some(first) = commands.blocking_recv() {
        let mut waiting = vec![first];
        while waiting.len() < MAX_COMMIT {
            match commands.try_recv() {
                Ok(command) => waiting.push(command),
                Err(_) => break,
            }
        }
        let (operations, answers): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .map(|command| (command.operation, command.answer))
            .unzip();
        match commit(database, &operations, keep_changes) {
            Ok((after, outcomes)) => {
                // Watchers first: who was answered may expect to see the write in a watch already.
                state.send_replace(after);
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    answer.send(outcome).unwrap_or_default();
                }
            }
            Err(error) => {
                tracing::error!(%error, "store file cannot be written");
                for answer in answers {
                    let failed = classify(&error);
                    answer.send(Err(failed)).unwrap_or_default();
                }
            }
        }
    }
}

type Outcomes = Vec<Result<Revision, StoreError>>;

fn commit(
    database: &Database,
    operations: &[Operation],
    keep_changes: u64,
) -> Result<(State, Outcomes), redb::Error> {
    let transaction = database.begin_write()?;
    let (state, outcomes) = apply_all(&transaction, operations, keep_changes)?;
    transaction.commit()?;
    Ok((state, outcomes))
}

fn apply_all(
    transaction: &WriteTransaction,
    operations: &[Operation],
    keep_changes: u64,
) -> Result<(State, Outcomes), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let mut tables = Tables {
        objects: transaction.open_table(OBJECTS)?,
        changes: transaction.open_table(CHANGES)?,
        state: state_of(&meta)?,
    };
    let mut outcomes = Vec::with_capacity(operations.len());
    for operation in operations {
        outcomes.push(tables.apply(operation)?);
    }
    if tables.state.revision - tables.state.compacted > keep_changes {
        // An eighth at once, so that not every commit has to delete.
        tables.compact(tables.state.revision - keep_changes + keep_changes / 8)?;
    }
    meta.insert("revision", tables.state.revision)?;
    meta.insert("compacted", tables.state.compacted)?;
    Ok((tables.state, outcomes))
}

struct Tables<'a> {
    objects: Table<'a, &'static str, (u64, &'static [u8])>,
    changes: Table<'a, u64, ChangeRow<'static>>,
    state: State,
}

impl Tables<'_> {
    /// The outer error is the file's, the inner one the caller's.
    fn apply(
        &mut self,
        operation: &Operation,
    ) -> Result<Result<Revision, StoreError>, redb::Error> {
        match operation {
            Operation::Create { key, value, guard } => {
                if let Some((other, revision)) = guard
                    && self.current(other)?.map(|(found, _)| found) != Some(*revision)
                {
                    return Ok(Err(StoreError::Guard { key: other.clone() }));
                }
                if self.current(key)?.is_some() {
                    return Ok(Err(StoreError::Exists { key: key.clone() }));
                }
                self.put(key, value, None).map(Ok)
            }
            Operation::Update {
                key,
                value,
                expected,
            } => match self.current(key)? {
                Some((found, previous)) if found == *expected => {
                    self.put(key, value, Some((found, previous))).map(Ok)
                }
                other => Ok(Err(conflict(key, *expected, other.map(|(found, _)| found)))),
            },
            Operation::Delete { key, expected } => match self.current(key)? {
                Some((found, previous)) if found == *expected => {
                    self.state.revision += 1;
                    self.objects.remove(key.as_str())?;
                    let row = (key.as_str(), None, found, Some(previous.as_slice()));
                    self.changes.insert(self.state.revision, row)?;
                    Ok(Ok(self.state.revision))
                }
                other => Ok(Err(conflict(key, *expected, other.map(|(found, _)| found)))),
            },
            Operation::Compact { revision } => {
                self.compact(*revision)?;
                Ok(Ok(self.state.revision))
            }
        }
    }

    fn current(&self, key: &str) -> Result<Option<(Revision, Vec<u8>)>, redb::Error> {
        Ok(self.objects.get(key)?.map(|found| {
            let (revision, value) = found.value();
            (revision, value.to_vec())
        }))
    }

    fn put(
        &mut self,
        key: &str,
        value: &[u8],
        previous: Option<(Revision, Vec<u8>)>,
    ) -> Result<Revision, redb::Error> {
        self.state.revision += 1;
        self.objects.insert(key, (self.state.revision, value))?;
        let (before, old) = previous.map_or((0, None), |(before, old)| (before, Some(old)));
        let row = (key, Some(value), before, old.as_deref());
        self.changes.insert(self.state.revision, row)?;
        Ok(self.state.revision)
    }

    fn compact(&mut self, revision: Revision) -> Result<(), redb::Error> {
        let revision = revision.min(self.state.revision);
        if revision > self.state.compacted {
            self.changes.retain_in(..=revision, |_, _| false)?;
            self.state.compacted = revision;
        }
        Ok(())
    }
}

fn conflict(key: &str, expected: Revision, found: Option<Revision>) -> StoreError {
    StoreError::Conflict {
        key: key.to_owned(),
        expected,
        found,
    }
}

fn classify(error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => StoreError::Full {
            reason: io.to_string(),
        },
        other => StoreError::unavailable(other.to_string()),
    }
}

/// Commands in one transaction: enough to hide the cost of making it durable, few enough to answer soon.
const MAX_COMMIT: usize = 256;
