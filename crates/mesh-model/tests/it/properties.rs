//! What holds for every input.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use mesh_model::authorization::{self, Call};
use mesh_model::istio::{Duration, IstioKind, IstioObject, check};
use mesh_model::pattern::Pattern;
use mesh_model::route::{Action, Caller, route_http};
use mesh_model::virtual_address::{
    V4_RANGE, V6_RANGE, allocate, bucket, bucket_of_v4, bucket_of_v6,
};
use mesh_model::{Host, HttpRequest, Namespace, Object, ServiceAccount, SpiffeId, TrustDomain};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Any JSON, in which words of Istio's kinds are likely.
fn arbitrary_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("reviews".to_owned()),
        Just("*".to_owned()),
        Just("GET".to_owned()),
        Just("1s".to_owned()),
        Just("80".to_owned()),
        Just("STRICT".to_owned()),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..1000_u32).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 64, 4, |inner| {
        let key = prop_oneof![
            prop::sample::select(FIELDS).prop_map(str::to_owned),
            any::<String>(),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

const FIELDS: &[&str] = &[
    "hosts",
    "http",
    "tcp",
    "tls",
    "match",
    "route",
    "destination",
    "host",
    "subset",
    "port",
    "number",
    "weight",
    "uri",
    "exact",
    "prefix",
    "regex",
    "headers",
    "timeout",
    "retries",
    "fault",
    "delay",
    "fixedDelay",
    "percentage",
    "value",
    "subsets",
    "labels",
    "trafficPolicy",
    "loadBalancer",
    "simple",
    "connectionPool",
    "addresses",
    "ports",
    "name",
    "protocol",
    "resolution",
    "endpoints",
    "address",
    "selector",
    "matchLabels",
    "mtls",
    "mode",
    "portLevelMtls",
    "rules",
    "from",
    "to",
    "when",
    "source",
    "operation",
    "principals",
    "namespaces",
    "ipBlocks",
    "paths",
    "methods",
    "key",
    "values",
    "action",
    "exportTo",
    "80",
];

/// A right `VirtualService`, from parts.
fn virtual_service() -> impl Strategy<Value = Value> {
    let host = prop::sample::select(&["reviews", "ratings", "*.shop.mesh", "example.com"]);
    let destination = (prop::sample::select(&["v1", "v2", ""]), 1..100_u32).prop_map(|(subset, weight)| {
        json!({ "destination": { "host": "reviews", "subset": subset }, "weight": weight })
    });
    let condition = prop_oneof![
        "/[a-z]{0,3}".prop_map(|path| json!({ "uri": { "prefix": path } })),
        "[a-z]{1,3}".prop_map(|name| json!({ "headers": { name: {} } })),
        (1..u16::MAX).prop_map(|port| json!({ "port": port })),
    ];
    let route = (
        prop::collection::vec(condition, 0..3),
        prop::collection::vec(destination, 1..4),
        prop::option::of((1..100_000_u64).prop_map(|ms| format!("{ms}ms"))),
    )
        .prop_map(|(conditions, route, timeout)| {
            json!({ "match": conditions, "route": route, "timeout": timeout })
        });
    (host, prop::collection::vec(route, 1..4)).prop_map(|(host, http)| {
        json!({
            "apiVersion": "networking.istio.io/v1beta1",
            "kind": "VirtualService",
            "metadata": { "name": "x", "namespace": "shop" },
            "spec": { "hosts": [host], "http": http },
        })
    })
}

/// An AuthorizationPolicy of `shop`.
fn policy(action: &'static str) -> impl Strategy<Value = Value> {
    let rule = prop_oneof![
        Just(json!({})),
        prop::sample::select(&["bank", "shop", "b*", "*"])
            .prop_map(|ns| json!({ "from": [{ "source": { "namespaces": [ns] } }] })),
        prop::sample::select(&["GET", "POST", "*"])
            .prop_map(|method| json!({ "to": [{ "operation": { "methods": [method] } }] })),
        prop::sample::select(&["80", "81"])
            .prop_map(|port| json!({ "to": [{ "operation": { "notPorts": [port] } }] })),
    ];
    prop::collection::vec(rule, 1..4).prop_map(move |rules| {
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": { "name": action.to_ascii_lowercase(), "namespace": "shop" },
            "spec": { "action": action, "rules": rules },
        })
    })
}

