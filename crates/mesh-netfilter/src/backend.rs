//! Backend: by which way rules get into the kernel.

use std::fmt;
use std::str::FromStr;

use crate::Problem;

/// By which way rules get into the kernel.
///
/// ```
/// # use mesh_netfilter::Backend;
/// assert_eq!("iptables-nft".parse(), Ok(Backend::IptablesNft));
/// assert_eq!(Backend::Netlink.to_string(), "netlink");
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(into = "&'static str")
)]
#[non_exhaustive]
pub enum Backend {
    /// A table of our own in nftables, by netlink, without any other program.
    Netlink,
    /// Chains of our own in the tables of `iptables-nft` and `ip6tables-nft`.
    IptablesNft,
    /// Chains of our own in the tables of `iptables-legacy` and `ip6tables-legacy`.
    IptablesLegacy,
}

// === impl Backend ===

impl Backend {
    /// All backends, the preferred first.
    pub const ALL: [Self; 3] = [Self::Netlink, Self::IptablesNft, Self::IptablesLegacy];

    /// The name, as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Netlink => "netlink",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }
}

impl FromStr for Backend {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        Self::ALL
            .into_iter()
            .find(|backend| backend.as_str() == text)
            .ok_or_else(|| {
                Problem::new(
                    "",
                    text,
                    "a backend (`netlink`, `iptables-nft`, `iptables-legacy`)",
                )
            })
    }
}

impl From<Backend> for &'static str {
    fn from(backend: Backend) -> Self {
        backend.as_str()
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
