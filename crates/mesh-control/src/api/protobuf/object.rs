//! Objects in Kubernetes' binary form, as the JSON they stand for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use mesh_proto::kubernetes::{
    ConfigMap, Namespace, ObjectMeta, Role, RoleBinding, Secret, ServiceAccount,
};
use serde_json::{Map, Value, json};

use super::decode;
use crate::api::json::set;
use crate::api::status::Failure;

/// Reads an object of a kind; none for a kind that is read in JSON only.
pub(super) fn read(kind: &str, raw: &[u8]) -> Result<Option<Value>, Failure> {
    let (metadata, content) = match kind {
        "Namespace" => (decode::<Namespace>(raw)?.metadata, json!({})),
        "ServiceAccount" => (decode::<ServiceAccount>(raw)?.metadata, json!({})),
        "ConfigMap" => {
            let map = decode::<ConfigMap>(raw)?;
            let content = json!({
                "data": map.data,
                "binaryData": encoded(map.binary_data),
                "immutable": map.immutable,
            });
            (map.metadata, content)
        }
        "Secret" => {
            let secret = decode::<Secret>(raw)?;
            let content = json!({
                "data": encoded(secret.data),
                "stringData": secret.string_data,
                "type": secret.r#type,
                "immutable": secret.immutable,
            });
            (secret.metadata, content)
        }
        "Role" | "ClusterRole" => {
            let role = decode::<Role>(raw)?;
            let rules: Vec<Value> = role
                .rules
                .into_iter()
                .map(|rule| {
                    compact(json!({
                        "verbs": rule.verbs,
                        "apiGroups": rule.api_groups,
                        "resources": rule.resources,
                        "resourceNames": rule.resource_names,
                        "nonResourceURLs": rule.non_resource_urls,
                    }))
                })
                .collect();
            let aggregation = role
                .aggregation_rule
                .map(|_| json!({"clusterRoleSelectors": [{}]}));
            let content = json!({"rules": rules, "aggregationRule": aggregation});
            (role.metadata, content)
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            let binding = decode::<RoleBinding>(raw)?;
            let subjects: Vec<Value> = binding
                .subjects
                .into_iter()
                .map(|subject| {
                    compact(json!({
                        "kind": subject.kind,
                        "apiGroup": subject.api_group,
                        "name": subject.name,
                        "namespace": subject.namespace,
                    }))
                })
                .collect();
            let role = binding.role_ref.unwrap_or_default();
            let content = json!({
                "subjects": subjects,
                "roleRef": {"apiGroup": role.api_group, "kind": role.kind, "name": role.name},
            });
            (binding.metadata, content)
        }
        _ => return Ok(None),
    };
    let mut object = compact(content);
    set(
        &mut object,
        "metadata",
        metadata.as_ref().map_or_else(|| json!({}), read_metadata),
    );
    Ok(Some(object))
}

fn read_metadata(metadata: &ObjectMeta) -> Value {
    compact(json!({
        "name": metadata.name,
        "generateName": metadata.generate_name,
        "namespace": metadata.namespace,
        "uid": metadata.uid,
        "resourceVersion": metadata.resource_version,
        "labels": metadata.labels,
        "annotations": metadata.annotations,
        "finalizers": metadata.finalizers,
    }))
}

fn encoded(data: BTreeMap<String, Bytes>) -> BTreeMap<String, String> {
    data.into_iter()
        .map(|(key, value)| (key, BASE64.encode(value)))
        .collect()
}

/// Without the fields that the binary form does not tell from absent ones.
fn compact(value: Value) -> Value {
    let Value::Object(map) = value else {
        return value;
    };
    let kept: Map<String, Value> = map
        .into_iter()
        .filter(|(_, value)| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        })
        .collect();
    Value::Object(kept)
}
