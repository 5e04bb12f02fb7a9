//! When views are made, from what, and which of them change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use mesh_model::{Health, Mode, Namespace, Workload, WorkloadId};
use mesh_proto::mesh::agent::v1::Name;
use tokio::sync::mpsc;

use super::*;
use crate::pilot::resource::{Layer, Resource, ResourceType, Snapshot};

/// Workloads that a test sets.
#[derive(Debug)]
struct Workloads {
    known: Mutex<BTreeMap<WorkloadId, (Workload, Health)>>,
    changed: watch::Sender<()>,
    is_partial: AtomicBool,
}

/// An assembly whose shared layer has a name for each workload, and whose own layer the health.
#[derive(Default)]
struct Listing {
    workloads: Vec<(Workload, Health)>,
    nodes: BTreeSet<IpAddr>,
}

/// A publisher at work on what a test sets.
struct World {
    config: watch::Sender<Option<Arc<Config>>>,
    workloads: Arc<Workloads>,
    views: Views,
    unaddressed: watch::Receiver<BTreeSet<Host>>,
    _stop: tokio_util::sync::DropGuard,
}

impl Registry for Workloads {
    fn workloads(&self) -> Vec<(Workload, Health)> {
        self.known.lock().unwrap().values().cloned().collect()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn is_whole(&self) -> bool {
        !self.is_partial.load(Ordering::SeqCst)
    }
}

impl Assembly for Listing {
    fn assemble(&mut self, _config: &Arc<Config>, workloads: &[(Workload, Health)]) {
        assert!(
            workloads
                .iter()
                .all(|(it, _)| it.id.as_str() != "default/bug"),
            "a bug"
        );
        self.workloads = workloads.to_vec();
    }

    fn unaddressed(&self) -> BTreeSet<Host> {
        let hosts = self.workloads.iter();
        hosts
            .map(|(workload, _)| workload.id.as_str().replace('/', ".").parse().unwrap())
            .collect()
    }

    fn credentials(&self) -> BTreeSet<CredentialKey> {
        BTreeSet::new()
    }

    fn nodes(&self) -> &BTreeSet<IpAddr> {
        &self.nodes
    }

    fn shared(&self, _namespace: &Namespace, _mode: Mode, _before: Option<&Layer>) -> Layer {
        let names = self.workloads.iter().map(|(workload, health)| {
            let name = workload.id.to_string();
            let addresses = vec![format!("{health:?}")];
            Resource::encode(
                &name,
                &Name {
                    host: name.clone(),
                    addresses,
                },
            )
        });
        let mut layer = Layer::default();
        layer.set(ResourceType::Endpoint, names.collect()).unwrap();
        layer
    }

    fn own(&self, workload: &Workload) -> Layer {
        let mut layer = Layer::default();
        let name = workload.id.to_string();
        let addresses = workload.labels.values().cloned().collect();
        let resource = Resource::encode(
            "inbound",
            &Name {
                host: name,
                addresses,
            },
        );
        layer.set(ResourceType::Listener, vec![resource]).unwrap();
        layer
    }
}

impl World {
    fn new() -> Self {
        let (config, receiver) = watch::channel(None);
        let (changed, _) = watch::channel(());
        let workloads = Arc::new(Workloads {
            known: Mutex::default(),
            changed,
            is_partial: AtomicBool::new(false),
        });
        let views = Views::new();
        let (unaddressed, hosts) = watch::channel(BTreeSet::new());
        let publisher = Publisher {
            assembly: Listing::default,
            config: receiver,
            registry: Arc::clone(&workloads) as Arc<dyn Registry>,
            views: views.clone(),
            unaddressed,
            credentials: watch::channel(BTreeSet::new()).0,
        };
        let stop = CancellationToken::new();
        tokio::spawn(publisher.run(stop.clone()));
        Self {
            config,
            workloads,
            views,
            unaddressed: hosts,
            _stop: stop.drop_guard(),
        }
    }

