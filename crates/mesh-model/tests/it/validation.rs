//! Istio's rules: what each of them refuses, and where it says so.

use mesh_model::istio::IstioKind::{
    self, AuthorizationPolicy, DestinationRule, PeerAuthentication, ServiceEntry, VirtualService,
    WorkloadEntry,
};

use crate::{checked, problems};

/// Each specification has a problem at exactly one path.
fn refuses(kind: IstioKind, cases: &[(&str, &str)]) {
    for (spec, path) in cases {
        let found = checked(kind, spec).problems;
        let paths: Vec<_> = found.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, [*path], "{spec}: {found:?}");
    }
}

/// Each specification is right; so are its fields.
fn takes(kind: IstioKind, cases: &[&str]) {
    for spec in cases {
        let checked = checked(kind, spec);
        assert_eq!(checked.problems, [], "{spec}");
        assert_eq!(checked.unknown_fields, [""; 0], "{spec}");
        assert!(checked.object.is_some(), "{spec}");
    }
}

/// A VirtualService with one route for HTTP, of which `text` is a part.
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

#[test]
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
            "spec.gateways[1]",
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
fn destination_rules() {
    let policy = |text: &str| format!("{{ host: a, trafficPolicy: {{ {text} }} }}");
    refuses(
        DestinationRule,
        &[
            ("{}", "spec.host"),
            ("{ host: 'a..b' }", "spec.host"),
            (
                "{ host: a, subsets: [{ name: v1 }, { name: v1 }] }",
                "spec.subsets[1].name",
            ),
            ("{ host: a, subsets: [{}] }", "spec.subsets[0].name"),
            (
                "{ host: a, subsets: [{ name: v1, labels: { a: '?' } }] }",
                "spec.subsets[0].labels[a]",
            ),
            (
                "{ host: a, subsets: [{ name: v1, trafficPolicy: {} }] }",
                "spec.subsets[0].trafficPolicy",
            ),
            ("{ host: a, trafficPolicy: {} }", "spec.trafficPolicy"),
        ],
    );
    for (text, path) in [
        ("connectionPool: {}", "connectionPool"),
        (
            "connectionPool: { tcp: { connectTimeout: 0s } }",
            "connectionPool.tcp.connectTimeout",
        ),
        (
            "connectionPool: { tcp: { maxConnections: 3000000000 } }",
            "connectionPool.tcp.maxConnections",
        ),
        (
            "connectionPool: { tcp: { idleTimeout: 1us } }",
            "connectionPool.tcp.idleTimeout",
        ),
        (
            "connectionPool: { http: { http2KeepAlive: { interval: 1s } } }",
            "connectionPool.http.http2KeepAlive.timeout",
        ),
        (
            "loadBalancer: { simple: RANDOM, consistentHash: { useSourceIp: true } }",
            "loadBalancer",
        ),
        (
            "loadBalancer: { consistentHash: {} }",
            "loadBalancer.consistentHash",
        ),
        (
            "loadBalancer: { consistentHash: { useSourceIp: true, httpHeaderName: a } }",
            "loadBalancer.consistentHash",
        ),
        (
            "loadBalancer: { consistentHash: { httpHeaderName: '' } }",
            "loadBalancer.consistentHash.httpHeaderName",
        ),
        (
            "loadBalancer: { consistentHash: { httpCookie: {} } }",
            "loadBalancer.consistentHash.httpCookie.name",
        ),
        (
            "loadBalancer: { consistentHash: { useSourceIp: true, maglev: { tableSize: 10 } } }",
            "loadBalancer.consistentHash.maglev.tableSize",
        ),
        (
            "loadBalancer: { consistentHash: { useSourceIp: true, minimumRingSize: 1, maglev: { tableSize: 7 } } }",
            "loadBalancer.consistentHash",
        ),
        (
            "outlierDetection: { maxEjectionPercent: 101 }",
            "outlierDetection.maxEjectionPercent",
        ),
        (
            "outlierDetection: { interval: 0s }",
            "outlierDetection.interval",
        ),
        (
            "outlierDetection: { consecutiveLocalOriginFailures: 1 }",
            "outlierDetection.consecutiveLocalOriginFailures",
        ),
        (
            "tls: { mode: MUTUAL, privateKey: a }",
            "tls.clientCertificate",
        ),
        (
            "tls: { mode: SIMPLE, insecureSkipVerify: true, caCertificates: a }",
            "tls.insecureSkipVerify",
        ),
        (
            "tls: { mode: SIMPLE, credentialName: a, caCertificates: b }",
            "tls.caCertificates",
        ),
        (
            "portLevelSettings: [{ tls: {} }]",
            "portLevelSettings[0].port.number",
        ),
        (
            "portLevelSettings: [{ port: { number: 1 } }]",
            "portLevelSettings[0]",
        ),
        (
            "portLevelSettings: [{ port: { number: 1 }, tls: {} }, { port: { number: 1 }, tls: {} }]",
            "portLevelSettings[1].port.number",
        ),
    ] {
        refuses(
            DestinationRule,
            &[(&policy(text), &format!("spec.trafficPolicy.{path}"))],
        );
    }
    takes(
        DestinationRule,
        &[
            "{ host: '*.local', trafficPolicy: { tls: { mode: ISTIO_MUTUAL } } }",
            "{ host: a, subsets: [{ name: v1, labels: { version: v1 } }, { name: v2 }] }",
            "{ host: a, trafficPolicy: { connectionPool: { tcp: { idleTimeout: 0s, connectTimeout: 30ms, tcpKeepalive: { time: 7200s, interval: 75s } } } } }",
            "{ host: a, trafficPolicy: { loadBalancer: { consistentHash: { httpCookie: { name: user, ttl: 0s } } } } }",
            "{ host: a, trafficPolicy: { outlierDetection: { consecutive5xxErrors: 7, interval: 5m, baseEjectionTime: 15m } } }",
        ],
    );
    let warnings = checked(DestinationRule, &policy("tunnel: { targetHost: a, targetPort: 1 }, portLevelSettings: [{ port: { number: 1 }, tls: { credentialName: x } }]")).warnings;
    assert_eq!(
        warnings,
        [
            "spec.trafficPolicy.tunnel: not supported, and without effect",
            "spec.trafficPolicy.portLevelSettings[0].tls.credentialName: not supported, and without effect",
        ]
    );
}

