//! Injection of job files in HCL: only what changes is edited, so comments and layout stay.
//!
//! The file is read as far as injection looks at it, injected like any job, and what became
//! different is written into the text. Expressions may stand wherever injection does not look; a
//! group, network, service or task that is made by one cannot be edited, and is an error that says
//! where. Such files go through Nomad's own parser to JSON first.

mod edit;
mod read;
mod write;

use hcl_edit::structure::Body;

use self::edit::Edits;
use self::read::Reader;
use crate::inject::{self, Injection, Options, Refusals, Report};

/// An injected file, and what was done.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
#[non_exhaustive]
pub struct Injected {
    /// The file's text.
    pub text: String,
    /// What was done to each group.
    pub report: Report,
}

/// Why a file in HCL is not injected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HclError {
    /// It is not HCL.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// It holds no job, or several.
    #[error("the file has {found} `job` blocks, expected one")]
    Jobs {
        /// How many.
        found: usize,
    },
    /// What injection must look at is made by expressions.
    #[error("{}", places.join("\n"))]
    Dynamic {
        /// Where, and what was found there.
        places: Vec<String>,
    },
    /// It was injected before: the file that it was made from is the one to inject.
    #[error("group `{group}` is injected already")]
    Injected {
        /// The group.
        group: String,
    },
    /// The job cannot be injected.
    #[error(transparent)]
    Refused(#[from] Refusals),
}

impl HclError {
    /// What to do about it, if something can be done.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Dynamic { .. } => Some(
                "let Nomad's own parser make JSON of it (`nomad job run -output FILE`), and inject that",
            ),
            Self::Injected { .. } => Some("inject the file that it was made from"),
            _ => None,
        }
    }
}

/// Injects a proxy into every group of the job in `text`.
///
/// ```
/// use mesh_nomad::{hcl, inject::Options};
///
/// let text = r#"job "web" {
///   group "web" {
///     network {
///       mode = "bridge" # ours
///     }
///     task "app" {
///       driver = "exec"
///       config {
///         command = "/bin/web"
///       }
///     }
///   }
/// }
/// "#;
/// let injected = hcl::inject(text, &Options::default())?;
/// assert!(injected.text.contains("mode = \"cni/mesh\" # ours"));
/// assert!(injected.text.contains("task \"mesh-proxy\" {"));
/// # Ok::<(), hcl::HclError>(())
/// ```
///
/// # Errors
///
/// [`HclError::Syntax`] and [`HclError::Jobs`] if it is no job file, [`HclError::Dynamic`] if it
/// cannot be edited, [`HclError::Injected`] if it was injected before, and [`HclError::Refused`].
pub fn inject(text: &str, options: &Options) -> Result<Injected, HclError> {
    let body: Body = text.parse().map_err(|error: hcl_edit::parser::Error| {
        let location = error.location();
        HclError::Syntax {
            line: location.line(),
            column: location.column(),
            message: error.message().to_owned(),
        }
    })?;
    let blocks: Vec<_> = body.get_blocks("job").collect();
    let [block] = blocks.as_slice() else {
        return Err(HclError::Jobs {
            found: blocks.len(),
        });
    };
    let mut reader = Reader::new(text);
    let job = reader.job(block);
    if !reader.places.is_empty() {
        return Err(HclError::Dynamic {
            places: reader.places,
        });
    }
    if let Some(group) = job
        .task_groups
        .items()
        .iter()
        .find(|group| inject::is_injected(group))
    {
        let group = group.name.text().to_owned();
        return Err(HclError::Injected { group });
    }
    let Injection { job: after, report } = inject::inject(&job, options)?;
    let mut edits = Edits::new(text);
    let groups = block.body.get_blocks("group");
    let changes = job
        .task_groups
        .items()
        .iter()
        .zip(after.task_groups.items());
    for (block, (before, after)) in groups.zip(changes) {
        if inject::is_injected(after) {
            edits.group(block, before, after);
        }
    }
    Ok(Injected {
        text: edits.finish(),
        report,
    })
}
