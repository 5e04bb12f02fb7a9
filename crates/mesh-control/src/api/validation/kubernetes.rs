//! What Kubernetes' own kinds must be: their schemas, and the rules that a schema cannot say.
//!
//! Values are never repeated in problems: they may be of a Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use mesh_model::Problem;
use serde_json::{Map, Value};

use super::Findings;
use crate::api::json::{at, text, type_name};
use crate::api::kind::Kind;
use crate::api::openapi::Schemas;

/// Checks an object against schema and rules.
pub(super) fn check(kind: Kind, object: &Value, schemas: &Schemas, findings: &mut Findings) {
    if let Some(schema) = schemas.of(kind, kind.version()) {
        Walk { schemas, findings }.value(schema, object, "");
    }
    match kind.kind {
        "ConfigMap" | "Secret" => check_data(object, findings),
        "Role" | "ClusterRole" => check_role(kind, object, findings),
        "RoleBinding" | "ClusterRoleBinding" => check_binding(kind, object, findings),
        "Event" => check_event(object, findings),
        _ => {}
    }
}

/// Compares a value with a schema.
pub(super) struct Walk<'a> {
    pub(super) schemas: &'a Schemas,
    pub(super) findings: &'a mut Findings,
}

impl Walk<'_> {
    /// Depth is bounded by the parser of the object.
    pub(super) fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        let schema = self.schemas.resolve(schema);
        if value.is_null() || schema["x-kubernetes-preserve-unknown-fields"] == true {
            return;
        }
        let (is_type, expected) = match at(schema, "type").as_str() {
            Some("object") => (value.is_object(), "an object"),
            Some("array") => (value.is_array(), "a list"),
            Some("string") => (value.is_string(), "a string"),
            Some("boolean") => (value.is_boolean(), "a boolean"),
            Some("integer") => (value.is_i64() || value.is_u64(), "a whole number"),
            Some("number") => (value.is_number(), "a number"),
            _ => (true, ""),
        };
        if !is_type {
            self.problem(path, type_name(value), expected);
            return;
        }
        match value {
            Value::Object(map) => self.object(schema, map, path),
            Value::Array(list) => {
                for (index, item) in list.iter().enumerate() {
                    self.value(at(schema, "items"), item, &format!("{path}[{index}]"));
                }
            }
            Value::String(text) => match at(schema, "format").as_str() {
                Some("byte") if BASE64.decode(text).is_err() => {
                    self.problem(path, "the value", "base64");
                }
                Some("date-time") if text.parse::<Timestamp>().is_err() => {
                    self.problem(path, text, "a time as in RFC 3339");
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn object(&mut self, schema: &Value, map: &Map<String, Value>, path: &str) {
        let below = |key: &str| match path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        let properties = at(schema, "properties").as_object();
        let rest = at(schema, "additionalProperties");
        for (key, value) in map {
            match properties.and_then(|properties| properties.get(key)) {
                Some(schema) => self.value(schema, value, &below(key)),
                None if rest.is_object() => self.value(rest, value, &format!("{path}[{key}]")),
                None if properties.is_some() => self.findings.unknown.push(below(key)),
                None => {}
            }
        }
        for name in at(schema, "required").as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if map.get(name).is_none_or(Value::is_null) {
                self.problem(&below(name), "", "given; it is required");
            }
        }
    }

    fn problem(&mut self, path: &str, found: &str, expected: &str) {
        let problem = Problem::new(path, found, expected);
        self.findings.problems.push(problem);
    }
}

fn check_data(object: &Value, findings: &mut Findings) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            let is_key = !key.is_empty()
                && key.len() <= 253
                && key != "."
                && !key.starts_with("..")
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if !is_key {
                findings.problems.push(Problem::new(
                    format!("{field}[{key}]"),
                    key,
                    "a key (a-z, A-Z, 0-9, `-`, `_`, `.`; at most 253)",
                ));
            }
            size += key.len() + value.as_str().map_or(0, str::len);
        }
    }
    let both = at(object, "data").as_object().into_iter().flatten();
    for (key, _) in both.filter(|(key, _)| at(object, "binaryData").get(key).is_some()) {
        findings.problems.push(Problem::new(
            format!("binaryData[{key}]"),
            key,
            "a key that `data` does not have",
        ));
    }
    if size > MAX_DATA {
        findings.problems.push(Problem::new(
            "data",
            format!("{size} bytes"),
            format!("at most {MAX_DATA} bytes"),
        ));
    }
}

