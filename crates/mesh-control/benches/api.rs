//! Writes and reads through the API server over HTTPS, against the store alone in the same run: with
//! the file store and with a real etcd, both of which put every write on disk before they answer.
//!
//! `cargo xtask bench api`; needs `etcd`, from `ETCD_BIN` or PATH. The objects are `VirtualService`s
//! of half a kilobyte; in the end every one is read back and must be what was written last.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed measurement"
)]

#[path = "api/direct.rs"]
mod direct;
#[path = "api/etcd.rs"]
mod etcd;
#[path = "api/https.rs"]
mod https;
#[path = "shared/load.rs"]
mod load;
#[path = "shared/plane.rs"]
mod plane;
#[path = "shared/report.rs"]
mod report;

use std::future::Future;
use std::sync::{Arc, Mutex};

use mesh_control::store::{EtcdTls, StoreConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use direct::Direct;
use etcd::Etcd;
use https::Https;
use load::Load;
use plane::Plane;
use report::{measure, progress};

/// As many writers as wait for each other in a store.
pub(crate) const MOST_WRITERS: usize = 16;

/// Objects written by one writer, and by several.
const ALONE: usize = 500;
const TOGETHER: usize = 1000;

/// How often all of them are listed, and one is read.
const LISTS: usize = 30;
const READS: usize = 1000;

/// Where objects are written and read: the API server, or its store without it.
///
/// `group` sets the objects of one number of writers apart, `number` counts them.
pub(crate) trait Place: Clone + Send + Sync + 'static {
    /// What identifies the state of a written object to the next write of it.
    type Written: Clone + Send + Sync + 'static;

    fn create(
        &self,
        group: &'static str,
        number: usize,
    ) -> impl Future<Output = Self::Written> + Send;

    /// Replaces an object as [`object`] has it for generation 2.
    fn update(
        &self,
        group: &'static str,
        number: usize,
        old: Self::Written,
    ) -> impl Future<Output = ()> + Send;

    fn read(&self, group: &'static str, number: usize) -> impl Future<Output = Value> + Send;

    fn list(&self, group: &'static str) -> impl Future<Output = Vec<Value>> + Send;
}

fn main() {
    plane::run(run);
}

async fn run() {
    progress("the file store alone");
    let home = TempDir::new_in(plane::DISK).unwrap();
    let config = StoreConfig::file(home.path().join("alone.redb"));
    write_and_read("file alone", None, Direct::open(&config).await).await;
    through_api("API on file", "file alone", None).await;

    progress("etcd alone");
    let etcd = Etcd::start().await;
    let config = StoreConfig {
        prefix: "/alone/".to_owned(),
        ..StoreConfig::etcd(vec![etcd.url()], EtcdTls::default())
    };
    write_and_read("etcd alone", None, Direct::open(&config).await).await;
    through_api("API on etcd", "etcd alone", Some(etcd.url())).await;
}

async fn through_api(name: &str, against: &str, etcd: Option<String>) {
    progress(name);
    let plane = Plane::start("api", etcd).await;
    let work = plane.work();
    let server = Https::open(&plane).await;
    write_and_read(name, Some(against), server).await;
    let seconds = work.seconds();
    measure(&format!("{name}: CPU of the server"), seconds, "s", None);
    let name = format!("{name}: memory of the server");
    measure(&name, plane.memory(), "B", None);
}

async fn write_and_read<P: Place>(name: &str, against: Option<&str>, place: P) {
    let tell = |what: &str, load: &Load| {
        let other = against.map(|against| format!("{against}: {what}"));
        let name = format!("{name}: {what}");
        measure(&name, load.per_second(), "/s", other.as_deref());
        load.percentiles(&name, other.as_deref());
    };
    for (writers, count, group) in [(1, ALONE, "alone"), (MOST_WRITERS, TOGETHER, "together")] {
        let written = Arc::new(Mutex::new(vec![None; count]));
        let world = (place.clone(), Arc::clone(&written));
        let load = Load::run(writers, count, move |number| {
            let (place, written) = world.clone();
            async move {
                let new = place.create(group, number).await;
                *written.lock().unwrap().get_mut(number).unwrap() = Some(new);
            }
        });
        tell(&format!("create, writers: {writers}"), &load.await);
        let world = (place.clone(), written);
        let load = Load::run(writers, count, move |number| {
            let (place, written) = world.clone();
            async move {
                let old = written.lock().unwrap().get_mut(number).unwrap().take();
                place.update(group, number, old.unwrap()).await;
            }
        });
        tell(&format!("update, writers: {writers}"), &load.await);
        check(&place.list(group).await, count);
    }
    let reader = place.clone();
    let load = Load::run(1, READS, move |number| {
        let place = reader.clone();
        async move {
            let number = number % TOGETHER;
            let found = place.read("together", number).await;
            assert_eq!(found.get("spec"), Some(&spec(number, 2)), "object {number}");
        }
    });
    tell("read one", &load.await);
    let load = Load::run(1, LISTS, move |_| {
        let place = place.clone();
        async move { check(&place.list("together").await, TOGETHER) }
    });
    tell(&format!("list {TOGETHER}"), &load.await);
}

/// Every object is there as it was written last.
fn check(found: &[Value], count: usize) {
    assert_eq!(found.len(), count, "objects are listed");
    for object in found {
        let name = object.pointer("/metadata/name").unwrap().as_str().unwrap();
        let number = name.trim_start_matches('x').parse().unwrap();
        let spec = spec(number, 2);
        assert_eq!(object.get("spec"), Some(&spec), "object {name}");
    }
}

/// A VirtualService of half a kilobyte.
pub(crate) fn object(group: &str, number: usize, generation: u32) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": { "name": format!("x{number}"), "namespace": group },
        "spec": spec(number, generation),
    })
}

fn spec(number: usize, generation: u32) -> Value {
    json!({
        "hosts": [format!("x{number}.example.com")],
        "http": [
            {
                "match": [{ "headers": { "end-user": { "exact": "jason" } } }],
                "route": [{ "destination": { "host": format!("x{number}"), "subset": "v2" } }],
                "timeout": format!("{generation}s"),
            },
            {
                "route": [
                    { "destination": { "host": format!("x{number}"), "subset": "v1" }, "weight": 90 },
                    { "destination": { "host": format!("x{number}"), "subset": "v3" }, "weight": 10 },
                ],
                "retries": { "attempts": 3, "perTryTimeout": "2s" },
            },
        ],
    })
}
