//! The conditions of one rule, in Envoy's terms.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::TrustDomain;
use mesh_model::istio::authorization_policy::{Action, Condition, Operation, Source};
use mesh_proto::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use mesh_proto::envoy::config::rbac::v3::permission::{self, Rule as Permit};
use mesh_proto::envoy::config::rbac::v3::principal::{self, Authenticated, Identifier};
use mesh_proto::envoy::config::rbac::v3::{Permission, Principal};
use mesh_proto::envoy::config::route::v3::HeaderMatcher;
use mesh_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use mesh_proto::envoy::r#type::matcher::v3::path_matcher::Rule as PathRule;
use mesh_proto::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher};

use super::super::wire;

/// What a filter can see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sight {
    /// Requests.
    Requests,
    /// Connections only.
    Connections,
}

/// Reads the conditions of one object's rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    /// Whose identities there are.
    pub(super) trust_domain: &'a TrustDomain,
    /// The object's namespace.
    pub(super) namespace: &'a str,
    /// What happens to calls that match.
    pub(super) action: Action,
    /// What can be seen of them.
    pub(super) sight: Sight,
}

/// The further conditions of a rule, which all must hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    principals: Vec<Principal>,
    permissions: Vec<Permission>,
}

/// How a value is compared: a star at one end stands for anything.
enum Pattern<'a> {
    Any,
    Exact(&'a str),
    Prefix(&'a str),
    Suffix(&'a str),
}

/// A condition on requests where only connections are seen: the whole operation allows nothing.
struct Unseen;

// === impl Reader ===

impl Reader<'_> {
    /// The conditions that stand beside caller and operation; none when one of them can never
    /// hold here.
    pub(super) fn conditions(&self, conditions: &[Condition]) -> Option<Conditions> {
        let mut all = Conditions::default();
        for condition in conditions {
            let key = condition.key.as_str();
            let (wanted, unwanted) = (&condition.values, &condition.not_values);
            if let Some(read) = self.of_caller(key) {
                both(&mut all.principals, wanted, unwanted, read, any_id, not_id);
            } else if let Some(read) = of_call(key) {
                let on_request = key.starts_with("request.");
                match self.seen(on_request) {
                    Ok(true) => {
                        both(
                            &mut all.permissions,
                            wanted,
                            unwanted,
                            read,
                            any_rule,
                            not_rule,
                        );
                    }
                    Ok(false) => {}
                    Err(Unseen) => return None,
                }
            } else {
                // Not known, though the API refuses such: it must not make the rule weaker.
                match self.action {
                    Action::Deny => {}
                    _ => return None,
                }
            }
        }
        Some(all)
    }

    /// A caller under further conditions; without a source any caller.
    pub(super) fn source(&self, source: Option<&Source>, conditions: &Conditions) -> Principal {
        let mut all = Vec::new();
        if let Some(source) = source {
            let mut add = |wanted: &[String], unwanted: &[String], read: Box<Caller<'_>>| {
                both(&mut all, wanted, unwanted, read, any_id, not_id);
            };
            add(
                &source.principals,
                &source.not_principals,
                Box::new(identity),
            );
            add(
                &source.namespaces,
                &source.not_namespaces,
                Box::new(|value| self.in_namespace(value)),
            );
            add(
                &source.service_accounts,
                &source.not_service_accounts,
                Box::new(|value| self.account(value)),
            );
            add(&source.ip_blocks, &source.not_ip_blocks, Box::new(address));
        }
        all.extend(conditions.principals.iter().cloned());
        all_ids(all)
    }

    /// An operation under further conditions; without one any. `None` when it can never hold here.
    pub(super) fn operation(
        &self,
        operation: Option<&Operation>,
        conditions: &Conditions,
    ) -> Option<Permission> {
        let mut all = Vec::new();
        if let Some(operation) = operation {
            let of_requests: [(&[String], &[String], fn(&str) -> Permission); 3] = [
                (&operation.hosts, &operation.not_hosts, host),
                (&operation.methods, &operation.not_methods, method),
                (&operation.paths, &operation.not_paths, path),
            ];
            for (wanted, unwanted, read) in of_requests {
                if wanted.is_empty() && unwanted.is_empty() {
                    continue;
                }
                if self.seen(true).ok()? {
                    both(&mut all, wanted, unwanted, read, any_rule, not_rule);
                }
            }
            let (wanted, unwanted) = (&operation.ports, &operation.not_ports);
            both(&mut all, wanted, unwanted, port, any_rule, not_rule);
        }
        all.extend(conditions.permissions.iter().cloned());
        Some(all_rules(all))
    }

    /// Whether a condition is looked at; an error when it must be and cannot.
    fn seen(&self, on_request: bool) -> Result<bool, Unseen> {
        match (on_request, self.sight, self.action) {
            (false, _, _) | (true, Sight::Requests, _) => Ok(true),
            (true, Sight::Connections, Action::Deny) => Ok(false),
            (true, Sight::Connections, _) => Err(Unseen),
        }
    }

    fn of_caller(&self, key: &str) -> Option<Box<Caller<'_>>> {
        Some(match key {
            "source.ip" => Box::new(address),
            "source.principal" => Box::new(identity),
            "source.namespace" => Box::new(|value| self.in_namespace(value)),
            "source.serviceAccount" => Box::new(|value| self.account(value)),
            _ => return None,
        })
    }

    /// Callers of a namespace.
    fn in_namespace(&self, value: &str) -> Principal {
        let root = format!("spiffe://{}/ns/", self.trust_domain);
        match pattern(value) {
            Pattern::Any => authenticated(Some(wire::prefix(root))),
            Pattern::Exact(name) => authenticated(Some(wire::prefix(format!("{root}{name}/")))),
            Pattern::Prefix(name) => authenticated(Some(wire::prefix(format!("{root}{name}")))),
            // No part of an identity contains a slash, so this is the end of the namespace.
            Pattern::Suffix(name) => authenticated(Some(wire::contains(format!("{name}/sa/")))),
        }
    }

    /// One account, of this object's namespace unless it names another.
    fn account(&self, value: &str) -> Principal {
        let (namespace, account) = value.split_once('/').unwrap_or((self.namespace, value));
        let trust_domain = self.trust_domain;
        authenticated(Some(wire::exact(format!(
            "spiffe://{trust_domain}/ns/{namespace}/sa/{account}"
        ))))
    }
}

