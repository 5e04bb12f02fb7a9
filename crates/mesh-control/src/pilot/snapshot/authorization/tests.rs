//! What the filters say is what the model decides, for random policies and calls.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::authorization::{Call, may};
use mesh_model::istio::{IstioKind, IstioObject, check};
use mesh_model::{Health, HttpRequest, SpiffeId};
use mesh_proto::envoy::config::core::v3::CidrRange;
use mesh_proto::envoy::config::rbac::v3::permission::Rule as Permit;
use mesh_proto::envoy::config::rbac::v3::principal::Identifier;
use mesh_proto::envoy::config::rbac::v3::{Permission, Principal, Rbac};
use mesh_proto::envoy::config::route::v3::HeaderMatcher;
use mesh_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use mesh_proto::envoy::r#type::matcher::v3::StringMatcher;
use mesh_proto::envoy::r#type::matcher::v3::path_matcher::Rule as PathRule;
use mesh_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::pilot::mesh::Config;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn filters_decide_as_the_model_does(
        policies in vec(policy(), 0..4),
        source in option::of(select(IDENTITIES.to_vec())),
        source_ip in select(ADDRESSES.to_vec()),
        destination_port in select(vec![80_u16, 81]),
        sni in option::of(select(vec!["a.example.com", "b.example.com"])),
        request in option::of(request()),
    ) {
        let objects: Vec<_> = policies.iter().enumerate().map(read).collect();
        let config = Config { authorization_policies: objects.clone(), ..Config::default() };
        let workload = workload();
        let mesh = Mesh::assemble(&config, &[(workload.clone(), Health::Healthy)]);
        let filters = Filters::of(&mesh, &workload);

        let source: Option<SpiffeId> = source.map(|text| text.parse().unwrap());
        let call = Call {
            source: source.as_ref(),
            source_ip: source_ip.parse().unwrap(),
            destination_ip: workload.addresses[0],
            destination_port,
            sni,
            request: request.as_ref(),
        };
        let policies = objects.iter().map(|object| &**object);
        let decision = may(policies, workload.namespace.as_str(), &workload.labels, &call);
        let chain = if request.is_some() { &filters.http } else { &filters.network };
        let rules = chain.parts().map(|(_, rules)| rules);
        let passed = rules.into_iter().flatten().all(|rules| passes(rules, &call));
        prop_assert_eq!(passed, decision.allowed, "{:?}", decision.because);
    }
}

const IDENTITIES: [&str; 5] = [
    "spiffe://cluster.local/ns/shop/sa/web",
    "spiffe://cluster.local/ns/shop/sa/robot",
    "spiffe://cluster.local/ns/dev-a/sa/web",
    "spiffe://cluster.local/ns/dev-a-ci/sa/robot",
    "spiffe://cluster.local/ns/ci/sa/web",
];

const ADDRESSES: [&str; 3] = ["10.0.0.1", "10.9.0.1", "fd00::1"];

// What Envoy makes of the rules. Source: the documentation of `envoy.config.rbac.v3`.

/// Whether a filter lets a call through.
fn passes(rules: &Rbac, call: &Call<'_>) -> bool {
    let matched = rules.policies.values().any(|policy| {
        policy.permissions.iter().any(|rule| permits(rule, call))
            && policy.principals.iter().any(|id| is(id, call))
    });
    matched == (rules.action() == rbac::rbac::Action::Allow)
}

fn is(principal: &Principal, call: &Call<'_>) -> bool {
    match principal.identifier.as_ref().unwrap() {
        Identifier::AndIds(set) => set.ids.iter().all(|id| is(id, call)),
        Identifier::OrIds(set) => set.ids.iter().any(|id| is(id, call)),
        Identifier::Any(any) => *any,
        Identifier::NotId(id) => !is(id, call),
        Identifier::DirectRemoteIp(network) => is_in(network, call.source_ip),
        Identifier::Authenticated(id) => call.source.is_some_and(|source| {
            let matcher = id.principal_name.as_ref().unwrap();
            text_matches(matcher, &source.to_string())
        }),
        other => panic!("{other:?} is not made"),
    }
}

