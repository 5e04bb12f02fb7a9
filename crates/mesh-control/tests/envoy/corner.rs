//! What stands at the edge of what validation takes: Envoy takes it too, or validation refuses it.
//!
//! Envoy refuses a whole resource for one field, so whatever gets past the API must be right.

use std::collections::BTreeMap;

use mesh_control::pilot::mesh::Config;
use mesh_control::pilot::snapshot;
use mesh_model::istio::{IstioKind, check};
use mesh_model::{Health, Kind, Workload};
use serde_json::{Value, json};

use super::bootstrap::Resources;
use super::case;

/// The longest duration that validation takes.
const LONGEST: &str = "9223372035s";

/// A name for people, and an object whose host is its own.
pub(crate) type Corner = (String, Value);

/// Every corner, in which `HOST` is a service of its own.
pub(crate) fn corners() -> Vec<Corner> {
    let groups = [
        ("match", matches()),
        ("header", headers()),
        ("action", actions()),
        ("policy", policies()),
        ("entry", entries()),
        ("authorization", authorizations()),
    ];
    let named = groups.into_iter().flat_map(|(group, objects)| {
        let numbered = objects.into_iter().enumerate();
        numbered.map(move |(index, object)| (format!("{group}-{index}"), object))
    });
    named
        .map(|(name, object)| {
            let mut object = placed(object, &format!("{name}.shop.mesh"));
            object["metadata"] = json!({ "name": name, "namespace": "shop" });
            (name, object)
        })
        .collect()
}

/// Whether validation takes it.
pub(crate) fn is_taken((name, object): &Corner) -> bool {
    let text = |field: &str| object[field].as_str().unwrap();
    let kind = Kind::of_object(text("apiVersion"), text("kind")).unwrap();
    let checked = check(IstioKind::of(kind).unwrap(), object);
    assert!(
        checked.unknown_fields.is_empty(),
        "{name}: {:?}",
        checked.unknown_fields
    );
    checked.problems.is_empty()
}

/// What a proxy gets for these objects, each of which has a service.
pub(crate) fn resources(corners: &[&Corner]) -> Resources {
    let services: Vec<_> = corners
        .iter()
        .map(|(name, _)| {
            let port = json!({ "name": "http", "number": 80, "target": 80, "protocol": "http" });
            json!({ "name": name, "ports": [port] })
        })
        .collect();
    let workload: Workload = serde_json::from_value(json!({
        "id": "shop/web", "namespace": "shop", "service_account": "web",
        "addresses": ["10.213.0.2"],
        "services": services,
    }))
    .unwrap();
    let mut config = Config::default();
    for (_, object) in corners {
        case::add(&mut config, object);
    }
    let mesh = case::assemble(config, &[(workload.clone(), Health::Healthy)]);
    let mut resources = case::json(&snapshot::shared(
        &mesh,
        &workload.namespace,
        workload.mode(),
    ));
    for (kind, own) in case::json(&snapshot::own(&mesh, &workload)) {
        resources.get_mut(kind).unwrap().extend(own);
    }
    resources
}

fn matches() -> Vec<Value> {
    let long = "x".repeat(1025);
    [
        json!({ "uri": { "exact": "" } }),
        json!({ "uri": { "prefix": "" } }),
        json!({ "uri": { "exact": "a\nb" } }),
        json!({ "uri": { "prefix": "no-slash" } }),
        json!({ "uri": { "regex": "(/[a-z]{1,60}){1,15}" } }),
        json!({ "uri": { "regex": "\\pL{100}" } }),
        json!({ "uri": { "regex": "[^\\x{0}-\\x{10000}]{200}" } }),
        json!({ "uri": { "regex": "(?i)/[^\\x{0}-\\x{7f}]{200}" } }),
        json!({ "uri": { "regex": "\u{e4}+" } }),
        json!({ "uri": { "prefix": "/A" }, "ignoreUriCase": true }),
        json!({ "authority": { "exact": "" } }),
        json!({ "headers": { "x-a": { "exact": "" } } }),
        json!({ "headers": { "x-a": { "exact": "a\nb" } } }),
        json!({ "headers": { "x-a": { "prefix": "\u{0}" } } }),
        json!({ "headers": { "x-a": {} } }),
        json!({ "headers": { "X-Upper": { "exact": "x" } } }),
        json!({ "headers": { ":path": { "exact": "x" } } }),
        json!({ "headers": { "": { "exact": "x" } } }),
        json!({ "headers": { ":other": { "exact": "x" } } }),
        json!({ "headers": { long.clone(): { "exact": "x" } } }),
        json!({ "withoutHeaders": { "x-a": { "regex": "*" } } }),
        json!({ "withoutHeaders": { "x-a": { "exact": "" } } }),
        json!({ "queryParams": { "": { "exact": "x" } } }),
        json!({ "queryParams": { "a": {} } }),
        json!({ "queryParams": { "a b&=": { "exact": "" } } }),
        json!({ "queryParams": { long[..1024].to_owned(): { "exact": "x" } } }),
        json!({ "queryParams": { long: { "exact": "x" } } }),
    ]
    .into_iter()
    .map(|condition| route(&json!({ "match": [condition], "route": to_host() })))
    .collect()
}

