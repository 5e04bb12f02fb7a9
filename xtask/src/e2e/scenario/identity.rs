//! Every hop is mutual TLS, between the identities that were meant.

use mesh_tests::call::Call;
use serde_json::Value;

use crate::e2e::world::{Step, World, ensure};

pub(crate) async fn rows(world: &mut World) {
    let result = hops(world).await;
    world.record(
        "every hop is mutual TLS with the right SPIFFE identities",
        result,
    );
}

/// One request to productpage from itself, and the tree of calls behind it.
async fn hops(world: &World) -> Step<String> {
    let mut seen = Vec::new();
    let sources = [
        ("productpage-v1", "productpage", "http://details:9080/only"),
        ("productpage-v1", "productpage", "http://reviews:9080/only"),
        ("reviews-v2", "reviews", "http://ratings:9080/only"),
        ("reviews-v3", "reviews", "http://ratings:9080/only"),
    ];
    for (instance, account, url) in sources {
        let outcome = world.call(instance, Call::get(url)).await?;
        ensure(outcome.status == 200, || {
            format!("{instance} → {url}: {outcome:?}")
        })?;
        let xfcc = outcome
            .body
            .pointer("/headers/x-forwarded-client-cert")
            .and_then(Value::as_str)
            .ok_or_else(|| {
                format!(
                    "{instance} → {url}: no verified client certificate: {}",
                    outcome.body
                )
            })?;
        let wanted = format!("URI=spiffe://cluster.local/ns/default/sa/{account}");
        ensure(xfcc.split([';', ',']).any(|part| part == wanted), || {
            format!("{instance} → {url}: `{xfcc}` has no `{wanted}`")
        })?;
        let peer = outcome
            .body
            .get("peer")
            .and_then(Value::as_str)
            .unwrap_or_default();
        ensure(peer == "127.0.0.6" || peer == "::6", || {
            format!(
                "{instance} → {url}: the application was reached from {peer}, round its sidecar"
            )
        })?;
        let server = outcome
            .body
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        seen.push(format!("{account} → {server}"));
    }
    Ok(format!(
        "the servers' sidecars verified: {}",
        seen.join(", ")
    ))
}
