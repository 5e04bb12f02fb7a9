//! May this user do that: Kubernetes' RBAC as a pure function, deny by default.
//!
//! [`Policy`] is made of the Roles, ClusterRoles and bindings; [`Policy::decide`] answers, and
//! [`Policy::missing`] tells what somebody lacks to hand on a rule (nobody may grant more than they have).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::authentication::User;

/// Who wants to do what.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// What, as in `get` or `create`.
    pub verb: &'a str,
    /// To what.
    pub object: Object<'a>,
}

/// To what something is done.
#[derive(Clone, Copy, Debug)]
pub enum Object<'a> {
    /// Objects of a kind.
    Resource {
        /// API group; empty for the core group.
        group: &'a str,
        /// Plural of the kind.
        resource: &'a str,
        /// Empty for the object itself.
        subresource: &'a str,
        /// Empty for all namespaces, or for objects without namespace.
        namespace: &'a str,
        /// Empty for all.
        name: &'a str,
    },
    /// A path that is not of objects.
    Path(&'a str),
}

/// One rule of a role.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// What is allowed; `*` is everything.
    pub verbs: Vec<String>,
    /// In which groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// On which kinds; with a subresource as in `serviceaccounts/token`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// On which objects; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// On which paths; a final `*` is any rest. Only in ClusterRoles.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// To whom a role is given.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subject {
    /// `User`, `Group` or `ServiceAccount`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// Of a service account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// Which role a binding gives.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// The answer, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Yes, because of this.
    Allowed {
        /// The binding and role, or the group.
        by: String,
    },
    /// No rule allows it.
    Denied,
}

/// Every role and binding, ready to decide.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// By namespace (empty for ClusterRoles) and name.
    roles: BTreeMap<(String, String), Vec<Rule>>,
    /// By namespace (empty for `ClusterRoleBindings`).
    bindings: BTreeMap<String, Vec<Binding>>,
}

#[derive(Clone, Debug)]
struct Binding {
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// The parts of a role or binding that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Stored {
    metadata: Metadata,
    rules: Option<Vec<Rule>>,
    role_ref: Option<RoleRef>,
    subjects: Option<Vec<Subject>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: String,
}

// === impl Policy ===

impl Policy {
    /// The group whose members may do everything, whatever the roles say: the way back in.
    pub const MASTERS: &str = "system:masters";

    /// Makes a policy of stored objects; one that cannot be read grants nothing.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut policy = Self::default();
        for object in objects {
            let stored: Stored = match serde_json::from_slice(object) {
                Ok(stored) => stored,
                Err(error) => {
                    tracing::error!(%error, "unreadable role or binding grants nothing");
                    continue;
                }
            };
            let Metadata { name, namespace } = stored.metadata;
            if let Some(role) = stored.role_ref {
                policy.bindings.entry(namespace).or_default().push(Binding {
                    name,
                    role,
                    subjects: stored.subjects.unwrap_or_default(),
                });
            } else {
                let rules = stored.rules.unwrap_or_default();
                policy.roles.insert((namespace, name), rules);
            }
        }
        policy
    }

    /// Decides.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_in(Self::MASTERS) {
            return Decision::Allowed {
                by: format!("group {}", Self::MASTERS),
            };
        }
        let namespace = match attributes.object {
            Object::Resource { namespace, .. } => namespace,
            Object::Path(_) => "",
        };
        self.grants(attributes.user, namespace)
            .find(|(_, rule)| rule.allows(attributes.verb, attributes.object))
            .map_or(Decision::Denied, |(binding, _)| Decision::Allowed {
                by: format!(
                    "binding {} to {} {}",
                    binding.name, binding.role.kind, binding.role.name
                ),
            })
    }

    /// The rules of a user in a namespace, those for all namespaces included.
    pub fn rules<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Rule> {
        self.grants(user, namespace).map(|(_, rule)| rule)
    }

    /// The rules of a role, if it exists; the namespace is empty for a `ClusterRole`.
    pub fn role(&self, namespace: &str, name: &str) -> Option<&[Rule]> {
        self.roles
            .get(&(namespace.to_owned(), name.to_owned()))
            .map(Vec::as_slice)
    }

    /// Which of `wanted` the user does not hold; empty if they may hand all of them on.
    pub fn missing(&self, user: &User, namespace: &str, wanted: &[Rule]) -> Vec<Rule> {
        if user.is_in(Self::MASTERS) {
            return Vec::new();
        }
        let held: Vec<&Rule> = self.rules(user, namespace).collect();
        wanted
            .iter()
            .flat_map(Rule::split)
            .filter(|part| !held.iter().any(|rule| rule.covers(part)))
            .collect()
    }

    fn grants<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Binding, &'a Rule)> {
        let everywhere = self.bindings.get("").into_iter().flatten();
        let here = (!namespace.is_empty())
            .then(|| self.bindings.get(namespace))
            .flatten()
            .into_iter()
            .flatten();
        let everywhere = everywhere.map(|binding| ("", binding));
        let here = here.map(move |binding| (namespace, binding));
        everywhere
            .chain(here)
            .filter(move |(place, binding)| {
                binding
                    .subjects
                    .iter()
                    .any(|subject| subject.is(user, place))
            })
            .flat_map(|(place, binding)| {
                // A binding of a namespace may give a Role of that namespace or a ClusterRole.
                let of = if binding.role.kind == "Role" {
                    place
                } else {
                    ""
                };
                self.role(of, &binding.role.name)
                    .unwrap_or_default()
                    .iter()
                    .map(move |rule| (binding, rule))
            })
    }
}

