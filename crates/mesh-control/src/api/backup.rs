//! A backup: every object of an API server at one revision, and the way back into an empty store.
//!
//! A backup is JSON and holds Secrets, the mesh's root among them: whoever reads it can issue
//! certificates. Objects keep their UIDs and times. Events are left out: they tell what happened.
//!
//! ```
//! use mesh_control::api::backup::{Backup, restore};
//! use mesh_control::store::{StoreConfig, open};
//!
//! # tokio_test(async {
//! let text = r#"{"version": 1, "revision": 7, "objects": [
//!     {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
//! ]}"#;
//! let backup = Backup::parse(text).unwrap();
//! let home = tempfile::tempdir().unwrap();
//! let store = open(&StoreConfig::file(home.path().join("store.redb"))).await.unwrap();
//! assert_eq!(restore(store.as_ref(), &backup).await.unwrap(), 1);
//! assert!(restore(store.as_ref(), &backup).await.is_err(), "the store is not empty any more");
//! # });
//! # fn tokio_test(test: impl Future<Output = ()>) {
//! #     tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
//! # }
//! ```

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use bytes::Bytes;
use mesh_model::{Problem, Problems};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::json::text;
use super::kind::Kind;
use super::objects::bytes_of;
use crate::store::{MAX_VALUE_BYTES, Range, Revision, Store, StoreError};

/// Every object of an API server at one revision.
#[derive(Clone, Debug)]
pub struct Backup {
    revision: Revision,
    /// What is stored, by key.
    entries: BTreeMap<String, Bytes>,
}

/// A backup as its file has it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u64,
    revision: Revision,
    objects: Vec<Value>,
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is something that a restore would mix with.
    #[error("the store is not empty: it has `{key}`")]
    NotEmpty {
        /// The first key found.
        key: String,
    },
    /// The store failed; what was written has been taken back.
    #[error("restoring `{key}`; the store is empty again")]
    Store {
        /// The key.
        key: String,
        /// What happened.
        #[source]
        source: StoreError,
    },
    /// The store failed, and what was written could not be taken back.
    #[error("restoring `{key}`; {left} objects are in the store and could not be taken back")]
    Half {
        /// The key.
        key: String,
        /// How many are left.
        left: usize,
        /// What happened.
        #[source]
        source: StoreError,
    },
    /// The store does not answer.
    #[error("looking whether the store is empty")]
    Look(#[source] StoreError),
}

/// The version of the form.
const VERSION: u64 = 1;

// === impl Backup ===

impl Backup {
    /// A backup of these objects, as a list at one revision gives them.
    ///
    /// # Errors
    ///
    /// Every object that is none of the kinds that are served, has no name, or is there twice.
    pub fn new(revision: Revision, objects: &[Value]) -> Result<Self, Problems> {
        let mut entries = BTreeMap::new();
        let mut problems = Problems::default();
        for (index, object) in objects.iter().enumerate() {
            match entry(object) {
                Ok((key, value)) => {
                    if entries.contains_key(&key) {
                        let path = format!("objects[{index}]");
                        problems.add(path, &key, "each object once");
                    }
                    entries.insert(key, value);
                }
                Err(problem) => problems.push(Problem {
                    path: format!("objects[{index}].{}", problem.path),
                    ..problem
                }),
            }
        }
        problems.into_result(Self { revision, entries })
    }

    /// Reads the text of a backup.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and when the text is no backup or one of another version.
    pub fn parse(backup: &str) -> Result<Self, Problems> {
        let wrong = |error: serde_json::Error| Problem::new("", error.to_string(), "a backup");
        // The version first: another one may have other fields.
        let value: Value = serde_json::from_str(backup).map_err(wrong)?;
        let version = value.get("version").and_then(Value::as_u64);
        if version != Some(VERSION) {
            let found = value.get("version").map(Value::to_string);
            let expected = format!("{VERSION}, the version that this program reads");
            return Err(Problem::new("version", found.unwrap_or_default(), expected).into());
        }
        let file: File = serde_json::from_value(value).map_err(wrong)?;
        Self::new(file.revision, &file.objects)
    }

    /// The text of the backup.
    ///
    /// # Errors
    ///
    /// Never: objects were JSON when they came. The type asks for it.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let objects = self.entries.values();
        let objects = objects.map(|value| serde_json::from_slice(value));
        serde_json::to_string(&File {
            version: VERSION,
            revision: self.revision,
            objects: objects.collect::<Result<_, _>>()?,
        })
    }

    /// How many objects it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The revision of the API server at which they were like this.
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

