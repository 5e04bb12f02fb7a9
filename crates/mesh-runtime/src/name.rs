//! Names of networks, groups and units: parsed once, then safe as a file name and in a cgroup path.

use std::borrow::Borrow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use mesh_model::{Namespace, Problem, ServiceName};
use serde::{Deserialize, Serialize};

/// Name of a network, a group or a unit: labels of `a-z`, `0-9`, `-`, joined by `.`.
///
/// ```
/// # use mesh_runtime::Name;
/// assert_eq!("shop.web".parse::<Name>().unwrap().as_str(), "shop.web");
/// assert!("../web".parse::<Name>().is_err());
/// ```
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that the source spells out; the tests of the callers parse it back.
    pub(crate) fn literal(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// `<name>` in the namespace `default`, else `<name>.<namespace>`: one to one, since neither
    /// part has a dot.
    pub(crate) fn of_workload(name: &ServiceName, namespace: &Namespace) -> Self {
        match namespace.as_str() {
            "default" => Self(name.to_string()),
            namespace => Self(format!("{name}.{namespace}")),
        }
    }
}

impl FromStr for Name {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_label = |label: &str| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(alphanumeric)
                && bytes.last().is_some_and(alphanumeric)
                && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        };
        // 128: two DNS labels and a dot fit, and so does every file name made from it.
        if text.len() <= 128 && text.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Problem::new(
                "",
                text,
                "a name (labels of a-z, 0-9, `-`, joined by `.`; at most 128)",
            ))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
