//! Rules for the other kinds of networking.

use mesh_model::istio::IstioKind::{DestinationRule, ServiceEntry, WorkloadEntry};

use super::{refuses, takes};
use crate::checked;

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
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
            "loadBalancer: { consistentHash: { httpHeaderName: 'x y' } }",
            "loadBalancer.consistentHash.httpHeaderName",
        ),
        (
            "loadBalancer: { consistentHash: { httpCookie: { name: a, path: \"a\\nb\" } } }",
            "loadBalancer.consistentHash.httpCookie.path",
        ),
        (
            "loadBalancer: { consistentHash: { useSourceIp: true, minimumRingSize: 8388609 } }",
            "loadBalancer.consistentHash.minimumRingSize",
        ),
        (
            "loadBalancer: { warmup: { aggression: 2 } }",
            "loadBalancer.warmup.duration",
        ),
        (
            "loadBalancer: { warmup: { duration: 1s, aggression: 0.5 } }",
            "loadBalancer.warmup.aggression",
        ),
        (
            "loadBalancer: { warmup: { duration: 1s, minimumPercent: 101 } }",
            "loadBalancer.warmup.minimumPercent",
        ),
        (
            "tls: { mode: SIMPLE, subjectAltNames: [''] }",
            "tls.subjectAltNames[0]",
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
#[expect(clippy::too_many_lines, reason = "a table of cases")]
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
fn lists_are_not_longer_than_istio_allows() {
    let list = |count: usize, element: fn(usize) -> String| -> String {
        (0..count).map(element).collect::<Vec<_>>().join(", ")
    };
    let hosts = list(257, |n| format!("h{n}.example.com"));
    refuses(
        ServiceEntry,
        &[(&format!("{{ hosts: [{hosts}] }}"), "spec.hosts")],
    );
    let ports = list(257, |n| format!("{{ number: {}, name: p{n} }}", n + 1));
    refuses(
        ServiceEntry,
        &[(
            &format!("{{ hosts: [a.b], ports: [{ports}] }}"),
            "spec.ports",
        )],
    );
    let ports = list(129, |n| format!("p{n}: 80"));
    let spec = format!("{{ address: 10.0.0.1, ports: {{ {ports} }} }}");
    refuses(WorkloadEntry, &[(&spec, "spec.ports")]);
}
