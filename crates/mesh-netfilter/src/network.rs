//! Networks (CIDR) of both address families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// Networks ascend and do not overlap, so only the last one that begins early enough can match.
fn v4_contains(networks: &[Ipv4Net], address: Ipv4Addr) -> bool {
    let after = networks.partition_point(|network| network.network() <= address);
    let before = networks.get(..after).and_then(<[_]>::last);
    before.is_some_and(|network| network.contains(&address))
}

/// As [`v4_contains`].
fn v6_contains(networks: &[Ipv6Net], address: Ipv6Addr) -> bool {
    let after = networks.partition_point(|network| network.network() <= address);
    let before = networks.get(..after).and_then(<[_]>::last);
    before.is_some_and(|network| network.contains(&address))
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
            IpAddr::V4(address) => v4_contains(&self.v4, address),
            IpAddr::V6(address) => v6_contains(&self.v6, address),
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

    /// Every address of these families.
    pub fn everything(families: impl IntoIterator<Item = Family>) -> Self {
        families
            .into_iter()
            .map(|family| match family {
                Family::V4 => IpNet::V4(Ipv4Net::default()),
                Family::V6 => IpNet::V6(Ipv6Net::default()),
            })
            .collect()
    }

    /// The networks of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// The addresses of this set that are not in `other`.
    ///
    /// ```
    /// # use mesh_netfilter::{NetworkSet, parse_network};
    /// let set = |text| -> NetworkSet { parse_network(text).into_iter().collect() };
    /// assert_eq!(set("10.0.0.0/8").without(&set("10.0.0.0/10")).to_string(),
    ///            "10.64.0.0/10, 10.128.0.0/9");
    /// ```
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut rest: Vec<IpNet> = self.iter().collect();
        for cut in other.iter() {
            rest = rest
                .into_iter()
                .flat_map(|network| subtract(network, cut))
                .collect();
        }
        rest.into_iter().collect()
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
            (Self::V4(networks), IpAddr::V4(address)) => v4_contains(networks, address),
            (Self::V6(networks), IpAddr::V6(address)) => v6_contains(networks, address),
            _ => false,
        }
    }
}

/// What is left of `network` outside `cut`: the other halves on the way down to it.
fn subtract(network: IpNet, cut: IpNet) -> Vec<IpNet> {
    if cut.contains(&network) {
        return Vec::new();
    }
    let mut rest = Vec::new();
    let mut whole = network;
    while whole.contains(&cut) && whole != cut {
        let Ok(halves) = whole.subnets(whole.prefix_len() + 1) else {
            break;
        };
        for half in halves {
            if half.contains(&cut) {
                whole = half;
            } else {
                rest.push(half);
            }
        }
    }
    if rest.is_empty() {
        rest.push(network);
    }
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_set() -> impl Strategy<Value = NetworkSet> {
        proptest::collection::vec((0..64u32, 26..=32u8), 0..6).prop_map(|networks| {
            networks
                .into_iter()
                .map(|(address, prefix)| {
                    IpNet::V4(Ipv4Net::new(address.into(), prefix).unwrap().trunc())
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_cut_out_is_gone_and_nothing_else(
            a in any_set(),
            b in any_set(),
            address in 0..80u32,
        ) {
            let address = IpAddr::V4(address.into());
            let rest = a.without(&b);
            prop_assert_eq!(rest.contains(address), a.contains(address) && !b.contains(address));
            prop_assert!(a.without(&a).is_empty());
        }
    }

    #[test]
    fn one_address_can_be_cut_out_of_all() {
        let localhost: NetworkSet = parse_network("::1").into_iter().collect();
        let rest = NetworkSet::everything([Family::V6]).without(&localhost);
        assert_eq!(rest.iter().count(), 128);
        assert!(!rest.contains("::1".parse().unwrap()));
        assert!(rest.contains("::".parse().unwrap()) && rest.contains("::2".parse().unwrap()));
    }

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
