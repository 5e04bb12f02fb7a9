//! `WorkloadEntry`: an endpoint that is no workload of a registry.

mod validate;

use std::collections::BTreeMap;

use super::message::message;

pub(super) use validate::Addresses;

message! {
    /// An endpoint that is no workload of a registry: a VM, a process, a name elsewhere.
    ///
    /// Source: <https://istio.io/latest/docs/reference/config/networking/workload-entry/>.
    pub struct WorkloadEntry {
        /// Its address: an IP address or a DNS name. Paths of sockets (`unix://`) are kept, with a
        /// warning.
        pub address: String,
        /// Names of the service's ports, and the port of this endpoint for each.
        pub ports: BTreeMap<String, u16>,
        /// Labels, by which subsets and policies select it.
        pub labels: BTreeMap<String, String>,
        /// Not supported: kept, with a warning. The network, if not every caller can reach it.
        pub network: String,
        /// Where it is: `region/zone/subzone`. For people; no decision depends on it yet.
        pub locality: String,
        /// Its share against the other endpoints; 1 unless set.
        pub weight: u32,
        /// The service account that its certificate names, in this object's namespace.
        pub service_account: String,
    }
}
