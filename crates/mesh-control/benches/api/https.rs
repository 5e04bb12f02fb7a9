//! The API server, as its clients call it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::plane::Plane;
use crate::{MOST_WRITERS, Place, object};

/// Clients of an API server, each with a connection of its own.
#[derive(Clone)]
pub(crate) struct Https {
    clients: Arc<[Client]>,
    next: Arc<AtomicUsize>,
    kind: ApiResource,
}

impl Https {
    pub(crate) async fn open(plane: &Plane) -> Self {
        let mut clients = Vec::new();
        for _ in 0..MOST_WRITERS {
            let client = plane.admin().await;
            // Its connection is made by then.
            client.apiserver_version().await.unwrap();
            clients.push(client);
        }
        let namespaces: Api<Namespace> = Api::all(plane.admin().await);
        for name in ["alone", "together"] {
            let namespace = json!({ "metadata": { "name": name } });
            let namespace = serde_json::from_value(namespace).unwrap();
            let params = PostParams::default();
            namespaces.create(&params, &namespace).await.unwrap();
        }
        let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "VirtualService");
        Self {
            clients: clients.into(),
            next: Arc::default(),
            kind: ApiResource::from_gvk(&kind),
        }
    }

    /// As many calls as there are clients are under way at most: each has its own by turns.
    fn api(&self, group: &str) -> Api<DynamicObject> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let client = self.clients.get(turn % self.clients.len()).unwrap().clone();
        Api::namespaced_with(client, group, &self.kind)
    }
}

impl Place for Https {
    type Written = String;

    async fn create(&self, group: &'static str, number: usize) -> String {
        let object = serde_json::from_value(object(group, number, 1)).unwrap();
        let api = self.api(group);
        let created = api.create(&PostParams::default(), &object).await.unwrap();
        created.metadata.resource_version.unwrap()
    }

    async fn update(&self, group: &'static str, number: usize, old: String) {
        let mut object = object(group, number, 2);
        let metadata = object.pointer_mut("/metadata").unwrap().as_object_mut();
        metadata
            .unwrap()
            .insert("resourceVersion".to_owned(), old.into());
        let object = serde_json::from_value(object).unwrap();
        let (name, params) = (format!("x{number}"), PostParams::default());
        let api = self.api(group);
        api.replace(&name, &params, &object).await.unwrap();
    }

    async fn read(&self, group: &'static str, number: usize) -> Value {
        let object = self.api(group).get(&format!("x{number}")).await.unwrap();
        serde_json::to_value(object).unwrap()
    }

    async fn list(&self, group: &'static str) -> Vec<Value> {
        let list = self.api(group).list(&ListParams::default()).await.unwrap();
        let objects = list.items.into_iter();
        objects
            .map(|object| serde_json::to_value(object).unwrap())
            .collect()
    }
}