fn headers() -> Vec<Value> {
    let value = |value: &str| json!({ "set": { "x-a": value } });
    let many: BTreeMap<_, _> = (0..1001).map(|n| (format!("x-{n}"), "x")).collect();
    let names: Vec<_> = many.keys().collect();
    let operations = [
        value(""),
        value("\t"),
        value("a\nb"),
        value("a\u{0}"),
        value("\u{e4}"),
        value("100%"),
        value("100%%"),
        value("%NOPE%"),
        value("%REQ(:path?x-path)% %RESP(x)% %TRAILER(x)%"),
        value(
            "%BYTES_RECEIVED% %CONNECTION_ID% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% \
             %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_ADDRESS% \
             %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT% \
             %DOWNSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_PEER_CERT% %DOWNSTREAM_PEER_FINGERPRINT_256% \
             %DOWNSTREAM_PEER_SERIAL% %DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_URI_SAN% \
             %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% \
             %DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_TLS_VERSION% %HOSTNAME% %PROTOCOL% \
             %REQUESTED_SERVER_NAME% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% \
             %ROUTE_NAME% %START_TIME% %STREAM_ID% %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% \
             %UPSTREAM_REMOTE_ADDRESS% %VIRTUAL_CLUSTER_NAME%",
        ),
        value(&"x".repeat(16_384)),
        value(&"x".repeat(16_385)),
        json!({ "set": { "x".repeat(16_385): "x" } }),
        json!({ "set": { "Content-Length": "1" } }),
        json!({ "set": { "Host": "a\nb" } }),
        json!({ "set": { "host": "%REQ(x)%" } }),
        json!({ "set": { ":authority": "" } }),
        json!({ "set": { ":path": "/" } }),
        json!({ "add": many }),
        json!({ "remove": names }),
        json!({ "remove": ["x-a", ""] }),
        json!({ "remove": ["Host"] }),
        json!({ "remove": [":path"] }),
    ];
    let of_request = operations
        .iter()
        .map(|change| route(&json!({ "route": to_host(), "headers": { "request": change } })));
    let of_response = operations
        .iter()
        .map(|change| route(&json!({ "route": to_host(), "headers": { "response": change } })));
    let of_destination = operations.iter().map(|change| {
        let mut to = to_host();
        to[0]["headers"] = json!({ "request": change });
        route(&json!({ "route": to }))
    });
    of_request
        .chain(of_response)
        .chain(of_destination)
        .collect()
}

