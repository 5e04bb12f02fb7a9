//! Names and labels of what the engine makes: everything it must know again is in them.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Addresses, Name, RuntimeError};

/// Whose it is: the owner of the engine.
pub(super) const ENGINE: &str = "mesh.engine";
/// `network`, `group`, `unit`, `image` (imported) or `built`.
pub(super) const KIND: &str = "mesh.kind";
/// The group that a container belongs to.
pub(super) const GROUP: &str = "mesh.group";
/// The unit that a container is.
pub(super) const UNIT: &str = "mesh.unit";
/// What was asked for, as JSON.
pub(super) const SPEC: &str = "mesh.spec";
/// What an image was built from: a digest of it.
pub(super) const CONTENT: &str = "mesh.content";
/// What a group was given, as JSON ([`Place`]).
pub(super) const PLACE: &str = "mesh.place";

/// What a group was given when it was made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Place {
    pub(super) addresses: Option<Addresses>,
    pub(super) directory: std::path::PathBuf,
}

/// The names that an engine gives. A name of ours has no `_`, so they cannot be mistaken.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) owner: Name,
}

// === impl Names ===

impl Names {
    pub(super) fn network(&self, network: &Name) -> String {
        format!("{}_{network}", self.owner)
    }

    /// The pause container of a group.
    pub(super) fn group(&self, group: &Name) -> String {
        format!("{}_{group}", self.owner)
    }

    pub(super) fn unit(&self, group: &Name, unit: &Name) -> String {
        format!("{}_{group}_{unit}", self.owner)
    }

    /// The image of all pause containers.
    pub(super) fn pause_image(&self) -> String {
        format!("mesh-pause:{}", self.owner)
    }

    /// The labels of something of this kind.
    pub(super) fn labels(&self, kind: &str) -> HashMap<String, String> {
        [(ENGINE, self.owner.as_str()), (KIND, kind)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// What is kept with the attachment of a container of others to a network.
    pub(super) fn mark(&self) -> HashMap<String, String> {
        [(ENGINE.to_owned(), self.owner.to_string())].into()
    }

    /// Whether something with these labels is ours and of this kind.
    pub(super) fn own(&self, labels: Option<&HashMap<String, String>>, kind: &str) -> bool {
        let has = |key, value| {
            labels
                .and_then(|it| it.get(key))
                .is_some_and(|it| it == value)
        };
        has(ENGINE, self.owner.as_str()) && has(KIND, kind)
    }

    /// How all of this kind are asked for.
    pub(super) fn filter(&self, kind: &str) -> HashMap<String, Vec<String>> {
        let labels = vec![format!("{ENGINE}={}", self.owner), format!("{KIND}={kind}")];
        [("label".to_owned(), labels)].into()
    }
}

/// What a label says, which is JSON.
pub(super) fn read<T: DeserializeOwned>(
    labels: Option<&HashMap<String, String>>,
    key: &str,
    of: &str,
) -> Result<T, RuntimeError> {
    let text = labels.and_then(|it| it.get(key)).map_or("", String::as_str);
    serde_json::from_str(text).map_err(|source| damaged(key, of, source))
}

/// Something as the text of a label.
pub(super) fn write<T: Serialize>(value: &T, key: &str, of: &str) -> Result<String, RuntimeError> {
    serde_json::to_string(value).map_err(|source| damaged(key, of, source))
}

fn damaged(key: &str, of: &str, source: serde_json::Error) -> RuntimeError {
    RuntimeError::Record {
        path: format!("label {key} of {of}").into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_unit_is_never_mistaken_for_a_group() {
        let names = Names {
            owner: name("mesh"),
        };
        assert_eq!(
            names.unit(&name("shop"), &name("web.app")),
            "mesh_shop_web.app"
        );
        assert_eq!(
            names.unit(&name("shop.web"), &name("app")),
            "mesh_shop.web_app"
        );
        assert_eq!(names.group(&name("shop.web")), "mesh_shop.web");
    }

    #[test]
    fn what_carries_another_owner_or_kind_is_not_ours() {
        let names = Names {
            owner: name("mesh"),
        };
        let other = Names {
            owner: name("other"),
        };
        let labels = names.labels("group");
        assert!(names.own(Some(&labels), "group"));
        assert!(!names.own(Some(&labels), "unit"));
        assert!(!other.own(Some(&labels), "group"));
        assert!(!names.own(None, "group"));
    }
}
