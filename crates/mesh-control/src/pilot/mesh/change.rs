//! What became different from one mesh to the next, where that is little.

use mesh_model::service::{EndpointAddress, Resolution};
use mesh_model::{Endpoint, Host};

use super::scope::are_same;
use super::{Entry, Mesh};

impl Mesh {
    /// The hosts whose endpoints are different from `before`'s, if nothing else is that callers
    /// could notice; `None` when something may be.
    ///
    /// Endpoints are what changes most: workloads come, go, become ready and cease to be.
    pub fn endpoints_changed(&self, before: &Self) -> Option<Vec<&Host>> {
        let is_same = self.trust_domain == before.trust_domain
            && self.outbound == before.outbound
            && self.mixer == before.mixer
            && self.unaddressed == before.unaddressed
            && self.virtual_services.is_same(&before.virtual_services)
            && self.destination_rules.is_same(&before.destination_rules)
            && are_same(&self.peer_authentications, &before.peer_authentications)
            && self.entries.len() == before.entries.len();
        if !is_same {
            return None;
        }
        let mut changed = Vec::new();
        for ((host, entry), (other, old)) in self.entries.iter().zip(&before.entries) {
            if host != other {
                return None;
            }
            if self.is_alike(before, entry, old) {
                continue;
            }
            if !differs_in_endpoints_only(entry, old) {
                return None;
            }
            changed.push(host);
        }
        Some(changed)
    }

    /// Whether an entry and all that is known of its endpoints is as it was.
    fn is_alike(&self, before: &Self, entry: &Entry, old: &Entry) -> bool {
        // The endpoint of a workload stands for all its addresses, and the ports that callers dial.
        let place = |mesh: &'_ Self, endpoint: &Endpoint| {
            let known = endpoint.workload.as_ref().and_then(|id| mesh.workload(id));
            known.map(|(workload, _)| {
                let own = endpoint.ports.values();
                let called: Vec<_> = own.map(|own| workload.called_at(*own)).collect();
                (workload.addresses.clone(), called)
            })
        };
        entry == old
            && entry
                .service
                .endpoints
                .iter()
                .all(|endpoint| place(self, endpoint) == place(before, endpoint))
    }
}

/// Whether endpoints come by resources of their own, and all of the rest is equal.
fn differs_in_endpoints_only(entry: &Entry, old: &Entry) -> bool {
    let of_names = |entry: &Entry| {
        let endpoints = entry.service.endpoints.iter();
        endpoints
            .filter(|it| matches!(it.address, EndpointAddress::Name(_)))
            .count()
    };
    let without_endpoints = |entry: &Entry| {
        let mut entry = entry.clone();
        entry.service.endpoints.clear();
        entry
    };
    entry.service.resolution == Resolution::Static
        && of_names(entry) == 0
        && of_names(old) == 0
        && without_endpoints(entry) == without_endpoints(old)
}
