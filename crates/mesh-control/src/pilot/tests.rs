//! The whole of Pilot against the real API server: objects and registrations in, ADS out.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Config};
use mesh_identity::Peer;
use mesh_model::virtual_address::{bucket, bucket_of_v4};
use mesh_model::{Host, TrustDomain, Workload};
use mesh_proto::mesh::agent::v1::introspection_client::IntrospectionClient;
use mesh_proto::mesh::agent::v1::{ExplainRequest, ListProxiesRequest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::Code;
use tonic::service::RoutesBuilder;

use super::ads::client::{DeltaClient, Held};
use super::resource::ResourceType;
use super::testing::{Agent, Dialer};
use super::*;
use crate::api::{ApiConfig, ApiServer};
use crate::store::{self, StoreConfig};

/// An API server with Pilot as its client.
struct World {
    home: TempDir,
    client: Client,
    dialer: Dialer,
    stop: CancellationToken,
}

impl World {
    async fn new() -> Self {
        let home = TempDir::new().unwrap();
        let stop = CancellationToken::new();
        let file = StoreConfig::file(home.path().join("store.redb"));
        let store = store::open(&file).await.unwrap();
        let config = ApiConfig::new(([127, 0, 0, 1], 0).into(), home.path(), store);
        let api = ApiServer::start(config, stop.clone()).await.unwrap();
        tokio::spawn(api.stopped());
        let client = client(&home.path().join("kubeconfig")).await;
        let world = Self {
            dialer: pilot(&home, &stop).await,
            home,
            client,
            stop,
        };
        let mesh = json!({
            "metadata": { "name": "mesh" },
            "data": { "trustDomain": "cluster.local" },
        });
        let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "mesh-system");
        let mesh = serde_json::from_value(mesh).unwrap();
        maps.create(&PostParams::default(), &mesh).await.unwrap();
        world
    }

    /// Writes an object of Istio's, server side: made or changed.
    async fn apply(&self, object: Value) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let types = object.types.clone().unwrap();
        let gvk = GroupVersionKind::try_from(&types).unwrap();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), "default", &ApiResource::from_gvk(&gvk));
        let name = object.metadata.name.clone().unwrap();
        let created = api.create(&PostParams::default(), &object).await;
        if created.is_err() {
            let patch = Patch::Merge(&object);
            api.patch(&name, &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
    }

    async fn register(&self, workload: &Workload) -> Agent {
        let identity = workload.identity(&TrustDomain::default());
        let channel = self.dialer.channel(&Peer::Workload(identity));
        Agent::register(channel, workload).await.unwrap()
    }

    async fn connect(&self, workload: &Workload, held: Held) -> DeltaClient {
        let identity = workload.identity(&TrustDomain::default());
        let channel = self.dialer.channel(&Peer::Workload(identity));
        DeltaClient::connect(channel, workload.id.as_str(), held)
            .await
            .unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A new Pilot, with the rights that Pilot has.
async fn pilot(home: &TempDir, stop: &CancellationToken) -> Dialer {
    let client = client(&home.path().join("pilot.kubeconfig")).await;
    let pilot = Pilot::new(client, None, stop.clone());
    let mut routes = RoutesBuilder::default();
    pilot.add_services(&mut routes);
    tokio::spawn(async move { pilot.run().await });
    Dialer::serve(routes.routes(), stop)
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

fn workload(name: &str, service: &str, address: &str) -> Workload {
    let workload = json!({
        "id": format!("default/{name}"),
        "namespace": "default",
        "service_account": service,
        "addresses": [address],
        "labels": { "version": "v1" },
        "services": [{
            "name": service,
            "ports": [{ "name": "http", "number": 9080, "target": 9080, "protocol": "http" }],
        }],
    });
    serde_json::from_value(workload).unwrap()
}

fn route(timeout: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": { "name": "reviews" },
        "spec": { "hosts": ["reviews"], "http": [
            { "timeout": timeout, "route": [{ "destination": { "host": "reviews" } }] },
        ] },
    })
}

const REVIEWS: &str = "outbound|9080||reviews.default.mesh";

fn knows_reviews(held: &Held) -> bool {
    held.versions(ResourceType::Endpoint).contains_key(REVIEWS)
        && held
            .versions(ResourceType::Name)
            .contains_key("reviews.default.mesh")
        && !held.versions(ResourceType::Route).is_empty()
        && held
            .versions(ResourceType::Listener)
            .contains_key("virtualInbound")
        && held.missing() == 0
}

/// What takes this long will not come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what)
        .await
        .expect("it comes soon")
}

