//! Which objects a list or watch wants: label selectors and field selectors.

use std::str::FromStr;

use serde_json::Value;

use super::json::at;
use super::kind::Kind;
use super::request::Query;
use super::status::Failure;

/// What an object must be to be wanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selector {
    labels: Vec<Requirement>,
    /// Path of the field, wanted value, whether it must be equal.
    fields: Vec<(String, String, bool)>,
}

/// One term of a label selector.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

// === impl Selector ===

impl Selector {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    ///
    /// 400 if one cannot be understood or names a field that cannot be selected by.
    pub fn parse(query: &Query, kind: Kind) -> Result<Self, Failure> {
        let labels = match query.get("labelSelector") {
            Some(text) => split_terms(text)
                .into_iter()
                .map(|term| {
                    term.parse().map_err(|()| {
                        Failure::bad_request(format!(
                            "unable to parse requirement `{term}` of the label selector"
                        ))
                    })
                })
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let fields = match query.get("fieldSelector") {
            Some(text) => text
                .split(',')
                .filter(|term| !term.trim().is_empty())
                .map(|term| parse_field(term.trim(), kind))
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        Ok(Self { labels, fields })
    }

    /// Whether everything is wanted.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object is wanted.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = at(object, "metadata.labels");
        let label = |key: &str| labels.get(key).and_then(Value::as_str);
        self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|found| values.iter().any(|value| value == found))
            }
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|found| values.iter().all(|value| value != found))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
        }) && self.fields.iter().all(|(path, wanted, must_equal)| {
            let found = path
                .split('.')
                .try_fold(object, |value, part| value.get(part));
            let found = found.and_then(Value::as_str).unwrap_or_default();
            (found == wanted) == *must_equal
        })
    }
}

impl FromStr for Requirement {
    type Err = ();

    fn from_str(term: &str) -> Result<Self, ()> {
        let key = |text: &str| {
            let text = text.trim();
            let is_key = !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
            is_key.then(|| text.to_owned()).ok_or(())
        };
        if let Some(rest) = term.strip_prefix('!') {
            return Ok(Self::Missing(key(rest)?));
        }
        if let Some((name, value)) = term.split_once("!=") {
            return Ok(Self::NotIn(key(name)?, vec![value.trim().to_owned()]));
        }
        if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            return Ok(Self::In(key(name)?, vec![value.trim().to_owned()]));
        }
        let Some((head, values)) = term.split_once('(') else {
            return Ok(Self::Exists(key(term)?));
        };
        let values = values.trim().strip_suffix(')').ok_or(())?;
        let values = values
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect();
        let mut words = head.split_whitespace();
        let name = key(words.next().ok_or(())?)?;
        match (words.next(), words.next()) {
            (Some("in"), None) => Ok(Self::In(name, values)),
            (Some("notin"), None) => Ok(Self::NotIn(name, values)),
            _ => Err(()),
        }
    }
}

/// Splits at commas outside of parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|term| !term.is_empty())
    .collect()
}

fn parse_field(term: &str, kind: Kind) -> Result<(String, String, bool), Failure> {
    let (path, value, must_equal) = if let Some((path, value)) = term.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (path, value, true)
    } else {
        return Err(Failure::bad_request(format!(
            "invalid field selector `{term}`, expected `field=value` or `field!=value`"
        )));
    };
    let is_known = match path {
        "metadata.name" => true,
        "metadata.namespace" => kind.namespaced,
        other => fields_of(kind).contains(&other),
    };
    if !is_known {
        return Err(Failure::bad_request(format!(
            "field label not supported: {path}"
        )));
    }
    Ok((path.to_owned(), value.to_owned(), must_equal))
}

/// What else than name and namespace a kind can be selected by, as in Kubernetes.
fn fields_of(kind: Kind) -> &'static [&'static str] {
    match kind.kind {
        "Namespace" => &["status.phase"],
        "Secret" => &["type"],
        "Event" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::api::request::Call;

    fn matches(query: &str, object: &Value) -> bool {
        let uri = format!("/api/v1/namespaces?{query}").parse().unwrap();
        let call = Call::parse(&Method::GET, &uri).unwrap();
        Selector::parse(&call.query, Kind::namespace())
            .unwrap()
            .matches(object)
    }

    #[test]
    fn labels_are_compared_as_kubernetes_does() {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}}});
        for (selector, expected) in [
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=web", false),
            ("other!=x", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("app+in+(web,db)", true),
            ("app+notin+(web,db)", false),
            ("tier+in+(back),app=web", false),
        ] {
            let query = format!("labelSelector={selector}");
            assert_eq!(matches(&query, &object), expected, "{selector}");
        }
    }

    #[test]
    fn fields_are_compared_by_path() {
        let object = json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}});
        assert!(matches("fieldSelector=metadata.name%3Da", &object));
        assert!(!matches("fieldSelector=metadata.name!%3Da", &object));
        assert!(matches(
            "fieldSelector=metadata.name=a,status.phase=Active",
            &object
        ));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for query in [
            "labelSelector=a%20b",
            "labelSelector=a+in+b",
            "labelSelector=(",
            "fieldSelector=metadata.name",
            "fieldSelector=spec.x=1",
        ] {
            let uri = format!("/api/v1/namespaces?{query}").parse().unwrap();
            let call = Call::parse(&Method::GET, &uri).unwrap();
            assert!(
                Selector::parse(&call.query, Kind::namespace()).is_err(),
                "{query}"
            );
        }
    }
}
