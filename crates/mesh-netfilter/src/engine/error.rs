//! What can go wrong between a plan and the kernel.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Unusable;
use crate::{Backend, Family};

/// What can go wrong between a plan and the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The network namespace could not be opened.
    #[error("cannot open network namespace `{netns}`")]
    OpenNamespace {
        /// As it was asked for.
        netns: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The network namespace could not be entered.
    #[error("cannot enter network namespace `{netns}`")]
    EnterNamespace {
        /// As it was asked for.
        netns: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The network namespace is the host's own.
    #[error("network namespace `{netns}` is the host's own")]
    HostNetwork {
        /// As it was asked for.
        netns: String,
    },
    /// The network namespace is the host's own, and the plan captures what anybody sends.
    #[error(
        "`identities`: network namespace `{netns}` is the host's own, and the plan does not say whose connections it captures"
    )]
    HostIdentities {
        /// As it was asked for.
        netns: String,
    },
    /// Rules that undo themselves are not possible with this backend.
    #[error(
        "rules that are undone unless they are confirmed need backend `netlink`, not `{backend}`"
    )]
    Unconfirmable {
        /// The backend.
        backend: Backend,
    },
    /// It is not to be known whether the network namespace is the host's own.
    #[error("cannot tell whether network namespace `{netns}` is the host's own: `{}` is unreadable", path.display())]
    HostUnknown {
        /// As it was asked for.
        netns: String,
        /// What had to be read.
        path: PathBuf,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
    /// No backend works, or not the one that was asked for.
    #[error("no backend for network namespace `{netns}`: {}", listed(unusable))]
    Unusable {
        /// As it was asked for.
        netns: String,
        /// Those that were tried, and why they do not work.
        unusable: Vec<Unusable>,
    },
    /// What a plan depends on could not be read.
    #[error("cannot read `{}`, on which the rules depend", path.display())]
    Facts {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// This program was built without the backend.
    #[error("this program was built without backend `{backend}`")]
    NotBuilt {
        /// The backend.
        backend: Backend,
    },
    /// The plan cannot be said in the words of iptables.
    #[error("the plan cannot be said in the words of iptables")]
    Iptables {
        /// What cannot.
        #[from]
        source: crate::IptablesError,
    },
    /// A program that the backend needs is not there.
    #[error("`{program}` is not in PATH")]
    MissingTool {
        /// Its name.
        program: String,
    },
    /// A program could not be run.
    #[error("cannot {operation} `{program}`")]
    Tool {
        /// Its name.
        program: String,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A program refused.
    #[error("`{program}` failed with {status}: {said}")]
    ToolFailed {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
    },
    /// The answer of `iptables-save` was not understood.
    #[error("`iptables-save` printed a line that this version does not understand: `{line}`")]
    ToolOutput {
        /// The line.
        line: String,
    },
    /// The rules of one family could not be written. The families before it got back what they
    /// had, but for those that are left.
    #[error("the rules for {} could not be written, {}", family_name(*family), left_words(left))]
    Partial {
        /// The family that failed.
        family: Family,
        /// The families that are neither as before nor as planned.
        left: Vec<Family>,
        /// Why it failed.
        #[source]
        source: Box<Self>,
    },
    /// The lock of the namespace could not be taken.
    #[error("cannot lock the network namespace with `{}`", path.display())]
    Lock {
        /// What had to be opened.
        path: PathBuf,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
    /// The thread for the namespace could not be started.
    #[error("cannot start a thread for the network namespace")]
    Thread(#[source] io::Error),
    /// The netlink socket failed.
    #[error("cannot {operation} the netlink socket of netfilter")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a transaction, and nothing has changed.
    #[error("the kernel refused {}", Rejection::list(rejections))]
    Rejected {
        /// Each message that it refused.
        rejections: Vec<Rejection>,
    },
    /// The kernel refused to tell the rules.
    #[error("the kernel refused to list {what}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer was not understood.
    #[error("the kernel's answer about {what} is not one that this version understands")]
    Answer {
        /// What was asked for.
        what: &'static str,
    },
    /// Others changed rules all the time.
    #[error("others change netfilter rules faster than they can be read")]
    Busy,
    /// A policy rule, a route or an address could not be added or removed.
    #[error("the kernel refused `{what}`")]
    Local {
        /// It, as `ip` would add it.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A probe could not be made.
    #[error("cannot probe: {step} failed")]
    Probe {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Changes of rules could not be watched.
    #[error("cannot subscribe to changes of netfilter rules")]
    Watch {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The rules are as they were asked for, but stale DNS flows could not be forgotten.
    #[error("the rules are in place, but stale DNS flows could not be forgotten")]
    Conntrack {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// One message of a transaction that the kernel refused.
#[derive(Debug)]
pub struct Rejection {
    /// What the message was about, in words.
    pub object: String,
    /// What the kernel said.
    pub error: io::Error,
}

// The numbers of `errno.h`, which on Linux are the same for every architecture that Rust has but
// those of MIPS and SPARC for the last four.
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ERESTART: i32 = 85;
const EPROTONOSUPPORT: i32 = 93;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn left_words(left: &[Family]) -> String {
    if left.is_empty() {
        return "and everything is as it was".to_owned();
    }
    let names: Vec<&str> = left.iter().copied().map(family_name).collect();
    format!("and those for {} are half done", names.join(" and "))
}

fn listed(unusable: &[Unusable]) -> String {
    let words: Vec<String> = unusable.iter().map(ToString::to_string).collect();
    words.join("; ")
}

// === impl EngineError ===

impl EngineError {
    /// What the operator can do about it, if anything.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MissingTool { .. } => {
                return Some(
                    "install iptables with this variant, or use backend `netlink`, which needs no \
                     program",
                );
            }
            Self::Iptables { .. } | Self::NotBuilt { .. } => {
                return Some("use backend `netlink`, which can do it all");
            }
            Self::Partial { source, .. } => return source.hint(),
            _ => {}
        }
        if self.is_not_permitted() {
            return Some(
                "run as root, or with CAP_NET_ADMIN (and CAP_SYS_ADMIN for another namespace)",
            );
        }
        if self.is_unsupported() {
            return Some("a kernel of 5.2 or later with nf_tables and NAT is needed");
        }
        match self {
            Self::HostIdentities { .. } => Some("name the users or groups that are to be captured"),
            Self::Unconfirmable { .. } => Some("use backend `netlink`"),
            Self::HostNetwork { .. } => Some(
                "name the workload's namespace; if the host itself is meant, allow it explicitly, \
                 and mind ssh",
            ),
            Self::HostUnknown { .. } => {
                Some("mount /proc, or allow the host's namespace explicitly")
            }
            Self::OpenNamespace { .. } => {
                Some("give a name that `ip netns` lists, a path, or `pid:N`")
            }
            Self::Busy => Some("try again when other programs are done with the firewall"),
            _ => None,
        }
    }

    /// Whether a capability is missing.
    pub fn is_not_permitted(&self) -> bool {
        self.codes().any(|code| code == EPERM)
    }

    /// Whether this kernel cannot do it at all.
    pub fn is_unsupported(&self) -> bool {
        let unsupported = |code| [EPROTONOSUPPORT, EOPNOTSUPP, EAFNOSUPPORT].contains(&code);
        match self {
            Self::Socket { .. } | Self::List { .. } => self.codes().any(unsupported),
            // An unknown type of chain or expression is "no such entry" to nf_tables.
            Self::NotBuilt { .. }
            | Self::Unusable { .. }
            | Self::Iptables { .. }
            | Self::MissingTool { .. } => true,
            Self::Rejected { .. } => self.codes().any(|code| unsupported(code) || code == ENOENT),
            _ => false,
        }
    }

    /// Whether the kernel refused because rules changed since they were read.
    pub(super) fn is_outdated(&self) -> bool {
        matches!(self, Self::Rejected { .. }) && self.codes().any(|code| code == ERESTART)
    }

    /// Whether the kernel refused because a table was there already.
    pub(super) fn is_exists(&self) -> bool {
        matches!(self, Self::Rejected { .. }) && self.codes().any(|code| code == EEXIST)
    }

    /// The kernel's error numbers in this error.
    fn codes(&self) -> impl Iterator<Item = i32> {
        let (one, many): (Option<&io::Error>, &[Rejection]) = match self {
            Self::OpenNamespace { source, .. }
            | Self::EnterNamespace { source, .. }
            | Self::HostUnknown { source, .. }
            | Self::Facts { source, .. }
            | Self::Tool { source, .. }
            | Self::Lock { source, .. }
            | Self::Thread(source)
            | Self::Socket { source, .. }
            | Self::List { source, .. }
            | Self::Local { source, .. }
            | Self::Probe { source, .. }
            | Self::Watch { source }
            | Self::Conntrack { source } => (Some(source), &[]),
            Self::Rejected { rejections } => (None, rejections),
            // The rest does not come from the kernel.
            _ => (None, &[]),
        };
        one.into_iter()
            .chain(many.iter().map(|rejection| &rejection.error))
            .filter_map(io::Error::raw_os_error)
    }
}

// === impl Rejection ===

impl Rejection {
    /// The first three in words, and how many more.
    fn list(rejections: &[Self]) -> String {
        const SHOWN: usize = 3;
        let shown: Vec<String> = rejections
            .iter()
            .take(SHOWN)
            .map(ToString::to_string)
            .collect();
        let rest = rejections.len().saturating_sub(SHOWN);
        let more = if rest > 0 {
            format!("; and {rest} more")
        } else {
            String::new()
        };
        format!("{}{more}", shown.join("; "))
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.error)
    }
}
