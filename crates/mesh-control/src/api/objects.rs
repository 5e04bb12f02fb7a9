//! Objects: get, list, create, change, delete.
//!
//! Every write names the revision that it replaces; a change that loses the race is made again on the newer
//! object, unless the caller insisted on a revision.

use std::num::NonZeroUsize;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use mesh_model::Problem;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::admission::{Addressed, address, prepare_create, prepare_update};
use super::authentication::User;
use super::clock::Clock;
use super::json::{at, has, text};
use super::kind::Kind;
use super::openapi::Schemas;
use super::selector::Selector;
use super::status::Failure;
use super::validation::{FieldValidation, check};
use crate::store::{Entry, Guard, Range, Revision, Store, StoreError};

mod deletion;
mod grant;

pub(crate) use deletion::Deletion;

/// The objects of a store.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    store: Arc<dyn Store>,
    clock: Clock,
    schemas: Arc<Schemas>,
}

/// How a write is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write<'a> {
    /// Who writes.
    pub(crate) user: &'a User,
    /// Do all but store it.
    pub(crate) is_dry_run: bool,
    /// What becomes of unknown fields.
    pub(crate) validation: FieldValidation,
    /// The roles that the writer's own rights come from.
    pub(crate) policy: &'a super::authorization::Policy,
}

/// What a write left.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// The object as stored, in the version of the call.
    pub(crate) object: Value,
    /// What the caller should know.
    pub(crate) warnings: Vec<String>,
}

/// What to list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The kind.
    pub(crate) kind: Kind,
    /// The version to answer in.
    pub(crate) version: &'a str,
    /// Only in this namespace.
    pub(crate) namespace: Option<&'a str>,
    /// Only these.
    pub(crate) selector: &'a Selector,
    /// At most so many.
    pub(crate) limit: Option<NonZeroUsize>,
    /// Go on where the list before ended.
    pub(crate) token: Option<&'a str>,
    /// The state of exactly this revision.
    pub(crate) at: Option<Revision>,
}

/// A list of objects.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// Sorted by namespace and name.
    pub(crate) items: Vec<Value>,
    /// The revision whose state this is.
    pub(crate) revision: Revision,
    /// How to go on, if the limit cut it.
    pub(crate) token: Option<String>,
}

/// Where a cut list goes on.
#[derive(Deserialize, Serialize)]
struct Token {
    revision: Revision,
    after: String,
}

// === impl Objects ===

impl Objects {
    /// The objects of this store.
    pub(crate) fn new(store: Arc<dyn Store>, clock: Clock, schemas: Arc<Schemas>) -> Self {
        Self {
            store,
            clock,
            schemas,
        }
    }

