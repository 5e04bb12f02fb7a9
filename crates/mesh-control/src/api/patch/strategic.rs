//! Strategic merge patch, as far as the served kinds of Kubernetes need it.
//!
//! Of their lists only a few are merged by a key; every other list is replaced. The directives `$patch`,
//! `$retainKeys`, `$deleteFromPrimitiveList/…` and `$setElementOrder/…` are understood.
//! Source: Kubernetes, "strategic-merge-patch" in its API conventions.

use serde_json::{Map, Value};

use crate::api::kind::Kind;
use crate::api::status::Failure;

/// Applies a patch to an object.
pub(super) fn merge(object: &mut Value, patch: &Value, kind: Kind) -> Result<(), Failure> {
    merge_value(object, patch, kind, "", 0)
}

fn merge_value(
    target: &mut Value,
    patch: &Value,
    kind: Kind,
    field_path: &str,
    depth: usize,
) -> Result<(), Failure> {
    if depth > MAX_DEPTH {
        return Err(Failure::bad_request("the patch is nested too deeply"));
    }
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = Value::Object(without_directives(patch));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Null;
            return Ok(());
        }
        Some(other) => {
            return Err(Failure::bad_request(format!(
                "`$patch: {other}` is not merge, replace or delete"
            )));
        }
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else {
        return Ok(());
    };
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|key, _| kept.iter().any(|kept| kept == key.as_str()));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(list)), Some(gone)) = (map.get_mut(field), value.as_array()) {
                list.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        let below = if field_path.is_empty() {
            key.clone()
        } else {
            format!("{field_path}.{key}")
        };
        match value {
            Value::Null => {
                map.remove(key);
            }
            Value::Array(items) => {
                let slot = map.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                match merged_list(kind, &below) {
                    Some(list) => merge_list(slot, items, list, kind, &below, depth)?,
                    None => *slot = value.clone(),
                }
            }
            Value::Object(_) => {
                let slot = map.entry(key).or_insert(Value::Null);
                merge_value(slot, value, kind, &below, depth + 1)?;
                if slot.is_null() {
                    map.remove(key);
                }
            }
            scalar => {
                map.insert(key.clone(), scalar.clone());
            }
        }
    }
    Ok(())
}

/// How a list is merged.
#[derive(Clone, Copy)]
enum List {
    /// Objects with the same value of this field are one.
    ByKey(&'static str),
    /// Equal values are one.
    Values,
}

/// The lists that are merged; all others are replaced.
fn merged_list(kind: Kind, field_path: &str) -> Option<List> {
    match (kind.kind, field_path) {
        (_, "metadata.ownerReferences") => Some(List::ByKey("uid")),
        (_, "metadata.finalizers") => Some(List::Values),
        ("ServiceAccount", "secrets" | "imagePullSecrets") => Some(List::ByKey("name")),
        ("Namespace", "status.conditions") => Some(List::ByKey("type")),
        _ => None,
    }
}

fn merge_list(
    target: &mut Value,
    items: &[Value],
    list: List,
    kind: Kind,
    field_path: &str,
    depth: usize,
) -> Result<(), Failure> {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Some(found) = target.as_array_mut() else {
        return Ok(());
    };
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str) == Some("replace");
    if items.iter().any(directive) {
        *found = items
            .iter()
            .filter(|item| !directive(item))
            .cloned()
            .collect();
        return Ok(());
    }
    for item in items {
        match list {
            List::Values => {
                if !found.contains(item) {
                    found.push(item.clone());
                }
            }
            List::ByKey(key) => {
                let Some(id) = item.get(key).filter(|id| !id.is_null()) else {
                    return Err(Failure::bad_request(format!(
                        "an item of `{field_path}` in the patch has no `{key}`, by which the list is merged"
                    )));
                };
                let place = found.iter().position(|other| other.get(key) == Some(id));
                if item.get("$patch").and_then(Value::as_str) == Some("delete") {
                    found.retain(|other| other.get(key) != Some(id));
                } else if let Some(old) = place.and_then(|place| found.get_mut(place)) {
                    merge_value(old, item, kind, field_path, depth + 1)?;
                } else {
                    found.push(item.clone());
                }
            }
        }
    }
    Ok(())
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(key, value)| !key.starts_with('$') && !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Deeper than any object of Kubernetes; the JSON parser allows as much.
const MAX_DEPTH: usize = 128;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(plural: &str, mut object: Value, patch: &Value) -> Value {
        let kind = Kind::find("", "v1", plural).unwrap();
        merge(&mut object, patch, kind).unwrap();
        object
    }

    #[test]
    fn fields_are_set_and_removed() {
        let object = patched(
            "configmaps",
            json!({"data": {"a": "1", "b": "2"}}),
            &json!({"data": {"a": null, "c": "3"}}),
        );
        assert_eq!(object, json!({"data": {"b": "2", "c": "3"}}));
    }

    #[test]
    fn a_list_with_a_key_is_merged_by_it() {
        let object = patched(
            "serviceaccounts",
            json!({"secrets": [{"name": "a", "x": 1}, {"name": "b"}]}),
            &json!({
                "$setElementOrder/secrets": [{"name": "a"}, {"name": "c"}],
                "secrets": [{"name": "a", "y": 2}, {"name": "c"}, {"name": "b", "$patch": "delete"}]
            }),
        );
        assert_eq!(
            object,
            json!({"secrets": [{"name": "a", "x": 1, "y": 2}, {"name": "c"}]})
        );
    }

    #[test]
    fn finalizers_are_a_set() {
        let object = patched(
            "configmaps",
            json!({"metadata": {"finalizers": ["a/b", "c/d"]}}),
            &json!({"metadata": {
                "$deleteFromPrimitiveList/finalizers": ["a/b"],
                "finalizers": ["c/d", "e/f"]
            }}),
        );
        assert_eq!(object, json!({"metadata": {"finalizers": ["c/d", "e/f"]}}));
    }

    #[test]
    fn other_lists_are_replaced() {
        let kind = Kind::find(crate::api::kind::RBAC_GROUP, "v1", "roles").unwrap();
        let mut object = json!({"rules": [{"verbs": ["get"]}]});
        merge(&mut object, &json!({"rules": [{"verbs": ["list"]}]}), kind).unwrap();
        assert_eq!(object, json!({"rules": [{"verbs": ["list"]}]}));
    }

    #[test]
    fn a_part_can_be_replaced_whole() {
        let object = patched(
            "configmaps",
            json!({"data": {"a": "1"}}),
            &json!({"data": {"$patch": "replace", "b": "2"}}),
        );
        assert_eq!(object, json!({"data": {"b": "2"}}));
    }
}