fn permits(permission: &Permission, call: &Call<'_>) -> bool {
    match permission.rule.as_ref().unwrap() {
        Permit::AndRules(set) => set.rules.iter().all(|rule| permits(rule, call)),
        Permit::OrRules(set) => set.rules.iter().any(|rule| permits(rule, call)),
        Permit::Any(any) => *any,
        Permit::NotRule(rule) => !permits(rule, call),
        Permit::DestinationIp(network) => is_in(network, call.destination_ip),
        Permit::DestinationPort(port) => *port == u32::from(call.destination_port),
        Permit::RequestedServerName(matcher) => text_matches(matcher, call.sni.unwrap_or("")),
        Permit::Header(matcher) => header_matches(matcher, call.request.unwrap()),
        Permit::UrlPath(matcher) => {
            let Some(PathRule::Path(matcher)) = &matcher.rule else {
                panic!("a path matcher without a path")
            };
            text_matches(matcher, call.request.unwrap().path_only())
        }
        Permit::UriTemplate(extension) => {
            let config = &extension.typed_config.as_ref().unwrap().value[..];
            let config = UriTemplateMatchConfig::decode(config).unwrap();
            template_matches(&config.path_template, call.request.unwrap().path_only())
        }
        other => panic!("{other:?} is not made"),
    }
}

fn header_matches(matcher: &HeaderMatcher, request: &HttpRequest) -> bool {
    let value = request.header(&matcher.name);
    match matcher.header_match_specifier.as_ref().unwrap() {
        HeaderMatchSpecifier::PresentMatch(present) => value.is_some() == *present,
        HeaderMatchSpecifier::StringMatch(matcher) => {
            value.is_some_and(|value| text_matches(matcher, value))
        }
        other => panic!("{other:?} is not made"),
    }
}

fn text_matches(matcher: &StringMatcher, text: &str) -> bool {
    let folded = |text: &str| {
        if matcher.ignore_case {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        }
    };
    let text = folded(text);
    match matcher.match_pattern.as_ref().unwrap() {
        MatchPattern::Exact(exact) => text == folded(exact),
        MatchPattern::Prefix(prefix) => text.starts_with(&folded(prefix)),
        MatchPattern::Suffix(suffix) => text.ends_with(&folded(suffix)),
        MatchPattern::Contains(part) => text.contains(&folded(part)),
        MatchPattern::SafeRegex(regex) => {
            let pattern: mesh_model::pattern::Pattern = regex.regex.parse().unwrap();
            pattern.matches(&text)
        }
        other @ MatchPattern::Custom(_) => panic!("{other:?} is not made"),
    }
}

fn template_matches(template: &str, path: &str) -> bool {
    let pattern = template
        .replace("**", "\u{0}")
        .replace('*', "[^/]+")
        .replace('\u{0}', ".*");
    let pattern: mesh_model::pattern::Pattern = pattern.parse().unwrap();
    pattern.matches(path)
}

fn is_in(network: &CidrRange, address: IpAddr) -> bool {
    let length = u8::try_from(network.prefix_len.unwrap().value).unwrap();
    let network = IpNet::new(network.address_prefix.parse().unwrap(), length).unwrap();
    network.contains(&address)
}

// Policies and calls.

fn workload() -> Workload {
    serde_json::from_value(json!({
        "id": "shop/api",
        "namespace": "shop",
        "service_account": "api",
        "addresses": ["10.0.0.2"],
        "labels": {"app": "api"},
    }))
    .unwrap()
}

fn read((index, policy): (usize, &Value)) -> Arc<Object<AuthorizationPolicy>> {
    let mut policy = policy.clone();
    policy["metadata"]["name"] = json!(format!("policy-{index}"));
    match taken(&policy) {
        Some(IstioObject::AuthorizationPolicy(object)) => Arc::new(object),
        other => panic!("{other:?} is no policy"),
    }
}

fn taken(policy: &Value) -> Option<IstioObject> {
    let checked = check(IstioKind::AuthorizationPolicy, policy);
    checked.object.filter(|_| checked.problems.is_empty())
}

fn policy() -> impl Strategy<Value = Value> {
    let selector = select(vec![Value::Null, json!({"matchLabels": {"app": "api"}})]);
    let namespace = select(vec!["shop", "istio-system"]);
    let action = select(vec!["ALLOW", "DENY"]);
    (namespace, action, selector, vec(rule(), 0..3))
        .prop_map(|(namespace, action, selector, rules)| {
            let mut policy = json!({
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": {"namespace": namespace, "name": "policy"},
                "spec": {"action": action, "rules": rules},
            });
            if !selector.is_null() {
                policy["spec"]["selector"] = selector;
            }
            policy
        })
        .prop_filter("the API takes it", |policy| taken(policy).is_some())
}

