//! What every store must do, as functions of a store; each store's test target runs them all.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use mesh_control::store::{Event, Guard, Page, Range, Revision, Store, StoreError, Watch};
use proptest::prelude::*;

pub(crate) type Shared = Arc<dyn Store>;

/// Runs every function of the suite that needs no more than an empty store.
#[macro_export]
macro_rules! suite {
    ($open:expr) => {
        $crate::suite!($open,
            a_created_key_is_read_back,
            a_key_is_created_once,
            a_creation_needs_its_guard,
            a_write_names_the_revision_it_replaces,
            of_two_writers_one_wins,
            a_deleted_key_is_gone_and_can_be_created_again,
            lists_are_sorted_and_cut_at_the_limit,
            a_list_goes_on_at_the_revision_where_it_began,
            a_prefix_ends_where_the_next_begins,
            a_list_of_the_future_is_refused,
            a_watch_tells_every_change_once_and_in_order,
            a_watch_starts_after_any_revision,
            a_watch_sees_only_its_prefix,
            a_watch_tells_what_was_before,
            two_watches_do_not_disturb_each_other,
            a_compacted_revision_is_a_typed_error,
            a_watch_from_a_later_revision_than_the_store_is_refused,
            a_value_beyond_the_limit_is_refused,
            writers_at_once_lose_nothing,
        );
    };
    ($open:expr, $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (store, _keep) = $open.await;
                $crate::suite::$name(store).await;
            }
        )*
    };
}

pub(crate) async fn a_created_key_is_read_back(store: Shared) {
    assert_eq!(store.get("a/x").await.unwrap(), None);
    let revision = create(&store, "a/x", "1").await;
    let entry = store.get("a/x").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), &entry.value[..]), ("a/x", &b"1"[..]));
    assert_eq!(entry.revision, revision);
    assert_eq!(store.revision().await.unwrap(), revision);
}

pub(crate) async fn a_key_is_created_once(store: Shared) {
    create(&store, "a/x", "1").await;
    let again = store.create("a/x", "2".into(), None).await;
    assert!(matches!(again, Err(StoreError::Exists { key }) if key == "a/x"));
    assert_eq!(value(&store, "a/x").await, "1");
}

pub(crate) async fn a_creation_needs_its_guard(store: Shared) {
    let first = create(&store, "ns/shop", "open").await;
    let guard = |revision| {
        Some(Guard {
            key: "ns/shop",
            revision,
        })
    };
    store.create("a/x", "1".into(), guard(first)).await.unwrap();
    update(&store, "ns/shop", "closing", first).await;
    let late = store.create("a/y", "1".into(), guard(first)).await;
    assert!(matches!(late, Err(StoreError::Guard { key }) if key == "ns/shop"));
    assert_eq!(store.get("a/y").await.unwrap(), None);
    let exists = store.create("a/x", "1".into(), guard(first)).await;
    assert!(exists.is_err());
}

pub(crate) async fn a_write_names_the_revision_it_replaces(store: Shared) {
    let first = create(&store, "a/x", "1").await;
    let second = update(&store, "a/x", "2", first).await;
    assert!(second > first);
    let stale = store.update("a/x", "3".into(), first).await;
    assert!(
        matches!(stale, Err(StoreError::Conflict { expected, found, .. })
            if expected == first && found == Some(second))
    );
    let absent = store.update("a/y", "3".into(), first).await;
    assert!(matches!(
        absent,
        Err(StoreError::Conflict { found: None, .. })
    ));
    let stale = store.delete("a/x", first).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    assert_eq!(value(&store, "a/x").await, "2");
}

pub(crate) async fn of_two_writers_one_wins(store: Shared) {
    let first = create(&store, "a/x", "0").await;
    let (one, two) = tokio::join!(
        store.update("a/x", "one".into(), first),
        store.update("a/x", "two".into(), first),
    );
    assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    let winner = if one.is_ok() { "one" } else { "two" };
    assert_eq!(value(&store, "a/x").await, winner);
}