fn policies(values: &[Value]) -> Vec<Object<mesh_model::istio::AuthorizationPolicy>> {
    let read = |value| match check(IstioKind::AuthorizationPolicy, value).object {
        Some(IstioObject::AuthorizationPolicy(object)) => Some(object),
        _ => None,
    };
    values.iter().map(read).collect::<Option<_>>().unwrap()
}

fn may(values: &[Value], namespace: &str, method: &str, tcp: bool) -> bool {
    let source: SpiffeId = format!("spiffe://td/ns/{namespace}/sa/x").parse().unwrap();
    let request = HttpRequest {
        method: method.to_owned(),
        ..HttpRequest::default()
    };
    let call = Call {
        source: Some(&source),
        source_ip: Ipv4Addr::LOCALHOST.into(),
        destination_ip: Ipv4Addr::LOCALHOST.into(),
        destination_port: 80,
        sni: None,
        request: (!tcp).then_some(&request),
    };
    authorization::may(&policies(values), "shop", &BTreeMap::new(), &call).allowed
}

fn hosts() -> impl Strategy<Value = BTreeSet<Host>> {
    prop::collection::btree_set("[a-z]{1,3}", 0..60).prop_map(|names| {
        names
            .iter()
            .map(|name| format!("{name}.shop.mesh").parse().unwrap())
            .collect()
    })
}

