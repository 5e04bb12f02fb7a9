//! The forms of PATCH.

use http::HeaderMap;
use json_patch::PatchOperation;
use serde_json::Value;

use super::body::MAX_BODY;
use super::json::{MAX_DEPTH, is_deeper};
use super::kind::Kind;
use super::status::Failure;

mod strategic;

/// What a PATCH wants, read but not yet applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Patch {
    /// RFC 7386: fields to set, null to remove.
    Merge(Value),
    /// RFC 6902: a list of operations.
    Json(Vec<PatchOperation>),
    /// Kubernetes' own: as merge, but some lists are merged by a key.
    Strategic(Value),
}

/// Server-side apply means owners of each field, conflicts between them, and a record of both in
/// `metadata.managedFields`; without those it would silently take fields from others.
const NO_SERVER_SIDE_APPLY: &str = "server-side apply is not served here; use `kubectl apply` \
    without `--server-side`, or a patch of application/merge-patch+json";

// === impl Patch ===
impl Patch {
    /// Reads a body by its media type.
    ///
    /// # Errors
    ///
    /// 415 for a form that is not served for the kind, 400 if the body is not of its form.
    pub(crate) fn parse(headers: &HeaderMap, body: &[u8], kind: Kind) -> Result<Self, Failure> {
        let media_type = super::body::media_type(headers);
        match media_type.as_str() {
            "application/merge-patch+json" => {
                let value = super::body::json(body)?;
                if !value.is_object() {
                    return Err(Failure::bad_request("a merge patch must be an object"));
                }
                Ok(Self::Merge(value))
            }
            "application/json-patch+json" => {
                let operations: Vec<PatchOperation> = serde_json::from_slice(body)
                    .map_err(|error| Failure::bad_request(format!("json patch: {error}")))?;
                if operations.len() > MAX_OPERATIONS {
                    return Err(Failure::bad_request(format!(
                        "json patch: {} operations, at most {MAX_OPERATIONS} are allowed",
                        operations.len()
                    )));
                }
                Ok(Self::Json(operations))
            }
            "application/strategic-merge-patch+json" if kind.istio().is_none() => {
                let value = super::body::json(body)?;
                if !value.is_object() {
                    return Err(Failure::bad_request(
                        "a strategic merge patch must be an object",
                    ));
                }
                Ok(Self::Strategic(value))
            }
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => Err(
                Failure::unsupported_media_type_because(&media_type, NO_SERVER_SIDE_APPLY),
            ),
            other => {
                let accepted = if kind.istio().is_some() {
                    "application/json-patch+json, application/merge-patch+json"
                } else {
                    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
                };
                Err(Failure::unsupported_media_type(other, accepted))
            }
        }
    }

    /// The object after the patch.
    ///
    /// # Errors
    ///
    /// 422 if it cannot be applied to this object.
    pub(crate) fn apply(&self, object: &Value, kind: Kind) -> Result<Value, Failure> {
        let mut object = object.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Json(operations) => apply_json(&mut object, operations, kind)?,
            Self::Strategic(patch) => strategic::merge(&mut object, patch, kind)?,
        }
        Ok(object)
    }
}

/// One operation after another, because copies double and moves nest: what an operation would carry is measured
/// before it is done.
fn apply_json(
    object: &mut Value,
    operations: &[PatchOperation],
    kind: Kind,
) -> Result<(), Failure> {
    let name = super::objects::name_of(object);
    let mut carried = 0;
    for operation in operations {
        let value = match operation {
            PatchOperation::Add(add) => Some(&add.value),
            PatchOperation::Replace(replace) => Some(&replace.value),
            PatchOperation::Copy(copy) => object.pointer(copy.from.as_str()),
            PatchOperation::Move(carry) => object.pointer(carry.from.as_str()),
            _ => None,
        };
        if let Some(value) = value {
            let depth = operation.path().as_str().matches('/').count();
            if is_deeper(value, MAX_DEPTH.saturating_sub(depth)) {
                return Err(Failure::bad_request(
                    "the patch nests the object too deeply",
                ));
            }
        }
        if let PatchOperation::Copy(_) | PatchOperation::Move(_) = operation {
            carried += value.map_or(0, |value| value.to_string().len());
            if carried > MAX_BODY {
                return Err(Failure::too_large(MAX_BODY));
            }
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|error| {
            let problem = mesh_model::Problem::new("", error.to_string(), "applicable");
            Failure::invalid(kind, &name, &problem.into())
        })?;
    }
    Ok(())
}

/// Bounds the work of one request, as Kubernetes does.
const MAX_OPERATIONS: usize = 10_000;
