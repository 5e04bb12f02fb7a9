//! Parts that several kinds share: matches of strings, selectors, references to ports.

use std::collections::BTreeMap;

use super::message::message;

message! {
    /// How a string is matched: exactly one of the fields; none matches any value that is there.
    pub struct StringMatch {
        /// The whole string, as it is.
        pub exact: Option<String>,
        /// Its beginning.
        pub prefix: Option<String>,
        /// The whole string, as a regular expression in the syntax of RE2.
        pub regex: Option<String>,
    }

    /// Selects workloads by their labels.
    pub struct WorkloadSelector {
        /// Labels that a workload must have, each with this value; none selects every workload.
        pub match_labels: BTreeMap<String, String>,
    }

    /// A port by its number.
    pub struct PortSelector {
        /// The number.
        pub number: u16,
    }

    /// A share in percent.
    #[derive(Copy)]
    pub struct Percent {
        /// From 0 to 100; 0.1 is one in a thousand.
        pub value: f64,
    }
}

/// What a [`StringMatch`] says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Matcher<'a> {
    /// Any value that is there.
    Present,
    /// The whole string.
    Exact(&'a str),
    /// Its beginning.
    Prefix(&'a str),
    /// The whole string, as a regular expression.
    Regex(&'a str),
}

impl StringMatch {
    /// What it says; the first of exact, prefix, regex that is there.
    pub fn matcher(&self) -> Matcher<'_> {
        match self {
            Self {
                exact: Some(text), ..
            } => Matcher::Exact(text),
            Self {
                prefix: Some(text), ..
            } => Matcher::Prefix(text),
            Self {
                regex: Some(text), ..
            } => Matcher::Regex(text),
            _ => Matcher::Present,
        }
    }
}

impl WorkloadSelector {
    /// Whether a workload with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}
