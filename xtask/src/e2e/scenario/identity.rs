//! Every hop is mutual TLS, between the identities that were meant.

use std::time::Duration;

use mesh_tests::call::Call;
use serde_json::Value;

use super::control_plane::under_load;
use super::proxy::serial;
use crate::e2e::world::{Step, World, ensure, eventually};

pub(crate) async fn rows(world: &World) {
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

/// Both ends of a hop get new certificates while requests go through.
pub(crate) async fn rotation(world: &World) {
    let result = rotated(world).await;
    world.record("certificates rotated under load: no failed request", result);
}

async fn rotated(world: &World) -> Step<String> {
    const CLIENT: &str = "productpage-v1";
    const SERVER: &str = "details-v1";
    let event = async {
        let before = (
            serial(world, CLIENT).await?,
            serial(world, SERVER).await?,
            presented(world, CLIENT).await?,
        );
        let renewed = || async {
            let client = serial(world, CLIENT).await?;
            let server = serial(world, SERVER).await?;
            ensure(client != before.0 && server != before.1, || {
                format!("{CLIENT} has {client}, {SERVER} has {server}")
            })?;
            // What the other end of a connection was shown: kept connections may be older.
            let shown = presented(world, CLIENT).await?;
            ensure(shown != before.2, || {
                format!("{SERVER} is still shown the certificate {shown}")
            })?;
            Ok((client, server, shown))
        };
        let (after, _) = eventually(Duration::from_secs(40), renewed).await?;
        Ok::<_, String>((before, after))
    };
    let (load, rotated) = under_load(world, "rotation", event).await;
    let (before, after) = rotated?;
    Ok(format!(
        "{}; Envoy's serials: {CLIENT} {} → {}, {SERVER} {} → {}; {SERVER} was shown {:.8}…, then {:.8}…",
        load?, before.0, after.0, before.1, after.1, before.2, after.2,
    ))
}

/// The hash of the client certificate that the server's sidecar verified.
async fn presented(world: &World, client: &str) -> Step<String> {
    let outcome = world
        .call(client, Call::get("http://details:9080/only"))
        .await?;
    let xfcc = outcome
        .body
        .pointer("/headers/x-forwarded-client-cert")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let hash = xfcc
        .split([';', ','])
        .find_map(|part| part.strip_prefix("Hash="));
    hash.map(str::to_owned)
        .ok_or_else(|| format!("no hash of a certificate in `{xfcc}`: {outcome:?}"))
}