pub(crate) async fn a_deleted_key_is_gone_and_can_be_created_again(store: Shared) {
    let first = create(&store, "a/x", "1").await;
    let deleted = store.delete("a/x", first).await.unwrap();
    assert!(deleted > first);
    assert_eq!(store.get("a/x").await.unwrap(), None);
    let again = create(&store, "a/x", "2").await;
    assert!(again > deleted);
}

pub(crate) async fn lists_are_sorted_and_cut_at_the_limit(store: Shared) {
    for key in ["a/c", "a/a", "b/x", "a/b"] {
        create(&store, key, key).await;
    }
    let page = list(&store, "a/", None, Some(2), None).await.unwrap();
    assert_eq!(keys(&page), ["a/a", "a/b"]);
    assert!(page.more);
    let rest = list(&store, "a/", Some("a/b"), Some(2), Some(page.revision));
    let rest = rest.await.unwrap();
    assert_eq!(keys(&rest), ["a/c"]);
    assert!(!rest.more);
    let exact = list(&store, "a/", None, Some(3), None).await.unwrap();
    assert!(!exact.more);
}

pub(crate) async fn a_list_goes_on_at_the_revision_where_it_began(store: Shared) {
    let mut revisions = BTreeMap::new();
    for key in ["a/a", "a/b", "a/c", "a/d"] {
        revisions.insert(key, create(&store, key, "old").await);
    }
    let page = list(&store, "a/", None, Some(1), None).await.unwrap();
    // Everything that can happen to the rest happens.
    update(&store, "a/b", "new", revisions["a/b"]).await;
    store.delete("a/c", revisions["a/c"]).await.unwrap();
    create(&store, "a/bb", "new").await;
    let rest = list(&store, "a/", Some("a/a"), None, Some(page.revision));
    let rest = rest.await.unwrap();
    assert_eq!(keys(&rest), ["a/b", "a/c", "a/d"]);
    assert_eq!(rest.revision, page.revision);
    assert!(rest.entries.iter().all(|entry| &entry.value[..] == b"old"));
    assert_eq!(rest.entries[1].revision, revisions["a/c"]);
    let cut = list(&store, "a/", Some("a/a"), Some(2), Some(page.revision));
    let cut = cut.await.unwrap();
    assert_eq!((keys(&cut), cut.more), (vec!["a/b", "a/c"], true));
}

pub(crate) async fn a_prefix_ends_where_the_next_begins(store: Shared) {
    for key in ["a/x", "a0", "aa/x", "b/x"] {
        create(&store, key, "1").await;
    }
    let page = list(&store, "a/", None, None, None).await.unwrap();
    assert_eq!(keys(&page), ["a/x"]);
    let all = list(&store, "", None, None, None).await.unwrap();
    assert_eq!(all.entries.len(), 4);
}

pub(crate) async fn a_list_of_the_future_is_refused(store: Shared) {
    let revision = create(&store, "a/x", "1").await;
    let future = list(&store, "a/", None, None, Some(revision + 100)).await;
    assert!(matches!(future, Err(StoreError::Future { .. })));
}

pub(crate) async fn a_watch_tells_every_change_once_and_in_order(store: Shared) {
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("a/", start).await.unwrap();
    let mut expected = Vec::new();
    for round in 0..20 {
        let key = format!("a/{}", round % 5);
        let revision = match store.get(&key).await.unwrap() {
            Some(entry) if round % 3 == 0 => store.delete(&key, entry.revision).await.unwrap(),
            Some(entry) => update(&store, &key, &round.to_string(), entry.revision).await,
            None => create(&store, &key, &round.to_string()).await,
        };
        expected.push((revision, key));
    }
    let events = take(&mut watch, expected.len()).await;
    let told: Vec<_> = events
        .into_iter()
        .map(|event| (event.revision, event.key))
        .collect();
    assert_eq!(told, expected);
}

pub(crate) async fn a_watch_starts_after_any_revision(store: Shared) {
    let start = store.revision().await.unwrap();
    let mut revisions = vec![start];
    for round in 0..10 {
        revisions.push(create(&store, &format!("a/{round}"), "1").await);
    }
    for (index, after) in revisions.iter().enumerate() {
        let mut watch = store.watch("a/", *after).await.unwrap();
        let events = take(&mut watch, 10 - index).await;
        let told: Vec<_> = events.iter().map(|event| event.revision).collect();
        assert_eq!(told, revisions[index + 1..]);
    }
}

