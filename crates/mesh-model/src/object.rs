//! Objects in Kubernetes' shape: metadata that every kind has, and a specification of its own.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Problems, label, name};

/// An object of the API: what it is, what it is called, and what its user wants.
///
/// Source: <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md>.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Object<S> {
    /// Group and version, as in `networking.istio.io/v1`.
    pub api_version: String,
    /// The kind, as in `VirtualService`.
    pub kind: String,
    /// What every object has.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What its user wants.
    pub spec: S,
}

/// What every object has.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectMeta {
    /// The name, unique in its namespace and kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The namespace; empty for kinds without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The id of this object, never used for another one of the same name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The version of its content, to compare for equality only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// How often its specification was changed, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When it was made: RFC 3339 in UTC, in whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Labels, by which it is selected.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes of programs and people.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Which object it is, among those of its kind; written `<namespace>/<name>`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ObjectRef {
    /// The namespace; empty for kinds without one.
    pub namespace: String,
    /// The name.
    pub name: String,
}

// === impl ObjectRef ===

impl From<&ObjectMeta> for ObjectRef {
    fn from(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

// === impl ObjectMeta ===

impl ObjectMeta {
    /// Adds what is wrong with name, namespace and labels, with paths below `path`.
    ///
    /// A name may be absent: where one is needed depends on the call. The same holds for the
    /// namespace.
    pub fn validate(&self, path: &str, problems: &mut Problems) {
        if !self.name.is_empty() && !name::is_subdomain(&self.name) {
            problems.add(
                format!("{path}.name"),
                &self.name,
                "a DNS subdomain (labels of a-z, 0-9, `-`, joined by `.`; at most 253)",
            );
        }
        if !self.namespace.is_empty() && !name::is_label(&self.namespace) {
            problems.add(
                format!("{path}.namespace"),
                &self.namespace,
                "a DNS label (a-z, 0-9, `-`; at most 63)",
            );
        }
        label::validate(&self.labels, &format!("{path}.labels"), problems);
        for key in self.annotations.keys() {
            if !label::is_key(&key.to_ascii_lowercase()) {
                problems.add(format!("{path}.annotations"), key, label::KEY_EXPECTED);
            }
        }
    }

    /// A key that sorts objects of one kind from the oldest to the newest; names decide between
    /// those of one second, and objects that were never stored come last.
    ///
    /// Where two objects contradict each other the oldest wins, as in Istio: a newer one cannot
    /// take over what an older one holds.
    pub fn age(&self) -> (bool, &str, &str, &str) {
        let made = self.creation_timestamp.as_deref().unwrap_or_default();
        (made.is_empty(), made, &self.namespace, &self.name)
    }
}
