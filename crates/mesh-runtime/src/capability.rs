//! What a command may do beyond what its user may do: Linux capabilities, by their usual names.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use mesh_model::Problem;
use serde::{Deserialize, Serialize};

macro_rules! capabilities {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// A Linux capability that a unit can keep. Source: capabilities(7).
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(try_from = "String", into = "String")]
        #[non_exhaustive]
        pub enum Capability {
            $(#[doc = concat!("`", $text, "`.")] $name,)*
        }

        impl Capability {
            /// Its number in the kernel's interface.
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            /// Its usual name, as in `CAP_NET_ADMIN`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        impl FromStr for Capability {
            type Err = Problem;

            fn from_str(text: &str) -> Result<Self, Problem> {
                match text {
                    $($text => Ok(Self::$name),)*
                    _ => Err(Problem::new("", text, "a capability, as in `CAP_NET_ADMIN`")),
                }
            }
        }
    };
}

capabilities! {
    Chown = 0, "CAP_CHOWN";
    DacOverride = 1, "CAP_DAC_OVERRIDE";
    DacReadSearch = 2, "CAP_DAC_READ_SEARCH";
    Fowner = 3, "CAP_FOWNER";
    Fsetid = 4, "CAP_FSETID";
    Kill = 5, "CAP_KILL";
    Setgid = 6, "CAP_SETGID";
    Setuid = 7, "CAP_SETUID";
    Setpcap = 8, "CAP_SETPCAP";
    NetBindService = 10, "CAP_NET_BIND_SERVICE";
    NetAdmin = 12, "CAP_NET_ADMIN";
    NetRaw = 13, "CAP_NET_RAW";
    IpcLock = 14, "CAP_IPC_LOCK";
    SysModule = 16, "CAP_SYS_MODULE";
    SysChroot = 18, "CAP_SYS_CHROOT";
    SysPtrace = 19, "CAP_SYS_PTRACE";
    SysAdmin = 21, "CAP_SYS_ADMIN";
    SysNice = 23, "CAP_SYS_NICE";
    SysResource = 24, "CAP_SYS_RESOURCE";
    Mknod = 27, "CAP_MKNOD";
    AuditWrite = 29, "CAP_AUDIT_WRITE";
    Setfcap = 31, "CAP_SETFCAP";
    Syslog = 34, "CAP_SYSLOG";
    Perfmon = 38, "CAP_PERFMON";
    Bpf = 39, "CAP_BPF";
}

impl Capability {
    /// What servers that start as root usually need: to change files and users, and low ports.
    ///
    /// Docker's default set without the two that reach around redirect rules or make devices
    /// (`CAP_NET_RAW`, `CAP_MKNOD`) and without the audit log.
    pub fn of_a_server() -> BTreeSet<Self> {
        BTreeSet::from([
            Self::Chown,
            Self::DacOverride,
            Self::Fowner,
            Self::Fsetid,
            Self::Kill,
            Self::NetBindService,
            Self::Setfcap,
            Self::Setgid,
            Self::Setpcap,
            Self::Setuid,
            Self::SysChroot,
        ])
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Capability {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> Self {
        capability.as_str().to_owned()
    }
}
