//! Istio's rules for an `AuthorizationPolicy`.
//!
//! What this mesh cannot enforce is refused, not dropped: see the module of unsupported fields.

use super::{Action, AuthorizationPolicy, Condition, Key, Operation, Rule, Source, is_template};
use crate::ObjectMeta;
use crate::istio::report::Report;

/// Envoy's limit for a path with `{*}` or `{**}`, in bytes.
const LONGEST_TEMPLATE: usize = 256;
/// Istio's limit for values of `serviceAccounts`.
const MOST_SERVICE_ACCOUNTS: usize = 16;

impl AuthorizationPolicy {
    /// Adds what is wrong with it and what may surprise.
    pub(in crate::istio) fn validate(&self, metadata: &ObjectMeta, report: &mut Report) {
        report.selector(self.selector.as_ref());
        match self.action {
            Action::Deny if self.rules.is_empty() => {
                let expected = "at least one rule (`{}` for every request), for `DENY`";
                report.wrong("spec.rules", "", expected);
            }
            Action::Allow | Action::Deny => {}
            Action::Audit => report.wrong("spec.action", "AUDIT", SUPPORTED_ACTION),
            Action::Custom => report.wrong("spec.action", "CUSTOM", SUPPORTED_ACTION),
        }
        if let Some(value) = metadata.annotations.get(DRY_RUN)
            && value != "false"
        {
            let expected = "`false` (a dry run is not supported, and would be enforced)";
            report.wrong(format!("metadata.annotations[{DRY_RUN}]"), value, expected);
        }
        report.limit("spec.rules", self.rules.len(), 512);
        for (index, rule) in self.rules.iter().enumerate() {
            self.validate_rule(rule, &format!("spec.rules[{index}]"), report);
        }
    }

    fn validate_rule(&self, rule: &Rule, path: &str, report: &mut Report) {
        report.limit(format!("{path}.from"), rule.from.len(), 512);
        for (index, from) in rule.from.iter().enumerate() {
            let path = format!("{path}.from[{index}].source");
            match &from.source {
                Some(source) => validate_source(source, &path, report),
                None => report.wrong(path, "", "a source"),
            }
        }
        for (index, to) in rule.to.iter().enumerate() {
            let path = format!("{path}.to[{index}].operation");
            match &to.operation {
                Some(operation) => validate_operation(operation, &path, report),
                None => report.wrong(path, "", "an operation"),
            }
        }
        for (index, condition) in rule.when.iter().enumerate() {
            validate_condition(condition, &format!("{path}.when[{index}]"), report);
        }
        let by_http = rule.to.iter().filter_map(|to| to.operation.as_ref());
        if self.action == Action::Deny
            && !rule.to.is_empty()
            && by_http
                .clone()
                .all(|to| to.ports.is_empty() && to.not_ports.is_empty())
        {
            report.warn(
                path,
                "has no port and denies every connection to ports of TCP, which have no requests",
            );
        }
    }
}

fn validate_source(source: &Source, path: &str, report: &mut Report) {
    if *source == Source::default() {
        report.wrong(path, "", "at least one condition");
    }
    for (name, values) in [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
    ] {
        not_empty(values, &format!("{path}.{name}"), report);
    }
    for (name, values) in [
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
    ] {
        networks(values, &format!("{path}.{name}"), report);
    }
    for (name, values) in [
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
    ] {
        service_accounts(values, &format!("{path}.{name}"), report);
    }
    let others = [
        &source.principals,
        &source.not_principals,
        &source.namespaces,
        &source.not_namespaces,
    ];
    let accounts = [&source.service_accounts, &source.not_service_accounts];
    if accounts.iter().any(|list| !list.is_empty()) && others.iter().any(|list| !list.is_empty()) {
        let expected = "either service accounts, or principals and namespaces";
        report.wrong(
            path,
            "serviceAccounts with principals or namespaces",
            expected,
        );
    }
}

fn validate_operation(operation: &Operation, path: &str, report: &mut Report) {
    if *operation == Operation::default() {
        report.wrong(path, "", "at least one condition");
    }
    for (name, values) in [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
    ] {
        not_empty(values, &format!("{path}.{name}"), report);
    }
    for (name, values) in [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
    ] {
        warn_of_ports(values, &format!("{path}.{name}"), report);
    }
    for (name, values) in [
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
    ] {
        ports(values, &format!("{path}.{name}"), report);
    }
    for (name, values) in [
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ] {
        let path = format!("{path}.{name}");
        not_empty(values, &path, report);
        for (index, value) in values.iter().enumerate() {
            if let Err(expected) = path_is_right(value) {
                report.wrong(format!("{path}[{index}]"), value, expected);
            }
        }
    }
}

