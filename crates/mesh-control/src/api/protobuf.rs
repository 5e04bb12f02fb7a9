//! The one place where Kubernetes' binary form is read: reviews posted by typed clients, as `kubectl auth can-i`.
//!
//! Everything else is JSON; so are the answers, which these clients accept.

use mesh_proto::kubernetes::{
    AccessReview, SelfSubjectRulesReview, TokenRequest, TokenReview, Unknown,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::status::Failure;

/// The media type of the binary form.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// A posted review as the JSON it stands for.
///
/// # Errors
///
/// 400 if it is not one, 415 for any other kind.
pub(super) fn read_review(content: &[u8]) -> Result<Value, Failure> {
    let malformed = |what: &str| {
        Failure::bad_request(format!("the body could not be parsed as protobuf: {what}"))
    };
    let envelope = content
        .strip_prefix(MAGIC)
        .ok_or_else(|| malformed("the first bytes are not `k8s\\0`"))?;
    let Unknown { type_meta, raw, .. } =
        Unknown::decode(envelope).map_err(|error| malformed(&error.to_string()))?;
    let kind = type_meta.unwrap_or_default().kind;
    let spec = match kind.as_str() {
        "SelfSubjectAccessReview" | "SubjectAccessReview" => {
            let review = decode::<AccessReview>(&raw)?.spec.unwrap_or_default();
            let mut spec = json!({
                "user": review.user,
                "groups": review.groups,
                "uid": review.uid,
            });
            if let Some(resource) = review.resource_attributes {
                spec["resourceAttributes"] = json!({
                    "namespace": resource.namespace,
                    "verb": resource.verb,
                    "group": resource.group,
                    "version": resource.version,
                    "resource": resource.resource,
                    "subresource": resource.subresource,
                    "name": resource.name,
                });
            }
            if let Some(path) = review.non_resource_attributes {
                spec["nonResourceAttributes"] = json!({"path": path.path, "verb": path.verb});
            }
            spec
        }
        "SelfSubjectRulesReview" => {
            let review = decode::<SelfSubjectRulesReview>(&raw)?;
            json!({"namespace": review.spec.unwrap_or_default().namespace})
        }
        "SelfSubjectReview" => json!({}),
        "TokenReview" => {
            let spec = decode::<TokenReview>(&raw)?.spec.unwrap_or_default();
            json!({"token": spec.token, "audiences": spec.audiences})
        }
        "TokenRequest" => {
            let spec = decode::<TokenRequest>(&raw)?.spec.unwrap_or_default();
            json!({"audiences": spec.audiences, "expirationSeconds": spec.expiration_seconds})
        }
        other => {
            let found = format!("{MEDIA_TYPE} of kind {other}");
            return Err(Failure::unsupported_media_type(&found, "application/json"));
        }
    };
    Ok(json!({"spec": spec}))
}

fn decode<M: prost::Message + Default>(raw: &[u8]) -> Result<M, Failure> {
    M::decode(raw).map_err(|error| {
        Failure::bad_request(format!("the body could not be parsed as protobuf: {error}"))
    })
}

/// What the binary form begins with.
const MAGIC: &[u8] = b"k8s\0";