/// Reads a value as a condition on the caller.
type Caller<'a> = dyn Fn(&str) -> Principal + 'a;

fn of_call(key: &str) -> Option<Box<dyn Fn(&str) -> Permission + '_>> {
    if let Some(name) = key
        .strip_prefix("request.headers[")
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return Some(Box::new(move |value| header(name, value, false)));
    }
    Some(match key {
        "destination.ip" => Box::new(|value| {
            let network = network(value);
            permission(network.map_or(never(), Permit::DestinationIp))
        }),
        "destination.port" => Box::new(port),
        "connection.sni" => Box::new(|value| permission(Permit::RequestedServerName(text(value)))),
        _ => return None,
    })
}

// Callers.

fn identity(value: &str) -> Principal {
    authenticated(match pattern(value) {
        Pattern::Any => None,
        Pattern::Exact(text) => Some(wire::exact(format!("spiffe://{text}"))),
        Pattern::Prefix(text) => Some(wire::prefix(format!("spiffe://{text}"))),
        Pattern::Suffix(text) => Some(wire::suffix(text)),
    })
}

/// Somebody whose certificate was verified and matches.
fn authenticated(matcher: Option<StringMatcher>) -> Principal {
    principal(Identifier::Authenticated(Authenticated {
        principal_name: matcher,
    }))
}

fn address(value: &str) -> Principal {
    match network(value) {
        Some(network) => principal(Identifier::DirectRemoteIp(network)),
        None => not_id(principal(Identifier::Any(true))),
    }
}

// Calls.

fn method(value: &str) -> Permission {
    header(":method", value, false)
}

/// The authority without regard to case, with or without the port that it may carry.
fn host(value: &str) -> Permission {
    let plain = header(":authority", value, true);
    match pattern(value) {
        Pattern::Any | Pattern::Prefix(_) => plain,
        Pattern::Exact(text) => any_rule(vec![
            plain,
            header(":authority", &format!("{text}:*"), true),
        ]),
        // The end of the name may be followed by a port, of which there are few digits: that the
        // name occurs before a colon is enough, since a host has no other.
        Pattern::Suffix(text) => any_rule(vec![
            plain,
            permission(Permit::Header(HeaderMatcher {
                name: ":authority".to_owned(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                    ignore_case: true,
                    ..wire::contains(format!("{text}:"))
                })),
                ..Default::default()
            })),
        ]),
    }
}

