//! Whether this machine and this user can run workloads at all, said before anything is tried.

use std::fs;
use std::io;
use std::path::Path;

use crate::exit::{Failure, UNSUPPORTED};

/// What the engine stands on.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Ground {
    /// The effective user.
    uid: u32,
    /// Whether that user is one of a user namespace, in which root is not the machine's.
    mapped: bool,
    /// Whether the kernel has network namespaces.
    namespaces: bool,
    /// Whether the kernel has IPv6.
    ipv6: bool,
}

/// Checks the ground of every verb that makes or removes something.
///
/// # Errors
///
/// With exit code [`UNSUPPORTED`], and one sentence about what is missing first.
pub(crate) fn check() -> Result<(), Failure> {
    let ground = Ground::of_this_machine()
        .map_err(|error| Failure::doing("looking at this machine", &error))?;
    match ground.lack() {
        None => Ok(()),
        Some((what, hint)) => Err(Failure::new(what).with_code(UNSUPPORTED).with_hint(hint)),
    }
}

impl Ground {
    fn of_this_machine() -> io::Result<Self> {
        Ok(Self {
            uid: rustix::process::geteuid().as_raw(),
            mapped: is_mapped(&fs::read_to_string("/proc/self/uid_map")?),
            namespaces: Path::new("/proc/self/ns/net").exists(),
            ipv6: Path::new("/proc/sys/net/ipv6").exists(),
        })
    }

    /// What is missing, and what to do about it.
    fn lack(&self) -> Option<(&'static str, &'static str)> {
        if self.uid != 0 {
            Some((
                "workloads need root: network namespaces, links, users and cgroups",
                "run it as root, for example with sudo",
            ))
        } else if self.mapped {
            Some((
                "root of a user namespace is not root of this machine, which workloads need",
                "run it outside the user namespace or the rootless container",
            ))
        } else if !self.namespaces {
            Some((
                "the kernel has no network namespaces",
                "use a kernel with CONFIG_NET_NS",
            ))
        } else if !self.ipv6 {
            Some((
                "the kernel has no IPv6, which the mesh's addresses need",
                "boot without `ipv6.disable=1`, on a kernel with CONFIG_IPV6",
            ))
        } else {
            None
        }
    }
}

/// Whether users here are others on the machine: the first user namespace maps every id to itself.
///
/// Source: `user_namespaces(7)`.
fn is_mapped(uid_map: &str) -> bool {
    !uid_map
        .split_ascii_whitespace()
        .eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Ground = Ground {
        uid: 0,
        mapped: false,
        namespaces: true,
        ipv6: true,
    };

    #[test]
    fn what_is_missing_first_is_said() {
        assert_eq!(GOOD.lack(), None);
        for (ground, word) in [
            (Ground { uid: 1000, ..GOOD }, "need root"),
            (
                Ground {
                    mapped: true,
                    ..GOOD
                },
                "user namespace",
            ),
            (
                Ground {
                    namespaces: false,
                    ..GOOD
                },
                "network namespaces",
            ),
            (
                Ground {
                    ipv6: false,
                    ..GOOD
                },
                "IPv6",
            ),
        ] {
            let (what, hint) = ground.lack().unwrap();
            assert!(what.contains(word) && !hint.is_empty(), "{what}");
        }
    }

    #[test]
    fn only_the_first_user_namespace_maps_everybody_to_themselves() {
        assert!(!is_mapped("         0          0 4294967295\n"));
        assert!(is_mapped("         0       1000          1\n"));
        assert!(is_mapped(""));
    }
}
