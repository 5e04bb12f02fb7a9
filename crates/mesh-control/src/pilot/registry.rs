//! Where workloads come from.
//!
//! A registry gives the workloads that there are, now, and says when that changed.
//! The one of connected agents is [`AgentRegistry`].

pub mod agents;
pub mod connect;
pub mod wire;

use mesh_model::{Health, Workload};
use tokio::sync::watch;

pub use self::agents::{AgentRegistry, Refused, Registered};
pub use self::connect::AgentsService;

/// A source of workloads.
pub trait Registry: Send + Sync {
    /// Every workload with its health, in the order of ids, each id once.
    fn workloads(&self) -> Vec<(Workload, Health)>;

    /// Marked as changed when [`Self::workloads`] would answer otherwise than before.
    fn changes(&self) -> watch::Receiver<()>;
}
