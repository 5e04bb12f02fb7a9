//! Routes, decided for callers and requests.

use super::*;
use crate::testing::{map, objects_of};

/// A request of a caller in `shop` to port 9080 of `reviews`.
fn decide(yaml: &str, request: &HttpRequest) -> String {
    decide_from(yaml, "shop", &[], 9080, request)
}

fn decide_from(
    yaml: &str,
    namespace: &str,
    labels: &[(&str, &str)],
    port: u16,
    request: &HttpRequest,
) -> String {
    let objects = objects_of!(VirtualService, yaml);
    let labels = map(labels);
    let caller = Caller {
        namespace,
        labels: &labels,
        gateway: None,
    };
    short(&route_http(
        &objects,
        caller,
        "reviews.shop.mesh",
        port,
        request,
    ))
}

/// Destinations and the reason on one line.
fn short(decision: &Decision<'_>) -> String {
    let action = match &decision.action {
        Action::Forward(forward) => {
            let share = |share: &Share| format!("{}/{}:{}", share.host, share.subset, share.weight);
            forward
                .destinations
                .iter()
                .map(share)
                .collect::<Vec<_>>()
                .join(" ")
        }
        Action::Redirect(redirect) => format!("redirect {}", redirect.uri),
        Action::Respond(response) => format!("respond {}", response.status),
        Action::NotFound => "404".to_owned(),
    };
    let because = match &decision.because {
        Because::NoVirtualService => "default".to_owned(),
        Because::Route {
            object,
            route,
            condition,
            ..
        } => {
            format!("{object}[{route}] by {condition:?}")
        }
        Because::NothingMatches { object } => format!("nothing of {object}"),
    };
    format!("{action} ({because})")
}

fn with_headers(headers: &[(&str, &str)]) -> HttpRequest {
    HttpRequest {
        headers: map(headers),
        ..HttpRequest::default()
    }
}

fn with_path(path: &str) -> HttpRequest {
    HttpRequest {
        path: path.to_owned(),
        ..HttpRequest::default()
    }
}

const BY_USER: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: reviews, namespace: shop }
spec:
  hosts: [reviews]
  http:
  - match: [{ headers: { end-user: { exact: jason } } }]
    route: [{ destination: { host: reviews, subset: v2 } }]
  - route: [{ destination: { host: reviews, subset: v1 } }]
";

#[test]
fn the_first_route_that_matches_is_taken() {
    let jason = with_headers(&[("end-user", "jason")]);
    assert_eq!(
        decide(BY_USER, &jason),
        "reviews.shop.mesh/v2:1 (shop/reviews[0] by Some(0))"
    );
    let other = with_headers(&[("end-user", "jane")]);
    assert_eq!(
        decide(BY_USER, &other),
        "reviews.shop.mesh/v1:1 (shop/reviews[1] by None)"
    );
}

#[test]
fn without_an_object_a_request_goes_to_its_host() {
    let to_itself = "reviews.shop.mesh/:1 (default)";
    assert_eq!(decide("", &HttpRequest::default()), to_itself);
    let gateway = BY_USER.replace(
        "hosts: [reviews]",
        "hosts: [reviews]\n  gateways: [shop/gw]",
    );
    assert_eq!(decide(&gateway, &HttpRequest::default()), to_itself);
    let private = BY_USER.replace("hosts: [reviews]", "hosts: [reviews]\n  exportTo: ['.']");
    let from_bank = decide_from(&private, "bank", &[], 9080, &HttpRequest::default());
    assert_eq!(from_bank, to_itself);
    assert_ne!(decide(&private, &HttpRequest::default()), to_itself);
}

#[test]
fn when_no_route_matches_the_answer_is_404() {
    let yaml = BY_USER
        .split("  - route: [{ destination: { host: reviews, subset: v1")
        .next();
    let decision = decide(yaml.unwrap(), &HttpRequest::default());
    assert_eq!(decision, "404 (nothing of shop/reviews)");
}

#[test]
fn weights_are_shares_and_those_of_0_are_left_out() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: reviews, namespace: shop }
spec:
  hosts: [reviews.shop.svc.cluster.local]
  http:
  - timeout: 0.5s
    retries: { attempts: 3, perTryTimeout: 100ms, retryOn: '5xx,503' }
    fault: { delay: { percentage: { value: 10 }, fixedDelay: 7s } }
    route:
    - { destination: { host: reviews, subset: v1 }, weight: 90 }
    - { destination: { host: reviews.bank.mesh, port: { number: 80 } }, weight: 10 }
    - { destination: { host: reviews, subset: v3 } }
