//! Rules for a `VirtualService`.

use mesh_model::istio::IstioKind::VirtualService;

use super::{refuses, takes};
use crate::{checked, problems};

/// A `VirtualService` with one route for HTTP, of which `text` is a part.
fn http(text: &str) -> String {
    format!("{{ hosts: [reviews], http: [{{ {text} }}] }}")
}

/// One that also has a destination.
fn routed(text: &str) -> String {
    http(&format!(
        "route: [{{ destination: {{ host: reviews }} }}], {text}"
    ))
}

#[test]
fn hosts_of_a_virtual_service() {
    let tcp = "tcp: [{ route: [{ destination: { host: a } }] }]";
    let with = |rest: &str| format!("{{ {rest}, {tcp} }}");
    for (rest, path) in [
        ("hosts: ['*']", "spec.hosts[0]"),
        ("hosts: ['a b']", "spec.hosts[0]"),
        ("hosts: ['a.*.b']", "spec.hosts[0]"),
        ("hosts: ['']", "spec.hosts[0]"),
        ("hosts: [a, a]", "spec.hosts[1]"),
        ("hosts: [a.example.com, '*.example.com']", "spec.hosts[1]"),
        ("hosts: [a], exportTo: [x, x]", "spec.exportTo[1]"),
        ("hosts: [a], exportTo: [., shop]", "spec.exportTo[1]"),
        ("hosts: [a], exportTo: [shop, '*']", "spec.exportTo[1]"),
        ("hosts: [a], exportTo: ['~']", "spec.exportTo[0]"),
        ("hosts: [a], gateways: ['a b']", "spec.gateways[0]"),
        ("hosts: [a], gateways: ['a/b/c']", "spec.gateways[0]"),
    ] {
        refuses(VirtualService, &[(&with(rest), path)]);
    }
    refuses(VirtualService, &[("{ hosts: [a] }", "spec")]);
    for rest in [
        "hosts: [a, b.example.com, '*.example.org', '*-x.example.net', 10.0.0.1, A.Shop.svc.cluster.local]",
        "hosts: ['*'], gateways: [shop/gw]",
        "hosts: [a], exportTo: [., bank]",
        "hosts: [a], exportTo: ['*'], gateways: [mesh, gw, old.example.com]",
    ] {
        takes(VirtualService, &[&with(rest)]);
    }
}

