//! Variables: small secrets of Nomad's own, which can also be locks.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

object! {
    /// A variable; a list leaves out the items.
    #[derive(Eq)]
    pub struct Variable {
        /// The namespace.
        namespace: String = "Namespace",
        /// The path.
        path: String = "Path",
        /// What it holds.
        items: Items = "Items",
        /// The lock on it, if it has one.
        lock: Lock = "Lock",
        /// Index of its creation; 0 means that it does not exist.
        create_index: u64 = "CreateIndex",
        /// Index of its last change; what a compare-and-set names.
        modify_index: u64 = "ModifyIndex",
    }
}

object! {
    /// A lock on a variable. Whoever knows its ID holds it.
    #[derive(Eq)]
    pub struct Lock {
        /// Its UUID; only the holder and readers of the variable see it.
        id: String = "ID",
        /// How long it lives without renewal, as Go writes durations: `15s`; 10 s to 24 h.
        ttl: String = "TTL",
        /// How long nobody can take it after it expired, likewise.
        lock_delay: String = "LockDelay",
    }
}

/// The items of a variable. Its `Debug` shows the keys only.
#[derive(Clone, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Items(pub BTreeMap<String, String>);

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

// === impl Variable ===

impl Variable {
    /// A variable to write.
    pub fn new(path: &str, items: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            path: path.into(),
            items: Items(items.into_iter().collect()).into(),
            ..Self::default()
        }
    }

    /// The item of this name.
    pub fn item(&self, key: &str) -> Option<&str> {
        self.items.get()?.0.get(key).map(String::as_str)
    }
}
