//! The redirect rules of a group; nothing else in this crate talks to netfilter.

use std::path::Path;

pub(crate) use mesh_netfilter::EngineError as RedirectError;
pub use mesh_netfilter::Policy;
use mesh_netfilter::{Engine, HostNetwork, Netns, Plan};

/// Which traffic of a workload goes to its sidecar.
pub(crate) fn sidecar_policy() -> Policy {
    Policy::sidecar()
}

/// Sets the rules of a policy in the network namespace at `path`; again, if they are there.
pub(crate) fn apply(path: &Path, policy: &Policy) -> Result<(), RedirectError> {
    let plan = Plan::compile(policy);
    let applied =
        Engine::netlink(&Netns::Path(path.to_path_buf()))?.apply(&plan, HostNetwork::Refuse)?;
    tracing::debug!(namespace = %path.display(), ?applied, "redirect rules are set");
    Ok(())
}
