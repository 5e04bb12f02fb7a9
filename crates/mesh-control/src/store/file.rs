//! The store in one file (redb), for one machine.
//!
//! One thread writes: it takes every command that waits, applies them in one transaction, makes it
//! durable once, and then answers all. Readers work on snapshots of the database. The history is a table
//! of the same file, so a watch is a reader that is woken by each commit.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use redb::{Database, DatabaseError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Answer, Batch, Entry, Guard, Page, Range, Revision, Store, StoreError, Watch, check_size,
};

mod snapshot;
mod writer;

use snapshot::{read_batch, read_entry, read_page, read_state};
use writer::{Command, Operation, State};

/// A redb file as a [`Store`].
#[derive(Debug)]
pub(super) struct FileStore {
    database: Arc<Database>,
    prefix: String,
    commands: mpsc::Sender<Command>,
    /// What the last commit left.
    state: watch::Receiver<State>,
    /// Ends the watches when the store is dropped.
    open: CancellationToken,
}

// === impl FileStore ===

impl FileStore {
    /// Opens or makes the file and starts its writer.
    pub(super) async fn open(
        path: &Path,
        prefix: &str,
        keep_changes: u64,
    ) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let (database, state) = blocking(move || {
            let database = open_database(&path)?;
            let state = writer::prepare(&database)?;
            Ok((Arc::new(database), state))
        })
        .await?;
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (sender, state) = watch::channel(state);
        let of_writer = Arc::clone(&database);
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(&of_writer, receiver, &sender, keep_changes))
            .map_err(StoreError::unavailable)?;
        Ok(Self {
            database,
            prefix: prefix.to_owned(),
            commands,
            state,
            open: CancellationToken::new(),
        })
    }

    async fn write(&self, operation: Operation) -> Result<Revision, StoreError> {
        let (answer, outcome) = oneshot::channel();
        self.commands
            .send(Command { operation, answer })
            .await
            .map_err(StoreError::unavailable)?;
        let outcome = outcome.await.map_err(StoreError::unavailable)?;
        outcome.map_err(|mut error| {
            if let StoreError::Exists { key }
            | StoreError::Conflict { key, .. }
            | StoreError::Guard { key } = &mut error
            {
                *key = (self.relative())(std::mem::take(key));
            }
            error
        })
    }

    fn absolute(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn relative(&self) -> impl Fn(String) -> String + Send + use<> {
        let length = self.prefix.len();
        move |key| key.get(length..).unwrap_or_default().to_owned()
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.open.cancel();
    }
}

impl Store for FileStore {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        let (database, absolute) = (Arc::clone(&self.database), self.absolute(key));
        Box::pin(async move {
            let found = blocking(move || read_entry(&database, &absolute)).await?;
            Ok(found.map(|(revision, value)| Entry {
                key: key.to_owned(),
                value,
                revision,
            }))
        })
    }

    fn list<'a>(&'a self, range: Range<'a>) -> Answer<'a, Page> {
        let database = Arc::clone(&self.database);
        let prefix = self.absolute(range.prefix);
        let after = range.after.map(|key| self.absolute(key));
        let relative = self.relative();
        Box::pin(async move {
            let (limit, at) = (range.limit, range.at);
            let mut page =
                blocking(move || read_page(&database, &prefix, after.as_deref(), limit, at))
                    .await?;
            for entry in &mut page.entries {
                entry.key = relative(std::mem::take(&mut entry.key));
            }
            Ok(page)
        })
    }

    fn create<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        guard: Option<Guard<'a>>,
    ) -> Answer<'a, Revision> {
        Box::pin(async move {
            check_size(key, &value)?;
            let operation = Operation::Create {
                key: self.absolute(key),
                value,
                guard: guard.map(|guard| (self.absolute(guard.key), guard.revision)),
            };
            self.write(operation).await
        })
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Revision,
    ) -> Answer<'a, Revision> {
        Box::pin(async move {
            check_size(key, &value)?;
            let operation = Operation::Update {
                key: self.absolute(key),
                value,
                expected,
            };
            self.write(operation).await
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> Answer<'a, Revision> {
        let operation = Operation::Delete {
            key: self.absolute(key),
            expected,
        };
        Box::pin(self.write(operation))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Answer<'a, Watch> {
        let follower = Follower {
            database: Arc::clone(&self.database),
            prefix: self.absolute(prefix),
            relative: Box::new(self.relative()),
            after,
            state: self.state.clone(),
            open: self.open.clone(),
            failed: false,
        };
        let state = *self.state.borrow();
        Box::pin(async move {
            if after < state.compacted {
                return Err(StoreError::Compacted {
                    asked: after,
                    oldest: state.compacted,
                });
            }
            if after > state.revision {
                return Err(StoreError::Rewound {
                    seen: after,
                    found: state.revision,
                });
            }
            Ok(futures_util::stream::unfold(follower, Follower::next).boxed())
        })
    }

    fn revision(&self) -> Answer<'_, Revision> {
        let database = Arc::clone(&self.database);
        Box::pin(async move { Ok(blocking(move || read_state(&database)).await?.revision) })
    }

    fn compact(&self, revision: Revision) -> Answer<'_, ()> {
        Box::pin(async move {
            self.write(Operation::Compact { revision }).await?;
            Ok(())
        })
    }
}

/// One watch: where it stands, and what wakes it.
struct Follower {
    database: Arc<Database>,
    prefix: String,
    relative: Box<dyn Fn(String) -> String + Send>,
    after: Revision,
    state: watch::Receiver<State>,
    open: CancellationToken,
    failed: bool,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Batch, StoreError>, Self)> {
        if self.failed {
            return None;
        }
        loop {
            let current = self.state.borrow_and_update().revision;
            if current > self.after {
                let (database, prefix, after) =
                    (Arc::clone(&self.database), self.prefix.clone(), self.after);
                match blocking(move || read_batch(&database, &prefix, after)).await {
                    Ok(mut batch) => {
                        self.after = batch.revision;
                        for event in &mut batch.events {
                            event.key = (self.relative)(std::mem::take(&mut event.key));
                        }
                        return Some((Ok(batch), self));
                    }
                    Err(error) => {
                        self.failed = true;
                        return Some((Err(error), self));
                    }
                }
            }
            let open = self.open.clone();
            tokio::select! {
                () = open.cancelled() => return None,
                changed = self.state.changed() => if changed.is_err() {
                    return None;
                },
            }
        }
    }
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(StoreError::unavailable)?;
    }
    // Made here, because redb would make it readable for others.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(StoreError::unavailable)?;
    Database::builder()
        // Without it redb trusts the file, and a damaged one ends the process instead of being refused.
        .set_check_integrity_on_open(true)
        .create(path)
        .map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::Locked {
                path: path.to_owned(),
            },
            other => StoreError::unavailable(other),
        })
}

/// Runs what reads the disk where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(StoreError::unavailable)?
}

/// Commands that may wait for the writer: as many as it takes in a few transactions.
const QUEUE: usize = 1024;
