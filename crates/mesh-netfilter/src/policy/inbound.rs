//! Capture of connections that arrive.

use crate::{NetworkSet, Port, PortSelect};

/// Capture of connections that arrive in the namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inbound {
    /// Where the proxy takes them; it must listen on the wildcard address of both families.
    pub to: Port,
    /// How the proxy gets them.
    pub mode: InboundMode,
    /// Which ports are captured.
    pub ports: PortSelect,
    /// A port where the proxy itself takes tunnels of other proxies: never captured.
    pub tunnel: Option<Port>,
    /// Callers whose connections are left alone.
    pub excluded_sources: NetworkSet,
}

/// How the proxy gets a connection that arrives.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum InboundMode {
    /// Its destination is translated; the proxy asks the kernel for the original one.
    #[default]
    Redirect,
    /// It stays as it is, source and destination, and the proxy takes it with a transparent
    /// socket (`IP_TRANSPARENT`), which needs a capability.
    Tproxy(Tproxy),
}

/// What TPROXY needs besides a port.
///
/// Two marks are taken: `mark`, and the next number for calls of the proxy to its own workload.
/// A proxy that opens connections to the application with the caller's address puts `mark` on
/// those sockets; answers then find back to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Tproxy {
    /// The mark of packets that are delivered locally, whatever their destination.
    pub mark: u32,
    /// The routing table that delivers them.
    pub table: u32,
    /// The priority of the policy rule that leads to the table.
    pub priority: u32,
}

// === impl Inbound ===

impl Inbound {
    /// All ports to `to`.
    pub fn to(to: Port) -> Self {
        Self {
            to,
            mode: InboundMode::Redirect,
            ports: PortSelect::All,
            tunnel: None,
            excluded_sources: NetworkSet::default(),
        }
    }

    /// With these ports instead of all.
    #[must_use]
    pub fn ports(self, ports: PortSelect) -> Self {
        Self { ports, ..self }
    }

    /// In this mode.
    #[must_use]
    pub fn mode(self, mode: InboundMode) -> Self {
        Self { mode, ..self }
    }

    /// What TPROXY needs, if that is the mode.
    pub fn tproxy(&self) -> Option<Tproxy> {
        match self.mode {
            InboundMode::Redirect => None,
            InboundMode::Tproxy(tproxy) => Some(tproxy),
        }
    }
}

// === impl Tproxy ===

impl Tproxy {
    /// The mark of first packets that the proxy sends to its own workload.
    pub fn self_call_mark(self) -> u32 {
        self.mark.wrapping_add(1)
    }
}

impl Default for Tproxy {
    /// Mark 1337 and table 133, as Istio has them; priority 100.
    fn default() -> Self {
        Self {
            mark: 1337,
            table: 133,
            priority: 100,
        }
    }
}
