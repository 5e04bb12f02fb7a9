//! `mesh why`: where a call goes and whether it is let in, and because of which object.

use std::collections::BTreeMap;

use mesh_proto::mesh::agent::v1::ExplainRequest;
use serde_json::Value;

use super::introspection::ask;
use crate::connect::Connection;
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Format, print_json};

/// Explain what becomes of a call, without making it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Who calls: a workload, or `<namespace>/<service account>`.
    from: String,
    /// What is called: a host with a port, `reviews:9080`, or an address of the catalogue,
    /// `10.0.0.5:24080`.
    to: String,
    /// Method of the request.
    #[arg(long, default_value = "GET")]
    method: String,
    /// Path of the request.
    #[arg(long, default_value = "/")]
    path: String,
    /// A header of the request, `name: value`; may be repeated.
    #[arg(long, value_name = "HEADER", value_parser = header)]
    header: Vec<(String, String)>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    connection: Connection,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "a header is `name: value`".to_owned())?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let request = ExplainRequest {
        from: args.from.clone(),
        to: args.to.clone(),
        method: args.method.clone(),
        path: args.path.clone(),
        headers: args.header.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let answer = ask(&args.connection, |mut pilot| {
        let request = request.clone();
        async move { pilot.explain(request).await }
    });
    let explanation: Value = serde_json::from_slice(&answer.await?.json)
        .map_err(|error| Failure::doing("reading Pilot's answer", &error))?;
    if args.format.json {
        print_json(&explanation)?;
    } else {
        print!("{}", describe(&explanation));
    }
    Ok(OK.into())
}

/// The explanation in words.
fn describe(explanation: &Value) -> String {
    let mut text = format!(
        "{} calls {}:{} ({})\n",
        word(explanation, "/from/identity"),
        word(explanation, "/to/host"),
        word(explanation, "/to/port"),
        word(explanation, "/to/protocol"),
    );
    if let Some(entrance) = explanation.get("entrance").filter(|it| !it.is_null()) {
        line(&mut text, 0, &through(entrance));
    }
    let route = explanation.get("route").unwrap_or(&Value::Null);
    let route_of = match (route, word(explanation, "/from/calls").as_str()) {
        (Value::Null, "redirected") => {
            "to the address, since no VirtualService holds for one".to_owned()
        }
        (Value::Null, _) => "to the address, past every sidecar of the caller's".to_owned(),
        _ => route_cause(route),
    };
    line(&mut text, 0, &format!("route: {route_of}"));
    if let Some(action) = route.get("action").and_then(|action| named(action)) {
        for part in action_parts(action) {
            line(&mut text, 1, &part);
        }
    }
    let destinations = explanation.get("destinations").and_then(Value::as_array);
    let destinations: Vec<_> = destinations.into_iter().flatten().collect();
    let weight = |destination: &Value| {
        let weight = destination.get("weight").and_then(Value::as_u64);
        weight.unwrap_or_default()
    };
    let sum: u64 = destinations.iter().copied().map(weight).sum();
    for destination in &destinations {
        // A single destination has everything, whatever its weight.
        let share = match (destinations.len(), sum) {
            (1, _) | (_, 0) => 100,
            (_, sum) => weight(destination) * 100 / sum,
        };
        let cluster = word(destination, "/cluster");
        if !cluster.is_empty() {
            line(&mut text, 1, &format!("{share} % to {cluster}"));
        }
        if let Some(problem) = destination.get("problem").and_then(Value::as_str) {
            line(&mut text, 2, &format!("but {problem}"));
        }
        let endpoints = destination.get("endpoints").and_then(Value::as_array);
        for endpoint in endpoints.into_iter().flatten() {
            describe_endpoint(&mut text, endpoint);
        }
    }
    text
}

fn describe_endpoint(text: &mut String, endpoint: &Value) {
    let address = endpoint.get("address").and_then(|it| named(it));
    let address = address
        .map(|(_, address)| plain(address))
        .unwrap_or_default();
    let workload = word(endpoint, "/workload");
    let health = word(endpoint, "/health");
    let port = word(endpoint, "/port");
    line(
        text,
        2,
        &format!("{workload} at {address} port {port}, {health}"),
    );
    if let Some(decision) = endpoint.get("mutualTls").filter(|it| it.is_object()) {
        let mode = word(decision, "/mode");
        let is_secured = endpoint.get("secured") == Some(&Value::Bool(true));
        let how = match (is_secured, mode.as_str()) {
            (true, _) => "under mutual TLS",
            (false, "STRICT") => "in plaintext, which is refused",
            (false, _) => "in plaintext",
        };
        line(
            text,
            3,
            &format!("{how}; it takes {mode}: {}", cause(decision)),
        );
    }
    if let Some(decision) = endpoint.get("authorization").filter(|it| it.is_object()) {
        let is_allowed = decision.get("allowed") == Some(&Value::Bool(true));
        let verdict = if is_allowed { "allowed" } else { "refused" };
        line(text, 3, &format!("{verdict}: {}", cause(decision)));
    }
}