/// Writes a backup into an empty store, from which an API server is started afterwards; says how
/// many objects there were.
///
/// No API server may run on the store meanwhile: it would fill it.
///
/// # Errors
///
/// [`RestoreError::NotEmpty`] before anything is written. If the store fails, what was written is
/// taken back.
pub async fn restore(store: &dyn Store, backup: &Backup) -> Result<usize, RestoreError> {
    let one = Range {
        limit: NonZeroUsize::new(1),
        ..Range::default()
    };
    let found = store.list(one).await.map_err(RestoreError::Look)?;
    if let Some(entry) = found.entries.into_iter().next() {
        return Err(RestoreError::NotEmpty { key: entry.key });
    }
    let mut written = Vec::with_capacity(backup.entries.len());
    for (key, value) in &backup.entries {
        match store.create(key, value.clone(), None).await {
            Ok(revision) => written.push((key, revision)),
            Err(source) => {
                let key = key.clone();
                let left = take_back(store, &written).await;
                return Err(match left {
                    0 => RestoreError::Store { key, source },
                    left => RestoreError::Half { key, left, source },
                });
            }
        }
    }
    Ok(written.len())
}

/// Deletes what was written; how much is left.
async fn take_back(store: &dyn Store, written: &[(&String, Revision)]) -> usize {
    let mut left = 0;
    for (key, revision) in written {
        if let Err(error) = store.delete(key, *revision).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(key, error, "a restored object could not be taken back");
            left += 1;
        }
    }
    left
}

/// Where an object is stored, and as what.
fn entry(object: &Value) -> Result<(String, Bytes), Problem> {
    let api_version = text(object, "apiVersion");
    let name = text(object, "kind");
    let kind = mesh_model::Kind::of_object(api_version, name)
        .and_then(|kind| Kind::find(kind.group, kind.version(), kind.plural));
    let Some(kind) = kind else {
        let found = format!("{api_version} {name}");
        return Err(Problem::new("kind", &found, "a kind that the API serves"));
    };
    let part = |path: &str| {
        let found = text(object, path);
        let is_part = !found.is_empty() && !found.contains('/');
        let expected = "a name without `/`";
        is_part
            .then_some(found)
            .ok_or_else(|| Problem::new(path, found, expected))
    };
    let name = part("metadata.name")?;
    let namespace = if kind.namespaced {
        Some(part("metadata.namespace")?)
    } else {
        None
    };
    let value = bytes_of(object, kind);
    if value.len() > MAX_VALUE_BYTES {
        let found = format!("{} bytes", value.len());
        let expected = format!("at most {MAX_VALUE_BYTES} bytes");
        return Err(Problem::new("", &found, expected));
    }
    Ok((kind.key(namespace, name), value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{StoreConfig, open};

    fn objects() -> Vec<Value> {
        vec![
            json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "shop", "uid": "1", "resourceVersion": "4"}}),
            json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService",
                "metadata": {"name": "web", "namespace": "shop", "uid": "2"},
                "spec": {"hosts": ["web"]}}),
        ]
    }

    #[test]
    fn a_backup_reads_back_as_it_was_and_keeps_no_revision_of_single_objects() {
        let backup = Backup::new(9, &objects()).unwrap();
        let text = backup.to_text().unwrap();
        let again = Backup::parse(&text).unwrap();
        assert_eq!((again.revision(), again.len()), (9, 2));
        assert_eq!(again.entries, backup.entries);
        assert!(text.contains(r#""uid":"1""#) && !text.contains("resourceVersion"));
        let keys: Vec<_> = backup.entries.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "core/namespaces/shop",
                "networking.istio.io/virtualservices/shop/web"
            ]
        );
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let twice = objects().into_iter().chain(objects().into_iter().take(1));
        let mut wrong: Vec<Value> = twice.collect();
        wrong.push(json!({"apiVersion": "apps/v1", "kind": "Deployment"}));
        wrong.push(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a/b"}}));
        let problems = Backup::new(1, &wrong).unwrap_err();
        let paths: Vec<_> = problems
            .0
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(
            paths,
            ["objects[2]", "objects[3].kind", "objects[4].metadata.name"]
        );
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let problems = Backup::parse(r#"{"version": 2, "things": []}"#).unwrap_err();
        assert!(problems.to_string().contains("version"), "{problems}");
        assert!(Backup::parse("{").is_err());
        assert!(Backup::parse(r#"{"version": 1, "revision": 1}"#).is_err());
    }

    #[tokio::test]
    async fn a_store_that_has_anything_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let store = open(&StoreConfig::file(home.path().join("store.redb")))
            .await
            .unwrap();
        store
            .create("core/events/a/b", "{}".into(), None)
            .await
            .unwrap();
        let backup = Backup::new(1, &objects()).unwrap();
        let refused = restore(store.as_ref(), &backup).await.unwrap_err();
        assert!(
            matches!(refused, RestoreError::NotEmpty { .. }),
            "{refused}"
        );
        let page = store.list(Range::default()).await.unwrap();
        assert_eq!(page.entries.len(), 1);
    }
}
