//! The one place where Kubernetes' binary form is read: what typed clients post, as `kubectl auth can-i` and
//! `kubectl create configmap`.
//!
//! Everything else is JSON; so are the answers, which these clients accept.

use mesh_proto::kubernetes::{
    AccessReview, SelfSubjectRulesReview, TokenRequest, TokenReview, TypeMeta, Unknown,
};
use serde_json::{Value, json};

use super::json::set;
use super::status::Failure;

mod object;

/// The media type of the binary form.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// A posted object or review as the JSON it stands for.
///
/// # Errors
///
/// 400 if it is malformed, 415 for a kind that is read in JSON only.
pub(super) fn read(content: &[u8]) -> Result<Value, Failure> {
    let envelope = content.strip_prefix(MAGIC).ok_or_else(|| {
        Failure::bad_request(
            "the body could not be parsed as protobuf: the first bytes are not `k8s\\0`",
        )
    })?;
    let Unknown { type_meta, raw, .. } = decode(envelope)?;
    let TypeMeta { api_version, kind } = type_meta.unwrap_or_default();
    let found = match read_review(&kind, &raw)? {
        Some(spec) => Some(json!({"spec": spec})),
        None => object::read(&kind, &raw)?,
    };
    let Some(mut value) = found else {
        let found = format!("{MEDIA_TYPE} of kind {kind}");
        return Err(Failure::unsupported_media_type(&found, "application/json"));
    };
    set(&mut value, "apiVersion", api_version);
    set(&mut value, "kind", kind);
    Ok(value)
}

/// The question of a review; none if it is of another kind.
fn read_review(kind: &str, raw: &[u8]) -> Result<Option<Value>, Failure> {
    Ok(Some(match kind {
        "SelfSubjectAccessReview" | "SubjectAccessReview" => {
            let review = decode::<AccessReview>(raw)?.spec.unwrap_or_default();
            let mut spec = json!({
                "user": review.user,
                "groups": review.groups,
                "uid": review.uid,
            });
            if let Some(resource) = review.resource_attributes {
                set(
                    &mut spec,
                    "resourceAttributes",
                    json!({
                        "namespace": resource.namespace,
                        "verb": resource.verb,
                        "group": resource.group,
                        "version": resource.version,
                        "resource": resource.resource,
                        "subresource": resource.subresource,
                        "name": resource.name,
                    }),
                );
            }
            if let Some(path) = review.non_resource_attributes {
                set(
                    &mut spec,
                    "nonResourceAttributes",
                    json!({"path": path.path, "verb": path.verb}),
                );
            }
            spec
        }
        "SelfSubjectRulesReview" => {
            let review = decode::<SelfSubjectRulesReview>(raw)?;
            json!({"namespace": review.spec.unwrap_or_default().namespace})
        }
        "SelfSubjectReview" => json!({}),
        "TokenReview" => {
            let spec = decode::<TokenReview>(raw)?.spec.unwrap_or_default();
            json!({"token": spec.token, "audiences": spec.audiences})
        }
        "TokenRequest" => {
            let spec = decode::<TokenRequest>(raw)?.spec.unwrap_or_default();
            json!({"audiences": spec.audiences, "expirationSeconds": spec.expiration_seconds})
        }
        _ => return Ok(None),
    }))
}

fn decode<M: prost::Message + Default>(raw: &[u8]) -> Result<M, Failure> {
    M::decode(raw).map_err(|error| {
        Failure::bad_request(format!("the body could not be parsed as protobuf: {error}"))
    })
}

/// What the binary form begins with.
const MAGIC: &[u8] = b"k8s\0";
