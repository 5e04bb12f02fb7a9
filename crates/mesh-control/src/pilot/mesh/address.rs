//! The virtual addresses of services: which networks they are from, and their buckets.
//!
//! A bucket is a fixed prefix of both networks; routes are cut along it (one `RouteConfiguration`
//! for each port and bucket), so that a changed route is a small message.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use mesh_model::Host;
use mesh_model::service::VirtualAddresses;
use xxhash_rust::xxh3::xxh3_64;

/// Where virtual v4 addresses are from: a part of the reserved class E that nobody routes.
pub const NETWORK_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16);

/// Where virtual v6 addresses are from: a unique local prefix (RFC 4193) of the mesh.
pub const NETWORK_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd6d, 0x6573, 0x6800, 0xf0, 0, 0, 0, 0), 64);

/// Log2 of the number of buckets: 64 serve about 4,000 services, and their number is never changed
/// on a running mesh, since every proxy's filter chains are made of them.
const BUCKET_BITS: u8 = 6;

/// How many buckets there are.
pub const BUCKETS: u8 = 1 << BUCKET_BITS;

/// The prefixes of a bucket, v4 and v6.
///
/// ```
/// use mesh_control::pilot::mesh::address::prefixes;
///
/// let (v4, _) = prefixes(1);
/// assert_eq!(v4.to_string(), "240.240.4.0/22");
/// ```
pub fn prefixes(bucket: u8) -> (Ipv4Net, Ipv6Net) {
    let bucket = bucket % BUCKETS;
    let v4 = NETWORK_V4.network().to_bits() | u32::from(bucket) << (16 - BUCKET_BITS);
    let v6 = NETWORK_V6.network().to_bits() | u128::from(bucket) << (64 - BUCKET_BITS);
    (
        Ipv4Net::new_assert(Ipv4Addr::from_bits(v4), 16 + BUCKET_BITS),
        Ipv6Net::new_assert(Ipv6Addr::from_bits(v6), 64 + BUCKET_BITS),
    )
}

/// The buckets of a pair of addresses: one, or two when its v4 address had to move on.
pub fn buckets(addresses: VirtualAddresses) -> impl Iterator<Item = u8> {
    let v4 = bits_of(addresses.v4.to_bits().into(), 16);
    let v6 = bits_of(addresses.v6.to_bits(), 64);
    std::iter::once(v4).chain((v6 != v4).then_some(v6))
}

/// The addresses of `host` when no v4 address in `taken` may be given again.
///
/// v6 is the hash of the host; v4 the head of the same hash, moved on past the taken ones.
/// The first and last v4 address of the network are never given, since some stacks treat them as
/// network and broadcast address. `None` when the v4 network is full.
pub fn assign(host: &Host, taken: &BTreeMap<Ipv4Addr, Host>) -> Option<VirtualAddresses> {
    let hash = xxh3_64(host.as_str().as_bytes());
    let start = hash >> 48;
    let v4 = (0..1 << 16)
        .map(|step| (start + step) & 0xffff)
        .filter(|tail| *tail != 0 && *tail != 0xffff)
        .filter_map(|tail| u32::try_from(tail).ok())
        .map(|tail| Ipv4Addr::from_bits(NETWORK_V4.network().to_bits() | tail))
        .find(|address| taken.get(address).is_none_or(|other| other == host))?;
    Some(VirtualAddresses {
        v4,
        v6: Ipv6Addr::from_bits(NETWORK_V6.network().to_bits() | u128::from(hash)),
    })
}

/// The bucket that the lowest `width` bits of an address begin with.
fn bits_of(address: u128, width: u8) -> u8 {
    let bits = (address >> (width - BUCKET_BITS)) & u128::from(BUCKETS - 1);
    u8::try_from(bits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn buckets_cover_both_networks_without_overlap() {
        let all: Vec<_> = (0..BUCKETS).map(prefixes).collect();
        for (index, (v4, v6)) in all.iter().enumerate() {
            assert!(NETWORK_V4.contains(v4) && NETWORK_V6.contains(v6));
            for (other4, other6) in all.iter().skip(index + 1) {
                assert!(!v4.contains(other4) && !v6.contains(other6));
            }
        }
        assert_eq!(all.last().unwrap().0.broadcast(), NETWORK_V4.broadcast());
    }

    #[test]
    fn an_address_is_in_the_prefix_of_its_bucket() {
        for name in ["reviews.default.mesh", "a.b.mesh", "details.shop.mesh"] {
            let addresses = assign(&host(name), &BTreeMap::new()).unwrap();
            let found: Vec<_> = buckets(addresses).collect();
            assert_eq!(found.len(), 1, "a first choice has one bucket");
            let (v4, v6) = prefixes(found[0]);
            assert!(v4.contains(&addresses.v4) && v6.contains(&addresses.v6));
        }
    }

    #[test]
    fn a_taken_address_is_passed_over() {
        let reviews = host("reviews.default.mesh");
        let first = assign(&reviews, &BTreeMap::new()).unwrap();
        let taken = BTreeMap::from([(first.v4, host("other.default.mesh"))]);
        let second = assign(&reviews, &taken).unwrap();
        assert_ne!(first.v4, second.v4);
        assert_eq!(first.v6, second.v6);
        let own = BTreeMap::from([(first.v4, reviews.clone())]);
        assert_eq!(assign(&reviews, &own), Some(first), "its own is not taken");
    }
}
