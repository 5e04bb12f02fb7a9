//! Real Envoy takes what is made for it, and does with it what was meant.
//!
//! Needs the Envoy binary (`ENVOY_BIN` or PATH); the tests with traffic need root, too.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]
#![expect(clippy::expect_used, reason = "a failed expectation is a failed test")]

#[path = "golden/allocation.rs"]
mod allocation;
#[path = "envoy/bootstrap.rs"]
mod bootstrap;
#[path = "golden/case.rs"]
mod case;
#[path = "envoy/certificate.rs"]
mod certificate;
#[path = "envoy/corner.rs"]
mod corner;
#[path = "envoy/direct.rs"]
mod direct;
#[path = "envoy/namespace.rs"]
mod namespace;
#[path = "envoy/session.rs"]
mod session;
#[path = "envoy/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;
use std::{env, fs};

use bootstrap::{Resources, bootstrap};
use case::Case;
use certificate::Authority;
use tempfile::TempDir;
use world::{PATIENCE, World};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const API: &str = "spiffe://cluster.local/ns/shop/sa/api";

/// A client and a server that refuses plaintext; its second service is reached by v6 only.
const SHOP: &str = r#"
- id: shop/web-1
  namespace: shop
  service_account: web
  addresses: CLIENT
- id: shop/api-1
  namespace: shop
  service_account: api
  addresses: SERVER
  labels: {version: v1}
  services:
  - name: api
    ports:
    - {name: http, number: 80, target: 8080, protocol: http}
    - {name: tcp, number: 3306, target: 3306, protocol: tcp}
    - {name: grpc, number: 90, target: 9090, protocol: grpc}
    - {name: plain, number: 91, target: 9090, protocol: http}
- id: shop/api6-1
  namespace: shop
  service_account: api
  addresses: SERVER6
  services:
  - name: api6
    ports: [{name: http, number: 80, target: 8080, protocol: http}]
- id: shop/moved-1
  namespace: shop
  service_account: api
  addresses: HALFDEAD
  services:
  - name: moved
    ports: [{name: http, number: 80, target: 8080, protocol: http}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secret, namespace: shop}
spec:
  selector: {matchLabels: {version: v1}}
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {paths: [/secret], ports: ["8080"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: shop}
spec:
  hosts: [api]
  http:
  - match: [{uri: {exact: /teapot}}]
    fault: {abort: {httpStatus: 418}}
    route: [{destination: {host: api}}]
  - route: [{destination: {host: api}}]
"#;

#[test]
fn a_call_is_carried_by_mutual_tls_and_logged_on_both_sides() {
    let world = World::start(SHOP);
    world.server.serve_http(Ipv6Addr::UNSPECIFIED, 8080);
    for (service, path, peer) in [("api", "/", "127.0.0.6"), ("api6", "/six", "::6")] {
        let host = format!("{service}.shop.mesh");
        for address in world.virtual_addresses(&host) {
            let answer = world.get(address, 80, service, path);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains(&format!(";URI={WEB}\r\n")), "{answer}");
            assert!(!answer.contains("forged"), "{answer}");
            let peer_line = answer
                .lines()
                .find(|line| line.starts_with("peer: "))
                .unwrap();
            assert!(peer_line.ends_with(peer), "{answer}");
            let source = world.client.log(|entry| entry.path == path);
            assert_eq!(
                (source.log.as_str(), source.peer.as_str()),
                ("outbound", API)
            );
            assert_eq!((source.service, source.code), (host.clone(), 200));
            let destination = world.server.log(|entry| entry.path == path);
            assert_eq!(
                (destination.log.as_str(), destination.peer.as_str()),
                ("inbound", WEB)
            );
            assert_eq!(destination.code, 200);
        }
    }
}

/// A server whose host leads from one port to another.
const MAPPED: &str = r#"
- id: shop/web-1
  namespace: shop
  service_account: web
  addresses: CLIENT
- id: shop/api-1
  namespace: shop
  service_account: api
  addresses: SERVER
  services:
  - name: api
    ports:
    - {name: http, number: 80, target: 24080, inside: 8080, protocol: http}
    - {name: tcp, number: 3306, target: 24306, inside: 3306, protocol: tcp}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secret, namespace: shop}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/secret], ports: ["8080"]}}]
  - to: [{operation: {paths: [/other], ports: ["24080"]}}]
