//! The virtual addresses of services, one host at a time.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use mesh_model::Host;
use mesh_model::service::VirtualAddresses;
use mesh_model::virtual_address;

/// The addresses of `host` when no v4 address in `taken` may be given to another than it has now.
///
/// `None` when there is no room for it.
pub fn assign(host: &Host, taken: &BTreeMap<Ipv4Addr, Host>) -> Option<VirtualAddresses> {
    let recorded = taken
        .iter()
        .map(|(address, host)| (host.clone(), *address))
        .collect();
    let mut allocation = virtual_address::allocate(&recorded, [host]);
    allocation.addresses.remove(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_passed_over() {
        let host = |text: &str| text.parse::<Host>().unwrap();
        let reviews = host("reviews.default.mesh");
        let first = assign(&reviews, &BTreeMap::new()).unwrap();
        let own = BTreeMap::from([(first.v4, reviews.clone())]);
        assert_eq!(assign(&reviews, &own), Some(first), "its own is not taken");
        // Only a host of the same bucket can be recorded at this address.
        let other = (0..1000)
            .map(|number| host(&format!("s{number}.default.mesh")))
            .find(|other| virtual_address::bucket(other) == virtual_address::bucket(&reviews));
        let taken = BTreeMap::from([(first.v4, other.unwrap())]);
        let second = assign(&reviews, &taken).unwrap();
        assert_ne!(first.v4, second.v4);
    }
}
