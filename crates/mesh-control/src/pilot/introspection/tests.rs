//! Who may look, and what there is to see.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Mutex;

use http::Response as HttpResponse;
use http_body_util::BodyExt as _;
use kube::client::Body;
use mesh_identity::{Connection, Peer};
use mesh_model::istio::{IstioKind, IstioObject, check};
use mesh_model::virtual_address::allocate;
use mesh_model::{Health, Mode, Workload};
use serde_json::{Value, json};
use tonic::Code;

use super::*;
use crate::pilot::mesh::{Config, Mesh, OutboundPolicy};
use crate::pilot::resource::ResourceType;
use crate::pilot::snapshot;

/// An API server that allows `allowed` (user and namespace) and remembers what it was asked.
fn api(allowed: &'static [(&str, &str)]) -> (Client, Arc<Mutex<Vec<Value>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let seen = Arc::clone(&seen);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            let spec = review["spec"].clone();
            let user = spec["user"].as_str().unwrap();
            let namespace = spec["resourceAttributes"]["namespace"].as_str();
            let is_allowed = allowed.contains(&(user, namespace.unwrap_or("*")));
            review["status"] = json!({ "allowed": is_allowed });
            seen.lock().unwrap().push(spec);
            let response = HttpResponse::new(Body::from(review.to_string().into_bytes()));
            Ok::<_, Infallible>(response)
        }
    });
    (Client::new(service, "default"), asked)
}

fn workload(name: &str, account: &str, version: &str) -> Workload {
    // Nobody else's, so that it is seen when it is meant.
    let number = if account == "productpage" { 9070 } else { 9080 };
    let service = json!({
        "name": account,
        "ports": [{ "name": "http", "number": number, "target": 8080, "protocol": "http" }],
    });
    let workload = json!({
        "id": format!("default/{name}"),
        "namespace": "default",
        "service_account": account,
        "addresses": [format!("10.213.0.{}", name.len())],
        "labels": { "version": version },
        "services": [service],
    });
    serde_json::from_value(workload).unwrap()
}

/// A mesh in which `jason` is routed to v2, and only productpage may read.
fn resolved() -> Resolved {
    let objects = [
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": { "name": "reviews", "namespace": "default" },
            "spec": { "hosts": ["reviews"], "http": [
                {
                    "match": [{ "headers": { "end-user": { "exact": "jason" } } }],
                    "route": [{ "destination": { "host": "reviews", "subset": "v2" } }],
                },
                {
                    "match": [{ "uri": { "prefix": "/page" } }],
                    "route": [{ "destination": { "host": "productpage" } }],
                },
                { "route": [
                    { "destination": { "host": "reviews", "subset": "v1" }, "weight": 90 },
                    { "destination": { "host": "reviews", "subset": "v9" }, "weight": 10 },
                ] },
            ] },
        }),
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": { "name": "reviews", "namespace": "default" },
            "spec": { "host": "reviews", "subsets": [
                { "name": "v1", "labels": { "version": "v1" } },
                { "name": "v2", "labels": { "version": "v2" } },
            ] },
        }),
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": { "name": "readers", "namespace": "default" },
            "spec": { "action": "ALLOW", "rules": [{
                "from": [{ "source": {
                    "principals": ["cluster.local/ns/default/sa/productpage"],
                } }],
                "to": [{ "operation": { "methods": ["GET"] } }],
            }] },
        }),
    ];
    let mut config = Config::default();
    for value in objects {
        let kinds = IstioKind::ALL.into_iter();
        let mut kinds = kinds.filter(|kind| value["kind"] == kind.as_str());
        let checked = check(kinds.next().unwrap(), &value);
        assert_eq!(checked.problems, []);
        match checked.object.unwrap() {
            IstioObject::VirtualService(it) => config.virtual_services.push(Arc::new(it)),
            IstioObject::DestinationRule(it) => config.destination_rules.push(it.into()),
            IstioObject::AuthorizationPolicy(it) => {
                config.authorization_policies.push(Arc::new(it));
            }
            other => panic!("{other:?}"),
        }
    }
    let workloads = [
        workload("productpage-1", "productpage", "v1"),
        workload("reviews-v1", "reviews", "v1"),
        workload("reviews-of-v2", "reviews", "v2"),
    ]
    .map(|workload| (workload, Health::Healthy));
    let hosts = Mesh::assemble(&config, &workloads).unaddressed;
    config.virtual_addresses = allocate(&std::collections::BTreeMap::new(), &hosts).addresses;
    Resolved {
        mesh: Mesh::assemble(&config, &workloads),
        config: Arc::new(config),
    }
}

fn service(client: Client) -> IntrospectionService {
    let (_, current) = watch::channel(Some(Arc::new(resolved())));
    IntrospectionService::new(client, AgentRegistry::new(), Sessions::default(), current)
}

