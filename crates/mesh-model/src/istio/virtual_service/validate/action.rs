//! Istio's rules for what is done with a request.

use crate::istio::report::Report;
use crate::istio::virtual_service::{
    Abort, Delay, DirectResponse, Fault, HttpRoute, Redirect, RegexRewrite, Retries, Rewrite,
};
use crate::pattern::Pattern;

/// The largest body of a fixed response.
const LARGEST_BODY: usize = 1 << 20;

/// What failures Envoy can try again, besides status codes.
const RETRY_ON: &[&str] = &[
    "5xx",
    "cancelled",
    "connect-failure",
    "deadline-exceeded",
    "envoy-ratelimited",
    "gateway-error",
    "http3-post-connect-failure",
    "internal",
    "refused-stream",
    "reset",
    "reset-before-request",
    "resource-exhausted",
    "retriable-4xx",
    "retriable-headers",
    "retriable-status-codes",
    "unavailable",
];

pub(super) fn validate(route: &HttpRoute, path: &str, report: &mut Report) {
    let HttpRoute {
        redirect,
        direct_response,
        rewrite,
        retries,
        fault,
        ..
    } = route;
    conflicts(route, path, report);
    if let Some(redirect) = redirect {
        validate_redirect(redirect, route, &format!("{path}.redirect"), report);
    }
    if let Some(response) = direct_response {
        validate_response(response, &format!("{path}.directResponse"), report);
    }
    if let Some(rewrite) = rewrite {
        validate_rewrite(rewrite, &format!("{path}.rewrite"), report);
    }
    if let Some(retries) = retries {
        validate_retries(retries, &format!("{path}.retries"), report);
    }
    if let Some(fault) = fault {
        validate_fault(fault, &format!("{path}.fault"), report);
    }
}

/// Exactly one thing is done with a request, and only sending it on can be changed or failed.
fn conflicts(route: &HttpRoute, path: &str, report: &mut Report) {
    let done = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ];
    let found: Vec<_> = done
        .iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| *name)
        .collect();
    if found.len() != 1 {
        let expected = "exactly one of `route`, `redirect`, `directResponse`";
        report.wrong(path, &found.join(" and "), expected);
    }
    if route.redirect.is_some() || route.direct_response.is_some() {
        for (name, is) in [
            ("fault", route.fault.is_some()),
            ("rewrite", route.rewrite.is_some()),
        ] {
            if is {
                let expected = "together with `route`, the only thing that it can change";
                report.wrong(format!("{path}.{name}"), "it", expected);
            }
        }
    }
}

fn validate_redirect(redirect: &Redirect, route: &HttpRoute, path: &str, report: &mut Report) {
    let Redirect {
        uri,
        prefix_rewrite,
        authority,
        port,
        derive_port,
        scheme,
        redirect_code,
    } = redirect;
    if !uri.is_empty() && !prefix_rewrite.is_empty() {
        report.wrong(
            path,
            "uri and prefixRewrite",
            "only one of `uri` and `prefixRewrite`",
        );
    }
    if port.is_some() && derive_port.is_some() {
        report.wrong(
            path,
            "port and derivePort",
            "only one of `port` and `derivePort`",
        );
    }
    let by_prefix = route.matches.iter().all(|condition| {
        condition
            .uri
            .as_ref()
            .is_none_or(|uri| uri.prefix.is_some())
    });
    if !prefix_rewrite.is_empty() && !by_prefix {
        let expected = "together with matches of `uri` by `prefix` only";
        report.wrong(format!("{path}.prefixRewrite"), prefix_rewrite, expected);
    }
    let texts = [uri, prefix_rewrite, authority, scheme];
    if texts.iter().all(|text| text.is_empty()) && port.is_none() && derive_port.is_none() {
        report.wrong(
            path,
            "",
            "`uri`, `prefixRewrite`, `authority`, `scheme` or a port",
        );
    }
    for (name, text) in [
        ("uri", uri),
        ("prefixRewrite", prefix_rewrite),
        ("authority", authority),
    ] {
        report.header_text(&format!("{path}.{name}"), text);
    }
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        report.wrong(format!("{path}.scheme"), scheme, "`http` or `https`");
    }
    if !matches!(redirect_code, 0 | 301 | 302 | 303 | 307 | 308) {
        let code = redirect_code.to_string();
        report.wrong(
            format!("{path}.redirectCode"),
            &code,
            "301, 302, 303, 307 or 308",
        );
    }
    if let Some(port) = port {
        report.port(&format!("{path}.port"), *port);
    }
}

fn validate_response(response: &DirectResponse, path: &str, report: &mut Report) {
    if !(200..=599).contains(&response.status) {
        let status = response.status.to_string();
        report.wrong(
            format!("{path}.status"),
            &status,
            "a status from 200 to 599",
        );
    }
    let Some(body) = &response.body else { return };
    if body.string.is_some() && body.bytes.is_some() {
        report.wrong(
            format!("{path}.body"),
            "string and bytes",
            "one of `string` and `bytes`",
        );
    }
    match body.content() {
        None => {
            let bytes = body.bytes.as_deref().unwrap_or_default();
            report.wrong(format!("{path}.body.bytes"), bytes, "bytes in base64");
        }
        Some(content) if content.len() > LARGEST_BODY => {
            let size = format!("{} bytes", content.len());
            report.wrong(format!("{path}.body"), &size, "a body of at most 1 MiB");
        }
        Some(_) => {}
    }
}

