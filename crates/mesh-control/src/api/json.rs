//! Reading and setting fields of JSON whose shape is not certain.

use serde_json::Value;

/// The value at a path of fields joined by `.`; null if there is none.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.')
        .try_fold(value, |value, field| value.get(field))
        .unwrap_or(&Value::Null)
}

/// The text at a path; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// Whether there is something at a path.
pub(super) fn has(value: &Value, path: &str) -> bool {
    !at(value, path).is_null()
}

/// Sets a field of an object; of anything else nothing.
pub(super) fn set(value: &mut Value, field: &str, new: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        map.insert(field.to_owned(), new.into());
    }
}

/// Whether a value is nested more deeply than `limit`; looks no deeper than that.
pub(super) fn is_deeper(value: &Value, limit: usize) -> bool {
    let Some(below) = limit.checked_sub(1) else {
        return value.is_object() || value.is_array();
    };
    match value {
        Value::Object(map) => map.values().any(|value| is_deeper(value, below)),
        Value::Array(list) => list.iter().any(|value| is_deeper(value, below)),
        _ => false,
    }
}

/// The deepest object that is stored: what the parser of stored objects reads with room for a list around it.
pub(super) const MAX_DEPTH: usize = 100;

/// What a value is, in words, where the value itself must not be told.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