#[test]
fn service_entries() {
    let http = "ports: [{ number: 80, name: http, protocol: HTTP }]";
    let with = |text: &str| format!("{{ hosts: [a.example.com], {http}, {text} }}");
    for (text, path) in [
        ("addresses: [10.0.0.0/33]", "spec.addresses[0]"),
        (
            "addresses: [10.0.0.0/8], resolution: DNS",
            "spec.addresses[0]",
        ),
        ("endpoints: [{ address: 10.0.0.1 }]", "spec.endpoints"),
        (
            "resolution: STATIC, endpoints: [{ address: a.example.com }]",
            "spec.endpoints[0].address",
        ),
        (
            "resolution: STATIC, endpoints: [{}]",
            "spec.endpoints[0].address",
        ),
        (
            "resolution: STATIC, endpoints: [{ address: 10.0.0.1, ports: { https: 1 } }]",
            "spec.endpoints[0].ports",
        ),
        (
            "resolution: STATIC, endpoints: [{ address: 10.0.0.1, ports: { http: 0 } }]",
            "spec.endpoints[0].ports[http]",
        ),
        (
            "resolution: STATIC, endpoints: [{ address: 10.0.0.1 }], workloadSelector: { labels: { a: b } }",
            "spec",
        ),
        (
            "resolution: DNS_ROUND_ROBIN, endpoints: [{ address: a.b }, { address: b.c }]",
            "spec.endpoints",
        ),
        (
            "workloadSelector: { labels: { a: '*' } }, resolution: STATIC",
            "spec.workloadSelector.labels[a]",
        ),
        ("exportTo: ['~', a]", "spec.exportTo[0]"),
    ] {
        refuses(ServiceEntry, &[(&with(text), path)]);
    }
    refuses(
        ServiceEntry,
        &[
            ("{}", "spec.hosts"),
            ("{ hosts: ['*'] }", "spec.hosts[0]"),
            ("{ hosts: ['a_b'] }", "spec.hosts[0]"),
            (
                "{ hosts: ['*.example.com'], resolution: DNS }",
                "spec.hosts[0]",
            ),
            (
                "{ hosts: [a.b], ports: [{ number: 0, name: a }] }",
                "spec.ports[0].number",
            ),
            (
                "{ hosts: [a.b], ports: [{ number: 1 }] }",
                "spec.ports[0].name",
            ),
            (
                "{ hosts: [a.b], ports: [{ number: 1, name: a, protocol: SMTP }] }",
                "spec.ports[0].protocol",
            ),
            (
                "{ hosts: [a.b], ports: [{ number: 1, name: a, targetPort: 0 }] }",
                "spec.ports[0].targetPort",
            ),
            (
                "{ hosts: [a.b], ports: [{ number: 1, name: a }, { number: 2, name: a }] }",
                "spec.ports[1].name",
            ),
            (
                "{ hosts: [a.b], ports: [{ number: 1, name: a }, { number: 1, name: b }] }",
                "spec.ports[1].number",
            ),
            (
                "{ hosts: [a.b, c.d], resolution: DNS, ports: [{ number: 1, name: a, protocol: TCP }] }",
                "spec.hosts",
            ),
        ],
    );
    takes(
        ServiceEntry,
        &[
            &with("resolution: DNS, location: MESH_EXTERNAL"),
            &with(
                "resolution: STATIC, addresses: [10.0.0.0/8], endpoints: [{ address: 10.0.0.1, ports: { http: 8080 }, weight: 2 }]",
            ),
            &with("resolution: DNS_ROUND_ROBIN, endpoints: [{ address: a.b }]"),
            &with(
                "resolution: STATIC, location: MESH_INTERNAL, workloadSelector: { labels: { app: a } }",
            ),
            &with("exportTo: ['~'], subjectAltNames: ['spiffe://x/y']"),
            "{ hosts: ['*.example.com'], ports: [{ number: 443, name: tls, protocol: TLS }] }",
        ],
    );
}

