//! The networks of a plan: subnets and bridges, chosen where the file leaves them open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use xxhash_rust::xxh3::xxh3_64;

use super::Planner;
use crate::compose::problem::Located;
use crate::compose::{DEFAULT, Network, NetworkUse};
use crate::{Name, NetworkSpec};

/// The networks of a plan, by their keys in the file.
pub(super) struct Networks(BTreeMap<String, NetworkSpec>);

impl Networks {
    pub(super) fn of(planner: &mut Planner<'_>) -> Self {
        let mut specs: BTreeMap<String, NetworkSpec> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for (key, network) in &planner.compose.networks {
            let path = format!("networks.{key}");
            if network.value.external {
                let message = "networks of others are not used here: leave out `external`";
                planner.wrong(network.at, path, message);
                continue;
            }
            let full = match &network.value.name {
                Some(said) => said.parse().ok(),
                None if key == DEFAULT => planner.full_name(DEFAULT),
                None => planner.full_name(key),
            };
            let Some(full) = full else {
                let said = network.value.name.as_deref().unwrap_or(key);
                let message =
                    format!("`{said}` makes no name (labels of a-z, 0-9, `-`, joined by `.`)");
                planner.wrong(network.at, path, message);
                continue;
            };
            let spec = spec(full, &network.value, &mut taken);
            for problem in spec.check().0 {
                planner.wrong(network.at, path.clone(), problem.to_string());
            }
            for (other, its) in &specs {
                let clashes =
                    overlap(its, &spec) || its.bridge == spec.bridge || its.name == spec.name;
                if clashes {
                    let message =
                        format!("name, bridge or subnets are also those of network `{other}`");
                    planner.wrong(network.at, path.clone(), message);
                }
            }
            specs.insert(key.clone(), spec);
        }
        Self(specs)
    }

    pub(super) fn get(&self, key: &str) -> Option<&NetworkSpec> {
        self.0.get(key)
    }

    pub(super) fn specs(&self) -> Vec<NetworkSpec> {
        self.0.values().cloned().collect()
    }

    /// The address that a service asks for: engines give that of IPv6 by the one of IPv4.
    pub(super) fn address(
        planner: &mut Planner<'_>,
        path: &str,
        network: &NetworkSpec,
        using: &NetworkUse,
    ) -> Option<Ipv4Addr> {
        let number = using.ipv4_address.as_ref().and_then(|address| {
            let number = network.host_number(address.value);
            if number.is_none() {
                let (found, subnet) = (address.value, network.v4);
                let message =
                    format!("`{found}` is not an address of `{subnet}` that a service can have");
                planner.wrong(address.at, format!("{path}.ipv4_address"), message);
            }
            number
        });
        if let Some(Located { value: asked, at }) = using.ipv6_address {
            let fits = number.is_some_and(|number| network.addresses(number).1 == asked);
            if !fits {
                let message = format!(
                    "`{asked}` is not the address of `{}` with the host number of `ipv4_address`",
                    network.v6
                );
                planner.wrong(at, format!("{path}.ipv6_address"), message);
            }
        }
        using.ipv4_address.as_ref().map(|it| it.value)
    }
}

/// What a network is asked for as. Where the file names no subnets they are a /24 of 10.214.0.0/16
/// and a /64 of a ULA /48, by a hash of the name: the same network has the same addresses each time.
fn spec(full: Name, network: &Network, taken: &mut BTreeSet<u8>) -> NetworkSpec {
    let hash = xxh3_64(full.as_str().as_bytes());
    let [_, _, _, low, ..] = hash.to_le_bytes();
    let mut third = low;
    if network.v4.is_none() || network.v6.is_none() {
        // At most 256 tries; then networks share one, and are refused for that.
        for _ in 0..=u8::MAX {
            if taken.insert(third) {
                break;
            }
            third = third.wrapping_add(1);
        }
    }
    let chosen4 = || Ipv4Net::new_assert(Ipv4Addr::new(10, 214, third, 0), 24);
    let chosen6 = || {
        let address = Ipv6Addr::new(0xfd6d, 0x6573, 0x68d6, u16::from(third), 0, 0, 0, 0);
        Ipv6Net::new_assert(address, 64)
    };
    NetworkSpec {
        bridge: match &network.bridge {
            Some(bridge) => bridge.value.clone(),
            None => format!("br-{:010x}", hash & 0xff_ffff_ffff),
        },
        name: full,
        v4: network.v4.map_or_else(chosen4, |it| it.value),
        v6: network.v6.map_or_else(chosen6, |it| it.value),
    }
}

fn overlap(one: &NetworkSpec, other: &NetworkSpec) -> bool {
    let v4 = one.v4.contains(&other.v4) || other.v4.contains(&one.v4);
    v4 || one.v6.contains(&other.v6) || other.v6.contains(&one.v6)
}

#[cfg(test)]
mod tests {
    use super::super::name;
    use super::*;

    #[test]
    fn a_network_has_the_same_subnets_each_time_and_no_other_has_them() {
        let mut taken = BTreeSet::new();
        let specs: Vec<_> = (0..200)
            .map(|it| {
                spec(
                    name(&format!("n{it}")).unwrap(),
                    &Network::default(),
                    &mut taken,
                )
            })
            .collect();
        for (index, one) in specs.iter().enumerate() {
            assert!(one.check().0.is_empty());
            assert!(
                specs
                    .iter()
                    .skip(index + 1)
                    .all(|other| !overlap(one, other))
            );
        }
        let again = spec(
            name("n0").unwrap(),
            &Network::default(),
            &mut BTreeSet::new(),
        );
        assert_eq!(again, specs[0]);
    }
}
