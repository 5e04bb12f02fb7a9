//! Validated names: parsed once at the edge, passed inward as proof.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Problem;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Problem;

            fn from_str(text: &str) -> Result<Self, Problem> {
                if $check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Problem::new("", text, $expected))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Problem;

            fn try_from(text: String) -> Result<Self, Problem> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A namespace: a DNS label (RFC 1123).
    ///
    /// ```
    /// # use mesh_model::Namespace;
    /// assert_eq!("shop".parse::<Namespace>().unwrap().as_str(), "shop");
    /// assert!("Shop".parse::<Namespace>().is_err());
    /// ```
    Namespace, is_label, "a DNS label (a-z, 0-9, `-`; at most 63)"
}

name! {
    /// The name of a service account: a DNS subdomain (RFC 1123), as Kubernetes has it.
    ServiceAccount, is_subdomain, "a DNS subdomain (labels of a-z, 0-9, `-`, joined by `.`; at most 253)"
}

name! {
    /// The short name of a service, the first label of its host: a DNS label (RFC 1123).
    ServiceName, is_label, "a DNS label (a-z, 0-9, `-`; at most 63)"
}

name! {
    /// A fully qualified host name, lower case, possibly with a leading `*.` label.
    Host, is_host, "a host name (DNS labels joined by `.`, the first may be `*`; at most 253)"
}

name! {
    /// The id of one running instance, the same in every registry that knows it:
    /// allocation and group on Nomad, container id on Docker, `<namespace>/<name>` elsewhere.
    WorkloadId, is_workload_id, "a workload id (1 to 128 of a-z, 0-9, `.`, `_`, `-`, `/`)"
}

impl Namespace {
    /// Our own namespace, of control plane objects and accounts.
    pub fn mesh_system() -> Self {
        Self("mesh-system".to_owned())
    }

    /// The root namespace: Istio's policies in it hold for the whole mesh.
    pub fn root() -> Self {
        Self("istio-system".to_owned())
    }
}

impl Host {
    /// The host of a service in the mesh: `<service>.<namespace>.mesh`.
    pub fn of_service(service: &ServiceName, namespace: &Namespace) -> Self {
        Self(format!("{service}.{namespace}.mesh"))
    }
}

pub(crate) fn is_label(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A domain name as Istio takes it in its kinds: either case, at most 255.
pub(crate) fn is_domain(text: &str) -> bool {
    text.len() <= 255 && text.split('.').all(is_label_of_either_case)
}

/// The same, and the first label may be `*` or begin with `*`.
pub(crate) fn is_wildcard_domain(text: &str) -> bool {
    let (first, rest) = text.split_once('.').unwrap_or((text, ""));
    let first_is_right = match first.strip_prefix('*') {
        Some(after) => {
            let after = after.strip_prefix('-').unwrap_or(after);
            first == "*" || is_label_of_either_case(after)
        }
        None => is_label_of_either_case(first),
    };
    let dotted = first.len() < text.len();
    text.len() <= 255 && first_is_right && (!dotted || rest.split('.').all(is_label_of_either_case))
}

fn is_label_of_either_case(text: &str) -> bool {
    is_label(&text.to_ascii_lowercase())
}

fn is_host(text: &str) -> bool {
    text.len() <= 253 && is_subdomain(text.strip_prefix("*.").unwrap_or(text))
}

fn is_workload_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_dns() {
        let long = "a".repeat(63);
        for text in ["a", "0", "a-b", "a--b", long.as_str()] {
            assert!(text.parse::<Namespace>().is_ok(), "{text}");
            assert!(text.parse::<ServiceName>().is_ok(), "{text}");
        }
        let longer = "a".repeat(64);
        for text in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "a b",
            "\u{e4}",
            longer.as_str(),
        ] {
            assert!(text.parse::<Namespace>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_may_begin_with_a_star_and_has_at_most_253_characters() {
        let long = [
            &"a".repeat(63),
            &"b".repeat(63),
            &"c".repeat(63),
            &"d".repeat(61),
        ]
        .map(String::as_str)
        .join(".");
        assert_eq!(long.len(), 253);
        for text in ["a", "a.b", "*.a", "*.a.b", "10.0.0.1", long.as_str()] {
            assert!(text.parse::<Host>().is_ok(), "{text}");
        }
        let longer = format!("{long}d");
        for text in [
            "",
            "*",
            "*a",
            "a.*",
            "*.*.a",
            "a..b",
            ".a",
            "a.",
            "A.b",
            longer.as_str(),
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn istios_domains_have_either_case_and_stars_in_the_first_label() {
        for text in ["*", "*.a", "*a", "*-a.b", "A.b", "a"] {
            assert!(is_wildcard_domain(text), "{text}");
        }
        for text in ["", "**", "*.*", "a.*", "a*", "*.", "*--", "a..b", "a_b"] {
            assert!(!is_wildcard_domain(text), "{text}");
        }
        assert!(is_domain("A.b") && !is_domain("*.b") && !is_domain(""));
    }

    #[test]
    fn a_name_is_checked_when_it_is_read_from_json() {
        let error = serde_json::from_str::<Namespace>("\"a b\"").unwrap_err();
        assert!(
            error.to_string().contains("`a b` is not a DNS label"),
            "{error}"
        );
        let host: Host = serde_json::from_str("\"a.b\"").unwrap();
        assert_eq!(serde_json::to_string(&host).unwrap(), "\"a.b\"");
    }

    #[test]
    fn a_workload_id_is_what_registries_have() {
        for text in ["shop/web-1", "0b6e4c1a-72/reviews", "f00d"] {
            assert!(text.parse::<WorkloadId>().is_ok(), "{text}");
        }
        for text in ["", "A", "a b", "a\n"] {
            assert!(text.parse::<WorkloadId>().is_err(), "{text:?}");
        }
    }
}
