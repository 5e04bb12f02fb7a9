//! Exit codes of `mesh`, and the one error type of its verbs.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Everything was done.
pub(crate) const OK: u8 = 0;
/// It failed.
pub(crate) const FAILURE: u8 = 1;
/// The command line or a file given on it is wrong.
pub(crate) const USAGE: u8 = 2;
/// What is there differs from what should be.
pub(crate) const DRIFT: u8 = 3;
/// This machine cannot do it.
pub(crate) const UNSUPPORTED: u8 = 4;
/// It would be dangerous, and was not asked for with the flag that says so.
pub(crate) const REFUSED: u8 = 5;
/// Packets did not go where the rules should send them.
pub(crate) const PROBE: u8 = 6;

/// Why a verb did not do what it was asked, with the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

/// What a verb gives back.
pub(crate) type Outcome = Result<ExitCode, Failure>;

impl Failure {
    /// A failure with exit code [`FAILURE`].
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            code: FAILURE,
            message: message.into(),
            hint: None,
        }
    }

    /// A mistake of the caller's.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            ..Self::new(message)
        }
    }

    /// An error with all its causes.
    pub(crate) fn of(error: &dyn Error) -> Self {
        Self::new(chain(error))
    }

    /// An error with all its causes, after what was being done.
    pub(crate) fn doing(what: impl fmt::Display, error: &dyn Error) -> Self {
        Self::new(format!("{what}: {}", chain(error)))
    }

    /// Sets the exit code.
    #[must_use]
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what to do about it, where an error knows.
    #[must_use]
    pub(crate) fn with_hint_of(self, hint: Option<&str>) -> Self {
        match hint {
            Some(hint) => self.with_hint(hint),
            None => self,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An error and its causes, each once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some libraries repeat the cause in their own message.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
