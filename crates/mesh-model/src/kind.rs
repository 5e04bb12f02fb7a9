//! The kinds of object that are served, as data: what discovery lists and `kubectl get` prints.

mod table;

use serde_json::Value;

pub use table::KINDS;

/// A kind of object.
#[derive(Debug, Eq, PartialEq)]
pub struct Kind {
    /// The API group; empty for Kubernetes' core.
    pub group: &'static str,
    /// The versions that are served, all of one schema; the first is preferred and stored.
    pub versions: &'static [&'static str],
    /// The name of the kind, as in `VirtualService`.
    pub kind: &'static str,
    /// The plural in lower case, as in URLs.
    pub plural: &'static str,
    /// The singular in lower case.
    pub singular: &'static str,
    /// Short names for the command line.
    pub short_names: &'static [&'static str],
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Names that stand for several kinds on the command line.
    pub categories: &'static [&'static str],
    /// What is printed besides the name.
    pub columns: &'static [Column],
}

/// A column of a printed table.
#[derive(Debug, Eq, PartialEq)]
pub struct Column {
    /// Its heading, in title case.
    pub name: &'static str,
    /// What is in it.
    pub cell: Cell,
}

/// What is in a cell of a printed table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Cell {
    /// The value at a path of fields: text as it is, anything else as JSON.
    Path(&'static [&'static str]),
    /// How many entries the list or object at a path of fields has.
    Count(&'static [&'static str]),
    /// Kind and name of the object that the object at a path of fields refers to, joined by `/`.
    Reference(&'static [&'static str]),
    /// How long ago the object was made: [`Cell::value`] gives the time, the printer the age.
    Age,
    /// The time at a path of fields, of which the printer makes an age as well.
    AgeOf(&'static [&'static str]),
}

// === impl Kind ===

impl Kind {
    /// The kind of this group and name, as in `networking.istio.io` and `VirtualService`.
    pub fn named(group: &str, kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|k| k.group == group && k.kind == kind)
    }

    /// The kind of this group and plural, as URLs have them.
    pub fn of_resource(group: &str, plural: &str) -> Option<&'static Self> {
        KINDS
            .iter()
            .find(|k| k.group == group && k.plural == plural)
    }

    /// The kind of an object by its `apiVersion`, which must be one that is served, and `kind`.
    ///
    /// ```
    /// # use mesh_model::Kind;
    /// let kind = Kind::of_object("networking.istio.io/v1beta1", "VirtualService").unwrap();
    /// assert_eq!(kind.plural, "virtualservices");
    /// assert_eq!(kind.api_version(), "networking.istio.io/v1");
    /// ```
    pub fn of_object(api_version: &str, kind: &str) -> Option<&'static Self> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        Self::named(group, kind).filter(|kind| kind.versions.contains(&version))
    }

    /// The kind that a user means on the command line: plural, singular, short name or kind,
    /// without regard to case, possibly with `.<group>` or `.<version>.<group>`.
    pub fn meant_by(text: &str) -> Option<&'static Self> {
        let text = text.to_ascii_lowercase();
        let (word, rest) = text.split_once('.').unwrap_or((&text, ""));
        KINDS.iter().find(|kind| {
            let named = kind.plural == word
                || kind.singular == word
                || kind.short_names.contains(&word)
                || kind.kind.eq_ignore_ascii_case(word);
            let version_and_group = rest.split_once('.');
            named
                && (rest.is_empty()
                    || rest == kind.group
                    || version_and_group.is_some_and(|(version, group)| {
                        group == kind.group && kind.versions.contains(&version)
                    }))
        })
    }

    /// The preferred version, which is also the one that is stored.
    pub fn version(&self) -> &'static str {
        self.versions.first().copied().unwrap_or_default()
    }

    /// Group and preferred version, as in an object's `apiVersion`.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version().to_owned(),
            group => format!("{group}/{}", self.version()),
        }
    }
}

// === impl Cell ===

