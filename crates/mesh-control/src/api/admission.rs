//! What the server makes of an object before it is stored: defaults, ids, and what nobody may change.
//!
//! Pure: old and new object in, object to store or refusal out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mesh_model::{Problem, Problems};
use serde_json::{Map, Value, json};

use super::clock::Clock;
use super::identifier;
use super::json::{at, set, text, type_name};
use super::kind::Kind;
use super::status::Failure;

/// What the URL says about the object in the body.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    /// The kind.
    pub kind: Kind,
    /// The version in the URL.
    pub version: &'a str,
    /// The namespace in the URL.
    pub namespace: Option<&'a str>,
    /// The name in the URL; none for a creation.
    pub name: Option<&'a str>,
}

/// Checks that the body is an object of the kind, namespace and name that the URL says, and completes them.
///
/// # Errors
///
/// 400 if they disagree.
pub fn address(object: &mut Value, to: Addressed<'_>) -> Result<(), Failure> {
    let Some(map) = object.as_object_mut() else {
        return Err(Failure::bad_request("the body is not an object"));
    };
    let api_version = to.kind.api_version(to.version);
    for (field, expected) in [("apiVersion", api_version.as_str()), ("kind", to.kind.kind)] {
        match map.get(field) {
            None => {
                map.insert(field.to_owned(), expected.into());
            }
            Some(Value::String(found)) if found == expected => {}
            Some(found) => {
                return Err(Failure::bad_request(format!(
                    "the `{field}` in the body ({found}) does not match the expected `{expected}`"
                )));
            }
        }
    }
    let metadata = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(Failure::bad_request("`metadata` is not an object"));
    };
    for (field, expected) in [("namespace", to.namespace), ("name", to.name)] {
        let found = match metadata.get(field) {
            None | Some(Value::Null) => "",
            Some(Value::String(found)) => found.as_str(),
            Some(_) => {
                return Err(Failure::bad_request(format!(
                    "`metadata.{field}` is not a string"
                )));
            }
        };
        match expected {
            Some(expected) if found.is_empty() => {
                metadata.insert(field.to_owned(), expected.into());
            }
            Some(expected) if found != expected => {
                return Err(Failure::bad_request(format!(
                    "the {field} of the provided object ({found}) does not match the {field} sent on the request ({expected})"
                )));
            }
            None if field == "namespace" && !found.is_empty() => {
                return Err(Failure::bad_request(format!(
                    "{} has no namespace, but the provided object names `{found}`",
                    to.kind.kind
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes a new object complete.
///
/// # Errors
///
/// 400 if it claims what only the server gives, 422 if a default cannot be made.
pub fn prepare_create(object: &mut Value, kind: Kind, clock: Clock) -> Result<(), Failure> {
    set_defaults(object, kind)?;
    let now = clock.now_text();
    let Some(map) = object.as_object_mut() else {
        return Err(Failure::bad_request("the body is not an object"));
    };
    if kind.has_status() && kind.istio().is_some() {
        // The status is written by its own subresource only.
        map.remove("status");
    }
    let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err(Failure::bad_request("`metadata` is not an object"));
    };
    if metadata
        .get("resourceVersion")
        .and_then(Value::as_str)
        .is_some_and(|version| !version.is_empty())
    {
        return Err(Failure::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let prefix = metadata.get("generateName").and_then(Value::as_str);
    let has_name = metadata
        .get("name")
        .and_then(Value::as_str)
        .is_some_and(|name| !name.is_empty());
    if !has_name && let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) {
        let head: String = prefix.chars().take(MAX_GENERATED_HEAD).collect();
        let name = format!("{head}{}", identifier::suffix());
        metadata.insert("name".to_owned(), name.into());
    }
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), identifier::uid().into());
    metadata.insert("creationTimestamp".to_owned(), now.into());
    if kind.istio().is_some() {
        metadata.insert("generation".to_owned(), 1.into());
    }
    if kind.kind == "Namespace" {
        prepare_namespace(map);
    }
    Ok(())
}

/// Carries over into the new object what a writer may not change.
///
/// `is_status` is a write of the status subresource, which changes nothing else.
///
/// # Errors
///
/// 409 if the object meant is another one, 422 if something fixed is changed.
pub fn prepare_update(
    new: &mut Value,
    old: &Value,
    kind: Kind,
    is_status: bool,
) -> Result<(), Failure> {
    let name = text(old, "metadata.name");
    if is_status {
        let status = new.get("status").cloned();
        *new = old.clone();
        if let (Some(status), Some(map)) = (status, new.as_object_mut()) {
            map.insert("status".to_owned(), status);
        }
        return Ok(());
    }
    set_defaults(new, kind)?;
    let Some(map) = new.as_object_mut() else {
        return Err(Failure::bad_request("the body is not an object"));
    };
    if kind.has_status() {
        carry(map, old, "status");
    }
    if kind.kind == "Namespace" {
        carry(map, old, "spec");
    }
    let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err(Failure::bad_request("`metadata` is not an object"));
    };
    let claimed = metadata.get("uid").and_then(Value::as_str);
    let uid = text(old, "metadata.uid");
    if let Some(claimed) = claimed.filter(|claimed| !claimed.is_empty() && *claimed != uid) {
        let why = format!(
            "Precondition failed: UID in precondition: {claimed}, UID in object meta: {uid}"
        );
        return Err(Failure::conflict(kind, name, &why));
    }
    metadata.remove("selfLink");
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        match at(old, "metadata").get(field) {
            Some(value) => {
                metadata.insert(field.to_owned(), value.clone());
            }
            None => {
                metadata.remove(field);
            }
        }
    }
    check_fixed(new, old, kind, name)?;
    if kind.istio().is_some() && differs_in_content(new, old) {
        let generation = at(old, "metadata.generation").as_i64().unwrap_or(0) + 1;
        if let Some(metadata) = new.get_mut("metadata") {
            set(metadata, "generation", generation);
        }
    }
    Ok(())
}

fn set_defaults(object: &mut Value, kind: Kind) -> Result<(), Failure> {
    match kind.kind {
        "Secret" => set_secret_defaults(object, kind),
        "RoleBinding" | "ClusterRoleBinding" => {
            set_binding_defaults(object);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `stringData` is for writing only: it becomes `data`.
fn set_secret_defaults(object: &mut Value, kind: Kind) -> Result<(), Failure> {
    let name = text(object, "metadata.name").to_owned();
    let Some(map) = object.as_object_mut() else {
        return Ok(());
    };
    if map
        .get("type")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        map.insert("type".to_owned(), "Opaque".into());
    }
    let plain = match map.remove("stringData") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(plain)) => plain,
        Some(other) => {
            let problem = Problem::new("stringData", type_name(&other), "a map of strings");
            return Err(Failure::invalid(kind, &name, &problem.into()));
        }
    };
    let data = map.entry("data").or_insert_with(|| json!({}));
    if data.is_null() {
        *data = json!({});
    }
    let mut problems = Problems::default();
    if let Some(data) = data.as_object_mut() {
        for (key, value) in plain {
            match value {
                Value::String(text) => {
                    data.insert(key, BASE64.encode(text).into());
                }
                // The value of a secret is never repeated.
                other => problems.push(Problem::new(
                    format!("stringData[{key}]"),
                    type_name(&other),
                    "a string",
                )),
            }
        }
    }
    if problems.0.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid(kind, &name, &problems))
    }
}

