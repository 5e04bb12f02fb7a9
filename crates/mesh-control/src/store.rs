//! Where the API server keeps objects: one trait, a file for one machine, etcd for clusters.
//!
//! Both keep the promises of etcd that Kubernetes builds on: every write has a revision, one order for
//! all; a write names the revision that it replaces; a watch starts after any revision that is still
//! kept and misses nothing; what is no longer kept is a typed error ([`StoreError::Compacted`]).
//! One conformance suite holds both to it (`tests/store.rs`).

mod compaction;
mod etcd;
mod file;

use std::error::Error;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub use compaction::compact_periodically;

/// Position in the one order of all writes; 0 is before the first.
pub type Revision = u64;

/// What a store answers, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The changes under a prefix, in order; ends with the first error.
pub type Watch = BoxStream<'static, Result<Batch, StoreError>>;

/// A key-value store with revisions.
///
/// Keys are relative to the prefix of the [`StoreConfig`], as in
/// `networking.istio.io/virtualservices/shop/reviews`. Values are opaque bytes.
pub trait Store: fmt::Debug + Send + Sync {
    /// The value of `key` now, linearizable.
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>>;

    /// The entries under a prefix, sorted by key, all of one revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if the asked revision is no longer kept, [`StoreError::Future`] if it is not
    /// yet written.
    fn list<'a>(&'a self, range: Range<'a>) -> Answer<'a, Page>;

    /// Writes `key` if it does not exist and the guard, if any, holds; returns the new revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`], or [`StoreError::Guard`] if the guard's key is not of the guard's revision.
    fn create<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        guard: Option<Guard<'a>>,
    ) -> Answer<'a, Revision>;

    /// Replaces the value of `key` if its revision is `expected`; returns the new revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] with the revision that was found.
    fn update<'a>(&'a self, key: &'a str, value: Bytes, expected: Revision)
    -> Answer<'a, Revision>;

    /// Deletes `key` if its revision is `expected`; returns the revision of the deletion.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] with the revision that was found.
    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> Answer<'a, Revision>;

    /// Every change under `prefix` with a revision greater than `after`, each once, in order.
    ///
    /// The stream survives loss of the connection by itself; it ends with [`StoreError::Compacted`] or
    /// [`StoreError::Rewound`], after which only a new list helps.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if changes after `after` are no longer kept.
    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Answer<'a, Watch>;

    /// The revision of the last write, linearizable; tells also whether the store can be reached.
    fn revision(&self) -> Answer<'_, Revision>;

    /// Forgets the history up to and including `revision`; what is current stays.
    fn compact(&self, revision: Revision) -> Answer<'_, ()>;
}

/// One key as it is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The revision of the write that made the value.
    pub revision: Revision,
}

/// What to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range<'a> {
    /// What the keys begin with.
    pub prefix: &'a str,
    /// List only keys greater than this one: where the page before ended.
    pub after: Option<&'a str>,
    /// At most so many entries.
    pub limit: Option<NonZeroUsize>,
    /// The state at this revision instead of now.
    pub at: Option<Revision>,
}

/// The answer to a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    /// Sorted by key.
    pub entries: Vec<Entry>,
    /// The revision whose state this is.
    pub revision: Revision,
    /// Whether the limit left entries out.
    pub more: bool,
}

/// A condition on another key: it exists, unchanged since a revision.
#[derive(Clone, Copy, Debug)]
pub struct Guard<'a> {
    /// The other key.
    pub key: &'a str,
    /// The revision it must have.
    pub revision: Revision,
}

/// Changes that became visible together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// Everything up to this revision has been told.
    pub revision: Revision,
    /// The changes, in order; empty when the batch only tells progress.
    pub events: Vec<Event>,
}

/// One change of one key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// The revision of the change.
    pub revision: Revision,
    /// The new value; none when the key was deleted.
    pub value: Option<Bytes>,
    /// The value before; none when the key was created.
    pub previous: Option<Bytes>,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The key to create exists.
    #[error("key `{key}` exists")]
    Exists {
        /// The key.
        key: String,
    },
    /// The key is not of the expected revision.
    #[error("key `{key}` is at revision {found:?}, expected {expected}")]
    Conflict {
        /// The key.
        key: String,
        /// The revision that the caller knew.
        expected: Revision,
        /// The revision found; none if the key does not exist.
        found: Option<Revision>,
    },
    /// The guard of a creation did not hold.
    #[error("key `{key}`, on which the write depends, has changed")]
    Guard {
        /// The guard's key.
        key: String,
    },
    /// The asked revision is no longer kept.
    #[error("revision {asked} is compacted, the history begins at {oldest}")]
    Compacted {
        /// The revision asked for.
        asked: Revision,
        /// The oldest revision after which a watch can start.
        oldest: Revision,
    },
    /// The asked revision is not yet written.
    #[error("revision {asked} is in the future, the store is at {current}")]
    Future {
        /// The revision asked for.
        asked: Revision,
        /// The store's.
        current: Revision,
    },
    /// The store is not the one it was: restored from a backup, or another one.
    #[error("the store went back from revision {seen} to {found}, or is another store; list again")]
    Rewound {
        /// The highest revision seen before.
        seen: Revision,
        /// The revision found.
        found: Revision,
    },
    /// The value is larger than the store takes.
    #[error("value of `{key}` has {size} bytes, the store takes at most {limit}")]
    TooLarge {
        /// The key.
        key: String,
        /// Its size, bytes.
        size: usize,
        /// The store's limit, bytes.
        limit: usize,
    },
    /// The store has no space left; nothing was written.
    #[error("the store is full: {reason}")]
    Full {
        /// The store's own words.
        reason: String,
    },
    /// Another process has the file.
    #[error("store `{}` is in use by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The store cannot be used as configured.
    #[error("store configuration: {reason}")]
    Configuration {
        /// What is wrong.
        reason: String,
    },
    /// The store could not be reached or failed; whether a write happened is not known.
    #[error("the store does not answer")]
    Unavailable {
        /// What happened.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Which store, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoreConfig {
    /// What keeps the data.
    pub backend: Backend,
    /// What every key begins with in the store: lets installations share one etcd, and keeps to the
    /// layout that operators' tools know. Must end with `/`.
    pub prefix: String,
}

