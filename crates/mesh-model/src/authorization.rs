//! Whether a call is allowed, by the `AuthorizationPolicy`s that hold for a workload, and why.

mod matching;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::istio::AuthorizationPolicy;
use crate::istio::authorization_policy::{Action, Operation, Rule};
use crate::{HttpRequest, Namespace, Object, ObjectRef, SpiffeId};

/// A call as the workload's proxy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The caller's identity, if mutual TLS proved one.
    pub source: Option<&'a SpiffeId>,
    /// The address that the connection comes from.
    pub source_ip: IpAddr,
    /// The address that it goes to.
    pub destination_ip: IpAddr,
    /// The port of the workload that it goes to.
    pub destination_port: u16,
    /// The server name that TLS asked for.
    pub sni: Option<&'a str>,
    /// The request, at a port of HTTP.
    pub request: Option<&'a HttpRequest>,
}

/// Whether a call is allowed, and why.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Decision {
    /// Whether it is.
    pub allowed: bool,
    /// Why.
    pub because: Because,
}

/// Why a call is allowed or not.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Because {
    /// No policy holds that allows anything, so everything is allowed that none denies.
    NoPolicy,
    /// A rule of a policy denies it.
    Denied {
        /// The policy.
        policy: ObjectRef,
        /// The place of the rule in its list.
        rule: usize,
    },
    /// A rule of a policy allows it.
    Allowed {
        /// The policy.
        policy: ObjectRef,
        /// The place of the rule in its list.
        rule: usize,
    },
    /// Policies hold that allow something, and none allows it.
    NotAllowed {
        /// The policies.
        policies: Vec<ObjectRef>,
    },
}

/// Whether a call to a workload of `namespace` with these labels is allowed.
///
/// If a rule of a `DENY` policy matches, it is not. Else, if no `ALLOW` policy holds for the
/// workload, it is; else it is if one of their rules matches.
///
/// At a port of TCP there is no request. There a rule that allows and asks for one never matches,
/// and a rule that denies matches whatever the request would have been: both err on the side of
/// refusing.
///
/// Policies with other actions allow nothing and deny nothing; validation refuses them.
///
/// Source: <https://istio.io/latest/docs/reference/config/security/authorization-policy/>,
/// <https://istio.io/latest/docs/concepts/security/#authorization-for-tcp-protocols>.
pub fn may<'a>(
    policies: impl IntoIterator<Item = &'a Object<AuthorizationPolicy>>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    call: &Call<'_>,
) -> Decision {
    let holding: Vec<_> = policies_for(policies, namespace, labels).collect();
    let of = |action| {
        holding
            .iter()
            .filter(move |policy| policy.spec.action == action)
    };
    let matching = |policy: &Object<AuthorizationPolicy>| {
        let rules = policy.spec.rules.iter();
        let owner = policy.metadata.namespace.as_str();
        let action = policy.spec.action;
        rules
            .enumerate()
            .find_map(|(index, rule)| matching::matches(rule, action, owner, call).then_some(index))
    };
    for policy in of(Action::Deny) {
        if let Some(rule) = matching(policy) {
            let because = Because::Denied {
                policy: ObjectRef::from(&policy.metadata),
                rule,
            };
            return Decision {
                allowed: false,
                because,
            };
        }
    }
    if of(Action::Allow).next().is_none() {
        return Decision {
            allowed: true,
            because: Because::NoPolicy,
        };
    }
    for policy in of(Action::Allow) {
        if let Some(rule) = matching(policy) {
            let because = Because::Allowed {
                policy: ObjectRef::from(&policy.metadata),
                rule,
            };
            return Decision {
                allowed: true,
                because,
            };
        }
    }
    let policies = of(Action::Allow)
        .map(|policy| ObjectRef::from(&policy.metadata))
        .collect();
    Decision {
        allowed: false,
        because: Because::NotAllowed { policies },
    }
}

/// The policies that hold for a workload: those of its namespace and of the root namespace whose
/// selector, if there is one, selects it.
pub fn policies_for<'a>(
    policies: impl IntoIterator<Item = &'a Object<AuthorizationPolicy>>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> impl Iterator<Item = &'a Object<AuthorizationPolicy>> {
    let root = Namespace::root();
    policies.into_iter().filter(move |policy| {
        let owner = policy.metadata.namespace.as_str();
        let selector = policy.spec.selector.as_ref();
        (owner == namespace || owner == root.as_str())
            && selector.is_none_or(|selector| selector.selects(labels))
    })
}

// === impl Rule ===

impl Rule {
    /// Whether it asks for something that only a request of HTTP has.
    pub fn asks_for_http(&self) -> bool {
        self.to
            .iter()
            .filter_map(|to| to.operation.as_ref())
            .any(Operation::asks_for_http)
            || self
                .when
                .iter()
                .any(|condition| condition.key.starts_with("request."))
    }
}

impl Operation {
    /// Whether it asks for something that only a request of HTTP has.
    pub fn asks_for_http(&self) -> bool {
        let Self {
            hosts,
            not_hosts,
            methods,
            not_methods,
            paths,
            not_paths,
            ..
        } = self;
        [hosts, not_hosts, methods, not_methods, paths, not_paths]
            .iter()
            .any(|values| !values.is_empty())
    }
}

#[cfg(test)]
mod tests;