fn rule() -> impl Strategy<Value = Value> {
    let from = vec(fields(SOURCE).prop_map(|it| json!({"source": it})), 0..3);
    let to = vec(
        fields(OPERATION).prop_map(|it| json!({"operation": it})),
        0..3,
    );
    (from, to, vec(condition(), 0..2)).prop_map(|(from, to, when)| {
        let mut rule = json!({});
        for (name, list) in [("from", from), ("to", to), ("when", when)] {
            if !list.is_empty() {
                rule[name] = json!(list);
            }
        }
        rule
    })
}

type Values = &'static [&'static str];

/// A field, the one that says the contrary, and values that both may have.
type Field = (&'static str, &'static str, Values);

const SOURCE: &[Field] = &[
    (
        "principals",
        "notPrincipals",
        &[
            "cluster.local/ns/shop/sa/web",
            "cluster.local/ns/dev*",
            "*/sa/robot",
            "*",
        ],
    ),
    (
        "namespaces",
        "notNamespaces",
        &["shop", "dev-*", "*-ci", "d*-*i", "*"],
    ),
    (
        "serviceAccounts",
        "notServiceAccounts",
        &["web", "dev-a/web"],
    ),
    (
        "ipBlocks",
        "notIpBlocks",
        &["10.0.0.0/16", "10.9.0.1", "fd00::/64"],
    ),
];

const OPERATION: &[Field] = &[
    (
        "hosts",
        "notHosts",
        &[
            "a.example.com",
            "a.example.com:*",
            "*.example.com",
            "A.*",
            "*",
        ],
    ),
    ("ports", "notPorts", &["80", "81"]),
    ("methods", "notMethods", &["GET", "P*", "*ST", "*"]),
    (
        "paths",
        "notPaths",
        &["/a", "/a/*", "*.html", "/{*}/b", "/a/{**}", "*"],
    ),
];

const CONDITIONS: &[(&str, Values)] = &[
    ("request.headers[x-tenant]", &["a", "b*", "*c", "*"]),
    ("source.ip", &["10.0.0.0/16", "fd00::1"]),
    ("source.namespace", &["shop", "dev-*"]),
    ("source.principal", &["cluster.local/ns/ci/sa/web", "*"]),
    ("source.serviceAccount", &["robot", "ci/web"]),
    ("destination.ip", &["10.0.0.2", "10.1.0.0/16"]),
    ("destination.port", &["80"]),
    ("connection.sni", &["a.example.com", "*.com", "b.*", "*"]),
];

/// Some fields of a message, wanted or not wanted, each with some of its values.
fn fields(known: &'static [Field]) -> impl Strategy<Value = Value> {
    let field = select(known).prop_flat_map(|(wanted, unwanted, values)| {
        let values = subsequence(values, 1..=values.len().min(2));
        (select(vec![wanted, unwanted]), values)
    });
    vec(field, 1..4).prop_map(|fields| {
        let fields = fields.into_iter();
        fields
            .map(|(name, values)| (name.to_owned(), json!(values)))
            .collect()
    })
}

fn condition() -> impl Strategy<Value = Value> {
    select(CONDITIONS).prop_flat_map(|(key, values)| {
        let values = subsequence(values, 1..=values.len().min(2));
        (Just(key), any::<bool>(), values).prop_map(|(key, wanted, values)| {
            let name = if wanted { "values" } else { "notValues" };
            json!({"key": key, name: values})
        })
    })
}

fn request() -> impl Strategy<Value = HttpRequest> {
    let method = select(vec!["GET", "POST", "PUT"]);
    let authority = select(vec![
        "a.example.com",
        "a.example.com:80",
        "B.example.com",
        "other",
    ]);
    let path = select(vec!["/a", "/a/b", "/a/b/c", "/x/b", "/index.html?q", "/"]);
    let tenant = option::of(select(vec!["a", "bc", ""]));
    (method, authority, path, tenant).prop_map(|(method, authority, path, tenant)| HttpRequest {
        method: method.to_owned(),
        authority: authority.to_owned(),
        path: path.to_owned(),
        headers: tenant
            .map(|tenant| ("x-tenant".to_owned(), tenant.to_owned()))
            .into_iter()
            .collect(),
        ..HttpRequest::default()
    })
}
