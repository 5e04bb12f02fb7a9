//! Forgets Events after an hour, as Kubernetes does: they tell what happens, not what is wanted.

use std::num::NonZeroUsize;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::json::text;
use super::kind::Kind;
use super::objects::{Deletion, Objects, Wanted, name_of};
use super::selector::Selector;
use super::status::Failure;

/// Looks for old Events until shutdown.
pub(super) async fn expire(objects: Objects, clock: Clock, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let before = clock.now_seconds() - LIFE_SECONDS;
        if let Err(failure) = forget(&objects, before).await {
            tracing::warn!(error = failure.message, "old events could not be deleted");
        }
    }
}

/// Deletes every Event that was last seen before a time, in seconds since 1970.
pub(super) async fn forget(objects: &Objects, before: i64) -> Result<(), Failure> {
    let Some(kind) = Kind::find("", "v1", "events") else {
        return Ok(());
    };
    let mut token: Option<String> = None;
    loop {
        let page = objects
            .list(Wanted {
                kind,
                version: kind.version(),
                namespace: None,
                selector: &Selector::default(),
                limit: PAGE,
                token: token.as_deref(),
                at: None,
            })
            .await?;
        for event in page.items.iter().filter(|event| last_seen(event) < before) {
            let namespace = text(event, "metadata.namespace");
            let how = Deletion::default();
            let done = objects
                .delete(kind, kind.version(), Some(namespace), &name_of(event), &how)
                .await;
            match done {
                Ok(_) => {}
                Err(failure) if failure.code == http::StatusCode::NOT_FOUND => {}
                Err(failure) => return Err(failure),
            }
        }
        token = page.token;
        if token.is_none() {
            return Ok(());
        }
    }
}

/// The latest of the times that an Event has.
fn last_seen(event: &Value) -> i64 {
    [
        "lastTimestamp",
        "eventTime",
        "series.lastObservedTime",
        "metadata.creationTimestamp",
    ]
    .into_iter()
    .filter_map(|path| text(event, path).parse::<Timestamp>().ok())
    .map(Timestamp::as_second)
    .max()
    .unwrap_or_default()
}

/// As Kubernetes' default.
const LIFE_SECONDS: i64 = 3600;

/// Often enough for a life of an hour.
const INTERVAL: Duration = Duration::from_secs(300);

/// Events looked at together.
const PAGE: Option<NonZeroUsize> = NonZeroUsize::new(200);
