//! Labels as Kubernetes has them: keys and values by which things are selected.

use std::collections::BTreeMap;

use crate::{Problems, name};

/// What a key of a label is.
pub const KEY_EXPECTED: &str = "a label key (an optional DNS subdomain and `/`, then 1 to 63 of \
     letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit)";

/// What a value of a label is.
pub const VALUE_EXPECTED: &str = "a label value (at most 63 of letters, digits, `-`, `_`, `.`, \
     beginning and ending with a letter or digit, or empty)";

/// Whether `text` is a key of a label: `tier`, `app.kubernetes.io/name`.
///
/// Source: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>.
///
/// ```
/// # use mesh_model::label;
/// assert!(label::is_key("app.kubernetes.io/name"));
/// assert!(!label::is_key("-tier"));
/// ```
pub fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, rest)) => name::is_subdomain(prefix) && is_word(rest),
        None => is_word(text),
    }
}

/// Whether `text` is a value of a label, which may be empty.
pub fn is_value(text: &str) -> bool {
    text.is_empty() || is_word(text)
}

/// Adds what is wrong with keys and values, with paths `path[key]`.
pub fn validate(labels: &BTreeMap<String, String>, path: &str, problems: &mut Problems) {
    for (key, value) in labels {
        if !is_key(key) {
            problems.add(path, key, KEY_EXPECTED);
        }
        if !is_value(value) {
            problems.add(format!("{path}[{key}]"), value, VALUE_EXPECTED);
        }
    }
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_an_optional_prefix_and_a_word() {
        let long = "a".repeat(63);
        for key in ["a", "A.b_c-1", "istio.io/rev", "a.b/c", long.as_str()] {
            assert!(is_key(key), "{key}");
        }
        let longer = "a".repeat(64);
        for key in [
            "",
            "/a",
            "a/",
            "a/b/c",
            "A/b",
            "a b",
            "-a",
            "a-",
            "\u{e4}",
            longer.as_str(),
        ] {
            assert!(!is_key(key), "{key}");
        }
    }

    #[test]
    fn every_wrong_label_is_named() {
        let labels = BTreeMap::from([
            ("good".to_owned(), String::new()),
            ("bad key".to_owned(), "bad value".to_owned()),
        ]);
        let mut problems = Problems::default();
        validate(&labels, "labels", &mut problems);
        let paths: Vec<_> = problems.0.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, ["labels", "labels[bad key]"]);
    }
}
