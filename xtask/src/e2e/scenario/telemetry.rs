//! The Mixer counts what the load generator counted, and its absence costs nothing.

use std::time::Duration;

use mesh_tests::call::{Call, Load};

use crate::e2e::world::{Step, World, ensure, eventually};

pub(crate) async fn rows(world: &World) {
    let result = counts(world).await;
    world.record(
        "Mixer's request counts, by both identities and reporter, are the client's own",
        result,
    );
}

/// What a reporter counted between two accounts for a service.
async fn counted(metrics: &str, reporter: &str, from: &str, to: &str) -> Step<u64> {
    let outcome = mesh_tests::call::once(Call::get(metrics)).await;
    let text = outcome.body.as_str().unwrap_or_default().to_owned();
    ensure(outcome.status == 200, || format!("{metrics}: {outcome:?}"))?;
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
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(values.sum())
}

async fn counts(world: &World) -> Step<String> {
    let (reviews, ratings) = tokio::join!(
        pair(world, "productpage-v1", "productpage", "reviews"),
        pair(world, "reviews-v2", "reviews", "ratings"),
    );
    Ok(format!("{}; {}", reviews?, ratings?))
}

/// A thousand requests from one account to another, counted by the client and by both sidecars.
async fn pair(world: &World, client: &str, from: &str, to: &str) -> Step<String> {
    // What was sent before may still be in a sidecar's buffer: wait until the counts rest.
    let before = rest(world, from, to, None).await?;
    let load = Load {
        call: Call::get(&format!("http://{to}:9080/only")),
        requests: Some(1000),
        until_file: None,
        at_least: 0,
        workers: 4,
        pause_ms: 0,
    };
    let report = world.load(client, load).await?;
    ensure(report.failed() == 0 && report.requests == 1000, || {
        format!("{report:?}")
    })?;
    let after = rest(world, from, to, Some(before)).await?;
    let moved = |index: usize| Some(after.get(index)? - before.get(index)?);
    let (source, destination) = (moved(0), moved(1));
    ensure(source == Some(1000) && destination == Some(1000), || {
        format!("{from} → {to}: source counts {source:?}, destination {destination:?} of 1000")
    })?;
    Ok(format!(
        "{from} → {to}: client 1000, source 1000, destination 1000"
    ))
}

/// The counts of source and destination, once both are beyond `before` and nothing comes any more.
async fn rest(world: &World, from: &str, to: &str, before: Option<[u64; 2]>) -> Step<[u64; 2]> {
    // The Mixer's own metrics, which have no sidecar.
    let metrics = world.outside().await?;
    let metrics = metrics.first().ok_or("the Mixer has no address")?;
    let look = || async {
        Ok::<_, String>([
            counted(metrics, "source", from, to).await?,
            counted(metrics, "destination", from, to).await?,
        ])
    };
    let same = || async {
        let first = look().await?;
        let moved = before.is_none_or(|before| first[0] > before[0] && first[1] > before[1]);
        ensure(moved, || "nothing was counted".to_owned())?;
        // Sidecars send what they have at least once a second.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let second = look().await?;
        ensure(first == second, || "counts still move".to_owned())?;
        Ok(second)
    };
    eventually(Duration::from_secs(20), same)
        .await
        .map(|(counts, _)| counts)
}
