//! The conditions of one rule, in Envoy's terms.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::istio::authorization_policy::{
    Action, Condition, Key, Operation, Rule, Source, is_template,
};
use mesh_model::{TrustDomain, Workload};
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
    /// Who is called.
    pub(super) workload: &'a Workload,
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

// === impl Reader ===

impl Reader<'_> {
    /// Whether a rule cannot be looked at as a whole: it allows, and asks for a request where there
    /// is none.
    pub(super) fn is_blind_to(&self, rule: &Rule) -> bool {
        self.sight == Sight::Connections && self.action == Action::Allow && rule.asks_for_http()
    }

    /// The conditions that stand beside caller and operation; none when one of them is not known,
    /// and the rule would allow more without it.
    pub(super) fn conditions(&self, conditions: &[Condition]) -> Option<Conditions> {
        let mut all = Conditions::default();
        for condition in conditions {
            let (wanted, unwanted) = (&condition.values, &condition.not_values);
            let Some(key) = Key::of(&condition.key) else {
                match self.action {
                    Action::Deny => continue,
                    _ => return None,
                }
            };
            if let Some(read) = self.of_caller(key) {
                both(&mut all.principals, wanted, unwanted, read, any_id, not_id);
            } else if self.sees(key)
                && let Some(read) = self.of_call(key)
            {
                both(
                    &mut all.permissions,
                    wanted,
                    unwanted,
                    read,
                    any_rule,
                    not_rule,
                );
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
            let identity = Box::new(|value: &str| self.identity(value));
            add(&source.principals, &source.not_principals, identity);
            let namespace = Box::new(|value: &str| self.in_namespace(value));
            add(&source.namespaces, &source.not_namespaces, namespace);
            let account = Box::new(|value: &str| self.account(value));
            add(
                &source.service_accounts,
                &source.not_service_accounts,
                account,
            );
            add(&source.ip_blocks, &source.not_ip_blocks, Box::new(address));
        }
        all.extend(conditions.principals.iter().cloned());
        all_ids(all)
    }

    /// An operation under further conditions; without one any.
    pub(super) fn operation(
        &self,
        operation: Option<&Operation>,
        conditions: &Conditions,
    ) -> Permission {
        let mut all = Vec::new();
        if let Some(operation) = operation {
            let mut add = |wanted: &[String], unwanted: &[String], read: Box<Call<'_>>| {
                both(&mut all, wanted, unwanted, read, any_rule, not_rule);
            };
            // What a rule that denies asks of a request is left out where there is none.
            if self.sight == Sight::Requests {
                add(&operation.hosts, &operation.not_hosts, Box::new(host));
                add(&operation.methods, &operation.not_methods, Box::new(method));
                add(&operation.paths, &operation.not_paths, Box::new(path));
            }
            let port = Box::new(|value: &str| self.port(value));
            add(&operation.ports, &operation.not_ports, port);
        }
        all.extend(conditions.permissions.iter().cloned());
        all_rules(all)
    }

    fn sees(&self, key: Key<'_>) -> bool {
        self.sight == Sight::Requests || !matches!(key, Key::Header(_))
    }

    fn of_caller(&self, key: Key<'_>) -> Option<Box<Caller<'_>>> {
        Some(match key {
            Key::SourceIp => Box::new(address),
            Key::SourcePrincipal => Box::new(|value| self.identity(value)),
            Key::SourceNamespace => Box::new(|value| self.in_namespace(value)),
            Key::SourceServiceAccount => Box::new(|value| self.account(value)),
            _ => return None,
        })
    }

    fn of_call<'a>(&'a self, key: Key<'a>) -> Option<Box<Call<'a>>> {
        Some(match key {
            Key::Header(name) => Box::new(move |value| header(name, value, false)),
            Key::DestinationPort => Box::new(|value| self.port(value)),
            Key::DestinationIp => Box::new(|value| {
                permission(network(value).map_or_else(never, Permit::DestinationIp))
            }),
            Key::Sni => Box::new(|value| match pattern(value) {
                Pattern::Any => not_rule(permission(Permit::RequestedServerName(wire::exact("")))),
                _ => permission(Permit::RequestedServerName(text(value))),
            }),
            _ => return None,
        })
    }

    /// A port of the application's own, which the proxy knows by where it takes the calls.
    fn port(&self, value: &str) -> Permission {
        let taken = |port: u16| self.workload.taken_at(port);
        permission(match value.parse().ok().and_then(taken) {
            Some(port) => Permit::DestinationPort(port.into()),
            None => never(),
        })
    }

    /// Callers of an identity: none at a gateway, whatever certificates they have.
    fn identity(&self, value: &str) -> Principal {
        if self.workload.gateway {
            return nobody();
        }
        identity(value)
    }

    /// Callers of a namespace, in whose name each star stands for any text.
    fn in_namespace(&self, value: &str) -> Principal {
        let trust_domain = self.trust_domain;
        let root = format!("spiffe://{trust_domain}/ns/");
        // A namespace has none but these: nothing else can match, and nothing else gets further.
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'*'
        };
        if self.workload.gateway || !value.bytes().all(allowed) {
            return nobody();
        }
        let parts: Vec<_> = value.split('*').collect();
        // No part of an identity contains a slash, so `/sa/` ends the namespace.
        match parts.as_slice() {
            [name] => authenticated(wire::prefix(format!("{root}{name}/"))),
            [name, ""] => authenticated(wire::prefix(format!("{root}{name}"))),
            [_, _, ..] => {
                let namespace = parts.join("[^/]*");
                let pattern = format!("spiffe://[^/]+/ns/{namespace}/sa/[^/]+");
                all_ids(vec![
                    authenticated(wire::prefix(root)),
                    authenticated(wire::regex(&pattern)),
                ])
            }
            [] => nobody(),
        }
    }

    /// One account, of this object's namespace unless it names another.
    fn account(&self, value: &str) -> Principal {
        if self.workload.gateway {
            return nobody();
        }
        let (namespace, account) = value.split_once('/').unwrap_or((self.namespace, value));
        let trust_domain = self.trust_domain;
        let identity = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}");
        authenticated(wire::exact(identity))
    }
}

