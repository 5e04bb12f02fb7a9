//! The network of a task group: its mode and its ports.

use std::collections::BTreeMap;

object! {
    /// The network of a task group.
    pub struct Network {
        /// `host` (also when empty), `bridge`, `none` or `cni/<name>`.
        mode: String = "Mode",
        /// Ports that Nomad picks.
        dynamic_ports: Vec<Port> = "DynamicPorts",
        /// Ports that the job picks; each is taken on a node once, across all jobs.
        reserved_ports: Vec<Port> = "ReservedPorts",
        /// What the CNI plugins are told.
        cni: Cni = "CNI",
        /// Name servers of the group.
        dns: Dns = "DNS",
    }
}

object! {
    /// A port of a group.
    #[derive(Eq)]
    pub struct Port {
        /// Its name within the group.
        label: String = "Label",
        /// The port on the host, if the job picks it.
        value: i64 = "Value",
        /// The port in the namespace; 0 for none said, −1 for the same as on the host.
        to: i64 = "To",
        /// Which of the node's networks.
        host_network: String = "HostNetwork",
        /// Whether another allocation may have the same one.
        ignore_collision: bool = "IgnoreCollision",
    }
}

object! {
    /// What the CNI plugins of a network are told by the job.
    #[derive(Eq)]
    pub struct Cni {
        /// Pairs for `CNI_ARGS`; neither side may hold `;` or `=`.
        args: BTreeMap<String, String> = "Args",
    }
}

object! {
    /// Name servers of a group.
    #[derive(Eq)]
    pub struct Dns {
        /// Their addresses.
        servers: Vec<String> = "Servers",
        /// Domains that bare names are looked up in.
        searches: Vec<String> = "Searches",
        /// Options of the resolver.
        options: Vec<String> = "Options",
    }
}

// === impl Network ===

impl Network {
    /// The mode, with Nomad's default.
    pub fn mode(&self) -> &str {
        match self.mode.text() {
            "" => "host",
            mode => mode,
        }
    }

    /// Whether the group gets a network namespace of its own.
    pub fn has_namespace(&self) -> bool {
        self.mode() == "bridge" || self.mode().starts_with("cni/")
    }

    /// All ports, those that Nomad picks first.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.dynamic_ports
            .items()
            .iter()
            .chain(self.reserved_ports.items())
    }

    /// The port of this label.
    pub fn port(&self, label: &str) -> Option<&Port> {
        self.ports().find(|port| port.label.text() == label)
    }
}

// === impl Port ===

impl Port {
    /// The number that a process in the group's namespace listens on, where the job fixes it:
    /// `To`, else the port that the job picks.
    pub fn inside(&self) -> Option<u16> {
        let number = match self.to.value() {
            to if to > 0 => to,
            _ => self.value.value(),
        };
        u16::try_from(number).ok().filter(|number| *number > 0)
    }
}
