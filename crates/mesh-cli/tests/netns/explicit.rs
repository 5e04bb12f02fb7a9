//! `mesh run --mode explicit` in a whole mesh: an application that is told of its sidecar beside one
//! whose traffic is redirected, with real Envoys. Needs root, Envoy, nft, ip and python3.

mod machine;

use std::time::Duration;

use machine::{Machine, eventually};
use serde_json::{Value, json};

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
const API: &str = "spiffe://cluster.local/ns/default/sa/api";

/// A machine with `api`, transparent, and `web` and `till`, explicit.
fn shop() -> Machine {
    let machine = Machine::start();
    machine.run(
        "api",
        &["--port", "http:9080", "--port", "tcp:6379"],
        "[::]:9080 [::]:6379",
    );
    let upstreams = [
        "--upstream",
        "api:9080",
        "--upstream",
        "api.default:6379=[::1]:16379",
    ];
    let web = [
        &["--mode", "explicit", "--port", "http:8080"][..],
        &upstreams,
    ]
    .concat();
    machine.run("web", &web, "127.0.0.1:8080");
    machine.run(
        "till",
        &["--mode", "explicit", "--port", "http:80:7000"],
        "[::1]:7000",
    );
    machine
}

/// The caller whose certificate the called sidecar saw.
fn caller(answer: &Value) -> &str {
    let header = answer["body"]["headers"]["x-forwarded-client-cert"].as_str();
    header
        .and_then(|it| it.rsplit_once("URI="))
        .map_or("nobody", |(_, uri)| uri)
}

#[test]
fn explicit_and_transparent_workloads_call_each_other_by_their_identities() {
    let machine = shop();
    let call = |from: &str, url: &str| machine.call(from, url);
    let good = |from: &str, url: &str, who: &str| {
        let answer = eventually(|| Some(call(from, url)).filter(|it| it["status"] == 200))
            .unwrap_or_else(|| panic!("{from} calls {url}: {}", call(from, url)));
        assert_eq!(caller(&answer), who, "{url}: {answer}");
        answer
    };

    // By the forward proxy, under each name of a service.
    for name in ["api:9080", "api.default:9080", "api.default.mesh:9080"] {
        let answer = good("web", &format!("http://{name}/by-proxy"), WEB);
        assert_eq!(answer["body"]["name"], "api");
        assert_eq!(answer["body"]["headers"]["host"], *name);
    }
    // By an upstream, whose address the application was told.
    let variables = machine.get("web", "/environment");
    let upstream = variables["MESH_UPSTREAM_ADDR_API"].as_str().unwrap();
    assert_eq!(upstream, "127.0.0.1:15200");
    good("web", &format!("http://{upstream}/by-upstream"), WEB);
    // Bytes by an upstream: nobody reads the request on its way, so nobody adds a header to it.
    let upstream = variables["MESH_UPSTREAM_ADDR_API_DEFAULT"]
        .as_str()
        .unwrap();
    assert_eq!(upstream, "[::1]:16379");
    let answer = good("web", &format!("http://{upstream}/by-bytes"), "nobody");
    assert_eq!(answer["body"]["name"], "api");
    // The other way, and between two of the kind; the port of the URL is the service's.
    let answer = good("api", "http://web:8080/back", API);
    assert_eq!(answer["body"]["peer"], "127.0.0.1");
    good(
        "till",
        "http://web:8080/aside",
        "spiffe://cluster.local/ns/default/sa/till",
    );
    good("web", "http://till/to-v6-loopback", WEB);

    // What `mesh` says of it is what happens.
    let words = machine.mesh(&["why", "default/web", "api:9080"]);
    assert!(
        words.contains("through its upstream at 127.0.0.1:15200"),
        "{words}"
    );
    let words = machine.mesh(&["why", "default/till", "api:9080"]);
    assert!(
        words.contains("through its forward proxy at 127.0.0.1:15002"),
        "{words}"
    );
    let words = machine.mesh(&["why", "default/till", "api:6379"]);
    assert!(words.contains("does not get there"), "{words}");
    let words = machine.mesh(&["why", "default/api", "web:8080"]);
    assert!(words.contains(" port 15100, healthy"), "{words}");
    let words = machine.mesh(&["proxy-config", "default/web", "listeners"]);
    for name in [
        "forwardProxy",
        "inbound|8080||",
        "upstream|127.0.0.1:15200",
        "upstream|[::1]:16379",
    ] {
        assert!(words.contains(name), "no {name} in {words}");
    }
    assert!(!words.contains("virtual"), "{words}");
}

