//! What a runtime tells: groups with their addresses, units with their state.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{GroupSpec, Name};

/// A group as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Group {
    /// What was asked for.
    pub spec: GroupSpec,
    /// Its addresses, unless it is attached to the host.
    pub addresses: Option<Addresses>,
    /// Its network namespace, a path that `setns` takes, unless it is attached to the host.
    pub namespace: Option<PathBuf>,
    /// A directory of its own for files of its units; gone with the group.
    pub directory: PathBuf,
    /// When its redirect rules were set, in milliseconds since 1970 (UTC).
    pub rules_applied_at_millis: Option<u64>,
}

/// The addresses of a group, one of each family, and the way out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Its default gateways: the host.
    pub gateways: (Ipv4Addr, Ipv6Addr),
}

/// A group with the state of its units.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The group.
    pub group: Group,
    /// Its units, by name.
    pub units: Vec<UnitStatus>,
}

/// A unit as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct UnitStatus {
    /// Its name.
    pub name: Name,
    /// What it does now.
    pub state: UnitState,
    /// Whether it can be used.
    pub ready: bool,
    /// How often its supervisor started the command again.
    pub restarts: u32,
    /// When the command started last, in milliseconds since 1970 (UTC).
    pub started_at_millis: Option<u64>,
    /// When it was ready first since then, in milliseconds since 1970 (UTC).
    pub ready_at_millis: Option<u64>,
}

/// What a unit does now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum UnitState {
    /// It was never started.
    Created,
    /// Its supervisor is there, its command not yet.
    Starting,
    /// Its command runs.
    Running {
        /// Process id of the command.
        pid: u32,
    },
    /// Its command ended and is started again after a while.
    Waiting {
        /// How it ended.
        exit: Exit,
    },
    /// Its command ended and stays ended.
    Finished {
        /// How it ended.
        exit: Exit,
    },
    /// It was stopped.
    Stopped,
    /// Its command could not be started.
    Failed {
        /// Why.
        reason: String,
    },
    /// Its supervisor is gone without a word: killed, or the machine was restarted.
    Lost {
        /// The processes that it left behind; the next start ends them.
        left_behind: Vec<u32>,
    },
}

/// What a unit uses of the machine.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct UnitStats {
    /// Time on processors since its processes started.
    pub cpu: Duration,
    /// Memory that it holds now, in bytes.
    pub memory_bytes: u64,
    /// How many processes it has.
    pub processes: u64,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// With a code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

// === impl Addresses ===

impl Addresses {
    /// Both addresses, IPv4 first.
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

// === impl UnitState ===

impl UnitState {
    /// Whether somebody takes care of it: its command runs or is about to.
    pub fn is_active(&self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Running { .. } | Self::Waiting { .. }
        )
    }
}

impl fmt::Display for UnitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Starting => f.write_str("starting"),
            Self::Running { pid } => write!(f, "running as process {pid}"),
            Self::Waiting { exit } => write!(f, "waiting to start again after {exit}"),
            Self::Finished { exit } => write!(f, "finished with {exit}"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed { reason } => write!(f, "failed: {reason}"),
            Self::Lost { left_behind } if left_behind.is_empty() => f.write_str("lost"),
            Self::Lost { left_behind } => write!(f, "lost, processes left: {left_behind:?}"),
        }
    }
}

// === impl Exit ===

impl Exit {
    /// Whether it ended well.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