    /// The store itself.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// One object.
    ///
    /// # Errors
    ///
    /// 404 if there is none.
    pub(crate) async fn get(
        &self,
        kind: Kind,
        version: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Value, Failure> {
        let entry = self.entry(kind, namespace, name).await?;
        view(&entry, kind, version)
    }

    /// The objects of a kind.
    ///
    /// # Errors
    ///
    /// 410 if the asked revision is no longer kept, 400 if the token is not one.
    pub(crate) async fn list(&self, wanted: Wanted<'_>) -> Result<Listed, Failure> {
        let prefix = wanted.kind.prefix(wanted.namespace);
        let (mut after, mut at) = match wanted.token {
            Some(token) => {
                let token = Token::decode(token, &prefix)?;
                (Some(token.after), Some(token.revision))
            }
            None => (None, wanted.at),
        };
        let limit = wanted.limit.map_or(usize::MAX, NonZeroUsize::get);
        let mut items = Vec::new();
        loop {
            let page = self
                .store
                .list(Range {
                    prefix: &prefix,
                    after: after.as_deref(),
                    limit: wanted.limit,
                    at,
                })
                .await?;
            at = Some(page.revision);
            let mut left = page.entries.len();
            for entry in &page.entries {
                left -= 1;
                let object = view(entry, wanted.kind, wanted.version)?;
                if wanted.selector.matches(&object) {
                    items.push(object);
                }
                after = Some(entry.key.clone());
                if items.len() == limit {
                    break;
                }
            }
            let is_cut = left > 0 || page.more;
            if items.len() == limit || !is_cut {
                let token = is_cut.then(|| {
                    Token {
                        revision: page.revision,
                        after: after.unwrap_or_default(),
                    }
                    .encode()
                });
                return Ok(Listed {
                    items,
                    revision: page.revision,
                    token,
                });
            }
        }
    }

    /// Stores a new object.
    ///
    /// # Errors
    ///
    /// 409 if the name is taken, 404 if the namespace does not exist, 403 if it ends, 422 with every
    /// problem of the object.
    pub(crate) async fn create(
        &self,
        mut object: Value,
        to: Addressed<'_>,
        write: &Write<'_>,
    ) -> Result<Written, Failure> {
        let kind = to.kind;
        address(&mut object, to)?;
        prepare_create(&mut object, kind, self.clock)?;
        let warnings = check(kind, to.version, &object, write.validation, &self.schemas)?;
        let name = name_of(&object);
        let namespace = to.namespace.filter(|_| kind.namespaced);
        self.check_grant(kind, namespace, None, &object, write)
            .await?;
        let key = kind.key(namespace, &name);
        let bytes = bytes_of(&object, kind);
        for _ in 0..ATTEMPTS {
            let home = match namespace {
                Some(namespace) => Some(self.open_namespace(namespace, kind, &name).await?),
                None => None,
            };
            if write.is_dry_run {
                if self.store.get(&key).await?.is_some() {
                    return Err(Failure::already_exists(kind, &name));
                }
                return Ok(Written { object, warnings });
            }
            let guard = home.as_ref().map(|entry| Guard {
                key: &entry.key,
                revision: entry.revision,
            });
            match self.store.create(&key, bytes.clone(), guard).await {
                Ok(revision) => {
                    set_revision(&mut object, revision);
                    if kind.is_namespace() {
                        self.ensure_default_account(&name).await?;
                    }
                    return Ok(Written { object, warnings });
                }
                Err(StoreError::Exists { .. }) => {
                    return Err(Failure::already_exists(kind, &name));
                }
                // The namespace changed meanwhile: look again whether it is still open.
                Err(StoreError::Guard { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::conflict(
            kind,
            &name,
            "its namespace keeps changing",
        ))
    }

    /// Changes an object by a function of what is stored.
    ///
    /// # Errors
    ///
    /// 404 if there is none, 409 if the changed object names another revision than the stored one, 422
    /// with every problem of the object, and what `change` says.
    pub(crate) async fn modify(
        &self,
        to: Addressed<'_>,
        write: &Write<'_>,
        is_status: bool,
        change: &(dyn Fn(&Value) -> Result<Value, Failure> + Sync),
    ) -> Result<Written, Failure> {
        let kind = to.kind;
        let name = to.name.unwrap_or_default();
        for _ in 0..ATTEMPTS {
            let entry = self.entry(kind, to.namespace, name).await?;
            let old = view(&entry, kind, to.version)?;
            let mut new = change(&old)?;
            address(&mut new, to)?;
            let insists = insisted_revision(&new);
            if insists.is_some_and(|version| version != entry.revision.to_string()) {
                return Err(Failure::conflict(kind, name, MODIFIED));
            }
            prepare_update(&mut new, &old, kind, is_status)?;
            set_revision(&mut new, entry.revision);
            let warnings = check(kind, to.version, &new, write.validation, &self.schemas)?;
            if new == old {
                return Ok(Written {
                    object: old,
                    warnings,
                });
            }
            self.check_grant(kind, to.namespace, Some(&old), &new, write)
                .await?;
            if write.is_dry_run {
                return Ok(Written {
                    object: new,
                    warnings,
                });
            }
            let done = if deletion::is_finished(&new) {
                self.store.delete(&entry.key, entry.revision).await
            } else {
                let bytes = bytes_of(&new, kind);
                self.store.update(&entry.key, bytes, entry.revision).await
            };
            match done {
                Ok(revision) => {
                    set_revision(&mut new, revision);
                    return Ok(Written {
                        object: new,
                        warnings,
                    });
                }
                // Somebody was faster. The next round finds what they left; who insisted is refused there.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::conflict(kind, name, MODIFIED))
    }

    /// Makes the service account `default` of a namespace, if it is absent.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub(crate) async fn ensure_default_account(&self, namespace: &str) -> Result<(), Failure> {
        let Some(kind) = Kind::find("", "v1", "serviceaccounts") else {
            return Ok(());
        };
        let to = Addressed {
            kind,
            version: "v1",
            namespace: Some(namespace),
            name: None,
        };
        let user = User::server();
        let policy = super::authorization::Policy::default();
        let write = Write {
            user: &user,
            is_dry_run: false,
            validation: FieldValidation::Strict,
            policy: &policy,
        };
        let account = json!({"metadata": {"name": "default"}});
        match Box::pin(self.create(account, to, &write)).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.reason == "AlreadyExists" => Ok(()),
            // Deleted again already.
            Err(failure) if failure.code == http::StatusCode::NOT_FOUND => Ok(()),
            Err(failure) if failure.code == http::StatusCode::FORBIDDEN => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn entry(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Entry, Failure> {
        let key = kind.key(namespace, name);
        let entry = self.store.get(&key).await?;
        entry.ok_or_else(|| Failure::not_found(kind, name))
    }

    /// The namespace, if objects may be created in it.
    async fn open_namespace(
        &self,
        namespace: &str,
        kind: Kind,
        name: &str,
    ) -> Result<Entry, Failure> {
        let entry = self.entry(Kind::namespace(), None, namespace).await?;
        let object = view(&entry, Kind::namespace(), "v1")?;
        if has(&object, "metadata.deletionTimestamp") {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            return Err(Failure::forbidden_object(kind, name, &why));
        }
        Ok(entry)
    }
}

// === impl Token ===

impl Token {
    fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        BASE64.encode(json)
    }

    /// A token that leads outside of the list's prefix is not one of ours.
    fn decode(text: &str, prefix: &str) -> Result<Self, Failure> {
        BASE64
            .decode(text)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .filter(|token: &Self| token.after.starts_with(prefix))
            .ok_or_else(|| Failure::bad_request("the `continue` parameter is not valid"))
    }
}

/// An object of the store, with the revision that the store keeps beside it.
pub(crate) fn read(bytes: &Bytes, revision: Revision) -> Option<Value> {
    let mut object: Value = serde_json::from_slice(bytes).ok()?;
    set_revision(&mut object, revision);
    Some(object)
}

/// An entry as an object in a version.
pub(crate) fn view(entry: &Entry, kind: Kind, version: &str) -> Result<Value, Failure> {
    let mut object = read(&entry.value, entry.revision).ok_or_else(|| {
        tracing::error!(key = entry.key, "stored value is not JSON");
        Failure::internal(format!("stored value of `{}` is not JSON", entry.key))
    })?;
    set_version(&mut object, kind, version);
    Ok(object)
}

/// Says the version in which an object is shown; all versions of a kind have one schema.
pub(crate) fn set_version(object: &mut Value, kind: Kind, version: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), kind.api_version(version).into());
    }
}

/// The name of an object; empty if it has none.
pub(crate) fn name_of(object: &Value) -> String {
    text(object, "metadata.name").to_owned()
}

/// Checks a replacement: Istio's kinds must say which revision they replace, as custom resources do.
///
/// # Errors
///
/// 422 if it does not.
pub(crate) fn check_replacement(object: &Value, kind: Kind) -> Result<(), Failure> {
    if kind.istio().is_some() && insisted_revision(object).is_none() {
        let problem = Problem::new(
            "metadata.resourceVersion",
            "",
            "specified, as an update needs",
        );
        return Err(Failure::invalid(kind, &name_of(object), &problem.into()));
    }
    Ok(())
}

fn insisted_revision(object: &Value) -> Option<&str> {
    at(object, "metadata.resourceVersion")
        .as_str()
        .filter(|version| !version.is_empty())
}

fn set_revision(object: &mut Value, revision: Revision) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    }
}

/// What is stored: the preferred version, without the revision, which the store keeps itself.
pub(crate) fn bytes_of(object: &Value, kind: Kind) -> Bytes {
    let mut object = object.clone();
    set_version(&mut object, kind, kind.version());
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    object.to_string().into()
}

const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Rounds of a write that loses races: each round somebody else has succeeded.
const ATTEMPTS: usize = 16;