proptest! {
    #[test]
    fn any_json_is_checked_without_panic(spec in arbitrary_json(), whole in arbitrary_json()) {
        for kind in IstioKind::ALL {
            check(kind, &whole);
            let object = json!({
                "apiVersion": format!("{}/v1", kind.group()),
                "kind": kind.as_str(),
                "metadata": whole,
                "spec": spec,
            });
            let checked = check(kind, &object);
            prop_assert_eq!(checked.object.is_some(), checked.problems.is_empty());
        }
    }

    #[test]
    fn what_is_right_is_right_again_when_it_is_written(spec in arbitrary_json()) {
        for kind in IstioKind::ALL {
            let object = json!({
                "apiVersion": format!("{}/v1", kind.group()),
                "kind": kind.as_str(),
                "spec": spec,
            });
            if let Some(object) = check(kind, &object).object {
                let again = check(kind, &serde_json::to_value(&object).unwrap());
                prop_assert_eq!(again.problems, []);
                prop_assert_eq!(&again.unknown_fields, &[""; 0]);
                prop_assert_eq!(again.object, Some(object));
            }
        }
    }

    #[test]
    fn a_right_virtual_service_survives_writing(value in virtual_service()) {
        let checked = check(IstioKind::VirtualService, &value);
        prop_assert_eq!(&checked.problems, &[]);
        let written = serde_json::to_value(checked.object.as_ref().unwrap()).unwrap();
        prop_assert_eq!(check(IstioKind::VirtualService, &written).object, checked.object);
    }

    #[test]
    fn a_request_goes_to_shares_of_its_route(
        value in virtual_service(),
        path in "/[a-z]{0,4}",
        header in "[a-z]{1,3}",
    ) {
        let Some(IstioObject::VirtualService(object)) =
            check(IstioKind::VirtualService, &value).object
        else {
            return Err(TestCaseError::fail("a right object"));
        };
        let labels = BTreeMap::new();
        let caller = Caller { namespace: "shop", labels: &labels, gateway: None };
        let request = HttpRequest {
            path,
            headers: BTreeMap::from([(header, String::new())]),
            ..HttpRequest::default()
        };
        let decision = route_http([&object], caller, "reviews.shop.mesh", 9080, &request);
        match decision.action {
            Action::Forward(forward) => {
                prop_assert!(!forward.destinations.is_empty());
                prop_assert!(forward.destinations.iter().all(|share| share.weight > 0));
            }
            Action::NotFound => prop_assert!(object.spec.http.iter().all(|r| !r.matches.is_empty())),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn what_a_policy_denies_no_policy_allows(
        deny in policy("DENY"),
        allow in prop::collection::vec(policy("ALLOW"), 0..3),
        namespace in prop::sample::select(&["bank", "shop", "other"]),
        method in prop::sample::select(&["GET", "POST", "PUT"]),
        tcp in any::<bool>(),
    ) {
        let alone = may(std::slice::from_ref(&deny), namespace, method, tcp);
        let mut all = allow.clone();
        all.push(deny);
        let together = may(&all, namespace, method, tcp);
        prop_assert_eq!(together, alone && may(&allow, namespace, method, tcp));
    }

    #[test]
    fn one_more_allowing_policy_takes_nothing_away(
        one in policy("ALLOW"),
        other in policy("ALLOW"),
        namespace in prop::sample::select(&["bank", "shop", "other"]),
        tcp in any::<bool>(),
    ) {
        let alone = may(std::slice::from_ref(&one), namespace, "GET", tcp);
        prop_assert!(!alone || may(&[one, other], namespace, "GET", tcp));
    }

    #[test]
    fn addresses_are_never_given_twice_and_never_change(
        first in hosts(),
        second in hosts(),
        noise in prop::collection::btree_map("[a-z]{1,2}", any::<u32>(), 0..8),
    ) {
        let mut recorded: BTreeMap<Host, Ipv4Addr> = noise
            .into_iter()
            .map(|(name, bits)| (format!("{name}.shop.mesh").parse().unwrap(), Ipv4Addr::from_bits(bits)))
            .collect();
        let before = allocate(&recorded, &first);
        recorded.extend(before.added.clone());
        let after = allocate(&recorded, first.iter().chain(&second));
        for (host, addresses) in &before.addresses {
            prop_assert_eq!(after.addresses[host], *addresses);
        }
        let v4: BTreeSet<_> = after.addresses.values().map(|addresses| addresses.v4).collect();
        let v6: BTreeSet<_> = after.addresses.values().map(|addresses| addresses.v6).collect();
        prop_assert_eq!((v4.len(), v6.len()), (after.addresses.len(), after.addresses.len()));
        for (host, addresses) in &after.addresses {
            prop_assert!(V4_RANGE.contains(&addresses.v4) && V6_RANGE.contains(&addresses.v6));
            prop_assert_eq!(bucket_of_v4(addresses.v4), Some(bucket(host)));
            prop_assert_eq!(bucket_of_v6(addresses.v6), Some(bucket(host)));
            prop_assert!((1..=254).contains(&addresses.v4.octets()[3]));
        }
    }

    #[test]
    fn names_are_written_as_they_are_read(text in "[a-z0-9.*-]{1,20}", any in any::<String>()) {
        for text in [text, any] {
            if let Ok(namespace) = text.parse::<Namespace>() {
                prop_assert_eq!(namespace.as_str(), &text);
            }
            if let Ok(host) = text.parse::<Host>() {
                prop_assert_eq!(host.to_string(), text.clone());
                let same = Host::resolve(&text, &Namespace::root()).unwrap();
                prop_assert_eq!(same == host, text.contains('.'));
            }
        }
    }

    #[test]
    fn identities_are_written_as_they_are_read(
        domain in "[a-z][a-z0-9.-]{0,10}",
        namespace in "[a-z]{1,10}",
        account in "[a-z]{1,5}(\\.[a-z]{1,5})?",
    ) {
        let id = SpiffeId {
            trust_domain: domain.parse::<TrustDomain>().unwrap(),
            namespace: namespace.parse().unwrap(),
            service_account: account.parse::<ServiceAccount>().unwrap(),
        };
        prop_assert_eq!(id.to_string().parse::<SpiffeId>(), Ok(id));
    }

    #[test]
    fn durations_are_written_as_they_are_read(seconds in 0..9_000_000_000_u64, rest in 0..1_000_000_000_u32) {
        let duration = Duration::from(std::time::Duration::new(seconds, rest));
        prop_assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
    }

    #[test]
    fn any_text_is_a_pattern_or_a_problem(text in any::<String>(), regex in "[a-c.*+?(){}\\[\\]|^$\\\\0-9,-]{0,12}") {
        for text in [text, regex] {
            if let Ok(pattern) = text.parse::<Pattern>() {
                pattern.matches("abc");
            }
            if let Ok(duration) = text.parse::<Duration>() {
                prop_assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
            }
        }
    }
}
