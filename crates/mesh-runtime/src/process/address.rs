//! Which address, Ethernet address and link name a group gets: functions of names alone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::IpNet;
use mesh_model::Problem;
use xxhash_rust::xxh3::xxh3_64;

use super::link::{Mac, Occupied};
use crate::{GroupSpec, Name, NetworkSpec, RuntimeError};

/// Who an engine is: a mark in the names of what it makes, so that two engines on one machine
/// never touch each other's. It is the identity of its root directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct EngineId(u64);

// === impl EngineId ===

impl EngineId {
    /// The id of the engine whose root directory has these device and inode numbers.
    pub(super) fn of(device: u64, inode: u64) -> Self {
        let mut bytes = [0; 16];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&device.to_be_bytes());
        second.copy_from_slice(&inode.to_be_bytes());
        Self(xxh3_64(&bytes))
    }

    /// Six characters of it, as in names of links and cgroups.
    pub(super) fn short(&self) -> String {
        letters(self.0, 6)
    }

    /// What all names of links begin with that this engine makes.
    pub(super) fn link_prefix(&self) -> String {
        format!("m{}", self.short())
    }

    /// Name of the end on the host of a group's cable: 15 bytes, all that the kernel takes.
    pub(super) fn link(&self, group: &Name) -> String {
        let hash = xxh3_64(group.as_str().as_bytes());
        format!("{}{}", self.link_prefix(), letters(hash, 8))
    }

    /// The Ethernet address of a bridge; no other engine's bridge has it.
    pub(super) fn bridge_mac(&self, network: &Name) -> Mac {
        let [mut mac @ .., _, _] = (self.0 ^ xxh3_64(network.as_str().as_bytes())).to_be_bytes();
        mac[0] = LOCAL_UNICAST;
        mac
    }
}

/// The host number of a group: that of the address which it must have, else one by its name.
pub(crate) fn choose(
    network: &NetworkSpec,
    group: &GroupSpec,
    taken: &BTreeSet<u32>,
) -> Result<u32, RuntimeError> {
    let Some(address) = group.address else {
        return host_number(network, &group.name, taken).ok_or_else(|| RuntimeError::NoAddress {
            network: network.name.clone(),
        });
    };
    let number = network.host_number(address).ok_or_else(|| {
        let expected = format!(
            "an address of a host in `{}`, not the gateway's",
            network.v4
        );
        let problem = Problem::new("address", address.to_string(), expected);
        RuntimeError::invalid("group", &group.name)(problem.into())
    })?;
    if taken.contains(&number) {
        return Err(RuntimeError::InUse {
            kind: "address",
            name: address.to_string(),
            by: "another group".to_owned(),
        });
    }
    Ok(number)
}

/// The host number of a group: where its name points to, or the next free one.
fn host_number(network: &NetworkSpec, group: &Name, taken: &BTreeSet<u32>) -> Option<u32> {
    let all = 1_u64 << (32 - u32::from(network.v4.prefix_len()));
    // Not the network's own address, not the gateway, not the broadcast address.
    let usable = all - 3;
    let start = xxh3_64(group.as_str().as_bytes()) % usable;
    (0..usable)
        .map(|step| (start + step) % usable + 2)
        .filter_map(|number| u32::try_from(number).ok())
        .find(|number| !taken.contains(number))
}

/// The Ethernet address that goes with an address.
pub(super) fn mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [LOCAL_UNICAST, b'm', a, b, c, d]
}

/// The first subnet that overlaps with something, and what that is.
pub(super) fn clash(subnets: [IpNet; 2], occupied: &[Occupied]) -> Option<(IpNet, &Occupied)> {
    subnets.into_iter().find_map(|subnet| {
        let overlaps =
            |it: &&Occupied| it.net.contains(&subnet.network()) || subnet.contains(&it.net.addr());
        Some((subnet, occupied.iter().find(overlaps)?))
    })
}

/// The first byte of an Ethernet address that is administered locally. Source: IEEE 802, 8.4.
const LOCAL_UNICAST: u8 = 0x02;

fn letters(mut number: u64, count: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        let index = usize::try_from(number % 32).unwrap_or_default();
        text.push(ALPHABET.get(index).copied().map_or('a', char::from));
        number /= 32;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn occupied(net: &str) -> Occupied {
        Occupied {
            net: net.parse().unwrap(),
            what: "route",
            link: "eth0".to_owned(),
        }
    }

    fn subnets() -> [IpNet; 2] {
        let mesh = NetworkSpec::mesh();
        [mesh.v4.into(), mesh.v6.into()]
    }

    #[test]
    fn link_names_fit_the_kernel_and_differ_by_engine_and_group() {
        let engine = EngineId::of(1, 2);
        let link = engine.link(&name("shop.web"));
        assert_eq!(link.len(), 15);
        assert!(link.starts_with(&engine.link_prefix()));
        assert_ne!(link, engine.link(&name("shop.cart")));
        assert_ne!(link, EngineId::of(1, 3).link(&name("shop.web")));
    }

    #[test]
    fn a_wider_and_a_narrower_net_both_clash() {
        for net in [
            "10.0.0.0/8",
            "10.213.7.0/24",
            "10.213.255.255/32",
            "fd00::/8",
        ] {
            assert!(clash(subnets(), &[occupied(net)]).is_some(), "{net}");
        }
        for net in [
            "10.212.0.0/16",
            "10.214.0.0/15",
            "fe80::/64",
            "192.0.2.1/24",
        ] {
            assert_eq!(clash(subnets(), &[occupied(net)]), None, "{net}");
        }
    }

    #[test]
    fn a_full_network_has_no_number_left() {
        let mut network = NetworkSpec::mesh();
        network.v4 = "10.0.0.0/28".parse().unwrap();
        let mut taken = BTreeSet::new();
        while let Some(number) = host_number(&network, &name("web"), &taken) {
            assert!((2..15).contains(&number));
            assert!(taken.insert(number));
        }
        assert_eq!(taken.len(), 13);
    }

    proptest! {
        #[test]
        fn a_number_is_free_usable_and_the_same_each_time(
            group in "[a-z]{1,12}",
            taken in proptest::collection::btree_set(2_u32..200, 0..60),
            prefix in 16_u8..=24,
        ) {
            let mut network = NetworkSpec::mesh();
            network.v4 = ipnet::Ipv4Net::new(network.v4.addr(), prefix).unwrap();
            let group = name(&group);
            let number = host_number(&network, &group, &taken).unwrap();
            prop_assert!(!taken.contains(&number));
            let (v4, v6) = network.addresses(number);
            prop_assert!(network.v4.contains(&v4) && network.v6.contains(&v6));
            prop_assert!(v4 != network.v4.broadcast() && v4 != network.gateways().0);
            prop_assert_eq!(host_number(&network, &group, &taken), Some(number));
        }
    }
}
