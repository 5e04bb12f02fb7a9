//! `AuthorizationPolicy` as filters of the proxy: first what refuses, then what allows.
//!
//! Values are compared as they are, or by their beginning or end; nothing that a user wrote is
//! read as a regular expression. On ports whose requests are not read, a condition on
//! requests cannot be looked at: a rule that allows under it then allows nothing, and a rule that
//! refuses under it refuses without it, so that a policy never becomes weaker (as in Istio).
//!
//! Envoy decides on a connection when the caller's first byte comes. A server that speaks first
//! has greeted by then, also somebody who is refused; what that caller says never reaches it.

mod condition;

use std::collections::BTreeMap;

use condition::{Reader, Sight};
use mesh_model::istio::AuthorizationPolicy;
use mesh_model::istio::authorization_policy::{Action, Rule};
use mesh_model::{Object, TrustDomain, Workload};
use mesh_proto::envoy::config::listener::v3::Filter;
use mesh_proto::envoy::config::rbac::v3 as rbac;
use mesh_proto::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use mesh_proto::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;

use super::{listener, wire};
use crate::pilot::mesh::Mesh;

/// Policies by the names under which logs and statistics show them.
type Policies = BTreeMap<String, rbac::Policy>;

/// The filters of a workload; none when nobody restricts who may call it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Filters {
    http: Vec<rbac::Rbac>,
    network: Vec<rbac::Rbac>,
}

// === impl Filters ===

impl Filters {
    /// The filters that enforce what holds for `workload`.
    pub(super) fn of(mesh: &Mesh, workload: &Workload) -> Self {
        let objects: Vec<_> = mesh.authorization(workload).collect();
        let chain = |sight: Sight| {
            let rules = |action: Action| rules(&objects, &mesh.trust_domain, action, sight);
            let deny = rules(Action::Deny);
            let restricted = objects
                .iter()
                .any(|object| object.spec.action == Action::Allow);
            let deny = (!deny.is_empty()).then(|| rbac::Rbac {
                action: rbac::rbac::Action::Deny.into(),
                policies: deny,
                ..Default::default()
            });
            let allow = restricted.then(|| rbac::Rbac {
                action: rbac::rbac::Action::Allow.into(),
                policies: rules(Action::Allow),
                ..Default::default()
            });
            deny.into_iter().chain(allow).collect()
        };
        Self {
            http: chain(Sight::Requests),
            network: chain(Sight::Connections),
        }
    }

    /// The filters where requests are read.
    pub(super) fn http(&self) -> Vec<HttpFilter> {
        let filter = |rules: &rbac::Rbac| {
            let config = HttpRbac {
                rules: Some(rules.clone()),
                ..Default::default()
            };
            listener::http_filter(&name("http", rules), wire::any(&config))
        };
        self.http.iter().map(filter).collect()
    }

    /// The filters where only connections are seen.
    pub(super) fn network(&self) -> Vec<Filter> {
        let filter = |rules: &rbac::Rbac| {
            let config = NetworkRbac {
                rules: Some(rules.clone()),
                stat_prefix: "authorization.".to_owned(),
                ..Default::default()
            };
            listener::filter(&name("network", rules), wire::any(&config))
        };
        self.network.iter().map(filter).collect()
    }
}

/// Names a filter; the two of a chain must not have the same name.
fn name(layer: &str, rules: &rbac::Rbac) -> String {
    let action = match rules.action() {
        rbac::rbac::Action::Deny => "deny",
        _ => "allow",
    };
    format!("envoy.filters.{layer}.rbac.{action}")
}

/// The rules of all objects with this action.
fn rules(
    objects: &[&Object<AuthorizationPolicy>],
    trust_domain: &TrustDomain,
    action: Action,
    sight: Sight,
) -> Policies {
    let mut policies = Policies::new();
    for object in objects.iter().filter(|object| object.spec.action == action) {
        let reader = Reader {
            trust_domain,
            namespace: &object.metadata.namespace,
            action,
            sight,
        };
        for (index, rule) in object.spec.rules.iter().enumerate() {
            if let Some(policy) = policy(&reader, rule) {
                let (namespace, name) = (&object.metadata.namespace, &object.metadata.name);
                policies.insert(
                    format!("ns[{namespace}]-policy[{name}]-rule[{index}]"),
                    policy,
                );
            }
        }
    }
    policies
}

/// One rule: some caller and some operation, each under all further conditions. `None` when it
/// can never match here.
fn policy(reader: &Reader<'_>, rule: &Rule) -> Option<rbac::Policy> {
    if reader.is_blind_to(rule) {
        return None;
    }
    let conditions = reader.conditions(&rule.when)?;
    let mut principals: Vec<_> = rule
        .from
        .iter()
        .map(|from| reader.source(from.source.as_ref(), &conditions))
        .collect();
    if principals.is_empty() {
        principals.push(reader.source(None, &conditions));
    }
    let mut permissions: Vec<_> = rule
        .to
        .iter()
        .map(|to| reader.operation(to.operation.as_ref(), &conditions))
        .collect();
    if permissions.is_empty() {
        permissions.push(reader.operation(None, &conditions));
    }
    Some(rbac::Policy {
        permissions,
        principals,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests;
