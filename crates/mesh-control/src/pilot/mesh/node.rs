//! Which addresses are of nodes: they stay while the workloads that are called there come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_model::{Health, Workload, WorkloadId};

use super::Mesh;

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    workloads: usize,
    /// Whether a port map leads from there to a workload.
    is_mapped: bool,
    /// Whether a sidecar takes calls there.
    has_sidecar: bool,
}

/// Nodes that are remembered after their last workload has left: more than go in the life of a
/// Pilot, and a few kilobytes of a listener.
const MAX_REMEMBERED: usize = 256;

impl Mesh {
    /// Takes what was a node before for one still.
    ///
    /// A proxy closes connections to a node that it is told of no more, also those to servers there
    /// that are not of the mesh; and a node's only workload may be restarted. Where nobody is, calls
    /// pass as they are.
    pub fn remember_nodes(&mut self, before: &Self) {
        let gone: Vec<_> = before.nodes.difference(&self.nodes).copied().collect();
        if gone.len() <= MAX_REMEMBERED {
            self.nodes.extend(gone);
        }
    }
}

/// The addresses of nodes at which workloads with sidecars are called.
///
/// No registry names the nodes. An address is taken for a node's if a port map leads from it to a
/// workload, or several workloads have it. One that a single workload has is its own, and changes
/// as often as workloads do.
pub(super) fn addresses(workloads: &BTreeMap<WorkloadId, (Workload, Health)>) -> BTreeSet<IpAddr> {
    let mut places: BTreeMap<IpAddr, Place> = BTreeMap::new();
    for (workload, _) in workloads.values() {
        let mut ports = workload.services.iter().flat_map(|service| &service.ports);
        let is_mapped = ports.any(|port| port.inside.is_some());
        for address in &workload.addresses {
            let place = places.entry(*address).or_default();
            place.workloads += 1;
            place.is_mapped |= is_mapped;
            place.has_sidecar |= workload.sidecar.is_present();
        }
    }
    places.retain(|_, place| place.has_sidecar && (place.is_mapped || place.workloads > 1));
    places.into_keys().collect()
}
