//! Every hop is mutual TLS, between the identities that were meant.

use std::time::Duration;

use mesh_tests::call::Call;
use serde_json::Value;

use super::control_plane::{under_load, unit};
use crate::e2e::world::{Step, World, ensure, eventually};

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

/// Both ends of a hop get new certificates while requests go through.
pub(crate) async fn rotation(world: &World) -> Step<String> {
    let ends = ["productpage-v1", "details-v1"];
    let event = async {
        let mut old = Vec::new();
        for end in ends {
            old.push(serial(world, end).await?);
        }
        let mut changes = Vec::new();
        for (end, old) in ends.into_iter().zip(old) {
            let renewed = || async {
                let new = serial(world, end).await?;
                ensure(new != old, || format!("{end} still has {old}"))?;
                Ok(new)
            };
            let (new, _) = eventually(Duration::from_secs(40), renewed).await?;
            changes.push(format!("{end} {old} → {new}"));
        }
        Ok(changes)
    };
    let (report, changes) = under_load(world, "rotation", event).await?;
    Ok(format!(
        "{} requests, {} on new connections, 0 failed; serials: {}",
        report.requests,
        report.on_new_connections,
        changes.join(", ")
    ))
}

/// The serial of the certificate that a sidecar uses.
async fn serial(world: &World, group: &str) -> Step<String> {
    let status = world.mesh_json(&["status"]).await?;
    let serial = unit(&status, group, "sidecar")?
        .pointer("/certificate/serial")
        .and_then(Value::as_str);
    serial
        .map(str::to_owned)
        .ok_or_else(|| format!("`mesh status` knows no certificate of {group}"))
}
