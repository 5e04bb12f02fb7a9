//! The Mixer counts what the load generator counted, and its absence costs nothing.

use std::time::Duration;

use mesh_tests::call::{Call, Load};

use super::control_plane::kill;
use super::routing::{apply, delete};
use crate::e2e::world::{Step, World, ensure, eventually};

/// Where the Mixer's metrics are, on the host's own address.
const METRICS: &str = "http://10.213.0.1:15014/metrics";

pub(crate) async fn rows(world: &mut World) {
    let result = counts(world).await;
    world.record(
        "Mixer's request counts, by both identities and reporter, are the client's own",
        result,
    );
    let result = without_mixer(world).await;
    world.record("Mixer killed: no failed request", result);
}

/// What a reporter counted between two accounts for a service.
async fn counted(reporter: &str, from: &str, to: &str) -> Step<f64> {
    let outcome = mesh_tests::call::once(Call::get(METRICS)).await;
    let text = outcome.body.as_str().unwrap_or_default().to_owned();
    ensure(outcome.status == 200, || format!("{METRICS}: {outcome:?}"))?;
    let spiffe = |account: &str| format!("\"spiffe://cluster.local/ns/default/sa/{account}\"");
    let wanted = [
        format!("reporter=\"{reporter}\""),
        format!("source_principal={}", spiffe(from)),
        format!("destination_principal={}", spiffe(to)),
        "response_code=\"200\"".to_owned(),
    ];
    let values = text
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .filter(|line| wanted.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum())
}

async fn counts(world: &World) -> Step<String> {
    let pairs = [
        ("productpage-v1", "productpage", "details"),
        ("reviews-v2", "reviews", "ratings"),
    ];
    let mut evidence = Vec::new();
    for (client, from, to) in pairs {
        // What was sent before may still be in a sidecar's buffer: wait until the counts rest.
        let mut before = rest(from, to).await?;
        let load = Load {
            call: Call::get(&format!("http://{to}:9080/only")),
            requests: Some(1000),
            until_file: None,
            workers: 4,
            pause_ms: 0,
        };
        let report = world.load(client, load).await?;
        ensure(report.failed() == 0 && report.requests == 1000, || {
            format!("{report:?}")
        })?;
        for (reporter, before) in ["source", "destination"].iter().zip(&mut before) {
            let all = || async {
                let now = counted(reporter, from, to).await? - *before;
                ensure((now - 1000.0).abs() < 0.5, || {
                    format!("{reporter} of {from} → {to} counts {now} of 1000")
                })
            };
            eventually(Duration::from_secs(10), all).await?;
        }
        let after = rest(from, to).await?;
        let exact: Vec<f64> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after - before)
            .collect();
        ensure(
            exact.iter().all(|count| (count - 1000.0).abs() < 0.5),
            || format!("{from} → {to}: source and destination count {exact:?} of 1000"),
        )?;
        evidence.push(format!(
            "{from} → {to}: client 1000, source {}, destination {}",
            exact[0], exact[1]
        ));
    }
    Ok(evidence.join("; "))
}

/// The counts of source and destination, once they are the same for two seconds.
async fn rest(from: &str, to: &str) -> Step<[f64; 2]> {
    let look = || async {
        Ok::<_, String>([
            counted("source", from, to).await?,
            counted("destination", from, to).await?,
        ])
    };
    let same = || async {
        let first = look().await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let second = look().await?;
        ensure(
            first.iter().zip(&second).all(|(a, b)| (a - b).abs() < 0.5),
            || "counts still move".to_owned(),
        )?;
        Ok(second)
    };
    eventually(Duration::from_secs(20), same)
        .await
        .map(|(counts, _)| counts)
}

async fn without_mixer(world: &World) -> Step<String> {
    apply(world, "no-retries.yaml").await?;
    let (report, (old, new)) = super::control_plane::under_load(world, "mixer", async {
        kill(world, "control-plane", "mixer").await
    })
    .await?;
    delete(world, "no-retries.yaml").await?;
    Ok(format!(
        "{} requests, {} on new connections, 0 failed; mixer was {old}, is {new}",
        report.requests, report.on_new_connections
    ))
}