fn set_binding_defaults(object: &mut Value) {
    let group = super::kind::RBAC_GROUP;
    if let Some(role) = object.get_mut("roleRef").and_then(Value::as_object_mut) {
        role.entry("apiGroup").or_insert_with(|| group.into());
    }
    let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        let Some(subject) = subject.as_object_mut() else {
            continue;
        };
        let kind = subject.get("kind").and_then(Value::as_str);
        if matches!(kind, Some("User" | "Group")) {
            subject.entry("apiGroup").or_insert_with(|| group.into());
        }
    }
}

fn prepare_namespace(map: &mut Map<String, Value>) {
    map.insert("spec".to_owned(), json!({"finalizers": ["kubernetes"]}));
    map.insert("status".to_owned(), json!({"phase": "Active"}));
    let metadata = map.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata
        && let Some(name) = metadata.get("name").cloned()
    {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            // As Kubernetes: lets a label selector choose namespaces by name.
            labels.insert("kubernetes.io/metadata.name".to_owned(), name);
        }
    }
}

/// Fields that are fixed once the object exists.
fn check_fixed(new: &Value, old: &Value, kind: Kind, name: &str) -> Result<(), Failure> {
    let mut problems = Problems::default();
    let mut fixed = |field: &str| {
        if new.get(field) != old.get(field) {
            let found = new.get(field).map(Value::to_string).unwrap_or_default();
            problems.push(Problem::new(
                field,
                found,
                "the value it has, which cannot be changed",
            ));
        }
    };
    match kind.kind {
        "RoleBinding" | "ClusterRoleBinding" => fixed("roleRef"),
        "Secret" => fixed("type"),
        _ => {}
    }
    if matches!(kind.kind, "Secret" | "ConfigMap") && *at(old, "immutable") == true {
        for field in ["data", "binaryData", "immutable"] {
            if new.get(field) != old.get(field) {
                problems.push(Problem::new(
                    field,
                    "changed",
                    "changeable: the object is immutable",
                ));
            }
        }
    }
    if problems.0.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid(kind, name, &problems))
    }
}

fn carry(map: &mut Map<String, Value>, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => {
            map.insert(field.to_owned(), value.clone());
        }
        None => {
            map.remove(field);
        }
    }
}

/// Whether anything but metadata and status differs.
fn differs_in_content(new: &Value, old: &Value) -> bool {
    let content = |value: &Value| -> Map<String, Value> {
        value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(field, _)| {
                !matches!(
                    field.as_str(),
                    "metadata" | "status" | "apiVersion" | "kind"
                )
            })
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    };
    content(new) != content(old)
}

/// Leaves room for the random end within the 63 of a DNS label.
const MAX_GENERATED_HEAD: usize = 58;
