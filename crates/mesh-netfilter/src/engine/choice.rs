//! Choice: which backend an engine uses, and why.

use std::fmt;

use super::EngineError;
use crate::Backend;

/// Why an engine uses the backend that it uses.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Reason {
    /// It was asked for.
    Asked,
    /// It is the first that works here; those before it do not.
    Detected {
        /// Those that were tried before it.
        unusable: Vec<Unusable>,
    },
}

/// A backend that does not work here.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Unusable {
    /// The backend.
    pub backend: Backend,
    /// Why not.
    pub why: String,
}

// === impl Reason, Unusable ===

impl Unusable {
    /// With every cause of the error.
    pub(super) fn new(backend: Backend, error: &EngineError) -> Self {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            why.push_str(": ");
            why.push_str(&error.to_string());
            cause = error.source();
        }
        Self { backend, why }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("it was asked for"),
            Self::Detected { unusable } if unusable.is_empty() => {
                f.write_str("it is the preferred one, and it works here")
            }
            Self::Detected { unusable } => {
                f.write_str("it works here")?;
                for unusable in unusable {
                    write!(f, "; {unusable}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not: {}", self.backend, self.why)
    }
}
