//! Why a job is not injected, or an install not begun: all reasons at once.

use std::fmt;

/// One reason why a job is not injected, or an install not begun.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Refusal {
    /// What it is about, as `TaskGroups[web].Tasks[app].User` in a job, or `job mesh-api` of a
    /// cluster.
    pub path: String,
    /// What was found and why it cannot be, without a final period.
    pub reason: String,
    /// What to do about it; empty if nothing can be done.
    pub hint: String,
}

/// Every reason; never empty when it is an error.
#[derive(Clone, Debug, Default, Eq, PartialEq, thiserror::Error)]
pub struct Refusals(pub Vec<Refusal>);

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

// === impl Refusals ===

impl Refusals {
    pub(crate) fn add(
        &mut self,
        path: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.0.push(Refusal {
            path: path.into(),
            reason: reason.into(),
            hint: hint.into(),
        });
    }

    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Refusals {
    /// One line each, the hint in parentheses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            refusal.fmt(f)?;
            if !refusal.hint.is_empty() {
                write!(f, " (hint: {})", refusal.hint)?;
            }
        }
        Ok(())
    }
}