fn actions() -> Vec<Value> {
    let all_words = "5xx,cancelled,connect-failure,deadline-exceeded,envoy-ratelimited,\
        gateway-error,http3-post-connect-failure,internal,refused-stream,reset,\
        reset-before-request,resource-exhausted,retriable-4xx,retriable-headers,\
        retriable-status-codes,unavailable,100,599";
    let response = |status: u16, length: usize| {
        json!({ "directResponse": {
        "status": status, "body": { "string": "x".repeat(length) },
    } })
    };
    let forwarded = [
        json!({ "rewrite": { "uri": "a\nb" } }),
        json!({ "rewrite": { "uri": "100%" } }),
        json!({ "rewrite": { "uri": "no-slash" } }),
        json!({ "rewrite": { "authority": "a\nb" } }),
        json!({ "rewrite": { "authority": "a b%" } }),
        json!({ "rewrite": { "uriRegexRewrite": { "match": "/(a)", "rewrite": "\\1" } } }),
        json!({ "rewrite": { "uriRegexRewrite": { "match": "/(a)", "rewrite": "\\2" } } }),
        json!({ "rewrite": { "uriRegexRewrite": { "match": "/(a)", "rewrite": "\\" } } }),
        json!({ "rewrite": { "uriRegexRewrite": { "match": "/(a)", "rewrite": "a\nb" } } }),
        json!({ "timeout": LONGEST }),
        json!({ "timeout": "9223372036s" }),
        json!({ "timeout": "0.001s" }),
        json!({ "retries": { "attempts": 2_147_483_647, "perTryTimeout": LONGEST } }),
        json!({ "retries": { "attempts": 1, "retryOn": all_words } }),
        json!({ "retries": { "attempts": 0 } }),
        json!({ "fault": { "delay": { "fixedDelay": LONGEST } } }),
        json!({ "fault": { "delay": { "fixedDelay": "0.001s", "percentage": { "value": 0.0001 } } } }),
        json!({ "fault": { "abort": { "httpStatus": 200, "percentage": { "value": 100 } } } }),
        json!({ "fault": { "abort": { "httpStatus": 599, "percentage": { "value": 0 } } } }),
        json!({ "fault": { "abort": { "grpcStatus": "OK" } } }),
        json!({ "fault": { "abort": { "grpcStatus": "UNAUTHENTICATED" } } }),
        json!({ "corsPolicy": { "allowOrigins": [{ "regex": ".*" }], "maxAge": "24h" } }),
    ];
    let done = [
        response(200, 4096),
        response(200, 4097),
        response(204, 5000),
        response(599, 1 << 20),
        response(404, (1 << 20) + 1),
        json!({ "directResponse": { "status": 200, "body": { "bytes": "AP8K" } } }),
        json!({ "redirect": { "uri": "a\nb" } }),
        json!({ "redirect": { "uri": "100%" } }),
        json!({ "redirect": { "uri": "/a?b#c" } }),
        json!({ "redirect": { "authority": "a\rb" } }),
        json!({ "redirect": { "authority": "a b" } }),
        json!({ "redirect": { "prefixRewrite": "a\u{0}" } }),
        json!({ "redirect": { "port": 65535, "scheme": "https", "redirectCode": 308 } }),
        json!({ "redirect": { "derivePort": "FROM_REQUEST_PORT" } }),
        json!({ "route": [
            { "destination": { "host": "HOST" }, "weight": 1 },
            { "destination": { "host": "HOST", "subset": "v1" }, "weight": 4_294_967_294_u32 },
        ] }),
        json!({ "route": [
            { "destination": { "host": "HOST" }, "weight": 1 },
            { "destination": { "host": "HOST", "subset": "v1" }, "weight": 4_294_967_295_u32 },
        ] }),
        json!({ "route": [{ "destination": { "host": "HOST", "port": { "number": 65535 } } }] }),
        json!({ "route": [{ "destination": { "host": "*.nobody.example.com" } }] }),
    ];
    let forwarded = forwarded.into_iter().map(|mut rule| {
        rule["route"] = to_host();
        rule
    });
    forwarded.chain(done).map(|http| route(&http)).collect()
}