"#;

#[test]
fn a_port_of_the_host_leads_to_the_chain_of_the_applications_own() {
    let world = World::start(MAPPED);
    world.server.serve_http(Ipv6Addr::UNSPECIFIED, 8080);
    world.server.serve_lines(Ipv6Addr::UNSPECIFIED, 3306);
    let [address, _] = world.virtual_addresses("api.shop.mesh");
    let unmapped = world.get(address, 80, "api", "/");
    assert!(unmapped.starts_with("HTTP/1.1 503"), "{unmapped}");
    for (dialed, inside) in [(24080, 8080), (24306, 3306)] {
        let (client, server) = (&world.client.machine, &world.server.machine);
        client.map_port(server, dialed, inside);
    }
    for address in world.virtual_addresses("api.shop.mesh") {
        let answer = world.get(address, 80, "api", "/");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(&format!(";URI={WEB}\r\n")), "{answer}");
        // Policies name the application's own port, and no other.
        let refused = world.get(address, 80, "api", "/secret");
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
        let other = world.get(address, 80, "api", "/other");
        assert!(other.starts_with("HTTP/1.1 200"), "{other}");
        let answer = world.say(address, 3306, "again\n").unwrap();
        assert_eq!(answer, "hello ::ffff:127.0.0.6\nagain\n");
    }
}

/// Two endpoints of one service behind one sidecar, the second one's application at another port.
const TWINS: &str = r"
- id: shop/web-1
  namespace: shop
  service_account: web
  addresses: CLIENT
- id: shop/api-1
  namespace: shop
  service_account: api
  addresses: SERVER
  services:
  - name: api
    ports: [{name: http, number: 80, target: 8080, protocol: http}]
  - name: other
    ports: [{name: http, number: 80, target: 8081, protocol: http}]
- id: shop/api-2
  namespace: shop
  service_account: api
  addresses: SERVER4
  services:
  - name: api
    ports: [{name: http, number: 80, target: 8081, protocol: http}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api, namespace: shop}
spec: {host: api, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: shop}
spec:
  hosts: [api]
  http:
  - match: [{uri: {exact: /once}}]
    retries: {attempts: 0}
    route: [{destination: {host: api}}]
  - match: [{uri: {exact: /connect}}]
    retries: {attempts: 2, retryOn: connect-failure}
    route: [{destination: {host: api}}]
  - route: [{destination: {host: api}}]
";

/// The status that each of so many different requests with a body came to, and what was heard of
/// them, in the order of their bodies.
fn post(
    world: &World,
    path: &str,
    heard: &Receiver<(String, String)>,
) -> (BTreeMap<String, u16>, Vec<(String, String)>) {
    let to = world.virtual_addresses("api.shop.mesh")[0];
    let mut statuses = BTreeMap::new();
    for number in 0..20 {
        let body = format!("{number:04}");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-length: 4\r\n\r\n{body}"
        );
        let answer = world.say(to, 80, &request).unwrap();
        assert!(!answer.contains("x-mesh-"), "{answer}");
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        statuses.insert(body, status);
    }
    let mut heard: Vec<_> = heard.try_iter().collect();
    heard.sort_by(|one, other| one.1.cmp(&other.1));
    (statuses, heard)
}

#[test]
fn what_an_application_was_never_handed_is_given_to_another_whatever_its_method() {
    let world = World::start(TWINS);
    let (sender, heard) = channel();
    let fine = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    world.server.serve_answer(8081, fine, &sender);
    // The application at 8080 does not run.
    let (statuses, delivered) = post(&world, "/", &heard);
    assert!(
        statuses.values().all(|status| *status == 200),
        "{statuses:?}"
    );
    let bodies: Vec<_> = delivered.iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, statuses.keys().collect::<Vec<_>>());
    world.client.log(|entry| entry.code == 200);
    world.server.log(|entry| entry.code == 503);

    // A route that states its own retries has those and no others.
    for path in ["/once", "/connect"] {
        let (statuses, delivered) = post(&world, path, &heard);
        let failed = statuses.values().filter(|status| **status == 503).count();
        assert_eq!(failed, statuses.len() / 2, "{path}: {statuses:?}");
        assert_eq!(delivered.len(), statuses.len() - failed, "{path}");
    }
}

