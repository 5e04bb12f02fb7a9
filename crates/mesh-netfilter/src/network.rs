//! Networks (CIDR) of both address families.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::Problem;

/// An address family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Networks of both families, aggregated and ascending: equal sets compare equal.
///
/// ```
/// # use mesh_netfilter::{NetworkSet, parse_network};
/// let set: NetworkSet = ["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3", "fd00::/8"]
///     .iter()
///     .map(|text| parse_network(text).unwrap())
///     .collect();
/// assert_eq!(set.to_string(), "10.0.0.0/8, fd00::/8");
/// ```
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NetworkSet {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

/// Networks of one family, as one rule can match them; never empty, aggregated, ascending.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
pub enum Networks {
    /// IPv4 networks.
    V4(Vec<Ipv4Net>),
    /// IPv6 networks.
    V6(Vec<Ipv6Net>),
}

/// Reads a network (`10.0.0.0/8`, `fd00::/8`) or an address, which is a network of itself.
///
/// # Errors
/// If the text is neither, or has bits set beyond its prefix (`10.0.0.1/8`): most often a slip,
/// so it is not silently repaired.
pub fn parse_network(text: &str) -> Result<IpNet, Problem> {
    let parsed = match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => text.parse::<IpNet>().ok(),
    };
    match parsed {
        Some(network) if network.trunc() == network => Ok(network),
        Some(network) => Err(Problem::new(
            "",
            text,
            format!("a network without host bits (`{}`)", network.trunc()),
        )),
        None => Err(Problem::new(
            "",
            text,
            "a network such as `10.0.0.0/8` or `fd00::/8`",
        )),
    }
}

// === impl Family ===

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

// === impl NetworkSet ===

impl NetworkSet {
    /// Whether the set has no network.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether `address` is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.iter().any(|network| network.contains(&address)),
            IpAddr::V6(address) => self.v6.iter().any(|network| network.contains(&address)),
        }
    }

    /// All networks, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.v4.iter().copied().map(IpNet::V4);
        v4.chain(self.v6.iter().copied().map(IpNet::V6))
    }

    /// The networks of one family; none if there is none.
    pub fn of(&self, family: Family) -> Option<Networks> {
        match family {
            Family::V4 if !self.v4.is_empty() => Some(Networks::V4(self.v4.clone())),
            Family::V6 if !self.v6.is_empty() => Some(Networks::V6(self.v6.clone())),
            Family::V4 | Family::V6 => None,
        }
    }

    /// The networks of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }
}

impl FromIterator<IpNet> for NetworkSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push(network.trunc()),
                IpNet::V6(network) => v6.push(network.trunc()),
            }
        }
        let (mut v4, mut v6) = (Ipv4Net::aggregate(&v4), Ipv6Net::aggregate(&v6));
        v4.sort_unstable();
        v6.sort_unstable();
        Self { v4, v6 }
    }
}

impl fmt::Display for NetworkSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            network.fmt(f)?;
        }
        Ok(())
    }
}

// === impl Networks ===

impl Networks {
    /// The networks' family.
    pub fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// Whether every address of the family is in one of the networks.
    pub fn is_everything(&self) -> bool {
        match self {
            Self::V4(networks) => networks.iter().any(|network| network.prefix_len() == 0),
            Self::V6(networks) => networks.iter().any(|network| network.prefix_len() == 0),
        }
    }

    /// Whether `address` is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(networks), IpAddr::V4(address)) => {
                networks.iter().any(|network| network.contains(&address))
            }
            (Self::V6(networks), IpAddr::V6(address)) => {
                networks.iter().any(|network| network.contains(&address))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_network_of_itself() {
        assert_eq!(
            parse_network("10.0.0.1").unwrap().to_string(),
            "10.0.0.1/32"
        );
        assert_eq!(parse_network("::1").unwrap().to_string(), "::1/128");
    }

    #[test]
    fn host_bits_are_named_not_dropped() {
        let problem = parse_network("10.0.0.1/8").unwrap_err();
        assert_eq!(
            problem.to_string(),
            "`10.0.0.1/8` is not a network without host bits (`10.0.0.0/8`)"
        );
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "host",
            "10.0.0.0/8;",
        ] {
            assert!(parse_network(bad).is_err(), "{bad}");
        }
    }
}