fn request<T>(message: T, peer: Peer) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Connection {
        peer,
        remote: ([127, 0, 0, 1], 1).into(),
        certificate: None,
    });
    request
}

fn ann() -> Peer {
    Peer::User {
        name: "ann".to_owned(),
        groups: vec!["developers".to_owned()],
    }
}

fn call(from: &str, to: &str) -> ExplainRequest {
    ExplainRequest {
        from: from.to_owned(),
        to: to.to_owned(),
        ..ExplainRequest::default()
    }
}

/// The explanation of a call, as JSON.
fn explained(message: &ExplainRequest) -> Value {
    let resolved = resolved();
    let question = Question::read(message, &resolved.mesh).unwrap();
    serde_json::to_value(explain(&resolved, &question).unwrap()).unwrap()
}

#[tokio::test]
async fn only_users_with_the_right_may_look() {
    let (client, asked) = api(&[("ann", "default")]);
    let service = service(client);
    let list = |namespace: &str| ListProxiesRequest {
        namespace: namespace.to_owned(),
    };
    let answer = service.list_proxies(request(list("default"), ann())).await;
    assert!(answer.unwrap().into_inner().proxies.is_empty());
    for (namespace, peer, code) in [
        ("", ann(), Code::PermissionDenied),
        ("shop", ann(), Code::PermissionDenied),
        ("Shop", ann(), Code::InvalidArgument),
        ("default", Peer::None, Code::Unauthenticated),
        (
            "default",
            Peer::Workload("spiffe://cluster.local/ns/default/sa/web".parse().unwrap()),
            Code::Unauthenticated,
        ),
    ] {
        let refused = service.list_proxies(request(list(namespace), peer)).await;
        assert_eq!(refused.unwrap_err().code(), code, "`{namespace}`");
    }
    let asked = asked.lock().unwrap();
    let first = &asked[0];
    assert_eq!(first["groups"], json!(["developers"]));
    assert_eq!(
        first["resourceAttributes"],
        json!({ "group": "mesh.dev", "resource": "proxies", "verb": "get", "namespace": "default" })
    );
    assert_eq!(asked.len(), 3, "who is no user is not asked about");
}

#[tokio::test]
async fn a_call_is_explained_to_who_may_see_both_sides() {
    let (client, _) = api(&[("ann", "default")]);
    let service = service(client);
    let message = call("default/productpage-1", "reviews:9080");
    let answer = service.explain(request(message, ann())).await.unwrap();
    let json: Value = serde_json::from_slice(&answer.get_ref().json).unwrap();
    assert_eq!(json["to"]["host"], "reviews.default.mesh");

    let message = call("shop/web", "reviews.default:9080");
    let refused = service.explain(request(message, ann())).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("`shop`"), "{refused}");
}

#[tokio::test]
async fn a_workload_of_another_namespace_is_not_found() {
    let (client, _) = api(&[("ann", "default")]);
    let message = GetProxyConfigRequest {
        namespace: "default".to_owned(),
        workload_id: "shop/web-1".to_owned(),
    };
    let service = service(client);
    let missing = service.get_proxy_config(request(message, ann())).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
}

#[test]
fn the_route_that_matches_is_named_with_its_endpoints() {
    let mut message = call("default/productpage-1", "reviews:9080");
    message
        .headers
        .insert("End-User".to_owned(), "jason".to_owned());
    let json = explained(&message);
    assert_eq!(
        json["route"]["because"]["route"]["object"]["name"],
        "reviews"
    );
    assert_eq!(json["route"]["because"]["route"]["route"], 0);
    let [destination] = json["destinations"].as_array().unwrap().as_slice() else {
        panic!("{json:#}")
    };
    assert_eq!(
        destination["cluster"],
        "outbound|9080|v2|reviews.default.mesh"
    );
    let [endpoint] = destination["endpoints"].as_array().unwrap().as_slice() else {
        panic!("{json:#}")
    };
    assert_eq!(endpoint["workload"], "default/reviews-of-v2");
    assert_eq!(endpoint["port"], 8080);
    assert_eq!(endpoint["secured"], true);
    assert_eq!(endpoint["mutualTls"]["mode"], "PERMISSIVE");
    assert_eq!(endpoint["authorization"]["allowed"], true);
}