fn header(name: &str, value: &str, ignore_case: bool) -> Permission {
    let specifier = match pattern(value) {
        Pattern::Any => HeaderMatchSpecifier::PresentMatch(true),
        _ => HeaderMatchSpecifier::StringMatch(StringMatcher {
            ignore_case,
            ..text(value)
        }),
    };
    permission(Permit::Header(HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }))
}

/// A path without its query: as it is, by beginning or end, or by a template.
fn path(value: &str) -> Permission {
    if value.contains('{') {
        let config = UriTemplateMatchConfig {
            path_template: value.replace("{**}", "**").replace("{*}", "*"),
        };
        return permission(Permit::UriTemplate(TypedExtensionConfig {
            name: "envoy.path.match.uri_template.uri_template_matcher".to_owned(),
            typed_config: Some(wire::any(&config)),
        }));
    }
    permission(match pattern(value) {
        Pattern::Any => Permit::Any(true),
        _ => Permit::UrlPath(PathMatcher {
            rule: Some(PathRule::Path(text(value))),
        }),
    })
}

fn port(value: &str) -> Permission {
    permission(match value.parse::<u16>() {
        Ok(port) => Permit::DestinationPort(port.into()),
        Err(_) => never(),
    })
}

// Both.

/// Adds that one of `wanted` holds, if there are any, and none of `unwanted`.
fn both<T>(
    all: &mut Vec<T>,
    wanted: &[String],
    unwanted: &[String],
    read: impl Fn(&str) -> T,
    any: impl Fn(Vec<T>) -> T,
    not: impl Fn(T) -> T,
) {
    let read_all = |values: &[String]| values.iter().map(|value| read(value)).collect();
    if !wanted.is_empty() {
        all.push(any(read_all(wanted)));
    }
    if !unwanted.is_empty() {
        all.push(not(any(read_all(unwanted))));
    }
}

fn principal(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

fn permission(rule: Permit) -> Permission {
    Permission { rule: Some(rule) }
}

/// What holds for no call.
fn never() -> Permit {
    Permit::NotRule(Box::new(permission(Permit::Any(true))))
}

fn any_id(mut ids: Vec<Principal>) -> Principal {
    match ids.len() {
        1 => ids.remove(0),
        _ => principal(Identifier::OrIds(principal::Set { ids })),
    }
}

fn all_ids(mut ids: Vec<Principal>) -> Principal {
    match ids.len() {
        0 => principal(Identifier::Any(true)),
        1 => ids.remove(0),
        _ => principal(Identifier::AndIds(principal::Set { ids })),
    }
}

fn not_id(id: Principal) -> Principal {
    principal(Identifier::NotId(Box::new(id)))
}

fn any_rule(mut rules: Vec<Permission>) -> Permission {
    match rules.len() {
        1 => rules.remove(0),
        _ => permission(Permit::OrRules(permission::Set { rules })),
    }
}

fn all_rules(mut rules: Vec<Permission>) -> Permission {
    match rules.len() {
        0 => permission(Permit::Any(true)),
        1 => rules.remove(0),
        _ => permission(Permit::AndRules(permission::Set { rules })),
    }
}

fn not_rule(rule: Permission) -> Permission {
    permission(Permit::NotRule(Box::new(rule)))
}

fn pattern(value: &str) -> Pattern<'_> {
    if value == "*" {
        Pattern::Any
    } else if let Some(text) = value.strip_suffix('*') {
        Pattern::Prefix(text)
    } else if let Some(text) = value.strip_prefix('*') {
        Pattern::Suffix(text)
    } else {
        Pattern::Exact(value)
    }
}

/// Text by its pattern; anything at all is text that begins with nothing.
fn text(value: &str) -> StringMatcher {
    match pattern(value) {
        Pattern::Any => wire::prefix(""),
        Pattern::Exact(text) => wire::exact(text),
        Pattern::Prefix(text) => wire::prefix(text),
        Pattern::Suffix(text) => wire::suffix(text),
    }
}

/// A network, or an address as the network of itself.
fn network(value: &str) -> Option<CidrRange> {
    let network = value
        .parse::<IpNet>()
        .or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
    network.ok().map(wire::network)
}
