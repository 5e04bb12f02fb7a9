//! What can go wrong in a runtime.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use mesh_model::Problems;

use crate::{Name, UnitState};

/// What can go wrong in a runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// What was asked for is not valid.
    #[error("{subject} is not valid: {problems}")]
    Invalid {
        /// What was asked for.
        subject: String,
        /// Everything that is wrong with it.
        problems: Problems,
    },
    /// There is no such thing.
    #[error("there is no {kind} `{name}`")]
    NotFound {
        /// `network`, `group`, `unit` or `image`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// There is one of that name already, and it is another one.
    #[error("{kind} `{name}` exists and was asked for differently")]
    Differs {
        /// `network`, `group` or `unit`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It cannot go while something needs it.
    #[error("{kind} `{name}` is in use by {by}")]
    InUse {
        /// `network`, `unit`, `address` or `port`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What needs it.
        by: String,
    },
    /// This runtime cannot do what was asked for.
    #[error("the {engine} engine has no {what}")]
    Unsupported {
        /// Which runtime.
        engine: &'static str,
        /// What it has not.
        what: String,
    },
    /// Something of somebody else has the name.
    #[error("{kind} `{name}` exists and is not this engine's")]
    NameTaken {
        /// `container` or `network`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The daemon does not answer.
    #[error("no container daemon answers at `{}`", socket.display())]
    NoDaemon {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon is older than this engine can work with.
    #[error("the container daemon speaks API {found}, and {needed} or later is needed")]
    OldDaemon {
        /// The newest API version that it speaks.
        found: String,
        /// The oldest that will do.
        needed: &'static str,
    },
    /// The daemon refused or failed.
    #[error("the container daemon failed to {action}")]
    Daemon {
        /// What it was asked, with the names involved.
        action: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon has no room left for images and containers.
    #[error("the container daemon has no space left to {action}")]
    DiskFull {
        /// What it was asked, with the names involved.
        action: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The subnet of a network overlaps with what the host already has.
    #[error("subnet `{subnet}` overlaps with {with}")]
    SubnetClash {
        /// The subnet that was asked for.
        subnet: String,
        /// The address or route that is there, and its link.
        with: String,
    },
    /// A link of that name exists, and this engine did not make it.
    #[error("link `{link}` exists and is not this engine's")]
    LinkTaken {
        /// Name of the link.
        link: String,
    },
    /// All addresses of a network are given away.
    #[error("network `{network}` has no free address")]
    NoAddress {
        /// The network.
        network: Name,
    },
    /// A file of a unit is outside the directory of its group.
    #[error("`{}` is not inside the directory of the group, `{}`", path.display(), directory.display())]
    Outside {
        /// The path that was asked for.
        path: PathBuf,
        /// Where it had to be.
        directory: PathBuf,
    },
    /// The user of a unit cannot get at its files.
    #[error("user {uid} cannot pass through directory `{}` (mode {mode:04o})", directory.display())]
    Unreachable {
        /// The user.
        uid: u32,
        /// The first directory that it cannot pass through.
        directory: PathBuf,
        /// The mode of that directory.
        mode: u32,
    },
    /// A supervisor could not start its unit.
    #[error("unit `{unit}` of group `{group}` did not start: {reason}")]
    NotStarted {
        /// The group.
        group: Name,
        /// The unit.
        unit: Name,
        /// What the supervisor said.
        reason: String,
    },
    /// A unit was not ready in time.
    #[error("unit `{unit}` of group `{group}` was not ready after {waited:?}; it is {state}")]
    NotReady {
        /// The group.
        group: Name,
        /// The unit.
        unit: Name,
        /// How long it was waited for.
        waited: Duration,
        /// Its state at the end.
        state: UnitState,
    },
    /// A unit ended while somebody waited for more.
    #[error("unit `{unit}` of group `{group}` ended early; it is {state}")]
    Ended {
        /// The group.
        group: Name,
        /// The unit.
        unit: Name,
        /// Its state.
        state: UnitState,
    },
    /// The redirect rules of a group could not be set.
    #[error("redirect rules of group `{group}` could not be set")]
    Redirect {
        /// The group.
        group: Name,
        /// Why.
        #[source]
        source: mesh_netfilter::EngineError,
    },
    /// A system call failed.
    #[error("failed to {action}")]
    System {
        /// What was tried, with the names involved.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A record of the engine cannot be read.
    #[error("record `{}` is damaged", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Not everything could be removed.
    #[error("{} things could not be removed: {}", errors.len(), list(errors))]
    Removal {
        /// What went wrong, in the order of trying.
        errors: Vec<Self>,
    },
}

impl RuntimeError {
    /// Makes an error of what is wrong with something that has a name.
    pub(crate) fn invalid(kind: &'static str, name: &Name) -> impl FnOnce(Problems) -> Self {
        move |problems| Self::Invalid {
            subject: format!("{kind} `{name}`"),
            problems,
        }
    }

    /// What the operator can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::SubnetClash { .. } => Some("choose other subnets for the network"),
            Self::NotFound { kind: "image", .. } => Some("pull it, or import it"),
            Self::NameTaken { .. } => Some("remove it, or choose another owner for the engine"),
            Self::NoDaemon { .. } => {
                Some("start the daemon (`systemctl start docker`), or name its socket")
            }
            Self::OldDaemon { .. } => Some("upgrade it: Docker 20.10 and podman 4 will do"),
            Self::DiskFull { .. } => Some(
                "free some below the engine's directory; for Docker, `docker system df` shows it",
            ),
            Self::InUse { kind: "port", .. } => Some("publish another port, or stop who has it"),
            Self::LinkTaken { .. } => {
                Some("choose another name for the bridge, or remove the link")
            }
            Self::Unreachable { .. } => Some("let others pass: chmod o+x on that directory"),
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("the process engine needs root: namespaces, links, cgroups, users")
            }
            Self::Redirect { source, .. } => source.hint(),
            Self::NotStarted { .. } | Self::NotReady { .. } | Self::Ended { .. } => {
                Some("its log tells more")
            }
            _ => None,
        }
    }

    pub(crate) fn system(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let (action, source) = (action.into(), source.into());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                action,
                source: source.into(),
            },
            _ => Self::System { action, source },
        }
    }
}

/// Each error with its causes, since a list has no single source.
fn list(errors: &[RuntimeError]) -> String {
    let chain = |error: &RuntimeError| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            text.push_str(": ");
            text.push_str(&next.to_string());
            cause = next.source();
        }
        text
    };
    errors.iter().map(chain).collect::<Vec<_>>().join("; ")
}
