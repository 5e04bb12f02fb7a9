//! The addresses that names in the mesh resolve to: ours alone, stable, spread over buckets.
//!
//! Addresses of version 4 are in 240.240.0.0/16, which no network uses. Where a host stands is a
//! hash of its name, moved on when another host stands there already, so replicas agree on all
//! but the moved ones, which is why every allocation is recorded.
//! An address of version 6 is the host's address of version 4 and more of its hash:
//!
//! ```text
//!           fd3f:8a61:c2d7:f0f0:  bbbb bbss ssss ssss  :hhhh:hhhh:hhhh
//!           our /64               the low half of v4    hash of the host
//! 240.240.  bbbbbbss.ssssssss
//! ```
//!
//! So no two hosts share one either, and the bucket (`b`, 6 bits) of both is the same: a /22 of
//! version 4 and a /70 of version 6, each one prefix for Envoy to match on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{Host, service::VirtualAddresses};

/// All virtual addresses of version 4.
pub const V4_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16);

/// All virtual addresses of version 6: a unique local prefix, drawn once for every mesh, because
/// the addresses never leave a machine. Source: RFC 4193.
pub const V6_RANGE: Ipv6Net = Ipv6Net::new_assert(
    Ipv6Addr::new(0xfd3f, 0x8a61, 0xc2d7, 0xf0f0, 0, 0, 0, 0),
    64,
);

/// How many buckets the addresses are spread over.
pub const BUCKETS: u8 = 64;

/// How many hosts have room in one bucket: a /22 without the addresses that end with 0 or 255,
/// which some software takes for networks and broadcasts.
pub const BUCKET_SIZE: u16 = 4 * HOSTS_PER_24;

/// What [`allocate`] gave.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use]
pub struct Allocation {
    /// The addresses of every host that was asked for and has some.
    pub addresses: BTreeMap<Host, VirtualAddresses>,
    /// What was not recorded before and must be, before anybody uses it.
    pub added: BTreeMap<Host, Ipv4Addr>,
    /// Hosts without addresses: their bucket is full.
    pub left_out: BTreeSet<Host>,
}

/// Gives every host its addresses.
///
/// Recorded ones stay as they are, and are taken also when their host is not among `hosts`: when
/// an address may be used again is the caller's to decide, by leaving it out of `recorded`. A
/// record that is not in its host's bucket, or that another host has as well (the first by name
/// keeps it), is replaced.
///
/// ```
/// # use std::collections::BTreeMap;
/// # use mesh_model::{Host, virtual_address::{allocate, bucket_of_v4, bucket_of_v6}};
/// let host: Host = "reviews.shop.mesh".parse().unwrap();
/// let first = allocate(&BTreeMap::new(), [&host]);
/// let addresses = first.addresses[&host];
/// assert_eq!(bucket_of_v4(addresses.v4), bucket_of_v6(addresses.v6));
/// let again = allocate(&first.added, [&host]);
/// assert_eq!(again.addresses[&host], addresses);
/// assert!(again.added.is_empty());
/// ```
pub fn allocate<'a>(
    recorded: &BTreeMap<Host, Ipv4Addr>,
    hosts: impl IntoIterator<Item = &'a Host>,
) -> Allocation {
    let mut taken = BTreeSet::new();
    let valid: BTreeMap<&Host, Ipv4Addr> = recorded
        .iter()
        .filter(|(host, v4)| is_place(**v4) && bucket_of_v4(**v4) == Some(bucket(host)))
        .filter(|(_, v4)| taken.insert(**v4))
        .map(|(host, v4)| (host, *v4))
        .collect();
    let mut allocation = Allocation::default();
    // Sorted and each once, so that the order in which hosts are named does not matter.
    for host in hosts.into_iter().collect::<BTreeSet<_>>() {
        let v4 = valid.get(host).copied().or_else(|| {
            let free = places(host).find(|v4| !taken.contains(v4))?;
            taken.insert(free);
            allocation.added.insert(host.clone(), free);
            Some(free)
        });
        match v4 {
            Some(v4) => {
                let addresses = VirtualAddresses {
                    v4,
                    v6: v6(host, v4),
                };
                allocation.addresses.insert(host.clone(), addresses);
            }
            None => {
                allocation.left_out.insert(host.clone());
            }
        }
    }
    allocation
}

/// The bucket of a host, from 0 to 63.
pub fn bucket(host: &Host) -> u8 {
    let [first, ..] = hash(host).to_be_bytes();
    first >> 2
}

/// The bucket of an address of version 4; `None` for one that is not ours.
pub fn bucket_of_v4(address: Ipv4Addr) -> Option<u8> {
    let [.., third, _] = address.octets();
    V4_RANGE.contains(&address).then_some(third >> 2)
}

/// The bucket of an address of version 6; `None` for one that is not ours.
pub fn bucket_of_v6(address: Ipv6Addr) -> Option<u8> {
    let [_, _, _, _, _, _, _, _, first, ..] = address.octets();
    V6_RANGE.contains(&address).then_some(first >> 2)
}

/// The prefixes of a bucket, a /22 and a /70; `None` for a number from [`BUCKETS`] on.
pub fn bucket_prefixes(bucket: u8) -> Option<(Ipv4Net, Ipv6Net)> {
    if bucket >= BUCKETS {
        return None;
    }
    let low = u16::from(bucket) << 10;
    let v4 = Ipv4Net::new(v4_of(low), 22).ok()?;
    let v6 = Ipv6Net::new(v6_of(low, 0), 70).ok()?;
    Some((v4, v6))
}

