//! Which packets of a group go to its proxy.

use mesh_model::sidecar::{ENVOY_METRICS_PORT, PROXY_UID, READINESS_PORT};
use mesh_netfilter::{
    DestinationSelect, Destinations, IdSet, Identities, IdentitySelect, Inbound, Outbound, Policy,
    Port, PortSelect, PortSet, Problems,
};

use serde::Deserialize as _;
use serde_json::Value;

use super::annotation::Annotations;

/// The policy of a group whose network is its own.
pub(super) fn of_namespace(annotations: &Annotations) -> Result<Policy, Problems> {
    let base = Policy::sidecar();
    let ports = match &annotations.include_inbound_ports {
        Some(only) => PortSelect::Only(only.without(&annotations.exclude_inbound_ports)),
        None => PortSelect::AllExcept(own_ports().union(&annotations.exclude_inbound_ports)),
    };
    base.to_builder()
        .inbound(Inbound::to(INBOUND).ports(ports))
        .outbound(outbound(annotations, &PortSet::default()))
        .identities(senders(annotations))
        .build()
}

/// The policy of a group in the host's network. Inbound is off: which ports are the group's is
/// known when it is placed, so the task that applies the policy is told by options.
pub(super) fn of_host(annotations: &Annotations, users: &IdSet) -> Result<Policy, Problems> {
    let users = Identities::users(users.ranges().iter().copied());
    let identities = IdentitySelect::Only(users);
    let sidecar = Policy::sidecar();
    Policy::builder(sidecar.proxy().clone())
        .outbound(outbound(annotations, &host_ports()))
        .dns(sidecar.dns().cloned())
        .identities(identities)
        .build()
}

/// Policies as text; most groups of a job have the same.
#[derive(Debug, Default)]
pub(super) struct Policies {
    last: Option<(Policy, String)>,
}

impl Policies {
    pub(super) fn text(&mut self, policy: Policy) -> String {
        if let Some((last, text)) = &self.last
            && *last == policy
        {
            return text.clone();
        }
        let text = compact(&policy);
        self.last = Some((policy, text.clone()));
        text
    }
}

/// The policy as JSON that says only what is not the default: short, and the same whatever fields a
/// later release adds, for any change of it restarts allocations.
pub(crate) fn compact(policy: &Policy) -> String {
    let mut value = serde_json::to_value(policy).unwrap_or_default();
    let keys = paths(&value);
    for path in keys {
        let mut shorter = value.clone();
        let (parent, key) = path.rsplit_once('/').unwrap_or_default();
        if let Some(Value::Object(parent)) = shorter.pointer_mut(parent) {
            parent.remove(key);
        }
        if Policy::deserialize(&shorter).is_ok_and(|found| &found == policy) {
            value = shorter;
        }
    }
    value.to_string()
}

/// Where every key of the objects in `value` is, outer ones first. No key has `/` or `~` in it.
fn paths(value: &Value) -> Vec<String> {
    let Value::Object(map) = value else {
        return Vec::new();
    };
    let below = |(key, value): (&String, &Value)| {
        let inner = paths(value)
            .into_iter()
            .map(move |path| format!("/{key}{path}"));
        std::iter::once(format!("/{key}")).chain(inner.collect::<Vec<_>>())
    };
    map.iter().flat_map(below).collect()
}

/// Whether a task that runs as `user` would be taken for the proxy.
pub(super) fn is_proxy_user(user: &str) -> bool {
    let number = PROXY_UID.to_string();
    user.split(':')
        .any(|part| part == number || part == super::PROXY_USER)
}

fn outbound(annotations: &Annotations, ports: &PortSet) -> Outbound {
    let excluded = Destinations {
        ports: annotations.exclude_outbound_ports.union(ports),
        networks: annotations.exclude_outbound_cidrs.clone(),
        network_ports: Vec::new(),
    };
    let outbound = Outbound::to(OUTBOUND);
    if excluded.is_empty() {
        outbound
    } else {
        outbound.destinations(DestinationSelect::AllExcept(excluded))
    }
}

fn senders(annotations: &Annotations) -> IdentitySelect {
    let only = &annotations.include_uids;
    if !only.is_empty() {
        return IdentitySelect::Only(Identities::users(only.ranges().iter().copied()));
    }
    let users = &annotations.exclude_uids;
    if users.is_empty() {
        IdentitySelect::Everyone
    } else {
        IdentitySelect::Except(Identities::users(users.ranges().iter().copied()))
    }
}

/// Ports of the proxy that callers outside the mesh use.
fn own_ports() -> PortSet {
    [15020, READINESS_PORT, ENVOY_METRICS_PORT]
        .into_iter()
        .filter_map(Port::new)
        .collect()
}

/// Ports without which a host that is captured is lost: ssh, Nomad's three, and the mesh's own.
fn host_ports() -> PortSet {
    [22, 2379, 2380, 4646, 4647, 4648, 6443, 15011, 15012]
        .into_iter()
        .filter_map(Port::new)
        .collect()
}

const INBOUND: Port = Port::of::<15006>();
const OUTBOUND: Port = Port::of::<15001>();