// === impl Subject ===

impl Subject {
    fn is(&self, user: &User, namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.is_in(&self.name),
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() {
                    namespace
                } else {
                    &self.namespace
                };
                let account = user.name.strip_prefix("system:serviceaccount:");
                !namespace.is_empty()
                    && account.and_then(|account| account.split_once(':'))
                        == Some((namespace, self.name.as_str()))
            }
            _ => false,
        }
    }
}

// === impl Rule ===

impl Rule {
    fn allows(&self, verb: &str, object: Object<'_>) -> bool {
        has(&self.verbs, verb)
            && match object {
                Object::Resource {
                    group,
                    resource,
                    subresource,
                    name,
                    ..
                } => {
                    has(&self.api_groups, group)
                        && self.names_resource(resource, subresource)
                        && (self.resource_names.is_empty()
                            || self.resource_names.iter().any(|found| found == name))
                }
                Object::Path(path) => {
                    self.non_resource_urls
                        .iter()
                        .any(|pattern| match pattern.strip_suffix('*') {
                            Some(prefix) => path.starts_with(prefix),
                            None => pattern == path,
                        })
                }
            }
    }

    fn names_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|found| {
            if found == "*" {
                return true;
            }
            match found.split_once('/') {
                None => subresource.is_empty() && found == resource,
                Some((kind, sub)) => {
                    sub == subresource
                        && !subresource.is_empty()
                        && (kind == "*" || kind == resource)
                }
            }
        })
    }

    /// The rule as rules of one verb, group, kind, name or path each.
    fn split(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                parts.push(Self {
                    verbs: vec![verb.clone()],
                    non_resource_urls: vec![url.clone()],
                    ..Self::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let part = Self {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        parts.push(part.clone());
                    }
                    for name in &self.resource_names {
                        parts.push(Self {
                            resource_names: vec![name.clone()],
                            ..part.clone()
                        });
                    }
                }
            }
        }
        parts
    }

    /// Whether whoever holds `self` holds `part`, which is split.
    fn covers(&self, part: &Self) -> bool {
        let all = |held: &[String], wanted: &[String]| wanted.iter().all(|one| has(held, one));
        if !all(&self.verbs, &part.verbs) {
            return false;
        }
        if let Some(url) = part.non_resource_urls.first() {
            return self.non_resource_urls.iter().any(|held| {
                held == url
                    || held
                        .strip_suffix('*')
                        .is_some_and(|prefix| url.starts_with(prefix))
            });
        }
        let resource = part.resources.first().map_or("", String::as_str);
        let is_held = self.resources.iter().any(|held| {
            held == "*"
                || held == resource
                || resource
                    .split_once('/')
                    .is_some_and(|(_, sub)| held.strip_prefix("*/") == Some(sub))
        });
        is_held
            && all(&self.api_groups, &part.api_groups)
            && (self.resource_names.is_empty()
                || (!part.resource_names.is_empty()
                    && part
                        .resource_names
                        .iter()
                        .all(|name| self.resource_names.contains(name))))
    }
}

/// Whether a list names something, or everything.
fn has(list: &[String], one: &str) -> bool {
    list.iter().any(|found| found == "*" || found == one)
}

#[cfg(test)]
mod tests;