#[test]
fn what_an_application_was_handed_is_given_to_no_other() {
    // It ends after it has read the request, or lies that it was never handed any.
    let forged = "HTTP/1.1 503 no\r\nx-mesh-undelivered: UF\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    for bad in ["", forged] {
        let world = World::start(TWINS);
        let fine = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let (sender, heard) = channel();
        world.server.serve_answer(8081, fine, &sender);
        world.server.serve_answer(8080, bad, &sender);
        let (statuses, delivered) = post(&world, "/", &heard);
        let failed = statuses.values().filter(|status| **status == 503).count();
        assert_eq!(failed, statuses.len() / 2, "{bad:?}: {statuses:?}");
        let bodies: Vec<_> = delivered.iter().map(|(_, body)| body).collect();
        assert_eq!(bodies, statuses.keys().collect::<Vec<_>>(), "{bad:?}");
    }
}

#[test]
fn bytes_are_carried_by_mutual_tls_also_when_the_server_speaks_first() {
    let world = World::start(SHOP);
    world.server.serve_lines(Ipv6Addr::UNSPECIFIED, 3306);
    for address in world.virtual_addresses("api.shop.mesh") {
        let answer = world.say(address, 3306, "again\n").unwrap();
        assert_eq!(answer, "hello ::ffff:127.0.0.6\nagain\n");
        let source = world.client.log(|entry| entry.service == "api.shop.mesh");
        assert_eq!(
            (source.log.as_str(), source.peer.as_str()),
            ("outbound", API)
        );
        let destination = world.server.log(|entry| entry.service == "api.shop.mesh");
        assert_eq!(
            (destination.log.as_str(), destination.peer.as_str()),
            ("inbound", WEB)
        );
    }
}

/// The same without those who share the server's addresses: these are its own then, and calls to
/// them leave as they are.
fn alone(yaml: &str) -> String {
    let (first, rest) = yaml.split_once("- id: shop/api6-1").unwrap();
    let (_, objects) = rest.split_once("---").unwrap();
    format!("{first}---{objects}")
}

