//! What is wrong with an input: the field, the value, what was expected.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong with an input.
///
/// ```
/// # use mesh_model::Problem;
/// let problem = Problem::new("spec.hosts[0]", "a b", "a host name");
/// assert_eq!(problem.to_string(), "spec.hosts[0]: `a b` is not a host name");
/// let missing = Problem::new("spec.host", "", "a host name");
/// assert_eq!(missing.to_string(), "spec.host: found nothing, expected a host name");
/// ```
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Problem {
    /// Path of the field, as in `spec.http[0].route[1].weight`.
    pub path: String,
    /// The value found, as the user wrote it; empty when there was none.
    pub value: String,
    /// What was expected, as a noun phrase: "a port between 1 and 65535".
    pub expected: String,
}

/// Everything that is wrong with an input, all at once; never empty when it is an error.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

// === impl Problem ===

impl Problem {
    /// A problem of the value at `path`.
    pub fn new(
        path: impl Into<String>,
        value: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            value: value.into(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        if self.value.is_empty() {
            write!(f, "found nothing, expected {}", self.expected)
        } else {
            write!(f, "`{}` is not {}", self.value, self.expected)
        }
    }
}

impl std::error::Error for Problem {}

// === impl Problems ===

impl Problems {
    /// Adds one more.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Adds the problem of the value at `path`.
    pub fn add(
        &mut self,
        path: impl Into<String>,
        value: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.push(Problem::new(path, value, expected));
    }

    /// `value` if nothing was found wrong, else the problems.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