    fn add(&self, name: &str, health: Health) -> WorkloadId {
        let id: WorkloadId = format!("default/{name}").parse().unwrap();
        let workload = Workload {
            id: id.clone(),
            namespace: "default".parse().unwrap(),
            service_account: "web".parse().unwrap(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            services: Vec::new(),
            explicit: None,
            sidecar: mesh_model::Sidecar::Present,
            capture: mesh_model::Capture::default(),
            gateway: false,
        };
        let mut workloads = self.workloads.known.lock().unwrap();
        workloads.insert(id.clone(), (workload, health));
        drop(workloads);
        self.workloads.changed.send_replace(());
        id
    }

    /// The registry is read whole, or is not.
    fn set_whole(&self, is_whole: bool) {
        self.workloads.is_partial.store(!is_whole, Ordering::SeqCst);
        self.workloads.changed.send_replace(());
    }

    fn remove(&self, id: &WorkloadId) {
        self.workloads.known.lock().unwrap().remove(id);
        self.workloads.changed.send_replace(());
    }

    /// Config comes.
    fn sync(&self) {
        self.config.send_replace(Some(Arc::default()));
    }
}

async fn next(view: &mut watch::Receiver<Option<Snapshot>>) -> Snapshot {
    view.changed().await.unwrap();
    view.borrow_and_update().clone().unwrap()
}

fn endpoints(snapshot: &Snapshot) -> Vec<String> {
    let endpoints = snapshot.shared.of(ResourceType::Endpoint).iter();
    endpoints
        .map(|resource| resource.name.to_string())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn nobody_is_answered_before_config_is_known_and_workloads_are_back() {
    let world = World::new();
    let first = world.add("a", Health::Healthy);
    let began = Instant::now();
    let mut view = world.views.subscribe(&first);
    sleep(Duration::from_secs(60)).await;
    assert!(!view.has_changed().unwrap(), "config is not known");
    world.sync();
    sleep(QUIET / 2).await;
    world.add("b", Health::Healthy);
    let snapshot = next(&mut view).await;
    assert_eq!(endpoints(&snapshot), ["default/a", "default/b"]);
    assert!(began.elapsed() >= Duration::from_secs(60) + QUIET / 2 + QUIET);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_answered_before_a_registry_was_read_whole() {
    let world = World::new();
    world.set_whole(false);
    world.sync();
    let id = world.add("a", Health::Healthy);
    let mut view = world.views.subscribe(&id);
    sleep(MAX_WHOLE / 2).await;
    assert!(!view.has_changed().unwrap(), "more may be there");
    world.add("b", Health::Healthy);
    world.set_whole(true);
    let began = Instant::now();
    assert_eq!(
        endpoints(&next(&mut view).await),
        ["default/a", "default/b"]
    );
    assert!(began.elapsed() >= QUIET);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_cannot_be_read_keeps_others_waiting_so_long_and_is_not_trusted() {
    let world = World::new();
    world.set_whole(false);
    world.sync();
    let id = world.add("a", Health::Healthy);
    let mut view = world.views.subscribe(&id);
    let mut trusted = world.views.trusted();
    let began = Instant::now();
    next(&mut view).await;
    assert!(began.elapsed() >= MAX_WHOLE);
    sleep(TRUST_AFTER * 2).await;
    assert!(!*trusted.borrow_and_update(), "it may be read yet");
    world.set_whole(true);
    trusted.wait_for(|trusted| *trusted).await.unwrap();
    assert!(began.elapsed() < MAX_DISTRUST);
}

#[tokio::test(start_paused = true)]
async fn registrations_that_never_rest_do_not_keep_the_gate_shut() {
    let world = World::new();
    world.sync();
    let began = Instant::now();
    let id = world.add("a", Health::Healthy);
    let mut view = world.views.subscribe(&id);
    let (done, mut stop) = mpsc::channel::<()>(1);
    let restless = async {
        let mut number = 0;
        while stop.try_recv().is_err() {
            number += 1;
            world.add(&format!("restless-{number}"), Health::Healthy);
            sleep(QUIET / 2).await;
        }
    };
    let first = async {
        next(&mut view).await;
        done.send(()).await.unwrap();
    };
    tokio::join!(restless, first);
    assert!(began.elapsed() >= MAX_GATE);
    assert!(began.elapsed() < MAX_GATE + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_changed_health_is_published_at_once_and_leaves_the_rest_as_it_is() {
    let world = World::new();
    world.sync();
    let id = world.add("a", Health::Healthy);
    world.add("b", Health::Healthy);
    let mut view = world.views.subscribe(&id);
    let before = next(&mut view).await;
    sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    world.add("b", Health::Unhealthy);
    let after = next(&mut view).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "no time was waited");
    assert!(Arc::ptr_eq(&before.own, &after.own));
    let entry = |snapshot: &Snapshot, index: usize| {
        snapshot.shared.of(ResourceType::Endpoint)[index]
            .entry
            .clone()
    };
    assert_eq!(entry(&before, 0).as_ptr(), entry(&after, 0).as_ptr());
    assert_ne!(entry(&before, 1), entry(&after, 1));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_changes_no_resource_wakes_nobody() {
    let world = World::new();
    world.sync();
    let id = world.add("a", Health::Healthy);
    let mut view = world.views.subscribe(&id);
    next(&mut view).await;
    world.sync();
    sleep(Duration::from_secs(1)).await;
    assert!(!view.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_view_of_a_workload_that_is_gone_ends() {
    let world = World::new();
    world.sync();
    let id = world.add("a", Health::Healthy);
    let mut view = world.views.subscribe(&id);
    next(&mut view).await;
    world.remove(&id);
    assert!(view.changed().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_taken_for_gone_only_after_a_while() {
    let world = World::new();
    world.sync();
    let mut trusted = world.views.trusted();
    let began = Instant::now();
    trusted.wait_for(|trusted| *trusted).await.unwrap();
    assert!(began.elapsed() >= QUIET + TRUST_AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_panic_leaves_proxies_what_they_have_and_is_over_with_its_cause() {
    let world = World::new();
    world.sync();
    let id = world.add("a", Health::Healthy);
    let mut view = world.views.subscribe(&id);
    next(&mut view).await;
    let bug = world.add("bug", Health::Healthy);
    sleep(Duration::from_secs(1)).await;
    assert!(!view.has_changed().unwrap());
    world.remove(&bug);
    world.add("b", Health::Healthy);
    let snapshot = next(&mut view).await;
    assert_eq!(endpoints(&snapshot), ["default/a", "default/b"]);
}

#[tokio::test(start_paused = true)]
async fn hosts_without_addresses_are_reported() {
    let mut world = World::new();
    world.sync();
    world.add("a", Health::Healthy);
    world
        .unaddressed
        .wait_for(|hosts| hosts.iter().any(|host| host.as_str() == "default.a"))
        .await
        .unwrap();
}
