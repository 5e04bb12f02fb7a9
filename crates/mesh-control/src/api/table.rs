//! The forms in which objects are shown: whole, as metadata only, or as a table for people.

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::json::{at, set};
use super::kind::Kind;
use super::objects::Listed;
use super::status::Failure;
use super::watch::encode;

mod cell;

/// How the client wants objects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Form {
    /// As they are.
    Objects,
    /// `meta.k8s.io` Tables: columns and rows.
    Table {
        /// `v1` or `v1beta1`; equal but for the name.
        version: &'static str,
        /// What else a row carries.
        include: Include,
    },
    /// Metadata only.
    Metadata {
        /// `v1` or `v1beta1`.
        version: &'static str,
    },
}

/// What a row of a table carries beside its cells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Include {
    /// Nothing.
    Nothing,
    /// The metadata.
    Metadata,
    /// The object.
    Object,
}

// === impl Form ===

impl Form {
    /// Reads `Accept` and the parameter `includeObject`.
    ///
    /// # Errors
    ///
    /// 406 if the client takes nothing that we have.
    pub fn negotiate(headers: &HeaderMap, include: Option<&str>) -> Result<Self, Failure> {
        let include = match include {
            Some("None") => Include::Nothing,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        let accepted: Vec<&str> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .collect();
        if accepted.is_empty() {
            return Ok(Self::Objects);
        }
        accepted
            .iter()
            .find_map(|value| Self::of_media_type(value, include))
            .ok_or_else(Failure::not_acceptable)
    }

    fn of_media_type(value: &str, include: Include) -> Option<Self> {
        let mut parts = value.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let get = |name: &str| {
            let found = parameters.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| *value)
        };
        let Some(form) = get("as") else {
            return Some(Self::Objects);
        };
        let version = match get("v") {
            Some("v1") => "v1",
            Some("v1beta1") => "v1beta1",
            _ => return None,
        };
        match (get("g"), form) {
            (Some("meta.k8s.io"), "Table") => Some(Self::Table { version, include }),
            (Some("meta.k8s.io"), "PartialObjectMetadata" | "PartialObjectMetadataList") => {
                Some(Self::Metadata { version })
            }
            _ => None,
        }
    }

    /// One object in this form.
    pub fn object(&self, kind: Kind, object: Value) -> Value {
        match self {
            Self::Objects => object,
            Self::Metadata { version } => metadata_only(&object, version),
            Self::Table { version, include } => {
                let metadata = json!({"resourceVersion": at(&object, "metadata.resourceVersion")});
                table(kind, version, *include, &metadata, &[object], true)
            }
        }
    }

    /// A list in this form.
    pub fn list(&self, kind: Kind, version: &str, listed: Listed) -> Value {
        let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
        if let Some(token) = listed.token {
            set(&mut metadata, "continue", token);
        }
        match self {
            Self::Objects => json!({
                "kind": format!("{}List", kind.kind),
                "apiVersion": kind.api_version(version),
                "metadata": metadata,
                "items": listed.items,
            }),
            Self::Metadata { version } => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
                "items": listed
                    .items
                    .iter()
                    .map(|item| metadata_only(item, version))
                    .collect::<Vec<_>>(),
            }),
            Self::Table { version, include } => {
                table(kind, version, *include, &metadata, &listed.items, true)
            }
        }
    }

    /// One event of a watch in this form.
    pub fn line(&self, event: &str, kind: Kind, object: Value) -> Bytes {
        let object = match self {
            Self::Table { version, include } => {
                let metadata = json!({"resourceVersion": at(&object, "metadata.resourceVersion")});
                let rows = [object];
                let is_row = event != "BOOKMARK";
                table(kind, version, *include, &metadata, &rows, is_row)
            }
            _ => self.object(kind, object),
        };
        encode(&json!({"type": event, "object": object}))
    }
}

fn table(
    kind: Kind,
    version: &str,
    include: Include,
    metadata: &Value,
    objects: &[Value],
    has_rows: bool,
) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .filter(|_| has_rows)
        .map(|object| {
            let mut row = json!({"cells": cell::row(kind, object)});
            match include {
                Include::Nothing => {}
                Include::Metadata => set(&mut row, "object", metadata_only(object, version)),
                Include::Object => set(&mut row, "object", object.clone()),
            }
            row
        })
        .collect();
    let definitions = cell::definitions(kind);
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn metadata_only(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": at(object, "metadata"),
    })
}
