//! The store without an API server before it.

use std::sync::Arc;

use mesh_control::store::{Range, Revision, Store, StoreConfig, open};
use serde_json::Value;

use crate::{Place, object};

/// An open store.
#[derive(Clone)]
pub(crate) struct Direct(Arc<dyn Store>);

impl Direct {
    pub(crate) async fn open(config: &StoreConfig) -> Self {
        let store = open(config).await.unwrap();
        // A store that is far away has connected by then.
        store.revision().await.unwrap();
        Self(store)
    }
}

impl Place for Direct {
    type Written = Revision;

    async fn create(&self, group: &'static str, number: usize) -> Revision {
        let value = object(group, number, 1).to_string();
        let key = key(group, number);
        self.0.create(&key, value.into(), None).await.unwrap()
    }

    async fn update(&self, group: &'static str, number: usize, old: Revision) {
        let value = object(group, number, 2).to_string();
        let key = key(group, number);
        self.0.update(&key, value.into(), old).await.unwrap();
    }

    async fn read(&self, group: &'static str, number: usize) -> Value {
        let entry = self.0.get(&key(group, number)).await.unwrap().unwrap();
        serde_json::from_slice(&entry.value).unwrap()
    }

    async fn list(&self, group: &'static str) -> Vec<Value> {
        let prefix = format!("{KIND}{group}/");
        let range = Range {
            prefix: &prefix,
            ..Range::default()
        };
        let page = self.0.list(range).await.unwrap();
        let entries = page.entries.iter();
        let values = entries.map(|entry| serde_json::from_slice(&entry.value).unwrap());
        values.collect()
    }
}

fn key(group: &str, number: usize) -> String {
    format!("{KIND}{group}/x{number}")
}

/// Where the API server has such objects.
const KIND: &str = "networking.istio.io/virtualservices/";