#[tokio::test]
async fn objects_and_registrations_reach_proxies() {
    let world = World::new().await;
    let productpage = workload("productpage-1", "productpage", "10.213.0.2");
    let reviews = workload("reviews-1", "reviews", "10.213.0.3");
    let _agent = world.register(&productpage).await;
    let agent = world.register(&reviews).await;
    let mut client = world.connect(&productpage, Held::default()).await;
    soon(client.until(knows_reviews)).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "mesh-system");
    let record = maps.get("virtual-addresses").await.unwrap().data.unwrap();
    let host: Host = "reviews.default.mesh".parse().unwrap();
    let recorded = bucket_of_v4(record[host.as_str()].parse().unwrap());
    assert_eq!(recorded, Some(bucket(&host)), "where its routes are");

    let before = client.held().versions(ResourceType::Route).clone();
    world.apply(route("1s")).await;
    let changed = |held: &Held| *held.versions(ResourceType::Route) != before;
    let resources = client.received.resources;
    soon(client.until(changed)).await.unwrap();
    assert_eq!(
        client.received.resources - resources,
        1,
        "one route is sent"
    );

    drop(agent);
    let gone = |held: &Held| !held.versions(ResourceType::Cluster).contains_key(REVIEWS);
    soon(client.until(gone)).await.unwrap();
}

#[tokio::test]
async fn addresses_are_given_back_through_the_api() {
    let world = World::new().await;
    let reviews = workload("reviews-1", "reviews", "10.213.0.3");
    let _agent = world.register(&reviews).await;
    let mut proxy = world.connect(&reviews, Held::default()).await;
    soon(proxy.until(knows_reviews)).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "mesh-system");
    let recorded = async || {
        let map = maps.get("virtual-addresses").await.unwrap();
        map.data?.remove("reviews.default.mesh")
    };
    let address = recorded().await.unwrap();

    // With the rights that Pilot has.
    let own = client(&world.home.path().join("pilot.kubeconfig")).await;
    let book = config::AddressBook::new(own);
    let nobody = BTreeSet::new();
    let now = jiff::Timestamp::now();
    book.sweep(&nobody, now).await.unwrap();
    let marked = recorded().await.unwrap();
    assert!(
        marked.starts_with(&format!("{address} unused since ")),
        "{marked}"
    );
    let tomorrow = now + jiff::SignedDuration::from_hours(25);
    book.sweep(&nobody, tomorrow).await.unwrap();
    assert_eq!(recorded().await, None);
}

#[tokio::test]
async fn a_new_pilot_sends_nothing_to_who_has_it_all_and_waits_for_who_is_late() {
    let world = World::new().await;
    let productpage = workload("productpage-1", "productpage", "10.213.0.2");
    let reviews = workload("reviews-1", "reviews", "10.213.0.3");
    let agents = (
        world.register(&productpage).await,
        world.register(&reviews).await,
    );
    let mut client = world.connect(&productpage, Held::default()).await;
    soon(client.until(knows_reviews)).await.unwrap();
    let held = client.disconnect();
    drop(agents);

    let stop = world.stop.child_token();
    let again = World {
        dialer: pilot(&world.home, &stop).await,
        home: TempDir::new().unwrap(),
        client: world.client.clone(),
        stop,
    };
    let _agent = again.register(&productpage).await;
    let mut client = again.connect(&productpage, held).await;
    // Longer than the gate: who is late is missing from the first snapshot.
    let early = timeout(Duration::from_secs(3), client.next()).await;
    assert!(early.is_err(), "nothing is taken away: {early:?}");
    let _late = again.register(&reviews).await;
    again.apply(route("2s")).await;
    let resources = client.received.resources;
    while client.received.resources == resources {
        soon(client.next()).await.unwrap();
    }
    assert_eq!(
        client.received.resources, 1,
        "the changed route, nothing else"
    );
}

#[tokio::test]
async fn users_look_inside_as_far_as_the_api_server_lets_them() {
    let world = World::new().await;
    let reviews = workload("reviews-1", "reviews", "10.213.0.3");
    let _agent = world.register(&reviews).await;
    let mut client = world.connect(&reviews, Held::default()).await;
    soon(client.until(knows_reviews)).await.unwrap();
    let user = |name: &str, group: &str| Peer::User {
        name: name.to_owned(),
        groups: vec![group.to_owned()],
    };

    let admin = world.dialer.channel(&user("admin", "system:masters"));
    let mut admin = IntrospectionClient::new(admin);
    let proxies = admin.list_proxies(ListProxiesRequest::default()).await;
    let proxies = proxies.unwrap().into_inner().proxies;
    assert_eq!(proxies.len(), 1);
    assert_eq!(proxies[0].types.len(), ResourceType::ALL.len());
    let question = ExplainRequest {
        from: "default/reviews-1".to_owned(),
        to: "reviews:9080".to_owned(),
        ..ExplainRequest::default()
    };
    let answer = admin.explain(question).await.unwrap().into_inner();
    let answer: Value = serde_json::from_slice(&answer.json).unwrap();
    assert_eq!(answer["destinations"][0]["cluster"], REVIEWS);

    let nobody = world.dialer.channel(&user("eve", "guests"));
    let refused = IntrospectionClient::new(nobody)
        .list_proxies(ListProxiesRequest::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}