/// Where the application of an explicit workload comes to its sidecar.
fn through(entrance: &Value) -> String {
    match named(entrance) {
        Some(("upstream", address)) => format!("through its upstream at {}", plain(address)),
        Some(("forwardProxy", address)) => {
            format!("through its forward proxy at {}", plain(address))
        }
        _ => {
            "but its application does not get there: it is explicit, declares no upstream for this \
              port, and the forward proxy takes HTTP only"
                .to_owned()
        }
    }
}

/// Why a route was taken.
fn route_cause(route: &Value) -> String {
    let because = route.get("because").unwrap_or(&Value::Null);
    match named(because) {
        Some(("route", because)) => {
            let object = object(because.get("object"));
            let index = word(because, "/route");
            let name = word(because, "/name");
            let name = if name.is_empty() {
                String::new()
            } else {
                format!(" `{name}`")
            };
            format!("VirtualService {object}, route {index}{name}")
        }
        Some(("nothingMatches", because)) => format!(
            "404, since no route of VirtualService {} matches",
            object(because.get("object"))
        ),
        _ => "to the service itself, since no VirtualService holds".to_owned(),
    }
}

/// What a route does besides sending on.
fn action_parts((name, action): (&str, &Value)) -> Vec<String> {
    if name != "forward" {
        return vec![format!("{name} {}", compact(action))];
    }
    let parts = [
        ("fault", "with the fault"),
        ("timeout", "within"),
        ("retries", "tried again as"),
        ("rewrite", "rewritten to"),
        ("headers", "with the headers"),
    ];
    parts
        .into_iter()
        .filter_map(|(field, words)| {
            let value = action.get(field).filter(|value| !value.is_null())?;
            Some(format!("{words} {}", compact(value)))
        })
        .collect()
}

/// Why a decision on an endpoint is as it is.
fn cause(decision: &Value) -> String {
    let because = decision.get("because").unwrap_or(&Value::Null);
    match named(because) {
        Some(("mesh", policy)) => {
            format!("PeerAuthentication {} of the mesh", object(Some(policy)))
        }
        Some(("namespace", policy)) => {
            format!(
                "PeerAuthentication {} of the namespace",
                object(Some(policy))
            )
        }
        Some(("workload", policy)) => format!("PeerAuthentication {}", object(Some(policy))),
        Some(("port", policy)) => {
            format!("PeerAuthentication {} for the port", object(Some(policy)))
        }
        Some((verdict @ ("allowed" | "denied"), because)) => {
            let policy = object(because.get("policy"));
            let rule = word(because, "/rule");
            format!("{verdict} by rule {rule} of AuthorizationPolicy {policy}")
        }
        Some(("notAllowed", because)) => {
            let policies = because.get("policies").and_then(Value::as_array);
            let policies = policies.into_iter().flatten();
            let policies: Vec<_> = policies.map(|policy| object(Some(policy))).collect();
            format!(
                "no rule of AuthorizationPolicy {} allows it",
                policies.join(", ")
            )
        }
        Some((other, value)) => format!("{other} {}", compact(value)),
        None => match because.as_str() {
            Some("default") => "no PeerAuthentication says otherwise".to_owned(),
            Some("noPolicy") => "no AuthorizationPolicy holds for it".to_owned(),
            other => other.unwrap_or("-").to_owned(),
        },
    }
}

/// The variant of an enum and what it holds.
fn named(value: &Value) -> Option<(&str, &Value)> {
    let (name, value) = value.as_object()?.iter().next()?;
    Some((name, value))
}

/// Namespace and name of an object.
fn object(value: Option<&Value>) -> String {
    let value = value.unwrap_or(&Value::Null);
    format!("{}/{}", word(value, "/namespace"), word(value, "/name"))
}

fn word(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).map(plain).unwrap_or_default()
}

