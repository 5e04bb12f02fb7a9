//! Is this object valid: every problem at once, unknown fields by the caller's wish.

use mesh_model::istio::{self, IstioKind};
use mesh_model::{Problem, Problems};
use serde_json::Value;

use super::json::{MAX_DEPTH, at, is_deeper, text};
use super::kind::{Kind, RBAC_GROUP};
use super::objects::name_of;
use super::openapi::Schemas;
use super::request::Query;
use super::status::Failure;

mod kubernetes;

/// What becomes of fields that the kind does not have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum FieldValidation {
    /// Nothing.
    Ignore,
    /// A warning each.
    #[default]
    Warn,
    /// The object is refused.
    Strict,
}

/// What a check finds.
#[derive(Debug, Default)]
struct Findings {
    problems: Problems,
    /// Paths of fields that the kind does not have.
    unknown: Vec<String>,
    warnings: Vec<String>,
}

// === impl FieldValidation ===

impl FieldValidation {
    /// Reads the parameter `fieldValidation`.
    ///
    /// # Errors
    ///
    /// 400 for any other word.
    pub fn parse(query: &Query) -> Result<Self, Failure> {
        match query.get("fieldValidation") {
            None | Some("" | "Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(Failure::bad_request(format!(
                "fieldValidation `{other}` is not Ignore, Warn or Strict"
            ))),
        }
    }
}

/// Checks a complete object; returns warnings.
///
/// # Errors
///
/// 400 for unknown fields under [`FieldValidation::Strict`], 422 with every problem.
pub fn check(
    kind: Kind,
    version: &str,
    object: &Value,
    validation: FieldValidation,
    schemas: &Schemas,
) -> Result<Vec<String>, Failure> {
    if is_deeper(object, MAX_DEPTH) {
        return Err(Failure::bad_request("the object is nested too deeply"));
    }
    let mut findings = Findings::default();
    check_metadata(kind, object, &mut findings.problems);
    match kind.istio() {
        None => kubernetes::check(kind, object, schemas, &mut findings),
        Some(istio) => check_istio(istio, object, &mut findings),
    }
    let name = name_of(object);
    if !findings.unknown.is_empty() && validation == FieldValidation::Strict {
        let list: Vec<_> = findings
            .unknown
            .iter()
            .map(|path| format!("unknown field \"{path}\""))
            .collect();
        return Err(Failure::bad_request(format!(
            "{} in version \"{version}\" cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.kind,
            list.join(", ")
        )));
    }
    if !findings.problems.0.is_empty() {
        return Err(Failure::invalid(kind, &name, &findings.problems));
    }
    let mut warnings = findings.warnings;
    if validation == FieldValidation::Warn {
        let unknown = findings.unknown.iter();
        warnings.extend(unknown.map(|path| format!("unknown field \"{path}\"")));
    }
    Ok(warnings)
}

fn check_istio(kind: IstioKind, object: &Value, findings: &mut Findings) {
    let checked = istio::check(kind, object);
    findings.problems.0.extend(checked.problems);
    findings.warnings.extend(checked.warnings);
    findings.unknown.extend(checked.unknown_fields);
}

fn check_metadata(kind: Kind, object: &Value, problems: &mut Problems) {
    let metadata = at(object, "metadata");
    let name = text(metadata, "name");
    let is_rbac = kind.group == RBAC_GROUP;
    if name.is_empty() {
        problems.push(Problem::new(
            "metadata.name",
            "",
            "given; name or generateName is required",
        ));
    } else if kind.kind == "Namespace" {
        if name.parse::<mesh_model::Namespace>().is_err() {
            problems.push(Problem::new(
                "metadata.name",
                name,
                "a DNS label (a-z, 0-9, `-`; at most 63)",
            ));
        }
    } else if is_rbac {
        // As Kubernetes: anything that can be one segment of a path.
        if name == "." || name == ".." || name.len() > 253 || name.contains(['/', '%']) {
            problems.push(Problem::new(
                "metadata.name",
                name,
                "a path segment (no `/`, no `%`; at most 253)",
            ));
        }
    } else if name.parse::<mesh_model::ServiceAccount>().is_err() {
        problems.push(Problem::new(
            "metadata.name",
            name,
            "a DNS subdomain (labels of a-z, 0-9, `-`, joined by `.`; at most 253)",
        ));
    }
    check_map(metadata, "labels", problems, |value| {
        is_label_value(value).then_some(()).ok_or("a label value (a-z, A-Z, 0-9, `-`, `_`, `.`; at most 63; begins and ends with a letter or digit)")
    });
    check_map(metadata, "annotations", problems, |_| Ok(()));
    let size: usize = at(metadata, "annotations")
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > MAX_ANNOTATIONS {
        problems.push(Problem::new(
            "metadata.annotations",
            format!("{size} bytes"),
            format!("at most {MAX_ANNOTATIONS} bytes"),
        ));
    }
    match at(metadata, "finalizers") {
        Value::Null => {}
        Value::Array(list) => {
            for (index, finalizer) in list.iter().enumerate() {
                let text = finalizer.as_str().unwrap_or_default();
                if !is_qualified(text) {
                    problems.push(Problem::new(
                        format!("metadata.finalizers[{index}]"),
                        finalizer.to_string(),
                        "a qualified name",
                    ));
                }
            }
        }
        other => problems.push(Problem::new(
            "metadata.finalizers",
            other.to_string(),
            "a list of strings",
        )),
    }
}

fn check_map(
    metadata: &Value,
    field: &str,
    problems: &mut Problems,
    check: impl Fn(&str) -> Result<(), &'static str>,
) {
    let path = format!("metadata.{field}");
    let map = match &metadata[field] {
        Value::Null => return,
        Value::Object(map) => map,
        other => {
            problems.push(Problem::new(path, other.to_string(), "a map of strings"));
            return;
        }
    };
    for (key, value) in map {
        if !is_qualified(key) {
            problems.push(Problem::new(
                format!("{path}[{key}]"),
                key.clone(),
                "a qualified name (optional DNS subdomain and `/`, then at most 63 of a-z, A-Z, 0-9, `-`, `_`, `.`)",
            ));
        }
        match value.as_str().map(&check) {
            Some(Ok(())) => {}
            Some(Err(expected)) => problems.push(Problem::new(
                format!("{path}[{key}]"),
                value.as_str().unwrap_or_default(),
                expected,
            )),
            None => problems.push(Problem::new(
                format!("{path}[{key}]"),
                value.to_string(),
                "a string",
            )),
        }
    }
}

/// A key of labels and annotations: `[prefix/]name`.
fn is_qualified(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let has_prefix = prefix.is_none_or(|prefix| {
        // Annotations may have capitals in the prefix.
        prefix
            .to_ascii_lowercase()
            .parse::<mesh_model::ServiceAccount>()
            .is_ok()
    });
    has_prefix && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    value.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// All annotations of an object together, bytes; Kubernetes' limit.
const MAX_ANNOTATIONS: usize = 256 * 1024;
