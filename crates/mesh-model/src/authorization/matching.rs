//! Whether a rule matches a call.

use std::net::IpAddr;

use ipnet::IpNet;
use regex::Regex;

use super::Call;
use crate::istio::authorization_policy::{
    Action, Condition, Key, Operation, Rule, Source, is_template,
};
use crate::{HttpRequest, SpiffeId};

/// Whether a rule of a policy of `owner` with this action matches.
pub(super) fn matches(rule: &Rule, action: Action, owner: &str, call: &Call<'_>) -> bool {
    if call.request.is_none() && action == Action::Allow && rule.asks_for_http() {
        return false;
    }
    let from = rule.from.is_empty()
        || rule.from.iter().any(|from| {
            from.source
                .as_ref()
                .is_none_or(|source| is_source(source, owner, call))
        });
    let to = rule.to.is_empty()
        || rule.to.iter().any(|to| {
            to.operation
                .as_ref()
                .is_none_or(|operation| is_operation(operation, call))
        });
    from && to
        && rule
            .when
            .iter()
            .all(|condition| is_met(condition, owner, call))
}

fn is_source(source: &Source, owner: &str, call: &Call<'_>) -> bool {
    let principal = |value: &str| is_principal(value, call.source);
    let namespace = |value: &str| is_namespace(value, call.source);
    let account = |value: &str| is_account(value, owner, call.source);
    let network = |value: &str| is_in(value, call.source_ip);
    list(&source.principals, &source.not_principals, principal)
        && list(&source.namespaces, &source.not_namespaces, namespace)
        && list(
            &source.service_accounts,
            &source.not_service_accounts,
            account,
        )
        && list(&source.ip_blocks, &source.not_ip_blocks, network)
}

fn is_operation(operation: &Operation, call: &Call<'_>) -> bool {
    let port = |value: &str| value.parse() == Ok(call.destination_port);
    list(&operation.ports, &operation.not_ports, port)
        // Without a request only rules that deny come here, and what they ask of it is left out.
        && call.request.is_none_or(|request| is_request(operation, request))
}

fn is_request(operation: &Operation, request: &HttpRequest) -> bool {
    let path = request.path_only();
    let authority = request.authority.to_ascii_lowercase();
    let host = |value: &str| is_text(&value.to_ascii_lowercase(), &authority);
    list(&operation.hosts, &operation.not_hosts, host)
        && list(&operation.methods, &operation.not_methods, |value| {
            is_text(value, &request.method)
        })
        && list(&operation.paths, &operation.not_paths, |value| {
            is_path(value, path)
        })
}

fn is_met(condition: &Condition, owner: &str, call: &Call<'_>) -> bool {
    let Condition {
        key,
        values,
        not_values,
    } = condition;
    let Some(key) = Key::of(key) else {
        return false;
    };
    match (key, call.request) {
        // As above: only rules that deny come here.
        (Key::Header(_), None) => true,
        (Key::Header(name), Some(request)) => {
            let header = request.header(name);
            list(values, not_values, |value| {
                header.is_some_and(|header| value == "*" || is_text(value, header))
            })
        }
        (Key::SourceIp, _) => list(values, not_values, |value| is_in(value, call.source_ip)),
        (Key::DestinationIp, _) => list(values, not_values, |value| {
            is_in(value, call.destination_ip)
        }),
        (Key::DestinationPort, _) => list(values, not_values, |value| {
            value.parse() == Ok(call.destination_port)
        }),
        (Key::SourceNamespace, _) => {
            list(values, not_values, |value| is_namespace(value, call.source))
        }
        (Key::SourcePrincipal, _) => {
            list(values, not_values, |value| is_principal(value, call.source))
        }
        (Key::SourceServiceAccount, _) => list(values, not_values, |value| {
            is_account(value, owner, call.source)
        }),
        (Key::Sni, _) => {
            let sni = call.sni.unwrap_or_default();
            list(values, not_values, |value| is_text(value, sni))
        }
    }
}

/// Whether one of `values`, if there are any, and none of `not_values` matches.
fn list(values: &[String], not_values: &[String], matches: impl Fn(&str) -> bool) -> bool {
    (values.is_empty() || values.iter().any(|value| matches(value)))
        && !not_values.iter().any(|value| matches(value))
}