";
    let objects = objects_of!(VirtualService, yaml);
    let labels = map(&[]);
    let caller = Caller {
        namespace: "shop",
        labels: &labels,
        gateway: None,
    };
    let request = HttpRequest::default();
    let decision = route_http(&objects, caller, "reviews.shop.mesh", 9080, &request);
    let Action::Forward(forward) = decision.action else {
        panic!("{decision:?}")
    };
    let shares: Vec<_> = forward
        .destinations
        .iter()
        .map(|s| (s.host.as_str(), s.port, s.weight))
        .collect();
    assert_eq!(
        shares,
        [
            ("reviews.shop.mesh", None, 90),
            ("reviews.bank.mesh", Some(80), 10)
        ]
    );
    assert_eq!(forward.timeout.unwrap().as_std().as_millis(), 500);
    assert_eq!(forward.retries.unwrap().attempts, 3);
    let delay = forward.fault.unwrap().delay.as_ref().unwrap();
    assert_eq!(delay.fixed_delay.unwrap().to_string(), "7s");
}

#[test]
fn the_most_exact_host_wins_and_then_the_oldest_object() {
    let object = |name: &str, host: &str, made: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: {name}, namespace: shop, creationTimestamp: '{made}' }}
spec:
  hosts: ['{host}']
  http: [{{ route: [{{ destination: {{ host: {name} }} }}] }}]
---"
        )
    };
    let yaml = [
        object("wide", "*.mesh", "2026-01-01T00:00:00Z"),
        object("newer", "reviews", "2026-01-03T00:00:00Z"),
        object("older", "reviews", "2026-01-02T00:00:00Z"),
        object("other", "ratings", "2026-01-01T00:00:00Z"),
    ]
    .concat();
    let decision = decide(yaml.trim_end_matches('-'), &HttpRequest::default());
    assert_eq!(decision, "older.shop.mesh/:1 (shop/older[0] by None)");
}

#[test]
fn conditions_on_the_caller_and_the_port_are_settled_first() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: reviews, namespace: shop }
spec:
  hosts: [reviews]
  gateways: [mesh, shop/gw]
  http:
  - match: [{ port: 80 }]
    route: [{ destination: { host: port } }]
  - match: [{ sourceLabels: { app: web } }]
    route: [{ destination: { host: label } }]
  - match: [{ sourceNamespace: bank }]
    route: [{ destination: { host: namespace } }]
  - match: [{ gateways: [shop/gw] }]
    route: [{ destination: { host: gateway } }]
  - match: [{ uri: { prefix: /a } }, { uri: { exact: /b }, port: 1 }]
    route: [{ destination: { host: path } }]
";
    let request = HttpRequest::default();
    let from = |namespace: &str, labels: &[(&str, &str)], port| {
        decide_from(yaml, namespace, labels, port, &request)
    };
    assert!(from("shop", &[], 80).starts_with("port.shop.mesh"));
    assert!(from("shop", &[("app", "web"), ("x", "y")], 9080).starts_with("label.shop.mesh"));
    assert!(from("bank", &[], 9080).starts_with("namespace.shop.mesh"));
    assert_eq!(from("shop", &[], 9080), "404 (nothing of shop/reviews)");
    let decision = decide(yaml, &with_path("/ab?x"));
    assert!(decision.starts_with("path.shop.mesh"), "{decision}");
    // Its port is another, so only the first condition is left.
    assert!(decide(yaml, &with_path("/b")).starts_with("404"));

    let objects = objects_of!(VirtualService, yaml);
    let labels = map(&[("app", "web")]);
    let caller = Caller {
        namespace: "shop",
        labels: &labels,
        gateway: None,
    };
    let candidates = http_routes(&objects[0], caller, 9080);
    let indices: Vec<_> = candidates.iter().map(|candidate| candidate.index).collect();
    assert_eq!(indices, [1], "what follows is never reached");
}

#[test]
fn an_object_that_says_nothing_of_a_port_leaves_it_alone() {
    let yaml = BY_USER
        .replace("- route", "- match: [{ port: 80 }]\n    route")
        .replace(
            "match: [{ headers: { end-user: { exact: jason } } }]",
            "match: [{ port: 80, headers: { end-user: { exact: jason } } }]",
        );
    let decision = decide(&yaml, &HttpRequest::default());
    assert_eq!(decision, "reviews.shop.mesh/:1 (default)");
}