fn policies() -> Vec<Value> {
    let hash = |hash: Value| json!({ "loadBalancer": { "consistentHash": hash } });
    let tcp = |tcp: Value| json!({ "connectionPool": { "tcp": tcp } });
    let http = |http: Value| json!({ "connectionPool": { "http": http } });
    let outlier = |outlier: Value| json!({ "outlierDetection": outlier });
    let warm =
        |warmup: Value| json!({ "loadBalancer": { "simple": "ROUND_ROBIN", "warmup": warmup } });
    let tls = |mut tls: Value| {
        tls["mode"] = json!("SIMPLE");
        json!({ "tls": tls })
    };
    let cookie = |cookie: Value| hash(json!({ "httpCookie": cookie }));
    [
        hash(json!({ "httpHeaderName": "x y" })),
        hash(json!({ "httpHeaderName": "a\nb" })),
        hash(json!({ "httpHeaderName": ":authority" })),
        hash(json!({ "httpQueryParameterName": "a\nb" })),
        hash(json!({ "httpQueryParameterName": "x".repeat(2000) })),
        hash(json!({ "useSourceIp": false })),
        cookie(json!({ "name": "a\nb", "ttl": "1s" })),
        cookie(json!({ "name": "a;b", "ttl": LONGEST })),
        cookie(json!({ "name": "a", "path": "a\nb", "ttl": "0s" })),
        cookie(json!({ "name": "a", "ttl": "0.0001s", "attributes": [{ "name": "", "value": "x" }] })),
        cookie(json!({ "name": "a", "attributes": [{ "name": "SameSite", "value": "a\nb" }] })),
        cookie(json!({ "name": "a", "attributes": [{ "name": "x y\n", "value": "b" }] })),
        hash(json!({ "useSourceIp": true, "maglev": { "tableSize": 2 } })),
        hash(json!({ "useSourceIp": true, "maglev": { "tableSize": 4_999_999 } })),
        hash(json!({ "useSourceIp": true, "maglev": { "tableSize": 0 } })),
        hash(json!({ "useSourceIp": true, "maglev": {} })),
        hash(json!({ "useSourceIp": true, "ringHash": { "minimumRingSize": 8_388_608 } })),
        hash(json!({ "useSourceIp": true, "ringHash": { "minimumRingSize": 8_388_609 } })),
        hash(json!({ "useSourceIp": true, "minimumRingSize": 8_388_609 })),
        tcp(json!({ "maxConnections": 2_147_483_647, "connectTimeout": LONGEST })),
        tcp(json!({ "connectTimeout": "0.001s", "maxConnectionDuration": LONGEST })),
        tcp(json!({ "maxConnections": 0, "idleTimeout": LONGEST })),
        tcp(json!({ "idleTimeout": "0s" })),
        tcp(json!({ "tcpKeepalive": { "probes": 4_294_967_295_u32, "time": LONGEST, "interval": LONGEST } })),
        tcp(json!({ "tcpKeepalive": {} })),
        http(json!({ "maxConcurrentStreams": 2_147_483_647 })),
        http(json!({ "maxConcurrentStreams": 0 })),
        http(json!({ "http2MaxRequests": 0, "http1MaxPendingRequests": 0, "maxRetries": 0 })),
        http(json!({ "maxRequestsPerConnection": 2_147_483_647, "idleTimeout": LONGEST })),
        http(json!({ "http2KeepAlive": { "interval": "0.001s", "timeout": LONGEST } })),
        http(json!({ "h2UpgradePolicy": "UPGRADE", "http2KeepAlive": { "interval": LONGEST, "timeout": "0.001s" } })),
        outlier(json!({ "consecutive5xxErrors": 4_294_967_295_u32, "interval": LONGEST })),
        outlier(json!({ "consecutiveGatewayErrors": 0, "baseEjectionTime": LONGEST })),
        outlier(json!({ "maxEjectionPercent": 100, "minHealthPercent": 100, "interval": "0.001s" })),
        outlier(json!({ "splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 4_294_967_295_u32 })),
        warm(json!({ "duration": LONGEST, "aggression": 0, "minimumPercent": 0 })),
        warm(json!({ "duration": "1s", "aggression": -1.5, "minimumPercent": 101 })),
        warm(json!({ "duration": "1s", "aggression": 1e300, "minimumPercent": -1 })),
        warm(json!({ "duration": "0s", "aggression": 1 })),
        warm(json!({ "aggression": 2 })),
        json!({ "loadBalancer": { "simple": "PASSTHROUGH" } }),
        tls(json!({ "sni": "x".repeat(255) })),
        tls(json!({ "sni": "x".repeat(256) })),
        tls(json!({ "sni": "a\nb" })),
        tls(json!({ "subjectAltNames": [""] })),
        tls(json!({ "subjectAltNames": ["a\nb", "spiffe://x"] })),
        tls(json!({ "insecureSkipVerify": true })),
    ]
    .into_iter()
    .map(|policy| rule(&json!({ "host": "HOST", "trafficPolicy": policy })))
    .collect()
}

fn entries() -> Vec<Value> {
    let port = json!([{ "number": 80, "name": "http", "protocol": "HTTP" }]);
    let heavy = |address: &str| json!({ "address": address, "weight": 4_294_967_295_u32 });
    let name = [
        "x".repeat(63),
        "y".repeat(63),
        "z".repeat(63),
        "w".repeat(50),
    ]
    .join(".");
    [
        json!({ "resolution": "STATIC", "endpoints": [heavy("10.9.0.1"), heavy("10.9.0.2")] }),
        json!({ "resolution": "DNS", "endpoints": [heavy("a.example.com"), heavy("b.example.com")] }),
        json!({ "resolution": "DNS", "endpoints": [{ "address": name }] }),
        json!({ "resolution": "DNS", "endpoints": [{ "address": "A.Example.COM" }] }),
        json!({ "resolution": "DNS", "endpoints": [{ "address": "10.9.0.3" }] }),
        json!({ "resolution": "DNS", "endpoints": [{ "address": "unix:///run/x" }] }),
        json!({ "resolution": "STATIC", "endpoints": [{ "address": "fd00::1", "ports": { "http": 1 } }] }),
        json!({ "resolution": "STATIC", "endpoints": [{ "address": "::ffff:10.0.0.1" }] }),
        json!({ "resolution": "STATIC", "endpoints": [{ "address": "10.9.0.4", "locality": "a//b/c/d" }] }),
        json!({ "resolution": "DNS_ROUND_ROBIN", "endpoints": [{ "address": "c.example.com" }] }),
        json!({ "resolution": "NONE" }),
        json!({ "resolution": "NONE", "addresses": ["10.8.0.0/16", "fd01::/64"] }),
        json!({ "resolution": "STATIC", "addresses": ["10.7.0.1", "10.7.0.1"], "endpoints": [{ "address": "10.9.0.5" }] }),
        json!({ "resolution": "NONE", "addresses": ["0.0.0.0/0"],
            "ports": [{ "number": 3307, "name": "tcp", "protocol": "TCP" }] }),
        json!({ "resolution": "NONE", "addresses": ["10.6.0.0/16", "10.6.0.0/16"],
            "ports": [{ "number": 3308, "name": "tcp", "protocol": "TCP" }] }),
    ]
    .into_iter()
    .map(|mut spec| {
        spec["hosts"] = json!(["HOST.example.com"]);
        if spec["ports"].is_null() {
            spec["ports"] = port.clone();
        }
        json!({ "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "spec": spec })
    })
    .collect()
}

fn authorizations() -> Vec<Value> {
    let from = |source: Value| json!({ "from": [{ "source": source }] });
    let to = |operation: Value| json!({ "to": [{ "operation": operation }] });
    let when = |key: &str, value: &str| json!({ "when": [{ "key": key, "values": [value] }] });
    let path = |path: &str| to(json!({ "paths": [path] }));
    let stars = |count: usize, star: &str| format!("/{star}").repeat(count);
    let rules = [
        json!({}),
        from(json!({ "principals": ["*", "*x", "x*", "**", "a\nb"] })),
        from(json!({ "namespaces": ["*", "a*", "*a", "a*b", "A\nB", &"a*".repeat(200)] })),
        from(json!({ "ipBlocks": ["10.0.0.1/8", "::/0", "0.0.0.0/0", "::ffff:1.2.3.4"] })),
        from(json!({ "serviceAccounts": ["a", "b/c", "a\nb"] })),
        to(json!({ "hosts": ["*", "*:80", "a*", "*a", "A:80", "a\nb", "a%"] })),
        to(json!({ "methods": ["*", "get", "G*", "a\nb"] })),
        to(json!({ "ports": ["0", "65535"] })),
        path("*"),
        path("/*"),
        path("*/"),
        path("a\nb"),
        path("/{**}"),
        path("/{*}"),
        path("/a/{*}/"),
        path("/a//{*}"),
        path("/{**}/x"),
        path("/{*}/{**}"),
        path("/{*}x"),
        path(&stars(5, "{*}")),
        path(&stars(6, "{*}")),
        path(&stars(40, "{*}")),
        path("/-._~%!$&'()+,;:@=/{*}"),
        path("/%zz/{*}"),
        path("/\u{e4}/{*}"),
        path(&format!("/{}/{{*}}", "x".repeat(5000))),
        when("request.headers[x y]", "a"),
        when("request.headers[]", "a"),
        when("request.headers[:method]", "a"),
        when("request.headers[a\nb]", "a"),
        when("request.headers[x]", "a\nb"),
        when("request.headers[x]", "*"),
        when("request.headers[x]", "**"),
        when("connection.sni", "*"),
        when("connection.sni", "*.x"),
        when("destination.ip", "10.0.0.0/33"),
        when("destination.port", "65536"),
        when("source.namespace", "*a*b*"),
    ];
    let policies = rules.iter().flat_map(|rule| {
        ["ALLOW", "DENY"].map(|action| {
            json!({
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "spec": { "action": action, "rules": [rule] },
            })
        })
    });
    policies.collect()
}

fn route(http: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "spec": { "hosts": ["HOST"], "http": [http] },
    })
}

fn rule(spec: &Value) -> Value {
    json!({ "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "spec": spec })
}

fn to_host() -> Value {
    json!([{ "destination": { "host": "HOST" } }])
}

/// With the host in its place.
fn placed(value: Value, host: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace("HOST", host)),
        Value::Array(list) => list.into_iter().map(|one| placed(one, host)).collect(),
        Value::Object(object) => object
            .into_iter()
            .map(|(key, one)| (key, placed(one, host)))
            .collect(),
        other => other,
    }
}