/// Envoy refuses a whole resource for one of these, or does nothing at all.
#[test]
fn what_envoy_does_not_take_is_refused() {
    let long = "x".repeat(16_385);
    let set = format!("headers: {{ request: {{ set: {{ x-a: {long} }} }} }}");
    let rewrite = "rewrite: { uriRegexRewrite: { match: '/(a)', rewrite: ";
    for (text, path) in [
        (set.as_str(), "headers.request.set[x-a]"),
        ("rewrite: { uri: \"a\\nb\" }", "rewrite.uri"),
        ("rewrite: { authority: \"a\\0\" }", "rewrite.authority"),
        (
            &format!("{rewrite} '\\2' }} }}"),
            "rewrite.uriRegexRewrite.rewrite",
        ),
        (
            &format!("{rewrite} '\\' }} }}"),
            "rewrite.uriRegexRewrite.rewrite",
        ),
        (
            "match: [{ queryParams: { '': { exact: x } } }]",
            "match[0].queryParams",
        ),
        ("timeout: 9223372036s", "timeout"),
    ] {
        refuses(
            VirtualService,
            &[(&routed(text), &format!("spec.http[0].{path}"))],
        );
    }
    let redirect = http("redirect: { authority: \"a\\rb\" }");
    refuses(
        VirtualService,
        &[(&redirect, "spec.http[0].redirect.authority")],
    );
    let groups = format!("{rewrite} '\\0-\\1-\\\\' }} }}");
    takes(
        VirtualService,
        &[&routed(&groups), &routed("timeout: 9223372035s")],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_request_is_sent_on_redirected_or_answered() {
    for (text, path) in [
        ("name: x", "spec.http[0]"),
        (
            "route: [{ destination: { host: a } }], redirect: { uri: /b }",
            "spec.http[0]",
        ),
        (
            "redirect: { uri: /b }, directResponse: { status: 200 }",
            "spec.http[0]",
        ),
        (
            "redirect: { uri: /b }, fault: { abort: { httpStatus: 500 } }",
            "spec.http[0].fault",
        ),
        (
            "directResponse: { status: 200 }, rewrite: { uri: /b }",
            "spec.http[0].rewrite",
        ),
        (
            "route: [{ weight: 1 }]",
            "spec.http[0].route[0].destination",
        ),
        (
            "route: [{ destination: {} }]",
            "spec.http[0].route[0].destination.host",
        ),
        (
            "route: [{ destination: { host: '*' } }]",
            "spec.http[0].route[0].destination.host",
        ),
        (
            "route: [{ destination: { host: a, subset: A } }]",
            "spec.http[0].route[0].destination.subset",
        ),
        (
            "route: [{ destination: { host: a, port: {} } }]",
            "spec.http[0].route[0].destination.port.number",
        ),
        (
            "route: [{ destination: { host: a } }, { destination: { host: b } }]",
            "spec.http[0].route",
        ),
        (
            "route: [{ destination: { host: a }, weight: 4294967295 }, { destination: { host: b }, weight: 1 }]",
            "spec.http[0].route",
        ),
        ("redirect: {}", "spec.http[0].redirect"),
        (
            "redirect: { uri: /a, prefixRewrite: /b }",
            "spec.http[0].redirect",
        ),
        (
            "redirect: { uri: /a, port: 1, derivePort: FROM_REQUEST_PORT }",
            "spec.http[0].redirect",
        ),
        ("redirect: { scheme: ftp }", "spec.http[0].redirect.scheme"),
        (
            "redirect: { uri: /a, redirectCode: 200 }",
            "spec.http[0].redirect.redirectCode",
        ),
        ("redirect: { port: 0 }", "spec.http[0].redirect.port"),
        (
            "match: [{ uri: { exact: /a } }], redirect: { prefixRewrite: /b }",
            "spec.http[0].redirect.prefixRewrite",
        ),
        (
            "directResponse: { status: 100 }",
            "spec.http[0].directResponse.status",
        ),
        ("directResponse: {}", "spec.http[0].directResponse.status"),
        (
            "directResponse: { status: 200, body: { bytes: '*' } }",
            "spec.http[0].directResponse.body.bytes",
        ),
        (
            "directResponse: { status: 200, body: { bytes: 'YQ==', string: a } }",
            "spec.http[0].directResponse.body",
        ),
    ] {
        refuses(VirtualService, &[(&http(text), path)]);
    }
    let large = format!(
        "directResponse: {{ status: 200, body: {{ string: {} }} }}",
        "a".repeat((1 << 20) + 1)
    );
    refuses(
        VirtualService,
        &[(&http(&large), "spec.http[0].directResponse.body")],
    );
    for text in [
        "route: [{ destination: { host: a } }]",
        "route: [{ destination: { host: a }, weight: 1 }, { destination: { host: b } }]",
        "redirect: { authority: a.example.com, redirectCode: 308 }",
        "match: [{ uri: { prefix: /a } }, {}], redirect: { prefixRewrite: /b, derivePort: FROM_REQUEST_PORT }",
        "directResponse: { status: 599, body: { bytes: 'YQ==' } }",
        "delegate: { name: other }",
    ] {
        takes(VirtualService, &[&http(text)]);
    }
}

#[test]
fn conditions_on_a_request() {
    let with = |condition: &str| routed(&format!("match: [{{ {condition} }}]"));
    for (condition, path) in [
        ("uri: { regex: '(' }", "uri.regex"),
        ("uri: { regex: '' }", "uri.regex"),
        ("uri: { regex: 'a{2000}' }", "uri.regex"),
        ("uri: { exact: /a, prefix: /b }", "uri"),
        ("method: { prefix: '' }", "method.prefix"),
        ("scheme: { regex: '[' }", "scheme.regex"),
        ("authority: { regex: '\\Q' }", "authority.regex"),
        ("headers: { 'a b': {} }", "headers"),
        (
            "headers: { '@request.auth.claims.sub': { exact: x } }",
            "headers",
        ),
        ("headers: { a: { regex: '*' } }", "headers[a].regex"),
        (
            "withoutHeaders: { a: { prefix: '' } }",
            "withoutHeaders[a].prefix",
        ),
        (
            "queryParams: { a: { regex: '(?=b)' } }",
            "queryParams[a].regex",
        ),
        ("port: 0", "port"),
        ("sourceLabels: { a: 'b c' }", "sourceLabels[a]"),
        ("sourceNamespace: A", "sourceNamespace"),
        ("gateways: ['/']", "gateways[0]"),
    ] {
        refuses(
            VirtualService,
            &[(&with(condition), &format!("spec.http[0].match[0].{path}"))],
        );
    }
    for condition in [
        "uri: { prefix: '' }",
        "headers: { ':method': { exact: GET }, X-User_1: {} }",
        "withoutHeaders: { a: { regex: '*' } }",
        "queryParams: { 'a[]': { exact: '' } }",
        "port: 65535, sourceLabels: { a/b: '' }, sourceNamespace: bank, gateways: [mesh]",
        "ignoreUriCase: true, name: x",
    ] {
        takes(VirtualService, &[&with(condition)]);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn what_is_done_besides() {
    for (text, path) in [
        ("timeout: 0s", "timeout"),
        ("timeout: 1.5ms", "timeout"),
        ("retries: { attempts: 0, retryOn: 5xx }", "retries.attempts"),
        ("retries: { attempts: 3000000000 }", "retries.attempts"),
        (
            "retries: { attempts: 1, retryOn: '5xx,nope' }",
            "retries.retryOn",
        ),
        (
            "retries: { attempts: 1, retryOn: '600' }",
            "retries.retryOn",
        ),
        (
            "retries: { attempts: 1, perTryTimeout: 0s }",
            "retries.perTryTimeout",
        ),
        ("retries: { attempts: 1, backoff: 1us }", "retries.backoff"),
        ("fault: {}", "fault"),
        (
            "fault: { abort: { httpStatus: 199 } }",
            "fault.abort.httpStatus",
        ),
        (
            "fault: { abort: { httpStatus: 600 } }",
            "fault.abort.httpStatus",
        ),
        (
            "fault: { abort: { grpcStatus: NOPE } }",
            "fault.abort.grpcStatus",
        ),
        (
            "fault: { abort: { http2Error: X } }",
            "fault.abort.http2Error",
        ),
        (
            "fault: { abort: { httpStatus: 500, grpcStatus: OK } }",
            "fault.abort",
        ),
        (
            "fault: { abort: { httpStatus: 500, percentage: { value: 100.1 } } }",
            "fault.abort.percentage.value",
        ),
        (
            "fault: { delay: { fixedDelay: 1s, percentage: { value: 0.00001 } } }",
            "fault.delay.percentage.value",
        ),
        (
            "fault: { delay: { fixedDelay: 1s, percentage: { value: -1 } } }",
            "fault.delay.percentage.value",
        ),
        (
            "fault: { delay: { fixedDelay: 1s, percent: 101 } }",
            "fault.delay.percent",
        ),
        (
            "fault: { delay: { fixedDelay: 0s } }",
            "fault.delay.fixedDelay",
        ),
        (
            "fault: { delay: { exponentialDelay: 1s } }",
            "fault.delay.exponentialDelay",
        ),
        ("rewrite: {}", "rewrite"),
        (
            "rewrite: { uri: /a, uriRegexRewrite: { match: a, rewrite: b } }",
            "rewrite",
        ),
        (
            "rewrite: { uriRegexRewrite: { match: '(', rewrite: b } }",
            "rewrite.uriRegexRewrite.match",
        ),
        (
            "rewrite: { uriRegexRewrite: { match: a } }",
            "rewrite.uriRegexRewrite.rewrite",
        ),
        (
            "headers: { request: { set: { 'a b': c } } }",
            "headers.request.set",
        ),
        (
            "headers: { request: { add: { ':path': c } } }",
            "headers.request.add",
        ),
        (
            "headers: { request: { set: { a: '50%' } } }",
            "headers.request.set[a]",
        ),
        (
            "headers: { response: { set: { host: a } } }",
            "headers.response.set",
        ),
        (
            "headers: { request: { remove: [Host] } }",
            "headers.request.remove[0]",
        ),
        (
            "rewrite: { authority: a }, headers: { request: { set: { Host: b } } }",
            "",
        ),
        (
            "mirror: { host: a }, mirrors: [{ destination: { host: b } }]",
            "",
        ),
        ("mirrors: [{}]", "mirrors[0].destination"),
    ] {
        let path = format!("spec.http[0].{path}");
        refuses(
            VirtualService,
            &[(&routed(text), path.trim_end_matches('.'))],
        );
    }
    for text in [
        "timeout: 1m30s, retries: { attempts: 0 }",
        "retries: { attempts: 3, perTryTimeout: 2s, retryOn: 'gateway-error,connect-failure,503' }",
        "fault: { delay: { percentage: { value: 0.1 }, fixedDelay: 7s }, abort: { httpStatus: 555 } }",
        "fault: { abort: { grpcStatus: UNAVAILABLE, percentage: { value: 0 } } }",
        "rewrite: { uri: /a, authority: b }",
        "rewrite: { uriRegexRewrite: { match: '^/a/(.*)$', rewrite: '/b/\\1' } }",
        "headers: { request: { set: { Host: a, x: '%REQ(y)% 100%%' }, add: { z: '' }, remove: [w] } }",
    ] {
        takes(VirtualService, &[&routed(text)]);
    }
}

#[test]
fn routes_of_connections() {
    let with = |text: &str| format!("{{ hosts: [a], tcp: [{{ {text} }}] }}");
    for (text, path) in [
        ("match: [{ port: 80 }]", "route"),
        (
            "match: [{ port: 0 }], route: [{ destination: { host: a } }]",
            "match[0].port",
        ),
        (
            "match: [{ destinationSubnets: [10.0.0.0/33] }], route: [{ destination: { host: a } }]",
            "match[0].destinationSubnets[0]",
        ),
        (
            "route: [{ destination: { host: a } }, { destination: { host: b } }]",
            "route",
        ),
    ] {
        refuses(
            VirtualService,
            &[(&with(text), &format!("spec.tcp[0].{path}"))],
        );
    }
    let tls = "{ hosts: [a], tls: [{ match: [{ sniHosts: [] }], route: [{ destination: { host: a } }] }] }";
    refuses(VirtualService, &[(tls, "spec.tls[0].match[0].sniHosts")]);
}

#[test]
fn what_has_no_effect_is_named_in_a_warning() {
    let spec = "
hosts: [reviews]
gateways: [mesh, shop/gw]
http:
- corsPolicy: { allowOrigins: [{ exact: a }] }
  mirrors: []
  retries: { attempts: 1, backoff: 1s }
  route: [{ destination: { host: reviews } }]
- match: [{ statPrefix: x }]
  delegate: { name: other }
tls: [{ match: [{ sniHosts: [a.b] }], route: [{ destination: { host: a } }] }]
";
    let checked = checked(VirtualService, spec);
    assert_eq!(checked.problems, []);
    let paths: Vec<_> = checked
        .warnings
        .iter()
        .map(|warning| warning.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "spec.http[0]",
            "spec.tls",
            "spec.http[1].match[0].statPrefix",
            "spec.http[1].delegate",
            "spec.http[0].corsPolicy",
            "spec.http[0].retries.backoff",
        ]
    );
}

#[test]
fn all_problems_are_found_at_once() {
    let spec = "
hosts: ['*', 'a b']
http:
- route:
  - destination: { host: reviews, subset: 'V 1' }
    weight: 0
  - destination: { host: '' }
  timeout: 0s
  fault: { abort: { httpStatus: 1000, percentage: { value: 200 } } }
- {}
";
    let found = problems(VirtualService, spec);
    assert_eq!(
        found,
        [
            "spec.hosts[0]: `*` is not a host of the mesh (`*` is for gateways)",
            "spec.hosts[1]: `a b` is not a host name (DNS labels joined by `.`, the first may begin with `*`; at most 255)",
            "spec.hosts[1]: `a b` is not a host apart from `*`, which is in the list as well",
            "spec.http[0].fault.abort.percentage.value: `200` is not a percentage: 0, or from 0.0001 to 100",
            "spec.http[0].fault.abort.httpStatus: `1000` is not a status from 200 to 599",
            "spec.http[0].route[0].destination.subset: `V 1` is not a DNS label (a-z, 0-9, `-`; at most 63)",
            "spec.http[0].route[1].destination.host: found nothing, expected a host name (DNS labels joined by `.`, the first may begin with `*`; at most 255)",
            "spec.http[0].route: `0` is not a sum of weights above 0",
            "spec.http[0].timeout: `0s` is not a duration of at least 1ms, in whole milliseconds",
            "spec.http[1]: found nothing, expected exactly one of `route`, `redirect`, `directResponse`",
        ]
    );
}
