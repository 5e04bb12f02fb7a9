//! Istio's rules for headers, and Envoy's for their values.

use std::collections::BTreeMap;

use crate::istio::StringMatch;
use crate::istio::report::{LONGEST_HEADER, Report, is_token};
use crate::istio::virtual_service::{HeaderOperations, Headers, HttpRoute};

/// What Envoy puts in the place of `%NAME%` in a value, without arguments.
///
/// Envoy refuses a whole configuration for a name that it does not know, so only these are taken.
/// Source: <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#command-operators>.
const COMMANDS: &[&str] = &[
    "BYTES_RECEIVED",
    "CONNECTION_ID",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_VERSION",
    "HOSTNAME",
    "PROTOCOL",
    "REQUESTED_SERVER_NAME",
    "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS",
    "RESPONSE_FLAGS",
    "ROUTE_NAME",
    "START_TIME",
    "STREAM_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS",
    "VIRTUAL_CLUSTER_NAME",
];

/// The same, with the name of a header in brackets.
const COMMANDS_OF_HEADERS: &[&str] = &["REQ", "RESP", "TRAILER"];

/// How many headers Envoy sets and adds at most.
const MOST: usize = 1000;

/// Matches of headers by name.
pub(super) fn matches(headers: &BTreeMap<String, StringMatch>, path: &str, report: &mut Report) {
    for (name, string) in headers {
        let pseudo = matches!(
            name.as_str(),
            ":method" | ":scheme" | ":authority" | ":path"
        );
        if !pseudo && !is_token(name) {
            report.wrong(path, name, "the name of a header");
        }
        report.string_match(&format!("{path}[{name}]"), string);
    }
}

/// Changes to headers of requests and responses.
pub(super) fn operations(headers: &Headers, path: &str, report: &mut Report) {
    if let Some(request) = &headers.request {
        each(request, true, &format!("{path}.request"), report);
    }
    if let Some(response) = &headers.response {
        each(response, false, &format!("{path}.response"), report);
    }
}

fn each(operations: &HeaderOperations, of_request: bool, path: &str, report: &mut Report) {
    report.limit(path, operations.set.len() + operations.add.len(), MOST);
    for (part, values) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in values {
            let path = format!("{path}.{part}");
            let authority = of_request && is_authority(name);
            if !authority && (!is_token(name) || is_authority(name)) {
                report.wrong(&path, name, "the name of a header that may be changed");
            }
            report.limit(&path, name.len(), LONGEST_HEADER);
            report.limit(format!("{path}[{name}]"), value.len(), LONGEST_HEADER);
            if let Err(expected) = value_is_right(value) {
                report.wrong(format!("{path}[{name}]"), value, expected);
            }
        }
    }
    for (index, name) in operations.remove.iter().enumerate() {
        if !is_token(name) || is_authority(name) {
            let path = format!("{path}.remove[{index}]");
            report.wrong(path, name, "the name of a header that may be removed");
        }
    }
}

/// The authority is set in one place at most.
pub(super) fn authority_once(route: &HttpRoute, path: &str, report: &mut Report) {
    let rewritten = route
        .rewrite
        .as_ref()
        .is_some_and(|rewrite| !rewrite.authority.is_empty());
    let request = route
        .headers
        .as_ref()
        .and_then(|headers| headers.request.as_ref());
    let set = request
        .into_iter()
        .flat_map(|request| request.set.keys().chain(request.add.keys()))
        .filter(|name| is_authority(name))
        .count();
    if set + usize::from(rewritten) > 1 {
        report.wrong(
            path,
            "the authority, set more than once",
            "one value for the authority",
        );
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// Whether Envoy takes a value: no control characters, and `%` only as `%%` or in a known command.
fn value_is_right(value: &str) -> Result<(), &'static str> {
    if value
        .bytes()
        .any(|byte| byte != b'\t' && byte.is_ascii_control())
    {
        return Err("a value without control characters");
    }
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('%') {
        rest = match after.strip_prefix('%') {
            Some(rest) => rest,
            None => command(after).ok_or(
                "a value that Envoy takes (`%%` is a percent sign, `%REQ(name)%` a header)",
            )?,
        };
    }
    Ok(())
}

/// What follows a command, of which `text` begins after its first `%`.
fn command(text: &str) -> Option<&str> {
    let (command, rest) = text.split_once('%')?;
    let known = match command.split_once('(') {
        None => COMMANDS.contains(&command),
        Some((name, arguments)) => {
            let names = arguments.strip_suffix(')')?;
            let (first, second) = names.split_once('?').unwrap_or((names, "x"));
            let is_name = |name: &str| is_token(name.strip_prefix(':').unwrap_or(name));
            COMMANDS_OF_HEADERS.contains(&name) && is_name(first) && is_name(second)
        }
    };
    known.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_doubled_or_begin_a_known_command() {
        for value in [
            "",
            "x",
            "100%%",
            "%HOSTNAME%",
            "a %REQ(:path?x-path)% b",
            "%%%START_TIME%",
        ] {
            assert!(value_is_right(value).is_ok(), "{value}");
        }
        for value in [
            "%",
            "100%",
            "%NOPE%",
            "%START_TIME%%",
            "%REQ%",
            "%REQ()%",
            "%REQ(a b)%",
            "%HOSTNAME(x)%",
            "%ENVIRONMENT(HOME)%",
            "a\nb",
            "a\0",
        ] {
            assert!(value_is_right(value).is_err(), "{value}");
        }
    }
}
