//! `AuthorizationPolicy` as filters of the proxy: first what refuses, then what allows.
//!
//! Values are compared as they are, or by their beginning or end; nothing that a user wrote is
//! read as a regular expression. On ports whose requests are not read, a condition on
//! requests cannot be looked at: a rule that allows under it then allows nothing, and a rule that
//! refuses under it refuses without it, so that a policy never becomes weaker (as in Istio).
//!
//! Rules for requests stand twice. In the routes of a port they hold from the next request on, also
//! on connections that are open: Envoy exchanges routes in place. In the listener they are what
//! makes Envoy end, within its drain time, the connections and streams that the older rules let in.
//!
//! Envoy decides on a connection when the caller's first byte comes. A server that speaks first
//! has greeted by then, also somebody who is refused; what that caller says never reaches it.

mod condition;

use std::collections::BTreeMap;

use condition::{Reader, Sight};
use mesh_model::istio::AuthorizationPolicy;
use mesh_model::istio::authorization_policy::{Action, Rule};
use mesh_model::{Object, Workload};
use mesh_proto::envoy::config::listener::v3::Filter;
use mesh_proto::envoy::config::rbac::v3 as rbac;
use mesh_proto::envoy::extensions::filters::http::rbac::v3::{Rbac as HttpRbac, RbacPerRoute};
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use mesh_proto::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use mesh_proto::google::protobuf::Any;

use super::{listener, wire};
use crate::pilot::mesh::Mesh;

/// Policies by the names under which logs and statistics show them.
type Policies = BTreeMap<String, rbac::Policy>;

/// The rules of a workload, where requests are read and where only connections are seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Filters {
    http: Chain,
    network: Chain,
}

/// First what refuses, then what allows; nothing where nobody restricts who may call.
#[derive(Clone, Debug, Default, PartialEq)]
struct Chain {
    deny: Option<rbac::Rbac>,
    allow: Option<rbac::Rbac>,
}

// === impl Filters ===

impl Filters {
    /// The filters that enforce what holds for `workload`.
    pub(super) fn of(mesh: &Mesh, workload: &Workload) -> Self {
        let objects: Vec<_> = mesh.authorization(workload).collect();
        let chain = |sight: Sight| {
            let rules = |action: Action| rules(&objects, (mesh, workload), action, sight);
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
            Chain { deny, allow }
        };
        Self {
            http: chain(Sight::Requests),
            network: chain(Sight::Connections),
        }
    }

    /// The filters where requests are read. Both are always there, if only to be told something
    /// by the routes later.
    pub(super) fn http(&self) -> Vec<HttpFilter> {
        let filter = |(action, rules): (&str, &Option<rbac::Rbac>)| {
            let config = HttpRbac {
                rules: rules.clone(),
                ..Default::default()
            };
            listener::http_filter(&name("http", action), wire::any(&config))
        };
        self.http.parts().map(filter).into()
    }

    /// What the routes tell those filters: the rules, or to let everything by.
    pub(super) fn of_routes(&self) -> BTreeMap<String, Any> {
        let told = |(action, rules): (&str, &Option<rbac::Rbac>)| {
            let config = RbacPerRoute {
                rbac: rules.as_ref().map(|rules| HttpRbac {
                    rules: Some(rules.clone()),
                    ..Default::default()
                }),
            };
            (name("http", action), wire::any(&config))
        };
        self.http.parts().map(told).into()
    }

    /// The filters where only connections are seen.
    pub(super) fn network(&self) -> Vec<Filter> {
        let filter = |(action, rules): (&str, &Option<rbac::Rbac>)| {
            let config = NetworkRbac {
                rules: Some(rules.clone()?),
                stat_prefix: "authorization.".to_owned(),
                ..Default::default()
            };
            let filter = listener::filter(&name("network", action), wire::any(&config));
            Some(filter)
        };
        self.network
            .parts()
            .into_iter()
            .filter_map(filter)
            .collect()
    }
}

impl Chain {
    fn parts(&self) -> [(&'static str, &Option<rbac::Rbac>); 2] {
        [("deny", &self.deny), ("allow", &self.allow)]
    }
}

/// Names a filter; the two of a chain must not have the same name.
fn name(layer: &str, action: &str) -> String {
    format!("envoy.filters.{layer}.rbac.{action}")
}

/// The rules of all objects with this action.
fn rules(
    objects: &[&Object<AuthorizationPolicy>],
    (mesh, workload): (&Mesh, &Workload),
    action: Action,
    sight: Sight,
) -> Policies {
    let mut policies = Policies::new();
    for object in objects.iter().filter(|object| object.spec.action == action) {
        let reader = Reader {
            trust_domain: &mesh.trust_domain,
            workload,
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