impl Cell {
    /// What is in the cell for an object; null when there is nothing.
    ///
    /// For the two kinds of age it is the time, in RFC 3339.
    pub fn value(self, object: &Value) -> Value {
        match self {
            Self::Path(path) => match field(object, path) {
                None | Some(Value::Null) => Value::Null,
                Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) => {
                    value.clone()
                }
                Some(value) => Value::String(value.to_string()),
            },
            Self::Count(path) => Value::from(match field(object, path) {
                Some(Value::Array(list)) => list.len(),
                Some(Value::Object(map)) => map.len(),
                _ => 0,
            }),
            Self::Reference(path) => {
                let part = |name| field(object, path)?.get(name)?.as_str();
                match (part("kind"), part("name")) {
                    (Some(kind), Some(name)) => Value::String(format!("{kind}/{name}")),
                    _ => Value::Null,
                }
            }
            Self::Age => field(object, &["metadata", "creationTimestamp"])
                .cloned()
                .unwrap_or_default(),
            Self::AgeOf(path) => field(object, path).cloned().unwrap_or_default(),
        }
    }

    /// The type of the column in a Kubernetes `Table`.
    pub fn column_type(self) -> &'static str {
        match self {
            Self::Count(_) => "integer",
            Self::Age | Self::AgeOf(_) => "date",
            Self::Path(_) | Self::Reference(_) => "string",
        }
    }
}

fn field<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_two_kinds_share_a_word_of_one_group() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert!(
                !kind.versions.is_empty() && !kind.columns.is_empty(),
                "{}",
                kind.kind
            );
            for other in KINDS.iter().skip(index + 1) {
                assert_ne!(kind.plural, other.plural);
                assert_ne!(kind.kind, other.kind);
                for short in kind.short_names {
                    assert!(!other.short_names.contains(short), "{short}");
                }
            }
        }
    }

    #[test]
    fn every_word_for_a_kind_is_understood() {
        for text in [
            "vs",
            "virtualservice",
            "VirtualServices",
            "VirtualService",
            "virtualservices.networking.istio.io",
            "vs.v1beta1.networking.istio.io",
        ] {
            assert_eq!(
                Kind::meant_by(text).unwrap().kind,
                "VirtualService",
                "{text}"
            );
        }
        for text in ["", "virtual", "vs.apps", "vs.v2.networking.istio.io"] {
            assert!(Kind::meant_by(text).is_none(), "{text}");
        }
        assert_eq!(Kind::meant_by("cm").unwrap().api_version(), "v1");
    }

    #[test]
    fn aliases_of_a_version_are_the_same_kind() {
        for version in ["v1", "v1beta1", "v1alpha3"] {
            let kind = Kind::of_object(&format!("networking.istio.io/{version}"), "ServiceEntry");
            assert_eq!(kind.unwrap().version(), "v1");
        }
        assert!(Kind::of_object("networking.istio.io/v2", "ServiceEntry").is_none());
        assert!(Kind::of_object("security.istio.io/v1alpha3", "PeerAuthentication").is_none());
        assert!(Kind::of_object("v1", "ServiceEntry").is_none());
        assert!(Kind::of_object("v1", "Secret").is_some());
    }

    #[test]
    fn cells_are_taken_from_the_object() {
        let object = json!({
            "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "hosts": ["a", "b"], "location": "MESH_INTERNAL" },
            "data": { "x": "", "y": "" },
            "roleRef": { "kind": "Role", "name": "reader" },
        });
        let value = |cell: Cell| cell.value(&object);
        assert_eq!(
            value(Cell::Path(&["spec", "hosts"])),
            json!("[\"a\",\"b\"]")
        );
        assert_eq!(
            value(Cell::Path(&["spec", "location"])),
            json!("MESH_INTERNAL")
        );
        assert_eq!(value(Cell::Path(&["spec", "none"])), Value::Null);
        assert_eq!(value(Cell::Count(&["data"])), json!(2));
        assert_eq!(value(Cell::Reference(&["roleRef"])), json!("Role/reader"));
        assert_eq!(value(Cell::Age), json!("2026-01-01T00:00:00Z"));
    }
}
