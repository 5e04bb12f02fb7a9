//! Deleting objects: preconditions, finalizers, whole collections, and namespaces with all they hold.

use mesh_model::Problem;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ATTEMPTS, MODIFIED, Objects, Selector, Wanted, bytes_of, name_of, set_revision, view};
use crate::api::json::{at, has};
use crate::api::kind::Kind;
use crate::api::status::Failure;
use crate::store::StoreError;

/// How to delete.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Deletion {
    /// Only the object that is meant.
    pub preconditions: Option<Preconditions>,
    /// `All` for a rehearsal.
    pub dry_run: Vec<String>,
}

/// Which object is meant.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// Its id.
    pub uid: Option<String>,
    /// Its revision.
    pub resource_version: Option<String>,
}

impl Objects {
    /// Deletes an object, or marks it if something must be finished first; returns what it was or is.
    ///
    /// # Errors
    ///
    /// 404 if there is none, 409 if it is not the one meant, 403 for a namespace that must stay.
    pub async fn delete(
        &self,
        kind: Kind,
        version: &str,
        namespace: Option<&str>,
        name: &str,
        how: &Deletion,
    ) -> Result<Value, Failure> {
        if kind.is_namespace() && PERMANENT.contains(&name) {
            return Err(Failure::forbidden_object(
                kind,
                name,
                "this namespace may not be deleted",
            ));
        }
        for _ in 0..ATTEMPTS {
            let entry = self.entry(kind, namespace, name).await?;
            let mut object = view(&entry, kind, version)?;
            how.check(&object, kind, name)?;
            if !how.dry_run.is_empty() {
                return Ok(object);
            }
            let waits = kind.is_namespace() || has_finalizers(&object);
            let done = if waits {
                if has(&object, "metadata.deletionTimestamp") {
                    return Ok(object);
                }
                mark(&mut object, kind, &self.clock.now_text());
                let bytes = bytes_of(&object, kind);
                self.store.update(&entry.key, bytes, entry.revision).await
            } else {
                self.store.delete(&entry.key, entry.revision).await
            };
            match done {
                Ok(revision) => {
                    set_revision(&mut object, revision);
                    return Ok(object);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::conflict(kind, name, MODIFIED))
    }

    /// Deletes every wanted object; returns them.
    ///
    /// # Errors
    ///
    /// The first failure; what was deleted before it stays deleted.
    pub async fn delete_collection(
        &self,
        wanted: Wanted<'_>,
        how: &Deletion,
    ) -> Result<Vec<Value>, Failure> {
        let listed = self.list(wanted).await?;
        let mut deleted = Vec::with_capacity(listed.items.len());
        for object in listed.items {
            let name = name_of(&object);
            let namespace = at(&object, "metadata.namespace").as_str();
            let done = self
                .delete(wanted.kind, wanted.version, namespace, &name, how)
                .await;
            match done {
                Ok(object) => deleted.push(object),
                Err(failure) if failure.code == http::StatusCode::NOT_FOUND => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(deleted)
    }

    /// Deletes what a terminating namespace holds, then the namespace; does nothing to any other.
    ///
    /// Works in pages, and from any point on: a server that dies in between, or a second one that does
    /// the same, changes nothing about the outcome. Returns whether the namespace is gone; it is not
    /// while an object in it waits for a finalizer.
    ///
    /// # Errors
    ///
    /// What the store says; to be tried again.
    pub async fn finish_namespace(&self, name: &str) -> Result<bool, Failure> {
        let key = Kind::namespace().key(None, name);
        let Some(entry) = self.store.get(&key).await? else {
            return Ok(true);
        };
        let namespace = view(&entry, Kind::namespace(), "v1")?;
        if !has(&namespace, "metadata.deletionTimestamp") {
            return Ok(false);
        }
        let mut is_empty = true;
        let selector = Selector::default();
        for kind in Kind::all().filter(|kind| kind.namespaced) {
            let mut token: Option<String> = None;
            loop {
                let page = self
                    .list(Wanted {
                        kind,
                        version: kind.version(),
                        namespace: Some(name),
                        selector: &selector,
                        limit: PAGE,
                        token: token.as_deref(),
                        at: None,
                    })
                    .await?;
                for object in &page.items {
                    let of = name_of(object);
                    let how = Deletion::default();
                    match self
                        .delete(kind, kind.version(), Some(name), &of, &how)
                        .await
                    {
                        Ok(object) => is_empty &= !has_finalizers(&object),
                        Err(failure) if failure.code == http::StatusCode::NOT_FOUND => {}
                        Err(failure) => return Err(failure),
                    }
                }
                token = page.token;
                if token.is_none() {
                    break;
                }
            }
        }
        if !is_empty || has_finalizers(&namespace) {
            return Ok(false);
        }
        // Nothing can have come in: a creation is bound to a revision at which the namespace was open.
        match self.store.delete(&key, entry.revision).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { found, .. }) => Ok(found.is_none()),
            Err(error) => Err(error.into()),
        }
    }
}

// === impl Deletion ===

impl Deletion {
    /// Whether the only known form of rehearsal is asked for.
    ///
    /// # Errors
    ///
    /// 422 for any other word than `All`.
    pub fn check_dry_run<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<bool, Failure> {
        let mut is_dry_run = false;
        for word in words {
            if word != "All" {
                return Err(Failure::bad_request(
                    Problem::new("dryRun", word, "`All`, the only supported value").to_string(),
                ));
            }
            is_dry_run = true;
        }
        Ok(is_dry_run)
    }

    fn check(&self, object: &Value, kind: Kind, name: &str) -> Result<(), Failure> {
        let Some(wanted) = &self.preconditions else {
            return Ok(());
        };
        let metadata = at(object, "metadata");
        for (what, wanted, found) in [
            ("UID", &wanted.uid, at(metadata, "uid")),
            (
                "ResourceVersion",
                &wanted.resource_version,
                at(metadata, "resourceVersion"),
            ),
        ] {
            if let Some(wanted) = wanted
                && found != wanted.as_str()
            {
                let why = format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {}",
                    found.as_str().unwrap_or_default()
                );
                return Err(Failure::conflict(kind, name, &why));
            }
        }
        Ok(())
    }
}

/// Whether an object was to be deleted and waits for nothing any more.
pub(super) fn is_finished(object: &Value) -> bool {
    has(object, "metadata.deletionTimestamp")
        && !has_finalizers(object)
        && *at(object, "kind") != "Namespace"
}

fn has_finalizers(object: &Value) -> bool {
    at(object, "metadata.finalizers")
        .as_array()
        .is_some_and(|finalizers| !finalizers.is_empty())
}

fn mark(object: &mut Value, kind: Kind, now: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("deletionTimestamp".to_owned(), now.into());
        metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
    }
    if kind.is_namespace()
        && let Some(map) = object.as_object_mut()
    {
        map.insert("status".to_owned(), json!({"phase": "Terminating"}));
    }
}

/// Namespaces that the mesh cannot be without.
const PERMANENT: &[&str] = &["default", "istio-system", "mesh-system"];

/// Objects that are looked at together while a namespace ends.
const PAGE: Option<std::num::NonZeroUsize> = std::num::NonZeroUsize::new(100);
