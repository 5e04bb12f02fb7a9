//! What can go wrong between a plan and the kernel.

use std::fmt;
use std::io;
use std::path::PathBuf;

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
const EPROTONOSUPPORT: i32 = 93;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;

// === impl EngineError ===

impl EngineError {
    /// What the operator can do about it, if anything.
    pub fn hint(&self) -> Option<&'static str> {
        if self.is_not_permitted() {
            return Some(
                "run as root, or with CAP_NET_ADMIN (and CAP_SYS_ADMIN for another namespace)",
            );
        }
        if self.is_unsupported() {
            return Some("a kernel of 5.2 or later with nf_tables and NAT is needed");
        }
        match self {
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
            Self::Rejected { .. } => self.codes().any(|code| unsupported(code) || code == ENOENT),
            _ => false,
        }
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
            | Self::Thread(source)
            | Self::Socket { source, .. }
            | Self::List { source, .. }
            | Self::Conntrack { source } => (Some(source), &[]),
            Self::Rejected { rejections } => (None, rejections),
            Self::HostNetwork { .. } | Self::Answer { .. } | Self::Busy => (None, &[]),
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