/// The addresses at which a host may stand, from the one that its hash names on around its bucket.
fn places(host: &Host) -> impl Iterator<Item = Ipv4Addr> {
    let base = u16::from(bucket(host)) << 10;
    let [_, _, third, fourth, ..] = hash(host).to_be_bytes();
    let first = u16::from_be_bytes([third, fourth]) % BUCKET_SIZE;
    (0..BUCKET_SIZE).map(move |step| {
        let place = (first + step) % BUCKET_SIZE;
        v4_of(base + place / HOSTS_PER_24 * 256 + place % HOSTS_PER_24 + 1)
    })
}

/// Whether a host may stand at an address.
fn is_place(address: Ipv4Addr) -> bool {
    let [.., last] = address.octets();
    V4_RANGE.contains(&address) && (1..=254).contains(&last)
}

fn v6(host: &Host, v4: Ipv4Addr) -> Ipv6Addr {
    let [.., third, fourth] = v4.octets();
    v6_of(u16::from_be_bytes([third, fourth]), hash(host))
}

fn v4_of(low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(V4_RANGE.network().to_bits() | u32::from(low))
}

fn v6_of(low: u16, hash: u64) -> Ipv6Addr {
    let interface = u64::from(low) << 48 | hash & 0xffff_ffff_ffff;
    Ipv6Addr::from_bits(V6_RANGE.network().to_bits() | u128::from(interface))
}

/// A hash that never changes between versions: FNV-1a, then mixed so that its first bits are as
/// good as its last. It need not resist anybody: who makes names collide only moves them on.
///
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>, and the last step of `SplitMix64`.
fn hash(host: &Host) -> u64 {
    let fnv = host
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

const HOSTS_PER_24: u16 = 254;

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: usize) -> Vec<Host> {
        (0..count)
            .map(|n| format!("service-{n}.shop.mesh").parse().unwrap())
            .collect()
    }

    /// Names that the hash puts in one bucket.
    fn of_one_bucket(count: usize) -> Vec<Host> {
        let all = (0..).map(|n| format!("s{n}.shop.mesh").parse::<Host>().unwrap());
        all.filter(|host| bucket(host) == 7).take(count).collect()
    }

    #[test]
    fn an_address_never_changes_between_versions() {
        let host: Host = "reviews.shop.mesh".parse().unwrap();
        let addresses = allocate(&BTreeMap::new(), [&host]).addresses[&host];
        assert_eq!(addresses.v4.to_string(), "240.240.192.185");
        assert_eq!(
            addresses.v6.to_string(),
            "fd3f:8a61:c2d7:f0f0:c0b9:d708:1b55:67b5"
        );
    }

    #[test]
    fn buckets_are_filled_evenly_enough() {
        let mut counts = [0_usize; BUCKETS as usize];
        for host in hosts(4000) {
            counts[usize::from(bucket(&host))] += 1;
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 35 && *most < 95, "{counts:?}");
    }

    #[test]
    fn a_bucket_is_one_prefix_of_each_version() {
        for host in &hosts(500) {
            let addresses = allocate(&BTreeMap::new(), [host]).addresses[host];
            let (v4, v6) = bucket_prefixes(bucket(host)).unwrap();
            assert!(v4.contains(&addresses.v4) && v6.contains(&addresses.v6));
            assert_eq!(bucket_of_v4(addresses.v4), Some(bucket(host)));
            assert_eq!(bucket_of_v6(addresses.v6), Some(bucket(host)));
        }
        assert!(bucket_prefixes(BUCKETS).is_none());
        assert_eq!(bucket_of_v4(Ipv4Addr::LOCALHOST), None);
        assert_eq!(bucket_of_v6(Ipv6Addr::LOCALHOST), None);
    }

    #[test]
    fn a_full_bucket_leaves_hosts_out_and_moves_none() {
        let hosts = of_one_bucket(usize::from(BUCKET_SIZE) + 3);
        let allocation = allocate(&BTreeMap::new(), &hosts);
        assert_eq!(allocation.left_out.len(), 3);
        let given: BTreeSet<_> = allocation.addresses.values().map(|a| a.v4).collect();
        assert_eq!(given.len(), usize::from(BUCKET_SIZE));
        assert!(
            given
                .iter()
                .all(|v4| is_place(*v4) && bucket_of_v4(*v4) == Some(7))
        );
    }

    #[test]
    fn records_that_cannot_be_right_are_replaced() {
        let hosts = of_one_bucket(2);
        let [one, two] = hosts.as_slice() else {
            panic!("two hosts")
        };
        let v4 = allocate(&BTreeMap::new(), [one]).addresses[one].v4;
        let foreign = Ipv4Addr::new(10, 0, 0, 1);
        let ending = Ipv4Addr::from_bits(v4.to_bits() & !0xff);
        let other_bucket = Ipv4Addr::from_bits(v4.to_bits() ^ 0x0400);
        for wrong in [foreign, ending, other_bucket] {
            let recorded = BTreeMap::from([(one.clone(), wrong)]);
            let allocation = allocate(&recorded, [one]);
            assert_eq!(allocation.addresses[one].v4, v4);
            assert_eq!(allocation.added[one], v4);
        }
        let twice = BTreeMap::from([(one.clone(), v4), (two.clone(), v4)]);
        let allocation = allocate(&twice, &hosts);
        let first = hosts.iter().min().unwrap();
        assert_eq!(allocation.addresses[first].v4, v4);
        assert_eq!(allocation.added.len(), 1);
    }
}