#[test]
fn workload_entries() {
    refuses(
        WorkloadEntry,
        &[
            ("{}", "spec.address"),
            ("{ address: 'a b' }", "spec.address"),
            ("{ address: 10.0.0.300/8 }", "spec.address"),
            ("{ address: 'unix://a' }", "spec.address"),
            (
                "{ address: 'unix:///a', ports: { http: 1 } }",
                "spec.address",
            ),
            ("{ address: 10.0.0.1, ports: { A: 1 } }", "spec.ports"),
            ("{ address: 10.0.0.1, ports: { a: 0 } }", "spec.ports[a]"),
            (
                "{ address: 10.0.0.1, labels: { a: '*' } }",
                "spec.labels[a]",
            ),
            (
                "{ address: 10.0.0.1, serviceAccount: A }",
                "spec.serviceAccount",
            ),
        ],
    );
    takes(
        WorkloadEntry,
        &[
            "{ address: 10.0.0.1, ports: { http: 8080 }, labels: { app: a }, weight: 3, serviceAccount: a, locality: a/b/c }",
            "{ address: 'fd00::1' }",
            "{ address: vm.example.com }",
            "{ network: other }",
        ],
    );
}

#[test]
fn peer_authentications() {
    refuses(
        PeerAuthentication,
        &[
            (
                "{ portLevelMtls: { '80': { mode: STRICT } } }",
                "spec.portLevelMtls",
            ),
            (
                "{ selector: {}, portLevelMtls: { '80': { mode: STRICT } } }",
                "spec.portLevelMtls",
            ),
            (
                "{ selector: { matchLabels: { a: b } }, portLevelMtls: { '0': {} } }",
                "spec.portLevelMtls",
            ),
            (
                "{ selector: { matchLabels: { a: '*' } } }",
                "spec.selector.matchLabels[a]",
            ),
            (
                "{ selector: { matchLabels: { '': b } } }",
                "spec.selector.matchLabels",
            ),
        ],
    );
    takes(
        PeerAuthentication,
        &[
            "{}",
            "{ mtls: { mode: STRICT } }",
            "{ selector: { matchLabels: { a: b } }, mtls: { mode: UNSET }, portLevelMtls: { '8080': { mode: DISABLE } } }",
        ],
    );
}

