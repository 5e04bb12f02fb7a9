//! The suite of the stores on the file, and what only a file can do.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed unwrap is a failed test"
)]

#[path = "store/suite.rs"]
mod suite;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use mesh_control::store::{Backend, StoreConfig, StoreError, open};
use proptest::prelude::*;
use tempfile::TempDir;

use suite::{Shared, create, replay_equals_list, steps, update, value};

suite!(fresh());

async fn fresh() -> (Shared, TempDir) {
    let home = tempfile::tempdir().unwrap();
    let store = open(&StoreConfig::file(home.path().join("store.redb"))).await;
    (store.unwrap(), home)
}

async fn at(path: &Path) -> Shared {
    open(&StoreConfig::file(path)).await.unwrap()
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart_and_can_be_watched() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store.redb");
    let store = at(&path).await;
    let first = create(&store, "a/x", "1").await;
    let second = update(&store, "a/x", "2", first).await;
    drop(store);
    let store = reopened(&path).await;
    assert_eq!(value(&store, "a/x").await, "2");
    let mut watch = store.watch("a/", first).await.unwrap();
    assert_eq!(suite::take(&mut watch, 1).await[0].revision, second);
    assert!(update(&store, "a/x", "3", second).await > second);
}

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    let (_store, home) = fresh().await;
    let file = home.path().join("store.redb");
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_process_is_told_that_the_file_is_in_use() {
    let (_store, home) = fresh().await;
    let again = open(&StoreConfig::file(home.path().join("store.redb"))).await;
    let error = again.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store.redb");
    std::fs::write(&path, vec![7; 100_000]).unwrap();
    let error = open(&StoreConfig::file(&path)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn the_history_is_bounded_by_count() {
    let home = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        backend: Backend::File {
            path: home.path().join("store.redb"),
            keep_changes: 16,
        },
        prefix: "/registry/".to_owned(),
    };
    let store = open(&config).await.unwrap();
    let first = create(&store, "a/x", "0").await;
    let mut last = first;
    for round in 0..100 {
        last = update(&store, "a/x", &round.to_string(), last).await;
    }
    let old = store.watch("a/", first).await.err();
    assert!(matches!(old, Some(StoreError::Compacted { .. })), "{old:?}");
    let mut watch = store.watch("a/", last - 10).await.unwrap();
    assert_eq!(suite::take(&mut watch, 10).await.len(), 10);
}

#[tokio::test]
async fn a_watcher_far_behind_gets_everything_in_parts() {
    let (store, _home) = fresh().await;
    let start = create(&store, "a/x", "0").await;
    let writes = (0..2500).map(|index| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { create(&store, &format!("a/{index}"), "1").await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    let mut watch = store.watch("a/", start).await.unwrap();
    let events = suite::take(&mut watch, 2500).await;
    assert!(events.is_sorted_by_key(|event| event.revision));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replaying_a_watch_over_a_list_gives_the_later_list(steps in steps()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (store, _home) = fresh().await;
            replay_equals_list(&store, &steps, "a/").await;
        });
    }
}

/// Opens a file that its writer is about to let go of.
async fn reopened(path: &Path) -> Shared {
    loop {
        match open(&StoreConfig::file(path)).await {
            Ok(store) => return store,
            Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}