/// Text without quotes, nothing for null, JSON for the rest.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// JSON without the fields that say nothing.
fn compact(value: &Value) -> String {
    fn strip(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let said = |value: &Value| {
                    !value.is_null()
                        && value != &Value::String(String::new())
                        && value != &Value::Array(Vec::new())
                        && value != &Value::Object(serde_json::Map::new())
                };
                let fields = fields
                    .iter()
                    .map(|(name, value)| (name.clone(), strip(value)));
                Value::Object(fields.filter(|(_, value)| said(value)).collect())
            }
            Value::Array(list) => Value::Array(list.iter().map(strip).collect()),
            other => other.clone(),
        }
    }
    plain(&strip(value))
}

fn line(text: &mut String, depth: usize, words: &str) {
    text.push_str(&"  ".repeat(depth + 1));
    text.push_str(words);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_is_told_with_every_cause() {
        let explanation = json!({
            "from": { "identity": "spiffe://cluster.local/ns/default/sa/productpage" },
            "to": { "host": "reviews.default.mesh", "port": 9080, "protocol": "http" },
            "route": {
                "action": { "forward": { "timeout": "1s", "fault": null, "destinations": [] } },
                "because": { "route": {
                    "object": { "namespace": "default", "name": "reviews" },
                    "route": 1, "name": "", "condition": null,
                } },
            },
            "destinations": [
                {
                    "cluster": "outbound|9080|v1|reviews.default.mesh", "weight": 90, "problem": null,
                    "endpoints": [{
                        "workload": "default/reviews-v1", "address": { "Ip": "10.213.0.4" },
                        "port": 8080, "health": "healthy", "secured": true,
                        "mutualTls": { "mode": "STRICT", "because": { "mesh": { "namespace": "istio-system", "name": "default" } } },
                        "authorization": { "allowed": false, "because": { "notAllowed": { "policies": [{ "namespace": "default", "name": "readers" }] } } },
                    }],
                },
                { "cluster": "outbound|9080|v2|reviews.default.mesh", "weight": 10, "problem": "it has no endpoint", "endpoints": [] },
            ],
        });
        assert_eq!(
            describe(&explanation),
            "spiffe://cluster.local/ns/default/sa/productpage calls reviews.default.mesh:9080 (http)
  route: VirtualService default/reviews, route 1
    within 1s
    90 % to outbound|9080|v1|reviews.default.mesh
      default/reviews-v1 at 10.213.0.4 port 8080, healthy
        under mutual TLS; it takes STRICT: PeerAuthentication istio-system/default of the mesh
        refused: no rule of AuthorizationPolicy default/readers allows it
    10 % to outbound|9080|v2|reviews.default.mesh
      but it has no endpoint
"
        );
    }

    #[test]
    fn a_call_to_an_address_is_told_with_its_caller() {
        let told = |calls: &str, cluster: &str, secured: bool| {
            describe(&json!({
                "from": { "identity": "spiffe://cluster.local/ns/shop/sa/web", "calls": calls },
                "to": { "host": "db.shop.mesh", "port": 80, "protocol": "http" },
                "entrance": null, "route": null,
                "destinations": [{
                    "cluster": cluster, "weight": 1, "problem": null,
                    "endpoints": [{
                        "workload": "shop/db", "address": { "Ip": "10.0.0.5" },
                        "port": 24080, "health": "healthy", "secured": secured,
                        "mutualTls": { "mode": "STRICT", "because": "default" },
                        "authorization": { "allowed": true, "because": "noPolicy" },
                    }],
                }],
            }))
        };
        assert_eq!(
            told("redirected", "direct|24080||10.0.0.5", true),
            "spiffe://cluster.local/ns/shop/sa/web calls db.shop.mesh:80 (http)
  route: to the address, since no VirtualService holds for one
    100 % to direct|24080||10.0.0.5
      shop/db at 10.0.0.5 port 24080, healthy
        under mutual TLS; it takes STRICT: no PeerAuthentication says otherwise
        allowed: no AuthorizationPolicy holds for it
"
        );
        assert_eq!(
            told("plain", "", false),
            "spiffe://cluster.local/ns/shop/sa/web calls db.shop.mesh:80 (http)
  route: to the address, past every sidecar of the caller's
      shop/db at 10.0.0.5 port 24080, healthy
        in plaintext, which is refused; it takes STRICT: no PeerAuthentication says otherwise
        allowed: no AuthorizationPolicy holds for it
"
        );
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        assert_eq!(
            header("End-User: jason"),
            Ok(("end-user".to_owned(), "jason".to_owned()))
        );
        assert!(header("jason").is_err());
    }
}