pub(crate) async fn a_watch_sees_only_its_prefix(store: Shared) {
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("a/", start).await.unwrap();
    create(&store, "aa/x", "1").await;
    create(&store, "b/x", "1").await;
    create(&store, "a/x", "1").await;
    let events = take(&mut watch, 1).await;
    assert_eq!(events[0].key, "a/x");
}

pub(crate) async fn a_watch_tells_what_was_before(store: Shared) {
    let start = store.revision().await.unwrap();
    let first = create(&store, "a/x", "1").await;
    let second = update(&store, "a/x", "2", first).await;
    store.delete("a/x", second).await.unwrap();
    create(&store, "a/x", "3").await;
    let mut watch = store.watch("a/", start).await.unwrap();
    let told: Vec<_> = take(&mut watch, 4)
        .await
        .into_iter()
        .map(|event| (event.previous, event.value))
        .collect();
    let some = |text: &'static str| Some(Bytes::from(text));
    assert_eq!(
        told,
        [
            (None, some("1")),
            (some("1"), some("2")),
            (some("2"), None),
            (None, some("3")),
        ]
    );
}

pub(crate) async fn two_watches_do_not_disturb_each_other(store: Shared) {
    let start = store.revision().await.unwrap();
    let mut one = store.watch("a/", start).await.unwrap();
    let two = store.watch("a/", start).await.unwrap();
    create(&store, "a/x", "1").await;
    drop(two);
    create(&store, "a/y", "1").await;
    assert_eq!(take(&mut one, 2).await.len(), 2);
}

pub(crate) async fn a_compacted_revision_is_a_typed_error(store: Shared) {
    let start = store.revision().await.unwrap();
    let mut last = create(&store, "a/x", "0").await;
    let first = last;
    for round in 1..5 {
        last = update(&store, "a/x", &round.to_string(), last).await;
    }
    store.compact(last).await.unwrap();
    // What is current stays, and the newest revision can be watched from.
    assert_eq!(value(&store, "a/x").await, "4");
    let mut watch = store.watch("a/", last).await.unwrap();
    let old = store.watch("a/", start).await.err();
    assert!(matches!(old, Some(StoreError::Compacted { .. })), "{old:?}");
    let old = list(&store, "a/", None, None, Some(first)).await.err();
    assert!(matches!(old, Some(StoreError::Compacted { .. })), "{old:?}");
    let next = update(&store, "a/x", "5", last).await;
    assert_eq!(take(&mut watch, 1).await[0].revision, next);
    // Compacting what is compacted changes nothing.
    store.compact(first).await.unwrap();
    assert_eq!(value(&store, "a/x").await, "5");
}

pub(crate) async fn a_watch_from_a_later_revision_than_the_store_is_refused(store: Shared) {
    let revision = create(&store, "a/x", "1").await;
    let watch = store.watch("a/", revision + 100).await.err();
    assert!(
        matches!(watch, Some(StoreError::Rewound { .. })),
        "{watch:?}"
    );
}

pub(crate) async fn a_value_beyond_the_limit_is_refused(store: Shared) {
    let large = Bytes::from(vec![b'x'; 1_500_001]);
    let refused = store.create("a/x", large, None).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.get("a/x").await.unwrap(), None);
    let most = Bytes::from(vec![b'x'; 1_500_000]);
    store.create("a/x", most, None).await.unwrap();
}