#[test]
fn what_is_not_allowed_is_refused() {
    let world = World::start(&alone(SHOP));
    world.server.serve_http(Ipv6Addr::UNSPECIFIED, 8080);
    world.server.serve_lines(Ipv6Addr::UNSPECIFIED, 9999);
    let [api, _] = world.virtual_addresses("api.shop.mesh");
    for path in [
        "/secret",
        "//secret",
        "/a/../secret",
        "/%73ecret",
        "/secret?x",
        "/.%2fsecret",
    ] {
        let answer = world.get(api, 80, "api", path);
        assert!(answer.starts_with("HTTP/1.1 403"), "{path}: {answer}");
    }
    for path in ["/", "/secrets", "/other/secret"] {
        let answer = world.get(api, 80, "api", path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    // Around the service, and so without mutual TLS: on its port, and on one nobody declared.
    let server = &world.server.machine;
    for address in server.addresses() {
        for port in [8080, 9999] {
            let answer = world.say(address, port, "GET / HTTP/1.1\r\nhost: api\r\n\r\n");
            let nothing = answer.as_ref().map_or(true, String::is_empty);
            assert!(nothing, "{address} {port}: {answer:?}");
        }
    }
}

#[test]
fn a_policy_holds_from_the_next_request_on_a_connection_that_stays_open() {
    let mut world = World::start(SHOP);
    world.server.serve_http(Ipv6Addr::UNSPECIFIED, 8080);
    let [api, _] = world.virtual_addresses("api.shop.mesh");
    let mut connection = world.connect(api, 80);
    assert_eq!(connection.get("api", "/"), 200);
    let refusing = SHOP.replace("paths: [/secret]", "paths: [/*]");
    // The listener stays as it is: no connection is drained.
    for (yaml, status) in [(refusing.as_str(), 403), (SHOP, 200), (&refusing, 403)] {
        world.change_inbound_routes(yaml);
        let began = Instant::now();
        while connection.get("api", "/") != status {
            assert!(began.elapsed() < PATIENCE, "{status} never comes");
        }
    }
}

#[test]
fn routes_answer_for_their_hosts_and_faults_are_logged() {
    let world = World::start(SHOP);
    let [api, _] = world.virtual_addresses("api.shop.mesh");
    let answer = world.get(api, 80, "api.shop:80", "/teapot");
    assert!(answer.starts_with("HTTP/1.1 418"), "{answer}");
    let entry = world.client.log(|entry| entry.path == "/teapot");
    assert_eq!((entry.code, entry.service.as_str()), (418, "api.shop.mesh"));
    assert_eq!(entry.peer, "");
    let answer = world.get(api, 80, "stranger.example.com", "/");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[test]
fn grpc_is_carried_also_on_a_port_of_plain_http() {
    let world = World::start(SHOP);
    let served = world.server.serve_grpc(9090);
    let [api, _] = world.virtual_addresses("api.shop.mesh");
    for port in [90, 91] {
        world.call_grpc(api, port, "api");
        let entry = served.recv_timeout(PATIENCE).unwrap();
        assert_eq!(entry.log, "sent by the client");
    }
}

/// A service of which one endpoint, outside the mesh, speaks HTTP/1.1 and nothing else.
const BARE: &str = r"
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bare, namespace: shop}
spec:
  hosts: [bare.shop.mesh]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{name: http, number: 80, protocol: HTTP, targetPort: 81}]
  endpoints: [{address: OUTSIDE}]
";

#[test]
fn an_application_without_sidecar_is_spoken_to_as_its_port_says() {
    let world = World::start(&format!("{SHOP}{BARE}"));
    let [outside, _] = world.server.machine.outside;
    world.server.serve_http(outside, 81);
    let [bare, _] = world.virtual_addresses("bare.shop.mesh");
    let answer = world.get(bare, 80, "bare.shop.mesh", "/one");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (code, body) = world.get_over_http2(bare, 80, "bare.shop.mesh", "/two");
    assert_eq!(code, 200);
    assert!(body.contains("GET /two HTTP/1.1\r\n"), "{body}");
}

#[test]
fn an_endpoint_is_reached_at_its_other_address() {
    let world = World::start(SHOP);
    world.server.serve_http(Ipv6Addr::UNSPECIFIED, 8080);
    let [moved, _] = world.virtual_addresses("moved.shop.mesh");
    let answer = world.get(moved, 80, "moved", "/");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("peer: ::6"), "{answer}");
}

#[test]
fn who_allows_only_some_requests_takes_no_bytes() {
    let policy = r"
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: some, namespace: shop}
spec:
  selector: {matchLabels: {version: v1}}
  rules:
  - to: [{operation: {paths: [/public, '/items/{*}/price']}}]
";
    let world = World::start(&format!("{SHOP}{policy}"));
    world.server.serve_http(Ipv6Addr::UNSPECIFIED, 8080);
    world.server.serve_lines(Ipv6Addr::UNSPECIFIED, 3306);
    let [api, _] = world.virtual_addresses("api.shop.mesh");
    for (path, code) in [
        ("/public", 200),
        ("/items/7/price", 200),
        ("/private", 403),
        ("/items/7/8/price", 403),
    ] {
        let answer = world.get(api, 80, "api", path);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}")),
            "{path}: {answer}"
        );
    }
    // The server may have greeted by then, but nothing that the caller says reaches it.
    let answer = world.say(api, 3306, "again\n").unwrap_or_default();
    assert!(!answer.contains("again"), "{answer}");
}

#[test]
fn plaintext_is_taken_where_it_is_allowed() {
    let world = World::start(&alone(SHOP).replace("STRICT", "PERMISSIVE"));
    world.server.serve_http(Ipv6Addr::UNSPECIFIED, 8080);
    for address in world.server.machine.addresses() {
        // Not at the service's address, so the client's sidecar passes it on as it is.
        let answer = world.get(address, 8080, "api", "/");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(!answer.contains("x-forwarded-client-cert"), "{answer}");
        let entry = world.server.log(|entry| entry.log == "inbound");
        assert_eq!((entry.peer.as_str(), entry.code), ("", 200));
    }
    let [api, _] = world.virtual_addresses("api.shop.mesh");
    let answer = world.get(api, 80, "api", "/");
    assert!(answer.contains(&format!(";URI={WEB}\r\n")), "{answer}");
}

