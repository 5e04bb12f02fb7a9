//! What validation collects on its way, and the checks that several kinds share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::read::cut;
use super::{Duration, StringMatch, WorkloadSelector};
use crate::{Problems, label, name, pattern::Pattern};

/// What validation collects: problems, which refuse an object, and warnings, which do not.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) problems: Problems,
    pub(super) warnings: Vec<String>,
}

pub(super) const WILDCARD_HOST: &str =
    "a host name (DNS labels joined by `.`, the first may begin with `*`; at most 255)";
pub(super) const PORT: &str = "a port between 1 and 65535";
pub(super) const PERCENT: &str = "a percentage: 0, or from 0.0001 to 100";
pub(super) const LABEL: &str = "a DNS label (a-z, 0-9, `-`; at most 63)";
pub(super) const ADDRESS: &str = "an IP address";
pub(super) const NETWORK: &str = "an IP address, or a network as in `10.0.0.0/8`";

/// Envoy's limit for the name and the value of a header that is set, in bytes.
pub(super) const LONGEST_HEADER: usize = 16_384;

/// A token of HTTP. Source: RFC 9110, section 5.6.2.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

impl Report {
    /// Refuses the value at `path`.
    pub(super) fn wrong(
        &mut self,
        path: impl Into<String>,
        value: &str,
        expected: impl Into<String>,
    ) {
        self.problems.add(path, cut(value), expected);
    }

    /// Refuses what stands at `path`, unless `right`.
    pub(super) fn demand(
        &mut self,
        right: bool,
        path: impl Into<String>,
        value: &str,
        expected: impl Into<String>,
    ) {
        if !right {
            self.wrong(path, value, expected);
        }
    }

    /// Says what may surprise about what stands at `path`.
    pub(super) fn warn(&mut self, path: &str, text: &str) {
        self.warnings.push(format!("{path}: {text}"));
    }

    /// A list or a text that is not longer than Istio's definition of its kind allows.
    pub(super) fn limit(&mut self, path: impl Into<String>, found: usize, most: usize) {
        if found > most {
            self.wrong(
                path,
                &found.to_string(),
                format!("a length of at most {most}"),
            );
        }
    }

    /// A host that may have a `*` in its first label, as Istio takes it.
    pub(super) fn wildcard_host(&mut self, path: &str, host: &str) {
        self.demand(name::is_wildcard_domain(host), path, host, WILDCARD_HOST);
    }

    pub(super) fn label(&mut self, path: &str, text: &str) {
        self.demand(name::is_label(text), path, text, LABEL);
    }

    /// A port that must not be 0.
    pub(super) fn port(&mut self, path: &str, port: u16) {
        self.demand(port != 0, path, "0", PORT);
    }

    /// A length of time that Envoy can keep: at least a millisecond, in whole milliseconds.
    pub(super) fn duration(&mut self, path: &str, duration: Option<Duration>) {
        let Some(duration) = duration else { return };
        let whole = duration.as_std().subsec_nanos() % 1_000_000 == 0;
        self.demand(
            duration >= Duration::SHORTEST && whole,
            path,
            &duration.to_string(),
            "a duration of at least 1ms, in whole milliseconds",
        );
    }

    /// A share in percent; smaller ones than Envoy can tell from 0 are refused, as by Istio.
    pub(super) fn percent(&mut self, path: &str, percent: Option<f64>) {
        let Some(percent) = percent else { return };
        self.demand(
            percent == 0.0 || (0.0001..=100.0).contains(&percent),
            path,
            &percent.to_string(),
            PERCENT,
        );
    }

    pub(super) fn labels(&mut self, path: &str, labels: &BTreeMap<String, String>) {
        label::validate(labels, path, &mut self.problems);
    }

    /// A regular expression that Envoy takes.
    pub(super) fn regex(&mut self, path: &str, regex: &str) {
        if let Err(problem) = regex.parse::<Pattern>() {
            self.wrong(path, regex, problem.expected);
        }
    }

    /// Text that becomes part of a request or a header: Envoy takes no control characters there,
    /// and no more than 16 KiB.
    pub(super) fn header_text(&mut self, path: &str, text: &str) {
        let control = text.bytes().any(|b| b != b'\t' && b.is_ascii_control());
        self.demand(!control, path, text, "text without control characters");
        self.limit(path, text.len(), LONGEST_HEADER);
    }

    /// The name of a header: a token of HTTP. Source: RFC 9110, section 5.6.2.
    pub(super) fn header_name(&mut self, path: &str, name: &str) {
        self.demand(is_token(name), path, name, "the name of a header");
        self.limit(path, name.len(), LONGEST_HEADER);
    }

    /// A match of a string: at most one way, and not one that is empty.
    pub(super) fn string_match(&mut self, path: &str, string: &StringMatch) {
        let StringMatch {
            exact,
            prefix,
            regex,
        } = string;
        let ways = [exact.is_some(), prefix.is_some(), regex.is_some()];
        if ways.iter().filter(|way| **way).count() > 1 {
            self.wrong(path, "more than one", "one of `exact`, `prefix`, `regex`");
        }
        if prefix.as_deref() == Some("") {
            self.wrong(format!("{path}.prefix"), "", "a prefix that is not empty");
        }
        match regex.as_deref() {
            Some("") => self.wrong(format!("{path}.regex"), "", "a regular expression"),
            Some(regex) => self.regex(&format!("{path}.regex"), regex),
            None => {}
        }
    }

    /// The namespaces that an object is exported to; `~` is nobody, for a ServiceEntry.
    pub(super) fn export_to(&mut self, namespace: &str, export_to: &[String], nobody: bool) {
        let mut seen = BTreeSet::new();
        for (index, target) in export_to.iter().enumerate() {
            let path = format!("spec.exportTo[{index}]");
            let all = target == "*" || target == "~" && nobody;
            if !(all || target == "." || name::is_label(target)) {
                self.wrong(path, target, "`.`, `*` or a namespace");
            } else if all && export_to.len() > 1 {
                self.wrong(path, target, "a value that can stand beside others");
            } else if !seen.insert(if target == "." { namespace } else { target }) {
                self.wrong(path, target, "a namespace that is not named before");
            }
        }
    }

    /// A selector of workloads by labels.
    pub(super) fn selector(&mut self, selector: Option<&WorkloadSelector>) {
        let Some(selector) = selector else { return };
        self.labels("spec.selector.matchLabels", &selector.match_labels);
        self.limit(
            "spec.selector.matchLabels",
            selector.match_labels.len(),
            4096,
        );
        if selector.match_labels.is_empty() {
            self.warn("spec.selector", "has no labels and selects every workload");
        }
    }

    /// An address, or a network in the form of CIDR.
    pub(super) fn network(&mut self, path: &str, text: &str) {
        let right = text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok();
        self.demand(right, path, text, NETWORK);
    }
}