/// A port is part of the host that a client asks for, and clients write every port but 80 and 443.
fn warn_of_ports(hosts: &[String], path: &str, report: &mut Report) {
    for (index, host) in hosts.iter().enumerate() {
        let any_port = format!("{host}:*");
        // One that begins with `*` cannot end with another.
        let exact = !host.starts_with('*') && !host.ends_with('*') && !host.contains(':');
        if exact && !hosts.contains(&any_port) {
            let text = format!(
                "does not match `{host}` with a port, as in `{host}:8080`; \
                 a second value `{any_port}` does"
            );
            report.warn(&format!("{path}[{index}]"), &text);
        }
    }
}

fn validate_condition(condition: &Condition, path: &str, report: &mut Report) {
    if condition.values.is_empty() && condition.not_values.is_empty() {
        report.wrong(path, "", "`values` or `notValues`");
    }
    let Some(key) = Key::of(&condition.key) else {
        return report.wrong(format!("{path}.key"), &condition.key, SUPPORTED_KEY);
    };
    if let Key::Header(name) = key {
        let plain = name.strip_prefix(':').unwrap_or(name);
        report.header_name(&format!("{path}.key"), plain);
    }
    for (name, values) in [
        ("values", &condition.values),
        ("notValues", &condition.not_values),
    ] {
        let path = format!("{path}.{name}");
        match key {
            Key::SourceIp | Key::DestinationIp => networks(values, &path, report),
            Key::DestinationPort => ports(values, &path, report),
            Key::SourceServiceAccount => service_accounts(values, &path, report),
            Key::Header(_) | Key::SourceNamespace | Key::SourcePrincipal | Key::Sni => {
                not_empty(values, &path, report);
            }
        }
    }
}

fn not_empty(values: &[String], path: &str, report: &mut Report) {
    for (index, value) in values.iter().enumerate() {
        report.demand(!value.is_empty(), format!("{path}[{index}]"), "", "a value");
    }
}

fn networks(values: &[String], path: &str, report: &mut Report) {
    for (index, value) in values.iter().enumerate() {
        report.network(&format!("{path}[{index}]"), value);
    }
}

/// Numbers of ports; 0 is one that no connection has, and Istio takes it.
fn ports(values: &[String], path: &str, report: &mut Report) {
    for (index, value) in values.iter().enumerate() {
        let plain = value.bytes().all(|byte| byte.is_ascii_digit());
        let right = plain && value.parse::<u16>().is_ok();
        report.demand(
            right,
            format!("{path}[{index}]"),
            value,
            "a port between 0 and 65535",
        );
    }
}

fn service_accounts(values: &[String], path: &str, report: &mut Report) {
    if values.len() > MOST_SERVICE_ACCOUNTS {
        report.wrong(path, &values.len().to_string(), "at most 16 values");
    }
    for (index, value) in values.iter().enumerate() {
        let parts: Vec<_> = value.split('/').collect();
        let right = parts.len() <= 2
            && parts.iter().all(|part| !part.is_empty())
            && !value.contains('*')
            && value.len() <= 320;
        let expected = "a service account, or `<namespace>/<service account>`, without `*`";
        report.demand(right, format!("{path}[{index}]"), value, expected);
    }
}

/// Whether `{*}` and `{**}` stand where Envoy takes them.
///
/// Source: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/path/match/uri_template/v3/uri_template_match.proto>.
fn path_is_right(path: &str) -> Result<(), &'static str> {
    let template = is_template(path);
    if template && path.len() > LONGEST_TEMPLATE {
        return Err("a path with `{*}` or `{**}` of at most 256 bytes");
    }
    let mut any_before = false;
    for segment in path.trim_matches('/').split('/') {
        match segment {
            "{*}" | "{**}" if any_before => return Err("a path with `{**}` at its end only"),
            "{*}" => {}
            "{**}" => any_before = true,
            _ if segment.contains(['{', '}']) => {
                return Err("a path with braces only as the segments `{*}` and `{**}`");
            }
            _ if template && !is_literal(segment) => {
                return Err("a path whose segments are `{*}`, `{**}` or plain text");
            }
            _ => {}
        }
    }
    if template && !path.starts_with('/') {
        return Err("a path that begins with `/`");
    }
    Ok(())
}

/// What a segment of a path is made of. Source: RFC 3986, appendix A; and Envoy, which takes `*`
/// in a template for an operator.
fn is_literal(segment: &str) -> bool {
    !segment.is_empty()
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte))
}

const DRY_RUN: &str = "istio.io/dry-run";
const SUPPORTED_ACTION: &str = "an action that this mesh enforces (`ALLOW` or `DENY`)";
const SUPPORTED_KEY: &str = "a key that this mesh supports (`request.headers[NAME]`, `source.ip`, \
     `source.namespace`, `source.principal`, `source.serviceAccount`, `destination.ip`, \
     `destination.port`, `connection.sni`)";