/// Reads a value as a condition on the caller.
type Caller<'a> = dyn Fn(&str) -> Principal + 'a;

/// Reads a value as a condition on the call.
type Call<'a> = dyn Fn(&str) -> Permission + 'a;

// Callers.

fn identity(value: &str) -> Principal {
    authenticated(match pattern(value) {
        Pattern::Any => wire::prefix("spiffe://"),
        Pattern::Exact(text) => wire::exact(format!("spiffe://{text}")),
        Pattern::Prefix(text) => wire::prefix(format!("spiffe://{text}")),
        Pattern::Suffix(text) => wire::suffix(text),
    })
}

/// Somebody whose certificate was verified and names a matching identity.
fn authenticated(matcher: StringMatcher) -> Principal {
    principal(Identifier::Authenticated(Authenticated {
        principal_name: Some(matcher),
    }))
}

fn nobody() -> Principal {
    not_id(principal(Identifier::Any(true)))
}

fn address(value: &str) -> Principal {
    match network(value) {
        Some(network) => principal(Identifier::DirectRemoteIp(network)),
        None => nobody(),
    }
}

// Calls.

fn method(value: &str) -> Permission {
    header(":method", value, false)
}

/// The authority as it was sent, without regard to case; a port in it is part of it (as in Istio).
fn host(value: &str) -> Permission {
    header(":authority", value, true)
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
    if is_template(value) {
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
    } else if let Some(text) = value.strip_prefix('*') {
        Pattern::Suffix(text)
    } else if let Some(text) = value.strip_suffix('*') {
        Pattern::Prefix(text)
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