#[test]
fn a_destination_without_a_port_means_the_only_one_of_its_service() {
    let mut message = call("default/productpage-1", "reviews:9080");
    message.path = "/page".to_owned();
    let json = explained(&message);
    let [destination] = json["destinations"].as_array().unwrap().as_slice() else {
        panic!("{json:#}")
    };
    let cluster = "outbound|9070||productpage.default.mesh";
    assert_eq!(destination["cluster"], cluster);
    assert_eq!(destination["endpoints"].as_array().map(Vec::len), Some(1));

    // And so says what the caller's proxy gets.
    let namespace = "default".parse().unwrap();
    let layer = snapshot::shared(&resolved().mesh, &namespace, Mode::Transparent);
    let of_port = layer
        .of(ResourceType::Route)
        .iter()
        .filter(|routes| routes.name.starts_with("9080/"));
    let leads = |bytes: &[u8]| {
        bytes
            .windows(cluster.len())
            .any(|at| at == cluster.as_bytes())
    };
    assert_eq!(of_port.filter(|routes| leads(&routes.entry)).count(), 1);
}

#[test]
fn a_destination_without_endpoints_says_what_is_wrong() {
    let json = explained(&call(
        "default/productpage",
        "reviews.default.svc.cluster.local:9080",
    ));
    let problems: BTreeSet<_> = json["destinations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|destination| {
            (
                destination["weight"].as_u64(),
                destination["problem"].as_str(),
            )
        })
        .collect();
    let missing = "no DestinationRule has a subset `v9` for `reviews.default.mesh`";
    assert_eq!(
        problems,
        [(Some(90), None), (Some(10), Some(missing))].into()
    );
}

#[test]
fn a_policy_that_refuses_is_named() {
    for (from, method) in [("default/reviews", "GET"), ("default/productpage", "POST")] {
        let mut message = call(from, "reviews");
        message.method = method.to_owned();
        let json = explained(&message);
        let authorization = &json["destinations"][0]["endpoints"][0]["authorization"];
        assert_eq!(authorization["allowed"], false, "{json:#}");
        assert_eq!(
            authorization["because"]["notAllowed"]["policies"][0]["name"],
            "readers"
        );
    }
}

#[test]
fn what_cannot_be_called_is_said() {
    let resolved = resolved();
    let ask = |to: &str| {
        let question = Question::read(&call("default/productpage", to), &resolved.mesh).unwrap();
        explain(&resolved, &question).unwrap_err().to_string()
    };
    assert!(ask("example.org:80").contains("`example.org` is no service"));
    assert_eq!(
        ask("reviews:80"),
        "`reviews.default.mesh` has the ports 9080, not 80"
    );
}

#[test]
fn a_question_that_makes_no_sense_is_refused_whole() {
    let mut message = call("Nobody", "reviews:x");
    message.path = "reviews".to_owned();
    let problems = Question::read(&message, &resolved().mesh).unwrap_err();
    let text = problems.to_string();
    assert!(text.contains("from: `Nobody`"), "{text}");
}

#[test]
fn a_port_of_the_host_is_judged_as_the_applications_own() {
    let service = json!({
        "name": "reviews",
        "ports": [{ "name": "http", "number": 9080, "target": 24411, "inside": 8080, "protocol": "http" }],
    });
    let mut reviews = workload("reviews-1", "reviews", "v1");
    reviews.services = vec![serde_json::from_value(service).unwrap()];
    let mut plain = workload("plain", "reviews", "v1");
    plain.services.clone_from(&reviews.services);
    plain.sidecar = mesh_model::Sidecar::Absent;
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": { "name": "v1", "namespace": "default" },
        "spec": {
            "selector": { "matchLabels": { "version": "v1" } },
            "mtls": { "mode": "STRICT" },
            "portLevelMtls": { "8080": { "mode": "PERMISSIVE" } },
        },
    });
    let mut config = Config::default();
    let checked = check(IstioKind::PeerAuthentication, &policy);
    let Some(IstioObject::PeerAuthentication(object)) = checked.object else {
        panic!("{:?}", checked.problems)
    };
    config.peer_authentications.push(Arc::new(object));
    let workloads = [(reviews, Health::Healthy), (plain, Health::Healthy)];
    let hosts = Mesh::assemble(&config, &workloads).unaddressed;
    config.virtual_addresses = allocate(&std::collections::BTreeMap::new(), &hosts).addresses;
    let mesh = Mesh::assemble(&config, &workloads);
    let resolved = Resolved {
        config: Arc::new(config),
        mesh,
    };
    let question = ExplainRequest {
        from: "default/productpage".to_owned(),
        to: "reviews:9080".to_owned(),
        ..ExplainRequest::default()
    };
    let question = Question::read(&question, &resolved.mesh).unwrap();
    let explanation = explain(&resolved, &question).unwrap();
    let targets = serde_json::to_value(&explanation).unwrap();
    let targets = &targets["destinations"][0]["endpoints"];
    let (plain, mapped) = (&targets[0], &targets[1]);
    assert_eq!(mapped["port"], 24411);
    assert_eq!(mapped["mutualTls"]["mode"], "PERMISSIVE", "{mapped}");
    assert_eq!(mapped["secured"], true);
    assert_eq!(plain["secured"], false);
    assert_eq!(plain["mutualTls"], Value::Null, "nobody stands before it");
}

