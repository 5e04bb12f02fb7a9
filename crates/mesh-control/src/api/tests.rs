//! The API as a caller sees it, without sockets: requests in, answers out, over a store in a file.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::authentication::{Peer, User};
use super::router::respond;
use super::*;
use crate::store::{StoreConfig, open};

mod hostile;
mod token;
mod watch;
mod write;

/// A server without sockets.
struct World {
    api: Arc<Api>,
    shutdown: CancellationToken,
    _tasks: JoinSet<()>,
    _home: TempDir,
}

/// An answer.
struct Answer {
    code: StatusCode,
    headers: HeaderMap,
    body: Body,
}

// === impl World ===

impl World {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = StoreConfig::file(home.path().join("store.redb"));
        let store = open(&config).await.unwrap();
        let shutdown = CancellationToken::new();
        let (api, tasks) = assemble(store, DEFAULT_HISTORY, &shutdown).await.unwrap();
        Self {
            api,
            shutdown,
            _tasks: tasks,
            _home: home,
        }
    }

    /// Sends a request as a user; no user is no credential.
    async fn send_as(&self, user: Option<User>, request: Request<Body>) -> Answer {
        let peer = user.map(Peer::of_user).unwrap_or_default();
        let response = respond(Arc::clone(&self.api), peer, request).await;
        let (parts, body) = response.into_parts();
        Answer {
            code: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        self.send_as(Some(User::server()), request).await
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(request(Method::GET, path, "", Body::empty()))
            .await
            .json()
            .await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.with_body(Method::POST, path, "application/json", body)
            .await
    }

    async fn put(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.with_body(Method::PUT, path, "application/json", body)
            .await
    }

    async fn merge(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.with_body(Method::PATCH, path, "application/merge-patch+json", body)
            .await
    }

    async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.send(request(Method::DELETE, path, "", Body::empty()))
            .await
            .json()
            .await
    }

    async fn with_body(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let request = request(method, path, media_type, Body::from(body.to_string()));
        self.send(request).await.json().await
    }

    /// Creates a ConfigMap in `default`.
    async fn config_map(&self, name: &str, labels: Value) -> Value {
        let object = json!({"metadata": {"name": name, "labels": labels}, "data": {"a": "1"}});
        let (code, object) = self.post(MAPS, object).await;
        assert_eq!(code, StatusCode::CREATED, "{object}");
        object
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

// === impl Answer ===

impl Answer {
    async fn bytes(self) -> Bytes {
        self.body.collect().await.unwrap().to_bytes()
    }

    async fn json(self) -> (StatusCode, Value) {
        let code = self.code;
        let bytes = self.bytes().await;
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }
}

fn request(method: Method, path: &str, media_type: &str, body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !media_type.is_empty() {
        request = request.header(header::CONTENT_TYPE, media_type);
    }
    request.body(body).unwrap()
}

fn user(name: &str) -> User {
    User {
        name: name.to_owned(),
        uid: String::new(),
        groups: vec![User::AUTHENTICATED.to_owned()],
    }
}

fn virtual_service(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]},
    })
}

/// Tries until it holds; what never holds fails.
async fn until<T, F: Future<Output = Option<T>>>(mut check: impl FnMut() -> F) -> T {
    let tried = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), tried)
        .await
        .expect("the condition never held")
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ROUTES: &str = "/apis/networking.istio.io/v1/namespaces/default/virtualservices";
