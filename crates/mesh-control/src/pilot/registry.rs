//! Where workloads come from.
//!
//! A registry gives the workloads that there are, now, and says when that changed.
//! The one of connected agents is [`AgentRegistry`]; on Nomad its catalogue is another
//! ([`NomadRegistry`]), and [`JoinedRegistry`] is both as one.

pub mod agents;
#[cfg(test)]
#[path = "../../tests/golden/allocation.rs"]
mod allocation;
pub mod connect;
pub mod joined;
pub mod merged;
pub mod nomad;
pub mod wire;

use mesh_model::{Health, Workload};
use tokio::sync::watch;

pub use self::agents::{AgentRegistry, Refused, Registered};
pub use self::connect::AgentsService;
pub use self::joined::JoinedRegistry;
pub use self::nomad::{CatalogueMetrics, NomadRegistry};

/// A source of workloads.
pub trait Registry: Send + Sync {
    /// Every workload with its health, in the order of ids, each id once.
    fn workloads(&self) -> Vec<(Workload, Health)>;

    /// Marked as changed when [`Self::workloads`] would answer otherwise than before.
    fn changes(&self) -> watch::Receiver<()>;

    /// Whether everything was read once; until then what is missing may be there all the same.
    fn is_whole(&self) -> bool {
        true
    }
}