pub(crate) async fn writers_at_once_lose_nothing(store: Shared) {
    const WRITERS: usize = 8;
    const EACH: usize = 10;
    let start = create(&store, "a/counter", "0").await;
    let mut watch = store.watch("a/", start).await.unwrap();
    let writers = (0..WRITERS).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..EACH {
                loop {
                    let entry = store.get("a/counter").await.unwrap().unwrap();
                    let count: u64 = text(&entry.value).parse().unwrap();
                    let next = (count + 1).to_string();
                    match store.update("a/counter", next.into(), entry.revision).await {
                        Ok(_) => break,
                        Err(StoreError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let total = WRITERS * EACH;
    assert_eq!(value(&store, "a/counter").await, total.to_string());
    let told: Vec<_> = take(&mut watch, total)
        .await
        .iter()
        .map(|event| text(event.value.as_ref().unwrap()))
        .collect();
    let expected: Vec<_> = (1..=total).map(|count| count.to_string()).collect();
    assert_eq!(told, expected);
}

/// One step of a random history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put(u8, u8),
    Delete(u8),
}

/// Random histories, short enough for a real etcd.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..6_u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        1 => (0..6_u8).prop_map(Step::Delete),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Replaying a watch over the list of any revision gives the list of the end.
pub(crate) async fn replay_equals_list(store: &Shared, steps: &[Step], prefix: &str) {
    let mut bases = vec![list(store, prefix, None, None, None).await.unwrap()];
    let mut writes = 0;
    for step in steps {
        let (Step::Put(key, _) | Step::Delete(key)) = step;
        let key = format!("{prefix}{key}");
        let found = store.get(&key).await.unwrap();
        match (step, found) {
            (Step::Put(_, value), None) => drop(create(store, &key, &value.to_string()).await),
            (Step::Put(_, value), Some(entry)) => {
                update(store, &key, &value.to_string(), entry.revision).await;
            }
            (Step::Delete(_), Some(entry)) => {
                store.delete(&key, entry.revision).await.unwrap();
            }
            (Step::Delete(_), None) => continue,
        }
        writes += 1;
        bases.push(list(store, prefix, None, None, None).await.unwrap());
    }
    let last = bases.last().unwrap().clone();
    for (index, base) in bases.iter().enumerate() {
        let again = list(store, prefix, None, None, Some(base.revision)).await;
        assert_eq!(again.unwrap().entries, base.entries, "list at a revision");
        let mut state: BTreeMap<String, (Revision, Bytes)> = base
            .entries
            .iter()
            .map(|entry| (entry.key.clone(), (entry.revision, entry.value.clone())))
            .collect();
        let mut watch = store.watch(prefix, base.revision).await.unwrap();
        for event in take(&mut watch, writes - index).await {
            let before = state.get(&event.key).map(|(_, value)| value.clone());
            assert_eq!(event.previous, before);
            match event.value {
                Some(value) => state.insert(event.key, (event.revision, value)),
                None => state.remove(&event.key),
            };
        }
        let expected: BTreeMap<String, (Revision, Bytes)> = last
            .entries
            .iter()
            .map(|entry| (entry.key.clone(), (entry.revision, entry.value.clone())))
            .collect();
        assert_eq!(state, expected);
    }
}

pub(crate) async fn create(store: &Shared, key: &str, value: &str) -> Revision {
    let value = Bytes::from(value.to_owned());
    store.create(key, value, None).await.unwrap()
}

pub(crate) async fn update(store: &Shared, key: &str, value: &str, expected: Revision) -> Revision {
    let value = Bytes::from(value.to_owned());
    store.update(key, value, expected).await.unwrap()
}

pub(crate) async fn value(store: &Shared, key: &str) -> String {
    text(&store.get(key).await.unwrap().unwrap().value)
}

/// The next events of a watch, as many as asked; a watch that stays silent fails the test.
pub(crate) async fn take(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = tokio::time::timeout(PATIENCE, watch.next())
            .await
            .unwrap_or_else(|_| panic!("watch silent after {} of {count} events", events.len()))
            .expect("watch ended")
            .unwrap();
        events.extend(batch.events);
    }
    assert_eq!(events.len(), count, "more events than changes");
    events
}

async fn list(
    store: &Shared,
    prefix: &str,
    after: Option<&str>,
    limit: Option<usize>,
    at: Option<Revision>,
) -> Result<Page, StoreError> {
    store
        .list(Range {
            prefix,
            after,
            limit: limit.and_then(NonZeroUsize::new),
            at,
        })
        .await
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries
        .iter()
        .map(|entry| entry.key.as_str())
        .collect()
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

/// Far beyond what a healthy store takes.
const PATIENCE: Duration = Duration::from_secs(20);