/// Text, which may begin or end with `*`; `*` alone is anything but nothing.
fn is_text(pattern: &str, text: &str) -> bool {
    if pattern == "*" {
        !text.is_empty()
    } else if let Some(end) = pattern.strip_prefix('*') {
        text.ends_with(end)
    } else if let Some(beginning) = pattern.strip_suffix('*') {
        text.starts_with(beginning)
    } else {
        text == pattern
    }
}

/// An identity without its scheme.
fn is_principal(pattern: &str, source: Option<&SpiffeId>) -> bool {
    source.is_some_and(|source| {
        let text = source.to_string();
        is_text(pattern, text.strip_prefix("spiffe://").unwrap_or(&text))
    })
}

/// A namespace, in which each `*` stands for any text.
fn is_namespace(pattern: &str, source: Option<&SpiffeId>) -> bool {
    let Some(source) = source else {
        return false;
    };
    let mut parts = pattern.split('*');
    let Some(mut rest) = source
        .namespace
        .as_str()
        .strip_prefix(parts.next().unwrap_or_default())
    else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

/// `<service account>` of the policy's own namespace, or `<namespace>/<service account>`.
fn is_account(value: &str, owner: &str, source: Option<&SpiffeId>) -> bool {
    let (namespace, account) = value.split_once('/').unwrap_or((owner, value));
    source.is_some_and(|source| {
        source.namespace.as_str() == namespace && source.service_account.as_str() == account
    })
}

fn is_in(network: &str, address: IpAddr) -> bool {
    match network.parse::<IpNet>() {
        Ok(network) => network.contains(&address),
        Err(_) => network.parse() == Ok(address),
    }
}

/// A path as text with `*` at an end, or as a template.
fn is_path(pattern: &str, path: &str) -> bool {
    if !is_template(pattern) {
        return is_text(pattern, path);
    }
    let segments = pattern.split('/').map(|segment| match segment {
        "{*}" => "[^/]+".to_owned(),
        "{**}" => ".*".to_owned(),
        text => regex::escape(text),
    });
    let segments: Vec<_> = segments.collect();
    Regex::new(&format!(r"\A(?s:{})\z", segments.join("/")))
        .is_ok_and(|template| template.is_match(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_at_an_end_or_for_anything() {
        for (pattern, text) in [
            ("a", "a"),
            ("*", "a"),
            ("*b", "ab"),
            ("*b", "b"),
            ("a*", "ab"),
            ("a*", "a"),
            ("", ""),
        ] {
            assert!(is_text(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", "ab"),
            ("*", ""),
            ("*b", "ba"),
            ("a*", "ba"),
            ("a*b", "axb"),
        ] {
            assert!(!is_text(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_star_stands_anywhere_in_a_namespace() {
        let source: SpiffeId = "spiffe://td/ns/team-a-prod/sa/x".parse().unwrap();
        for pattern in [
            "team-a-prod",
            "*",
            "team-*",
            "*-prod",
            "team-*-prod",
            "*a*",
            "*t*-*-*d*",
        ] {
            assert!(is_namespace(pattern, Some(&source)), "{pattern}");
        }
        for pattern in [
            "team-a",
            "prod",
            "team-b*",
            "*-dev",
            "te*b*d",
            "",
            "td*",
            "*prod-team*",
        ] {
            assert!(!is_namespace(pattern, Some(&source)), "{pattern}");
        }
        assert!(!is_namespace("*", None));
    }

    #[test]
    fn a_template_has_stars_for_segments() {
        for (pattern, path) in [
            ("/a/{*}/c", "/a/b/c"),
            ("/a/{**}", "/a/"),
            ("/a/{**}", "/a/b/c"),
            ("/{*}/b/{**}/d", "/a/b/c/c/d"),
        ] {
            assert!(is_path(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/a/{*}/c", "/a//c"),
            ("/a/{*}/c", "/a/b/b/c"),
            ("/a/{**}", "/a"),
            ("/a.b/{*}", "/axb/c"),
            ("/{*}", "/a/b"),
        ] {
            assert!(!is_path(pattern, path), "{pattern} {path}");
        }
    }
}