#[test]
fn policies_and_routes_hold_for_explicit_workloads() {
    let machine = shop();
    let status = |from: &str, url: &str| machine.call(from, url)["status"].as_u64().unwrap();
    let comes_to = |from: &str, url: &str, wanted: u64| {
        let came = eventually(|| Some(()).filter(|()| status(from, url) == wanted));
        assert!(
            came.is_some(),
            "{from} calls {url}: {}",
            machine.call(from, url)
        );
    };
    comes_to("till", "http://web:8080/", 200);
    comes_to("api", "http://web:8080/", 200);
    machine.apply(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { "selector": { "matchLabels": { "app": "web" } }, "action": "ALLOW", "rules": [{
            "from": [{ "source": { "principals": ["cluster.local/ns/default/sa/api"] } }],
            // The application's own port, wherever its sidecar is called.
            "to": [{ "operation": { "ports": ["8080"] } }],
        }] },
    }));
    comes_to("till", "http://web:8080/", 403);
    assert_eq!(status("api", "http://web:8080/"), 200);
    let words = machine.mesh(&["why", "default/till", "web:8080"]);
    assert!(
        words.contains("refused: no rule of AuthorizationPolicy"),
        "{words}"
    );
    machine.mesh(&["delete", "authorizationpolicies", "web", "-n", "default"]);
    comes_to("till", "http://web:8080/", 200);

    machine.apply(&json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": "api", "namespace": "default" },
        "spec": { "hosts": ["api"], "http": [
            { "match": [{ "uri": { "prefix": "/teapot" } }],
              "fault": { "abort": { "percentage": { "value": 100 }, "httpStatus": 418 } },
              "route": [{ "destination": { "host": "api" } }] },
            { "route": [{ "destination": { "host": "api" } }] },
        ] },
    }));
    comes_to("web", "http://api:9080/teapot", 418);
    comes_to("web", "http://127.0.0.1:15200/teapot", 418);
    assert_eq!(status("web", "http://api:9080/other"), 200);
}

#[test]
fn nothing_is_redirected_nothing_has_rights_and_nobody_gets_past_the_sidecar() {
    let machine = shop();
    let api = machine.call("web", "http://api:9080/");
    assert_eq!(api["status"], 200, "{api}");

    assert_eq!(
        machine.rules("web"),
        "",
        "rules in an explicit workload's namespace"
    );
    assert!(machine.rules("api").contains("table inet mesh"));
    assert_eq!(machine.units("web"), ["app", "sidecar"]);
    assert_eq!(machine.units("api"), ["app", "rules", "sidecar"]);
    for unit in ["app", "sidecar"] {
        assert_eq!(machine.effective_capabilities("web", unit), 0, "{unit}");
    }

    // STRICT: no plaintext at the registered port; and the application listens on loopback.
    let address = machine.address("web");
    let bytes = machine.say(&address, 15100, "GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    assert!(
        !bytes.contains("HTTP/1.1"),
        "plaintext was answered: {bytes}"
    );
    assert!(
        machine.connect(&address, 15100),
        "nobody listens at the registered port"
    );
    for port in [8080, 15001, 15002, 15006, 15200] {
        assert!(
            !machine.connect(&address, port),
            "{address}:{port} takes connections"
        );
    }

    // The forward proxy makes no tunnels, and takes calls to hosts that no service is.
    let tunnel = machine.say_inside(
        "web",
        15002,
        "CONNECT api:9080 HTTP/1.1\r\nhost: api:9080\r\n\r\n",
    );
    assert!(tunnel.starts_with("HTTP/1.1 404"), "{tunnel}");
    let outside = machine.serve_on_gateway();
    let answer = machine.call("web", &format!("http://{outside}/outside"));
    assert_eq!(answer["status"], 200, "{answer}");

    // The same again stands, and something else is refused.
    machine.run(
        "till",
        &["--mode", "explicit", "--port", "http:80:7000"],
        "[::1]:7000",
    );
    let said = machine.mesh_fails(&Machine::arguments(
        "till",
        &["--port", "http:80:7000"],
        "[::1]:7000",
    ));
    assert!(said.contains("HTTP_PROXY"), "{said}");
}

/// How long anything may take before it counts as not happening; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