#[test]
fn what_is_not_ours_passes() {
    let world = World::start(SHOP);
    let [plain, silent] = world.server.machine.outside;
    world.server.serve_http(plain, 80);
    world.server.serve_http(plain, 81);
    world.server.serve_lines(silent, 80);
    for port in [80, 81] {
        let answer = world.get(plain.into(), port, "outside.example.com", "/");
        assert!(answer.starts_with("HTTP/1.1 200"), "{port}: {answer}");
        assert!(answer.contains("peer: 10.99."), "{port}: {answer}");
    }
    // A port on which services of the mesh speak HTTP, and this server something else.
    let answer = world.say(silent.into(), 80, "again\n").unwrap();
    assert!(
        answer.ends_with("again\n") && answer.starts_with("hello "),
        "{answer}"
    );
}

#[test]
fn envoy_accepts_every_case() {
    let authority = Authority::new();
    let mut accepted = 0;
    for case in Case::all() {
        for (name, layer) in case.layers() {
            let what = format!("{} {name}", case.name());
            validate(&what, &case::json(&layer), &authority);
            accepted += 1;
        }
    }
    assert!(
        accepted >= 16,
        "{accepted} layers are fewer than there were"
    );
}

#[test]
fn envoy_takes_whatever_validation_takes() {
    let authority = Authority::new();
    let corners = corner::corners();
    let taken: Vec<_> = corners
        .iter()
        .filter(|corner| corner::is_taken(corner))
        .collect();
    assert!(taken.len() >= 100, "{} corners are few", taken.len());
    assert!(taken.len() < corners.len(), "nothing was refused");
    let output = run("corners", &corner::resources(&taken), &authority);
    if output.contains("OK") {
        return;
    }
    // One of them is refused: which, Envoy says of each alone.
    let refused: Vec<_> = taken
        .iter()
        .filter_map(|corner| {
            let (name, object) = corner;
            let output = run(name, &corner::resources(&[corner]), &authority);
            let short = |text: String| text.chars().take(600).collect::<String>();
            let reason = output
                .rsplit_once("\n: ")
                .map_or(&*output, |(_, reason)| reason);
            (!output.contains("OK")).then(|| {
                let (object, reason) = (short(object.to_string()), short(reason.to_owned()));
                format!("{name} {object}\n{reason}")
            })
        })
        .collect();
    panic!("{}", refused.join("\n"));
}

#[test]
fn envoy_refuses_what_is_wrong() {
    let case = Case::named("http");
    let (_, layer) = &case.layers()[0];
    let mut resources = case::json(layer);
    let listener = resources
        .get_mut("listeners")
        .unwrap()
        .get_mut("outbound|9080")
        .unwrap();
    let first = listener["filter_chains"][0].clone();
    listener["filter_chains"][1]["filter_chain_match"] = first["filter_chain_match"].clone();
    let output = run("twice", &resources, &Authority::new());
    assert!(output.contains("has the same matching rules"), "{output}");
}

fn validate(what: &str, resources: &Resources, authority: &Authority) {
    let output = run(what, resources, authority);
    assert!(output.contains("OK"), "{what}: {output}");
}

/// What Envoy says of a configuration.
fn run(what: &str, resources: &Resources, authority: &Authority) -> String {
    let dir = TempDir::new().unwrap();
    let secrets = authority.issue("spiffe://cluster.local/ns/default/sa/test", dir.path());
    let config = bootstrap(resources, &secrets, &dir.path().join("admin"));
    let file = dir.path().join("envoy.json");
    fs::write(&file, config.to_string()).unwrap();
    let output = Command::new(envoy())
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(&file)
        .output()
        .unwrap_or_else(|error| panic!("{what}: Envoy does not run: {error}"));
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// The Envoy binary.
fn envoy() -> PathBuf {
    let named = env::var_os("ENVOY_BIN").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        let mut dirs = env::split_paths(&path).map(|dir| dir.join("envoy"));
        dirs.find(|file| Path::is_file(file))
    });
    found.unwrap_or_else(|| panic!("no Envoy: set ENVOY_BIN to the binary, or put it into PATH"))
}
