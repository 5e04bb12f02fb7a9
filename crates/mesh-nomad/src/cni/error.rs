//! Errors as the protocol has them.

use serde_json::{Value, json};

/// What kind of error it is; the runtime decides by it whether to try again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Code {
    /// The version of the protocol is not spoken.
    IncompatibleVersion = 1,
    /// The namespace is not there.
    UnknownContainer = 3,
    /// A variable is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading failed.
    Io = 5,
    /// The configuration is no JSON.
    Undecodable = 6,
    /// The configuration cannot be.
    InvalidConfig = 7,
    /// ADD could not work here.
    Unavailable = 50,
    /// The rules could not be set. The protocol leaves numbers from 100 to plugins.
    Rules = 100,
}

/// An error of the plugin.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}{}{details}", if details.is_empty() { "" } else { ": " })]
#[non_exhaustive]
pub struct CniError {
    /// What kind.
    pub code: Code,
    /// What happened, in a line.
    pub message: String,
    /// Why, or what to do; may be empty.
    pub details: String,
}

impl CniError {
    /// An error with what there is to say.
    pub fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: details.into(),
        }
    }

    /// What is printed on standard output, in the version that the caller speaks.
    pub fn to_json(&self, version: &str) -> Value {
        let version = if version.is_empty() { "1.0.0" } else { version };
        let mut value = json!({
            "cniVersion": version,
            "code": self.code as u32,
            "msg": self.message,
        });
        if let (Value::Object(map), false) = (&mut value, self.details.is_empty()) {
            map.insert("details".to_owned(), self.details.as_str().into());
        }
        value
    }
}
