//! What is wrong with a policy: the field, the value found, what was expected.

use std::fmt;

/// One thing that is wrong with a policy.
///
/// ```
/// # use mesh_netfilter::Problem;
/// let problem = Problem::new("proxy.uids[0]", "-1", "a user id");
/// assert_eq!(problem.to_string(), "proxy.uids[0]: `-1` is not a user id");
/// ```
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Problem {
    /// Path of the field, as in `inbound.capture.ports.only[1]`; empty for a value on its own.
    pub path: String,
    /// The value found, as it was written.
    pub value: String,
    /// What was expected, as a noun phrase.
    pub expected: String,
}

/// Everything that is wrong with a policy, all at once; never empty when it is an error.
#[derive(Clone, Debug, Default, Eq, PartialEq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "`{}` is not {}", self.value, self.expected)
    }
}

// === impl Problems ===

impl Problems {
    /// Adds one more.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// `value` if nothing was found wrong, else the problems.
    ///
    /// # Errors
    /// The problems, if there is one.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
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