/// A mesh with a node at 10.0.0.5, whose port 24411 leads to reviews, which takes the mesh's TLS only.
fn on_a_node(outbound: OutboundPolicy) -> Resolved {
    let service = json!({
        "name": "reviews",
        "ports": [{ "name": "http", "number": 9080, "target": 24411, "inside": 8080, "protocol": "http" }],
    });
    let mut reviews = workload("reviews-1", "reviews", "v1");
    reviews.addresses = vec!["10.0.0.5".parse().unwrap()];
    reviews.services = vec![serde_json::from_value(service).unwrap()];
    let mut plain = workload("plain", "plain", "v1");
    plain.sidecar = mesh_model::Sidecar::Absent;
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": { "name": "default", "namespace": "default" },
        "spec": { "mtls": { "mode": "STRICT" } },
    });
    let checked = check(IstioKind::PeerAuthentication, &policy);
    let Some(IstioObject::PeerAuthentication(object)) = checked.object else {
        panic!("{:?}", checked.problems)
    };
    let mut config = Config {
        outbound,
        ..Config::default()
    };
    config.peer_authentications.push(Arc::new(object));
    let web = workload("web", "productpage", "v1");
    let workloads = [reviews, plain, web].map(|workload| (workload, Health::Healthy));
    let hosts = Mesh::assemble(&config, &workloads).unaddressed;
    config.virtual_addresses = allocate(&std::collections::BTreeMap::new(), &hosts).addresses;
    Resolved {
        mesh: Mesh::assemble(&config, &workloads),
        config: Arc::new(config),
    }
}

#[test]
fn a_call_to_an_address_of_the_catalogue_is_one_to_the_workload_there() {
    let resolved = on_a_node(OutboundPolicy::AllowAny);
    let why = |from: &str, to: &str| {
        let question = Question::read(&call(from, to), &resolved.mesh).unwrap();
        let explanation = explain(&resolved, &question);
        explanation.map(|it| serde_json::to_value(it).unwrap())
    };
    let meshed = why("default/web", "10.0.0.5:24411").unwrap();
    assert_eq!(meshed["to"]["host"], "reviews.default.mesh", "{meshed:#}");
    assert_eq!(meshed["to"]["port"], 9080);
    assert_eq!(meshed["route"], Value::Null, "no VirtualService holds");
    let destination = &meshed["destinations"][0];
    assert_eq!(destination["cluster"], "direct|24411||10.0.0.5");
    let target = &destination["endpoints"][0];
    assert_eq!(
        (&target["port"], &target["secured"]),
        (&json!(24411), &json!(true))
    );
    let identity = "spiffe://cluster.local/ns/default/sa/reviews";
    assert_eq!(target["identity"], identity);

    // Without a sidecar the same call is in plaintext, and no name means anything.
    let plain = why("default/plain", "10.0.0.5:24411").unwrap();
    let target = &plain["destinations"][0]["endpoints"][0];
    assert_eq!(target["secured"], false);
    assert_eq!(target["mutualTls"]["mode"], "STRICT");
    let unnamed = why("default/plain", "reviews:9080")
        .unwrap_err()
        .to_string();
    assert!(
        unnamed.contains("`default/plain` has no sidecar"),
        "{unnamed}"
    );

    for (address, said) in [
        (
            "10.0.0.5:24412",
            "no workload of the mesh is known at `10.0.0.5:24412`: the call passes",
        ),
        (
            "[fd00::5]:80",
            "no workload of the mesh is known at `[fd00::5]:80`",
        ),
    ] {
        let error = why("default/web", address).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    for wrong in ["10.0.0.5", "10.0.0.5:0", "fd00::5", "10.0.0.5:"] {
        let problems = Question::read(&call("default/web", wrong), &resolved.mesh).unwrap_err();
        let said = problems.to_string();
        assert!(said.contains(&format!("to: `{wrong}`")), "{said}");
    }

    // The address of a service is the service.
    let service = &resolved.mesh.entries["reviews.default.mesh"];
    let v4 = service.addresses.unwrap().v4;
    let by_address = why("default/web", &format!("{v4}:9080")).unwrap();
    let by_name = why("default/web", "reviews:9080").unwrap();
    assert_eq!(by_address["destinations"], by_name["destinations"]);
    assert_ne!(by_address["route"], Value::Null);
}

#[test]
fn a_call_to_an_address_may_be_refused() {
    let resolved = on_a_node(OutboundPolicy::RegistryOnly);
    let asked = |from: &str| {
        let question = Question::read(&call(from, "10.0.0.5:24411"), &resolved.mesh).unwrap();
        explain(&resolved, &question)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let refused = asked("default/web").unwrap_err();
    assert!(refused.contains("`REGISTRY_ONLY`"), "{refused}");
    asked("default/plain").unwrap();
}