fn validate_rewrite(rewrite: &Rewrite, path: &str, report: &mut Report) {
    let Rewrite {
        uri,
        authority,
        uri_regex_rewrite,
    } = rewrite;
    if !uri.is_empty() && uri_regex_rewrite.is_some() {
        report.wrong(
            path,
            "uri and uriRegexRewrite",
            "only one of `uri` and `uriRegexRewrite`",
        );
    }
    if uri.is_empty() && authority.is_empty() && uri_regex_rewrite.is_none() {
        report.wrong(path, "", "`uri`, `uriRegexRewrite` or `authority`");
    }
    report.header_text(&format!("{path}.uri"), uri);
    report.header_text(&format!("{path}.authority"), authority);
    if let Some(regex) = uri_regex_rewrite {
        validate_regex_rewrite(regex, &format!("{path}.uriRegexRewrite"), report);
    }
}

fn validate_regex_rewrite(regex: &RegexRewrite, path: &str, report: &mut Report) {
    if regex.pattern.is_empty() {
        report.wrong(format!("{path}.match"), "", "a regular expression");
    } else {
        report.regex(&format!("{path}.match"), &regex.pattern);
    }
    let path = format!("{path}.rewrite");
    if regex.rewrite.is_empty() {
        report.wrong(&path, "", "a replacement");
    }
    report.header_text(&path, &regex.rewrite);
    // Envoy takes a replacement that names no group, and then replaces nothing.
    if let Ok(pattern) = regex.pattern.parse::<Pattern>()
        && !names_groups(&regex.rewrite, pattern.groups())
    {
        let groups = pattern.groups();
        let expected = format!("`\\` only before itself or the number of a group (0 to {groups})");
        report.wrong(path, &regex.rewrite, expected);
    }
}

/// Whether each `\` of a replacement stands before itself or a group that there is.
fn names_groups(replacement: &str, groups: usize) -> bool {
    let mut rest = replacement.chars();
    while let Some(character) = rest.next() {
        if character == '\\' {
            let right = match rest.next() {
                Some('\\') => true,
                Some(digit) => digit
                    .to_digit(10)
                    .and_then(|digit| usize::try_from(digit).ok())
                    .is_some_and(|group| group <= groups),
                None => false,
            };
            if !right {
                return false;
            }
        }
    }
    true
}

fn validate_retries(retries: &Retries, path: &str, report: &mut Report) {
    let further = retries.per_try_timeout.is_some()
        || !retries.retry_on.is_empty()
        || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && further {
        let expected = "at least one attempt (0 is for never, and the rest has no effect)";
        report.wrong(format!("{path}.attempts"), "0", expected);
    }
    if i32::try_from(retries.attempts).is_err() {
        let attempts = retries.attempts.to_string();
        report.wrong(format!("{path}.attempts"), &attempts, "at most 2147483647");
    }
    report.duration(&format!("{path}.perTryTimeout"), retries.per_try_timeout);
    report.duration(&format!("{path}.backoff"), retries.backoff);
    for condition in retries
        .retry_on
        .split(',')
        .filter(|_| !retries.retry_on.is_empty())
    {
        let status = condition
            .parse::<u16>()
            .is_ok_and(|status| (100..=599).contains(&status));
        if !status && !RETRY_ON.contains(&condition) {
            let expected = format!("`{}` or a status code", RETRY_ON.join("`, `"));
            report.wrong(format!("{path}.retryOn"), condition, expected);
        }
    }
}

fn validate_fault(fault: &Fault, path: &str, report: &mut Report) {
    if fault.delay.is_none() && fault.abort.is_none() {
        report.wrong(path, "", "`delay` or `abort`");
    }
    if let Some(delay) = &fault.delay {
        validate_delay(delay, &format!("{path}.delay"), report);
    }
    if let Some(abort) = &fault.abort {
        validate_abort(abort, &format!("{path}.abort"), report);
    }
}

fn validate_delay(delay: &Delay, path: &str, report: &mut Report) {
    let percentage = delay.percentage.map(|percent| percent.value);
    report.percent(&format!("{path}.percentage.value"), percentage);
    report.percent(&format!("{path}.percent"), Some(f64::from(delay.percent)));
    report.duration(&format!("{path}.fixedDelay"), delay.fixed_delay);
    if let Some(duration) = delay.exponential_delay {
        let expected = "supported, by Istio neither; use `fixedDelay`";
        report.wrong(
            format!("{path}.exponentialDelay"),
            &duration.to_string(),
            expected,
        );
    } else if delay.fixed_delay.is_none() {
        report.warn(path, "has no `fixedDelay` and no effect");
    }
}

fn validate_abort(abort: &Abort, path: &str, report: &mut Report) {
    let percentage = abort.percentage.map(|percent| percent.value);
    report.percent(&format!("{path}.percentage.value"), percentage);
    if let Some(error) = &abort.http2_error {
        let expected = "supported, by Istio neither; use `httpStatus` or `grpcStatus`";
        report.wrong(format!("{path}.http2Error"), error, expected);
    }
    match (abort.http_status, &abort.grpc_status) {
        (Some(_), Some(_)) => {
            let expected = "one of `httpStatus` and `grpcStatus`";
            report.wrong(path, "httpStatus and grpcStatus", expected);
        }
        (Some(status), None) if !(200..=599).contains(&status) => {
            let expected = "a status from 200 to 599";
            report.wrong(format!("{path}.httpStatus"), &status.to_string(), expected);
        }
        (None, Some(status)) if abort.grpc_code().is_none() => {
            let expected = "the name of a gRPC status, such as `UNAVAILABLE`";
            report.wrong(format!("{path}.grpcStatus"), status, expected);
        }
        (None, None) if abort.http2_error.is_none() => {
            report.warn(
                path,
                "has neither `httpStatus` nor `grpcStatus` and no effect",
            );
        }
        _ => {}
    }
}
