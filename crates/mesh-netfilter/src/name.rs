//! Names that reach the kernel: of an instance and of a network interface.

use std::fmt;
use std::str::FromStr;

use crate::Problem;

/// The name of one set of rules; several may live in one network namespace.
///
/// It becomes part of the table names, so its alphabet is small: 1 to 16 of `a-z`, `0-9`, `_`, `-`.
///
/// ```
/// # use mesh_netfilter::InstanceName;
/// assert_eq!("blue".parse::<InstanceName>().unwrap().as_str(), "blue");
/// assert!("a;b".parse::<InstanceName>().is_err());
/// ```
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InstanceName(String);

/// The name of a network interface: 1 to 15 bytes of printable ASCII.
///
/// Narrower than the kernel's rule (it refuses quotes, backslash and the wildcards of nft and
/// iptables, `*` and `+`), so that no name can mean anything but itself in the syntax of a tool.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InterfaceName(String);

// === impl InstanceName ===

impl InstanceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The table with the NAT and raw chains: `mesh_<instance>`.
    pub fn table(&self) -> String {
        format!("mesh_{}", self.0)
    }

    /// Both tables of a plan, in the order in which they are to be deleted.
    ///
    /// A chain that is deleted keeps its rules until its hook is gone, and hooks go one after the
    /// other: a guard that outlived the redirections would refuse what it takes to have escaped.
    pub(crate) fn tables(&self) -> [String; 2] {
        [self.guard_table(), self.table()]
    }

    /// The instance to which a table of ours belongs, by its name.
    #[cfg(feature = "apply")]
    pub(crate) fn of_table(table: &str) -> Option<Self> {
        let name = table.strip_prefix("mesh_")?;
        name.strip_suffix(".guard").unwrap_or(name).parse().ok()
    }

    /// Tables that live for a short time beside those of the plan, and that only somebody who was
    /// killed leaves behind: that which keeps connections alive, and that of a probe.
    #[cfg(feature = "apply")]
    pub(crate) fn passing_tables(&self) -> [String; 2] {
        [self.drain_table(), self.probe_table()]
    }

    #[cfg(feature = "apply")]
    pub(crate) fn drain_table(&self) -> String {
        format!("mesh_{}.drain", self.0)
    }

    #[cfg(feature = "apply")]
    pub(crate) fn probe_table(&self) -> String {
        format!("mesh_{}.probe", self.0)
    }

    /// The table with the guard chains: `mesh_<instance>.guard`.
    ///
    /// The dot is not in the alphabet of instance names, so no other instance has this table.
    pub fn guard_table(&self) -> String {
        format!("mesh_{}.guard", self.0)
    }
}

impl Default for InstanceName {
    /// `mesh`.
    fn default() -> Self {
        Self("mesh".to_owned())
    }
}

impl FromStr for InstanceName {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
        };
        if (1..=16).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Problem::new(
                "",
                text,
                "an instance name (1 to 16 of a-z, 0-9, `_`, `-`)",
            ))
        }
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl InterfaceName ===

impl InterfaceName {
    /// The loopback interface, which has this name in every network namespace.
    pub fn loopback() -> Self {
        Self("lo".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:\"'\\*`+".contains(&byte);
        if (1..=15).contains(&text.len())
            && text.bytes().all(allowed)
            && text != "."
            && text != ".."
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(Problem::new(
                "",
                text,
                "an interface name (1 to 15 printable characters without `/`, `:`, `*`, `+`, quotes)",
            ))
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for InstanceName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for InterfaceName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names_keep_to_their_alphabet() {
        for good in ["mesh", "a", "0", "a_b-c", "sixteen-long-abc"] {
            assert!(good.parse::<InstanceName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "Mesh",
            "a.b",
            "a b",
            "a\n",
            "seventeen-long-ab",
            "ä",
            "{}",
        ] {
            assert!(bad.parse::<InstanceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_mean_nothing_else_to_a_tool() {
        for good in [
            "eth0",
            "veth1234567890a",
            "docker0",
            "eth0.100",
            "br-1",
            "--",
        ] {
            assert!(good.parse::<InterfaceName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a b",
            "eth0\n",
            "eth*",
            "eth+",
            "a/b",
            "\"",
            "sixteen-byte-abc",
            "..",
            "a:1",
        ] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_instance_has_the_guard_table_of_another() {
        let guard = "x".parse::<InstanceName>().unwrap().guard_table();
        assert!(
            guard
                .strip_prefix("mesh_")
                .unwrap()
                .parse::<InstanceName>()
                .is_err()
        );
    }
}