fn check_role(kind: Kind, object: &Value, findings: &mut Findings) {
    let problems = &mut findings.problems;
    if object
        .get("aggregationRule")
        .is_some_and(|rule| !rule.is_null())
    {
        // Ignored, it would grant less than its writer thinks.
        problems.push(Problem::new(
            "aggregationRule",
            "given",
            "absent; roles are not aggregated here",
        ));
    }
    let rules = at(object, "rules").as_array().into_iter().flatten();
    for (index, rule) in rules.enumerate() {
        let path = format!("rules[{index}]");
        let is_empty = |field: &str| rule[field].as_array().is_none_or(Vec::is_empty);
        let mut needs = |field: &str| {
            if is_empty(field) {
                let path = format!("{path}.{field}");
                problems.push(Problem::new(path, "", "given; it is required"));
            }
        };
        needs("verbs");
        if is_empty("nonResourceURLs") {
            needs("apiGroups");
            needs("resources");
            continue;
        }
        let expected = if kind.namespaced {
            Some("absent; a Role holds in its namespace, where paths are not")
        } else if !is_empty("apiGroups") || !is_empty("resources") || !is_empty("resourceNames") {
            Some("absent; a rule is either of resources or of paths")
        } else {
            None
        };
        if let Some(expected) = expected {
            let path = format!("{path}.nonResourceURLs");
            problems.push(Problem::new(path, "given", expected));
        }
    }
}

fn check_binding(kind: Kind, object: &Value, findings: &mut Findings) {
    let problems = &mut findings.problems;
    let mut one_of = |path: String, value: &Value, allowed: &[&str]| {
        let found = value.as_str().unwrap_or_default();
        if !allowed.contains(&found) {
            let expected = format!("one of {}", allowed.join(", "));
            problems.push(Problem::new(path, found, expected));
        }
    };
    let group = crate::api::kind::RBAC_GROUP;
    let roles: &[&str] = if kind.namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    one_of("roleRef.kind".to_owned(), at(object, "roleRef.kind"), roles);
    one_of(
        "roleRef.apiGroup".to_owned(),
        at(object, "roleRef.apiGroup"),
        &[group],
    );
    let subjects = at(object, "subjects").as_array();
    for (index, subject) in subjects.into_iter().flatten().enumerate() {
        let path = format!("subjects[{index}].kind");
        one_of(
            path,
            at(subject, "kind"),
            &["User", "Group", "ServiceAccount"],
        );
    }
    let mut needs = |path: String, value: &Value| {
        if value.as_str().is_none_or(str::is_empty) {
            problems.push(Problem::new(path, "", "given; it is required"));
        }
    };
    needs("roleRef.name".to_owned(), at(object, "roleRef.name"));
    for (index, subject) in subjects.into_iter().flatten().enumerate() {
        needs(format!("subjects[{index}].name"), at(subject, "name"));
        if *at(subject, "kind") == "ServiceAccount" && !kind.namespaced {
            needs(
                format!("subjects[{index}].namespace"),
                at(subject, "namespace"),
            );
        }
    }
}

fn check_event(object: &Value, findings: &mut Findings) {
    let home = text(object, "metadata.namespace");
    let about = text(object, "involvedObject.namespace");
    // What has no namespace is told of in `default`.
    if about != home && !(about.is_empty() && home == "default") {
        findings.problems.push(Problem::new(
            "involvedObject.namespace",
            about,
            format!("`{home}`, the namespace of the event"),
        ));
    }
}

/// All data of an object together, bytes; Kubernetes' limit.
const MAX_DATA: usize = 1024 * 1024;
