//! Whether a workload takes plaintext at a port, by the `PeerAuthentication`s that hold for it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::istio::PeerAuthentication;
use crate::istio::peer_authentication::MutualTlsMode;
use crate::{Namespace, Object, ObjectRef};

/// What a workload takes at a port, and why.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Decision {
    /// What it takes; never `UNSET`.
    pub mode: MutualTlsMode,
    /// Why.
    pub because: Because,
}

/// What decided; from the widest to the narrowest.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Because {
    /// No policy says anything: Istio's default, `PERMISSIVE`.
    Default,
    /// The policy of the mesh: in the root namespace, without a selector.
    Mesh(ObjectRef),
    /// The policy of the namespace: there, without a selector.
    Namespace(ObjectRef),
    /// A policy that selects the workload.
    Workload(ObjectRef),
    /// What a policy that selects the workload says of the port.
    Port(ObjectRef),
}

/// What a workload takes at one of its ports.
///
/// The narrowest policy that is not `UNSET` decides; of several of one width the oldest one is the
/// policy. Only policies with a selector speak of ports, and none of the root namespace has one.
///
/// Source: <https://istio.io/latest/docs/reference/config/security/peer_authentication/>.
pub fn mode<'a>(
    policies: impl IntoIterator<Item = &'a Object<PeerAuthentication>>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    port: u16,
) -> Decision {
    let root = Namespace::root();
    let (mut mesh, mut of_namespace, mut workload) = (None, None, None);
    for policy in policies {
        let owner = policy.metadata.namespace.as_str();
        let selects = policy.spec.selects_workloads();
        let width = if owner == root.as_str() && !selects {
            &mut mesh
        } else if owner == namespace && owner != root.as_str() && !selects {
            &mut of_namespace
        } else if owner == namespace
            && owner != root.as_str()
            && policy
                .spec
                .selector
                .as_ref()
                .is_some_and(|selector| selector.selects(labels))
        {
            &mut workload
        } else {
            continue;
        };
        if width.is_none_or(|other: &Object<_>| policy.metadata.age() < other.metadata.age()) {
            *width = Some(policy);
        }
    }
    let of = |policy: Option<&'a Object<PeerAuthentication>>, because: fn(ObjectRef) -> Because| {
        let policy = policy?;
        let because = because(ObjectRef::from(&policy.metadata));
        Some((policy.spec.mtls?.mode, because))
    };
    let of_port = workload.and_then(|policy| {
        let because = Because::Port(ObjectRef::from(&policy.metadata));
        Some((policy.spec.port_level_mtls.get(&port)?.mode, because))
    });
    [
        of_port,
        of(workload, Because::Workload),
        of(of_namespace, Because::Namespace),
        of(mesh, Because::Mesh),
    ]
    .into_iter()
    .flatten()
    .find(|(mode, _)| *mode != MutualTlsMode::Unset)
    .map_or(
        Decision {
            mode: MutualTlsMode::Permissive,
            because: Because::Default,
        },
        |(mode, because)| Decision { mode, because },
    )
}

#[cfg(test)]
mod tests;