#[test]
fn every_part_of_a_condition_must_hold() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: reviews, namespace: shop }
spec:
  hosts: [reviews]
  http:
  - match:
    - uri: { prefix: /Api/ }
      ignoreUriCase: true
      method: { regex: 'GET|HEAD' }
      scheme: { exact: http }
      authority: { prefix: reviews }
      headers: { x-here: {} }
      withoutHeaders: { x-debug: {}, x-stage: { exact: test } }
      queryParams: { page: { regex: '[0-9]+' } }
    redirect: { uri: /new }
  - directResponse: { status: 410 }
";
    let right = HttpRequest {
        path: "/api/x?page=12".to_owned(),
        authority: "reviews:9080".to_owned(),
        headers: map(&[("x-here", ""), ("x-stage", "prod")]),
        ..HttpRequest::default()
    };
    let is_redirect = |request: &HttpRequest| decide(yaml, request).starts_with("redirect /new");
    assert!(is_redirect(&right));
    let changes: [fn(&mut HttpRequest); 8] = [
        |request| request.path = "/ap".to_owned(),
        |request| request.path = "/api/x?page=a".to_owned(),
        |request| request.method = "POST".to_owned(),
        |request| request.scheme = "https".to_owned(),
        |request| request.authority = "ratings".to_owned(),
        |request| request.headers.retain(|name, _| name != "x-here"),
        |request| request.headers.extend(map(&[("x-debug", "1")])),
        |request| request.headers.extend(map(&[("x-stage", "test")])),
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut request = right.clone();
        change(&mut request);
        assert!(
            decide(yaml, &request).starts_with("respond 410"),
            "change {index}"
        );
    }
}

#[test]
fn a_delegate_is_passed_over() {
    let yaml = BY_USER.replace(
        "  - match:",
        "  - match: [{ uri: { prefix: / } }]\n    delegate: { name: other }\n  - match:",
    );
    assert!(decide(&yaml, &HttpRequest::default()).contains("v1:1 (shop/reviews[2]"));
}

#[test]
fn connections_are_routed_by_port_and_weight() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: db, namespace: shop }
spec:
  hosts: [db]
  tcp:
  - match: [{ port: 3306, destinationSubnets: [10.0.0.0/8] }]
    route: [{ destination: { host: never } }]
  - match: [{ port: 3306 }]
    route:
    - { destination: { host: db, subset: v1 }, weight: 80 }
    - { destination: { host: db, subset: v2 }, weight: 20 }
";
    let objects = objects_of!(VirtualService, yaml);
    let labels = map(&[]);
    let caller = Caller {
        namespace: "shop",
        labels: &labels,
        gateway: None,
    };
    let decide = |port| short(&route_tcp(&objects, caller, "db.shop.mesh", port));
    assert_eq!(
        decide(3306),
        "db.shop.mesh/v1:80 db.shop.mesh/v2:20 (shop/db[1] by None)"
    );
    assert_eq!(decide(3307), "db.shop.mesh/:1 (default)");
}

#[test]
fn at_a_gateway_only_what_is_bound_to_it_holds() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: all, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z' }
spec:
  hosts: [a.example.com]
  gateways: [edge]
  http:
  - match: [{ gateways: [mesh], uri: { prefix: / } }]
    route: [{ destination: { host: inside } }]
  - route: [{ destination: { host: rest } }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: some, namespace: shop, creationTimestamp: '2026-01-02T00:00:00Z' }
spec:
  hosts: [a.example.com]
  gateways: [shop/edge, mesh]
  http:
  - match: [{ gateways: [shop/other], uri: { prefix: /b } }]
    route: [{ destination: { host: other } }]
  - match: [{ uri: { prefix: /b } }]
    route: [{ destination: { host: b } }]
";
    let objects = objects_of!(VirtualService, yaml);
    let objects: Vec<_> = objects.iter().collect();
    let labels = map(&[]);
    let edge = gateway::named("edge", "shop");
    let caller = Caller {
        namespace: "shop",
        labels: &labels,
        gateway: Some(&edge),
    };
    let goes_to = |path: &str| {
        let decision = route_at_gateway(&objects, caller, 80, &with_path(path)).unwrap();
        match decision.action {
            Action::Forward(forward) => forward.destinations[0].host.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(goes_to("/b"), "b.shop.mesh");
    assert_eq!(goes_to("/"), "rest.shop.mesh");
    let from_mesh = virtual_service_for("a.example.com", "shop", objects.iter().copied());
    assert_eq!(from_mesh.unwrap().metadata.name, "some");
    let other = gateway::named("third", "shop");
    let caller = Caller {
        gateway: Some(&other),
        ..caller
    };
    assert_eq!(
        route_at_gateway(&objects, caller, 80, &with_path("/")),
        None
    );
}