/// What keeps the data.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Backend {
    /// One file, for one process.
    File {
        /// The file; made with mode 0600 if absent.
        path: PathBuf,
        /// How many changes the history keeps at most.
        keep_changes: u64,
    },
    /// An etcd cluster, version 3.4 or later.
    Etcd {
        /// The members, as in `http://10.0.0.1:2379` or `https://10.0.0.1:2379`.
        endpoints: Vec<String>,
        /// The files for members with `https`.
        tls: EtcdTls,
    },
}

/// Files in PEM by which members of an etcd cluster are spoken to over TLS. They are read for each
/// connection, so that new ones need no restart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EtcdTls {
    /// Certificates of the authorities that signed for the members; needed with `https`.
    pub authorities: Option<PathBuf>,
    /// The certificate that the cluster asks of its clients, with those between it and its
    /// authority. etcd takes its common name for the user's, where users are asked for.
    pub certificate: Option<PathBuf>,
    /// The private key of the certificate.
    pub key: Option<PathBuf>,
}

/// Opens the store of a configuration.
///
/// # Errors
///
/// [`StoreError::Locked`] if another process has the file, [`StoreError::Configuration`] if the configuration
/// cannot be right, [`StoreError::Unavailable`] if the file cannot be opened. An etcd cluster is not contacted yet.
///
/// ```
/// # tokio_test(async {
/// use mesh_control::store::{Range, StoreConfig, open};
///
/// let home = tempfile::tempdir().unwrap();
/// let store = open(&StoreConfig::file(home.path().join("store.redb"))).await.unwrap();
/// let revision = store.create("core/configmaps/default/a", "{}".into(), None).await.unwrap();
/// let page = store.list(Range { prefix: "core/configmaps/", ..Range::default() }).await.unwrap();
/// assert_eq!((page.revision, page.entries.len()), (revision, 1));
/// # });
/// # fn tokio_test(test: impl Future<Output = ()>) {
/// #     tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
/// # }
/// ```
pub async fn open(config: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    if !config.prefix.ends_with('/') {
        return Err(StoreError::Configuration {
            reason: format!("prefix `{}` does not end with `/`", config.prefix),
        });
    }
    Ok(match &config.backend {
        Backend::File { path, keep_changes } => {
            Arc::new(file::FileStore::open(path, &config.prefix, *keep_changes).await?)
        }
        Backend::Etcd { endpoints, tls } => {
            Arc::new(etcd::EtcdStore::new(endpoints, tls, config.prefix.clone())?)
        }
    })
}

// === impl StoreConfig ===

impl StoreConfig {
    /// A file, with the usual prefix and history.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            backend: Backend::File {
                path: path.into(),
                keep_changes: DEFAULT_KEEP_CHANGES,
            },
            prefix: DEFAULT_PREFIX.to_owned(),
        }
    }

    /// An etcd cluster, with the usual prefix.
    pub fn etcd(endpoints: Vec<String>, tls: EtcdTls) -> Self {
        Self {
            backend: Backend::Etcd { endpoints, tls },
            prefix: DEFAULT_PREFIX.to_owned(),
        }
    }
}

// === impl StoreError ===

impl StoreError {
    /// Wraps what a store's library said.
    pub(crate) fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable {
            source: source.into(),
        }
    }

    /// Whether only a new list helps.
    pub fn needs_list(&self) -> bool {
        matches!(self, Self::Compacted { .. } | Self::Rewound { .. })
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Locked { .. } => {
                Some("stop the other `mesh server`, or give this one its own MESH_HOME")
            }
            Self::Full { .. } => Some("free space, then compact and defragment the store"),
            Self::Unavailable { .. } => Some("see that the store runs and can be reached"),
            _ => None,
        }
    }
}

/// Refuses a value that one of the stores would not keep.
fn check_size(key: &str, value: &Bytes) -> Result<(), StoreError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(StoreError::TooLarge {
            key: key.to_owned(),
            size: value.len(),
            limit: MAX_VALUE_BYTES,
        });
    }
    Ok(())
}

/// As Kubernetes lays out its etcd.
pub const DEFAULT_PREFIX: &str = "/registry/";

/// Enough for any watcher that comes back within minutes at hundreds of writes a second.
pub const DEFAULT_KEEP_CHANGES: u64 = 100_000;

/// The largest value, bytes: etcd's own default limit of a request is 1.5 MiB, both stores keep to it.
pub const MAX_VALUE_BYTES: usize = 1_500_000;
