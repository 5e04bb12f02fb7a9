//! A request as decisions look at it, and matches of its parts.

use std::collections::BTreeMap;

use crate::istio::{Matcher, StringMatch};
use crate::pattern::Pattern;

/// A request of HTTP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpRequest {
    /// `http` or `https`.
    pub scheme: String,
    /// The method, in upper case.
    pub method: String,
    /// The host that is asked for, with the port if the client wrote one.
    pub authority: String,
    /// The path, normalised as the proxy does it, with its query.
    pub path: String,
    /// Headers by their names in lower case; several values of one are joined by commas.
    pub headers: BTreeMap<String, String>,
}

/// `GET /` of nothing in particular, to be made more exact.
impl Default for HttpRequest {
    fn default() -> Self {
        Self {
            scheme: "http".to_owned(),
            method: "GET".to_owned(),
            authority: String::new(),
            path: "/".to_owned(),
            headers: BTreeMap::new(),
        }
    }
}

// === impl HttpRequest ===

impl HttpRequest {
    /// The path without query and fragment.
    pub fn path_only(&self) -> &str {
        self.path.split(['?', '#']).next().unwrap_or_default()
    }

    /// The value of a header, or of one of HTTP/2's pseudo headers; names have no case.
    pub fn header(&self, name: &str) -> Option<&str> {
        match name {
            ":method" => Some(&self.method),
            ":scheme" => Some(&self.scheme),
            ":authority" => Some(&self.authority),
            ":path" => Some(&self.path),
            name => self
                .headers
                .get(&name.to_ascii_lowercase())
                .map(String::as_str),
        }
    }

    /// The first value of a parameter of the query, as it is written; empty when it has none.
    pub fn query_param(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        let query = query.split('#').next().unwrap_or_default();
        query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find_map(|(key, value)| (key == name).then_some(value))
    }
}

// === impl StringMatch ===

impl StringMatch {
    /// Whether it matches a value; an absent one never does.
    ///
    /// An expression that RE2 does not take matches nothing.
    pub fn matches(&self, value: Option<&str>) -> bool {
        value.is_some_and(|value| match self.matcher() {
            Matcher::Present => true,
            Matcher::Exact(text) => value == text,
            Matcher::Prefix(text) => value.starts_with(text),
            Matcher::Regex(text) => text
                .parse::<Pattern>()
                .is_ok_and(|pattern| pattern.matches(value)),
        })
    }

    /// The same without regard to case of ASCII, but for expressions, which say it themselves.
    pub fn matches_any_case(&self, value: Option<&str>) -> bool {
        match self.matcher() {
            Matcher::Present | Matcher::Regex(_) => self.matches(value),
            Matcher::Exact(text) => value.is_some_and(|value| value.eq_ignore_ascii_case(text)),
            Matcher::Prefix(text) => value.is_some_and(|value| {
                value
                    .get(..text.len())
                    .is_some_and(|beginning| beginning.eq_ignore_ascii_case(text))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_request_are_found() {
        let request = HttpRequest {
            path: "/a/b?x=1&y&x=2&%41=3#end".to_owned(),
            headers: BTreeMap::from([("x-user".to_owned(), "jason".to_owned())]),
            ..HttpRequest::default()
        };
        assert_eq!(request.path_only(), "/a/b");
        assert_eq!(request.query_param("x"), Some("1"));
        assert_eq!(request.query_param("y"), Some(""));
        assert_eq!(request.query_param("%41"), Some("3"));
        assert_eq!(request.query_param("A"), None);
        assert_eq!(request.header("X-User"), Some("jason"));
        assert_eq!(request.header(":method"), Some("GET"));
        assert_eq!(HttpRequest::default().query_param("x"), None);
    }

    #[test]
    fn a_match_without_a_way_asks_for_presence() {
        let present = StringMatch::default();
        assert!(present.matches(Some("")) && !present.matches(None));
        let prefix = StringMatch {
            prefix: Some("/A".to_owned()),
            ..StringMatch::default()
        };
        assert!(prefix.matches(Some("/Ab")) && !prefix.matches(Some("/ab")));
        assert!(prefix.matches_any_case(Some("/ab")) && !prefix.matches_any_case(Some("/")));
        let broken = StringMatch {
            regex: Some("(".to_owned()),
            ..StringMatch::default()
        };
        assert!(!broken.matches(Some("(")));
    }
}
