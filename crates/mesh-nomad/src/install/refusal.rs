//! Why an install is not begun.

use std::fmt;

/// One reason, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Refusal {
    /// What it is about, as `job mesh-api`.
    pub place: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub hint: String,
}

/// All reasons.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Refusals(pub Vec<Refusal>);

impl Refusals {
    pub(super) fn add(
        &mut self,
        place: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.0.push(Refusal {
            place: place.into(),
            found: found.into(),
            hint: hint.into(),
        });
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.found, self.hint)
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            refusal.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusals {}
