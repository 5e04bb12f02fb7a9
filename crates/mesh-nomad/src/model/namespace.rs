//! Namespaces of jobs.

use std::collections::BTreeMap;

object! {
    /// A namespace.
    pub struct Namespace {
        /// Its name.
        name: String = "Name",
        /// What it is for.
        description: String = "Description",
        /// Words of the operator.
        meta: BTreeMap<String, String> = "Meta",
        /// What jobs in it may use.
        capabilities: NamespaceCapabilities = "Capabilities",
        /// Index of its creation.
        create_index: u64 = "CreateIndex",
        /// Index of its last change.
        modify_index: u64 = "ModifyIndex",
    }
}

object! {
    /// What jobs in a namespace may use.
    #[derive(Eq)]
    pub struct NamespaceCapabilities {
        /// Drivers allowed; all if unset.
        enabled_drivers: Vec<String> = "EnabledTaskDrivers",
        /// Drivers refused.
        disabled_drivers: Vec<String> = "DisabledTaskDrivers",
        /// Network modes allowed; all if unset.
        enabled_network_modes: Vec<String> = "EnabledNetworkModes",
        /// Network modes refused.
        disabled_network_modes: Vec<String> = "DisabledNetworkModes",
    }
}
