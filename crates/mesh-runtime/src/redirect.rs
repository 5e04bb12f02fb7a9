//! The redirect rules of a group; nothing else in this crate talks to netfilter.

use std::path::Path;

pub(crate) use mesh_netfilter::Policy;
use mesh_netfilter::{Applied, Engine, EngineError, Facts, HostNetwork, Netns, Plan};

use crate::Creation;

/// Which traffic of a workload goes to its sidecar.
pub(crate) fn sidecar_policy() -> Policy {
    Policy::sidecar()
}

/// Sets the rules of a policy in the network namespace at `path`, in one transaction.
pub(crate) fn apply(path: &Path, policy: &Policy) -> Result<Creation, EngineError> {
    let plan = Plan::compile(policy, &Facts::default());
    let engine = Engine::netlink(&Netns::Path(path.to_path_buf()))?;
    match engine.apply(&plan, HostNetwork::Refuse)? {
        Applied::Unchanged => Ok(Creation::Exists),
        _ => Ok(Creation::Created),
    }
}
