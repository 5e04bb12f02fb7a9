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