#[test]
fn authorization_policies() {
    let from = |text: &str| format!("{{ rules: [{{ from: [{{ source: {{ {text} }} }}] }}] }}");
    let to = |text: &str| format!("{{ rules: [{{ to: [{{ operation: {{ {text} }} }}] }}] }}");
    let when = |text: &str| format!("{{ rules: [{{ when: [{{ {text} }}] }}] }}");
    refuses(
        AuthorizationPolicy,
        &[
            ("{ action: DENY }", "spec.rules"),
            ("{ action: AUDIT, rules: [{}] }", "spec.action"),
            ("{ action: CUSTOM, rules: [{}] }", "spec.action"),
            ("{ provider: { name: x } }", "spec.provider"),
            (
                "{ targetRef: { kind: Service, name: x } }",
                "spec.targetRef",
            ),
            (
                "{ targetRefs: [{ kind: Service, name: x }] }",
                "spec.targetRefs",
            ),
            (
                "{ rules: [{ from: [{}] }] }",
                "spec.rules[0].from[0].source",
            ),
            (
                "{ rules: [{}, { to: [{}] }] }",
                "spec.rules[1].to[0].operation",
            ),
            (
                "{ selector: { matchLabels: { a: '*' } } }",
                "spec.selector.matchLabels[a]",
            ),
        ],
    );
    for (text, path) in [
        ("", ""),
        ("principals: ['']", ".principals[0]"),
        ("ipBlocks: [10.0.0.0/33]", ".ipBlocks[0]"),
        ("notIpBlocks: [a]", ".notIpBlocks[0]"),
        ("serviceAccounts: ['a/b/c']", ".serviceAccounts[0]"),
        ("serviceAccounts: ['a*']", ".serviceAccounts[0]"),
        ("serviceAccounts: [a], namespaces: [b]", ""),
        (
            "principals: [a], requestPrincipals: ['*']",
            ".requestPrincipals",
        ),
        (
            "principals: [a], notRequestPrincipals: ['*']",
            ".notRequestPrincipals",
        ),
        (
            "principals: [a], remoteIpBlocks: [10.0.0.1]",
            ".remoteIpBlocks",
        ),
        (
            "principals: [a], notRemoteIpBlocks: [10.0.0.1]",
            ".notRemoteIpBlocks",
        ),
        ("principals: [a], trustDomains: [a]", ".trustDomains"),
        ("principals: [a], notTrustDomains: [a]", ".notTrustDomains"),
    ] {
        refuses(
            AuthorizationPolicy,
            &[(&from(text), &format!("spec.rules[0].from[0].source{path}"))],
        );
    }
    for (text, path) in [
        ("", ""),
        ("ports: [http]", ".ports[0]"),
        ("ports: ['70000']", ".ports[0]"),
        ("notPorts: ['+1']", ".notPorts[0]"),
        ("methods: ['']", ".methods[0]"),
        ("paths: ['/a/{**}/{*}']", ".paths[0]"),
        ("paths: ['/a{*}']", ".paths[0]"),
        ("notPaths: ['/{a}']", ".notPaths[0]"),
        ("paths: ['/{*}/a*']", ".paths[0]"),
    ] {
        refuses(
            AuthorizationPolicy,
            &[(&to(text), &format!("spec.rules[0].to[0].operation{path}"))],
        );
    }
    for (text, path) in [
        ("values: [a]", "key"),
        ("key: 'request.auth.claims[x]', values: [a]", "key"),
        ("key: 'request.headers[]', values: [a]", "key"),
        ("key: remote.ip, values: [10.0.0.1]", "key"),
        ("key: source.ip, values: [a]", "values[0]"),
        ("key: destination.port, notValues: ['x']", "notValues[0]"),
        ("key: source.namespace, values: ['']", "values[0]"),
    ] {
        refuses(
            AuthorizationPolicy,
            &[(&when(text), &format!("spec.rules[0].when[0].{path}"))],
        );
    }
    refuses(
        AuthorizationPolicy,
        &[(&when("key: source.ip"), "spec.rules[0].when[0]")],
    );
    takes(
        AuthorizationPolicy,
        &[
            "{}",
            "{ rules: [{}] }",
            "{ action: DENY, rules: [{ from: [{ source: { notNamespaces: [a] } }] }] }",
            &from(
                "principals: ['*', 'a/ns/b/sa/c'], notNamespaces: ['a*'], ipBlocks: [10.0.0.1, 'fd00::/8']",
            ),
            &to(
                "methods: [GET], paths: ['/a/*', '/b/{*}/c/{**}'], hosts: ['*.a.b'], ports: ['80']",
            ),
            &when("key: 'request.headers[X-User]', values: ['*'], notValues: [a]"),
        ],
    );
}

#[test]
fn a_dry_run_is_refused_because_it_would_be_enforced() {
    let mut object = crate::object(AuthorizationPolicy, "{}");
    object["metadata"]["annotations"] = serde_json::json!({ "istio.io/dry-run": "true" });
    let found = mesh_model::istio::check(AuthorizationPolicy, &object).problems;
    assert_eq!(found[0].path, "metadata.annotations[istio.io/dry-run]");
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
