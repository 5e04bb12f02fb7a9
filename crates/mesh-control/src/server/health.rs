//! What each role is at, and the plain HTTP port that says so: `/ready` and `/metrics`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::{HeaderName, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Role, Roles, ServerError};

/// What each role of the process is at; clones share it.
#[derive(Clone)]
pub struct Health {
    states: watch::Sender<BTreeMap<Role, RoleState>>,
    ready: Family<RoleLabel, Gauge>,
}

/// What a role is at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RoleState {
    /// Not yet of use; what it waits for.
    Starting(&'static str),
    /// Of use.
    Ready,
    /// Of use, but somebody should look: the whole text that is shown.
    Impaired(String),
}

/// The listener of metrics and readiness.
#[derive(Debug)]
pub struct Reporting {
    listener: TcpListener,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RoleLabel {
    role: &'static str,
}

/// The answer of `/ready`.
#[derive(Debug, Serialize)]
struct Report {
    ready: bool,
    roles: BTreeMap<&'static str, String>,
}

// === impl Health ===

impl Health {
    /// Every role starts.
    pub fn new(roles: &Roles) -> Self {
        let states = roles
            .iter()
            .map(|role| (role, RoleState::Starting("starting")))
            .collect();
        let health = Self {
            states: watch::Sender::new(states),
            ready: Family::default(),
        };
        for role in roles.iter() {
            health.gauge(role).set(0);
        }
        health
    }

    /// Says what a role is at.
    pub fn set(&self, role: Role, state: RoleState) {
        self.gauge(role).set(state.is_ready().into());
        self.states.send_if_modified(|states| {
            if states.get(&role) == Some(&state) {
                return false;
            }
            match &state {
                RoleState::Ready => info!(%role, "ready"),
                // Who found out has said so.
                RoleState::Impaired(_) => {}
                RoleState::Starting(what) => info!(%role, what, "not ready"),
            }
            states.insert(role, state);
            true
        });
    }

    /// Whether every role is of use.
    pub fn is_ready(&self) -> bool {
        self.states.borrow().values().all(RoleState::is_ready)
    }

    /// Waits until every role is of use.
    pub async fn ready(&self) {
        let mut states = self.states.subscribe();
        let all = |states: &BTreeMap<Role, RoleState>| states.values().all(RoleState::is_ready);
        // `self` holds the sender: the wait ends only with the states.
        drop(states.wait_for(all).await);
    }

    /// Adds its gauge to the metrics of the process.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "mesh_role_ready",
            "Whether a role of the control plane is of use",
            self.ready.clone(),
        );
    }

    fn gauge(&self, role: Role) -> Gauge {
        self.ready.get_or_create_owned(&RoleLabel {
            role: role.as_str(),
        })
    }

    fn report(&self) -> Report {
        let states = self.states.borrow();
        let roles = states.iter().map(|(role, state)| {
            let state = match state {
                RoleState::Starting(what) => what,
                RoleState::Ready => "ready",
                RoleState::Impaired(what) => what,
            };
            (role.as_str(), state.to_owned())
        });
        Report {
            ready: states.values().all(RoleState::is_ready),
            roles: roles.collect(),
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health")
            .field(&*self.states.borrow())
            .finish()
    }
}

// === impl RoleState ===

impl RoleState {
    /// Whether the role is of use.
    fn is_ready(&self) -> bool {
        !matches!(self, Self::Starting(_))
    }
}

// === impl Reporting ===

impl Reporting {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// [`ServerError::Bind`].
    pub async fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        let listener = super::grpc::bind("metrics and readiness", address).await?;
        Ok(Self { listener })
    }

    /// Answers until `stop`.
    ///
    /// # Errors
    ///
    /// [`ServerError::Serve`].
    pub async fn serve(
        self,
        health: Health,
        registry: Registry,
        stop: CancellationToken,
    ) -> Result<(), ServerError> {
        let router = router(health, registry);
        axum::serve(self.listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .map_err(|error| ServerError::Serve {
                what: "metrics and readiness",
                source: error.into(),
            })
    }
}

/// The answers, for any listener.
pub fn router(health: Health, registry: Registry) -> Router {
    let ready = Router::new().route("/ready", get(ready)).with_state(health);
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(Arc::new(registry))
        .merge(ready)
}

async fn ready(State(health): State<Health>) -> (StatusCode, Json<Report>) {
    let report = health.report();
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report))
}

async fn metrics(
    State(registry): State<Arc<Registry>>,
) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_full| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text))
}

/// The media type of what `prometheus-client` writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_every_role() {
        let health = Health::new(&"ca,mixer".parse().unwrap());
        let mut registry = Registry::default();
        health.register(&mut registry);
        let router = router(health.clone(), registry);

        health.set(Role::Ca, RoleState::Ready);
        health.set(
            Role::Mixer,
            RoleState::Starting("waiting for a certificate"),
        );
        let (status, body) = get(&router, "/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            body,
            r#"{"ready":false,"roles":{"ca":"ready","mixer":"waiting for a certificate"}}"#
        );
        let (_, body) = get(&router, "/metrics").await;
        assert!(body.contains("mesh_role_ready{role=\"ca\"} 1"), "{body}");
        assert!(body.contains("mesh_role_ready{role=\"mixer\"} 0"));

        health.set(Role::Mixer, RoleState::Ready);
        health.ready().await;
        assert_eq!(get(&router, "/ready").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn nothing_else_is_told() {
        let health = Health::new(&Roles::default());
        let router = router(health, Registry::default());
        for path in ["/", "/debug", "/config_dump"] {
            assert_eq!(get(&router, path).await.0, StatusCode::NOT_FOUND);
        }
    }
}
