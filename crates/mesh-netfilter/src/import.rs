//! Importers: policies out of the command lines and environments of other tools.
//!
//! An importer is a pure function from arguments that are split already to an [`Imported`]. It
//! gives what the tool *means*: a defect of the tool is not copied but named in a [`Remark`], and
//! so is what has no counterpart here. What would leave traffic alone that the tool captured is an
//! error, and so is every value that is not understood; all of them are reported at once.
//!
//! | tool | importer |
//! | --- | --- |
//! | `prepare_proxy.sh` of Istio 0.4 | [`prepare_proxy`] |
//! | `istio-iptables` | [`istio_iptables`] |
//!
//! A tool more is a file more in this module and a line more in this table.

mod arguments;
mod istio_iptables;
mod prepare_proxy;
mod value;

use std::fmt;

pub use self::istio_iptables::istio_iptables;
pub use self::prepare_proxy::prepare_proxy;
use crate::{Backend, Policy};

/// What a command line of another tool asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use]
pub struct Imported {
    /// What is to be done.
    pub task: Task,
    /// The network namespace that the tool was told to enter, as it was written.
    pub netns: Option<String>,
    /// The backend that the tool was told to use.
    pub backend: Option<Backend>,
    /// What is not as the tool would do it, option by option.
    pub remarks: Vec<Remark>,
}

/// What a tool was asked to do.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Task {
    /// Set the rules of this policy.
    Apply(Policy),
    /// Set the rules of this policy, then prove them with packets.
    ApplyAndProbe(Policy),
    /// Prove the rules of this policy with packets; they are there already.
    Probe(Policy),
    /// Print the rules of this policy.
    Print(Policy),
    /// Remove the rules.
    Remove,
    /// Say how the tool is used.
    Help(&'static str),
}

/// Something that is not as the tool would do it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Remark {
    /// The option or variable that it is about.
    pub option: String,
    /// In what way it is not the same.
    pub kind: RemarkKind,
    /// What is not the same, as a sentence without its end.
    pub text: &'static str,
}

/// In what way an imported policy is not as the tool would do it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum RemarkKind {
    /// It has no effect here. It had none on the rules of the tool either.
    Ignored,
    /// A defect of the tool is not copied.
    Mended,
    /// It means something else here, and no less is captured.
    Changed,
}

// === impl Imported ===

impl Imported {
    /// The policy, if the task has one.
    pub fn policy(&self) -> Option<&Policy> {
        match &self.task {
            Task::Apply(policy)
            | Task::ApplyAndProbe(policy)
            | Task::Probe(policy)
            | Task::Print(policy) => Some(policy),
            Task::Remove | Task::Help(_) => None,
        }
    }
}

// === impl Remark, RemarkKind ===

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.option, self.kind, self.text)
    }
}

impl fmt::Display for RemarkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignored => "ignored",
            Self::Mended => "mended",
            Self::Changed => "changed",
        })
    }
}
