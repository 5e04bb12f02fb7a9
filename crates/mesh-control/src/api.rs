//! The Kubernetes-shaped API server: `kubectl`, kube-rs and client-go work against it.
//!
//! ```text
//! listener ─► router ─► authentication ─► authorization ─► objects ─► store
//!                │                          (RBAC, pure)    admission, validation, patch
//!                ├─► discovery, openapi                     (pure)
//!                └─► watch ◄── cache ◄── one watch ◄─────────────────── store
//! ```
//!
//! A fixed set of kinds, the table of [`mesh_model::kind`]; JSON, no webhooks. The supported calls:
//!
//! | call | forms |
//! | --- | --- |
//! | GET, LIST | objects, Tables, metadata only; label and field selectors, `limit` and `continue`, `resourceVersion` |
//! | WATCH | from any kept revision; bookmarks, initial events, Tables; 410 when the revision is no longer kept |
//! | POST, PUT | JSON, YAML, and the binary form of Kubernetes' typed clients; `dryRun`, `fieldValidation` |
//! | PATCH | merge, JSON patch, strategic merge for Kubernetes' kinds; no server-side apply |
//! | DELETE, DELETE of a collection | preconditions, finalizers; a namespace goes with all it holds |
//! | `…/status` | of Istio's kinds and Namespace |
//! | `serviceaccounts/…/token` | tokens for joining the mesh or calling the API |
//! | reviews | TokenReview, SubjectAccessReview, and those about oneself |
//! | discovery, `/openapi/v2`, `/openapi/v3`, `/version`, health | as kubectl 1.20 to 1.32 asks |
//!
//! The rest is answered 404, 405 or 415.

mod admission;
mod authentication;
mod authorization;
pub mod backup;
mod body;
pub mod bootstrap;
mod cache;
mod clock;
mod discovery;
mod events;
mod identifier;
mod impersonation;
mod json;
mod kind;
mod listener;
mod namespaces;
mod objects;
mod openapi;
mod patch;
mod protobuf;
mod request;
mod reviews;
mod router;
mod seed;
mod selector;
mod status;
mod table;
mod token;
mod validation;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::store::{Store, compact_periodically};
use bootstrap::{Authority, BootstrapError};
use cache::Cache;
use clock::Clock;
use listener::Listener;
use objects::Objects;
use openapi::{Documents, Schemas};
use router::Api;
use status::Failure;
use token::Tokens;
pub use token::{API_AUDIENCE, JOIN_AUDIENCE};

/// How to run an API server.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Where first trust lies: `MESH_HOME`.
    pub home: PathBuf,
    /// Addresses by which clients reach the server; the first stands in the kubeconfigs. Without any it
    /// is the first address listened on.
    pub advertise: Vec<IpAddr>,
    /// Names by which clients reach the server, beside `localhost` and those of the mesh.
    pub names: Vec<String>,
    /// Where the objects are.
    pub store: Arc<dyn Store>,
    /// How long history is kept for watchers that come back.
    pub history: Duration,
}

/// Starts API servers.
#[derive(Debug)]
pub struct ApiServer;

/// A running API server.
#[derive(Debug)]
pub struct ApiHandle {
    /// Where it listens, in the order of the configuration.
    pub local_addrs: Vec<SocketAddr>,
    /// The URL in the kubeconfigs.
    pub url: String,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

/// Why an API server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// No address to listen on.
    #[error("no address to listen on is given")]
    NoAddress,
    /// An address cannot be listened on.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// First trust cannot be made.
    #[error("first trust cannot be made")]
    Bootstrap(#[from] BootstrapError),
    /// TLS cannot be set up.
    #[error("tls cannot be set up")]
    Tls {
        /// What happened.
        #[source]
        source: rustls::Error,
    },
    /// The store could not be given what must exist.
    #[error("the store cannot be prepared: {reason}")]
    Seed {
        /// What happened.
        reason: String,
    },
}

// === impl ApiConfig ===

impl ApiConfig {
    /// Listens on one address, with the usual settings.
    pub fn new(listen: SocketAddr, home: impl Into<PathBuf>, store: Arc<dyn Store>) -> Self {
        Self {
            listen: vec![listen],
            home: home.into(),
            advertise: Vec::new(),
            names: Vec::new(),
            store,
            history: DEFAULT_HISTORY,
        }
    }
}

// === impl ApiServer ===

impl ApiServer {
    /// Makes first trust and what the store must have, and serves until shutdown.
    ///
    /// When it returns, requests are answered and the kubeconfigs in the home are usable.
    ///
    /// # Errors
    ///
    /// [`ApiError::Listen`] if an address is taken, [`ApiError::Bootstrap`] if the home cannot be used,
    /// [`ApiError::Seed`] if the store does not take what must exist.
    pub async fn start(
        config: ApiConfig,
        shutdown: CancellationToken,
    ) -> Result<ApiHandle, ApiError> {
        let mut listeners = Vec::with_capacity(config.listen.len());
        let mut local_addrs = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            let failed = |source| ApiError::Listen {
                address: *address,
                source,
            };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            local_addrs.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        let first = *local_addrs.first().ok_or(ApiError::NoAddress)?;
        let url = url_of(&config, first);

        let authority = Authority::prepare(&config.home)?;
        let mut addresses = config.advertise.clone();
        addresses.extend(local_addrs.iter().map(SocketAddr::ip));
        let certificate = authority.server(&addresses, &config.names)?;

        // Ends everything that this function started, also when the caller drops the handle.
        let shutdown = shutdown.child_token();
        let (api, mut tasks) = assemble(config.store, config.history, &shutdown).await?;
        let serving = Arc::new(Listener::new(certificate, api, shutdown.clone())?);
        for listener in listeners {
            tasks.spawn(Arc::clone(&serving).serve(listener));
        }
        let handle = ApiHandle {
            local_addrs,
            url,
            tasks,
            shutdown,
        };
        authority.write_kubeconfigs(&handle.url, SystemTime::now())?;
        tracing::info!(url = handle.url, "api server ready");
        Ok(handle)
    }
}

// === impl ApiHandle ===

impl ApiHandle {
    /// Waits until everything has ended after shutdown.
    pub async fn stopped(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the api server failed");
            }
        }
    }
}

impl Drop for ApiHandle {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Everything but the listeners: gives the store what it must have and begins to follow it.
async fn assemble(
    store: Arc<dyn Store>,
    history: Duration,
    shutdown: &CancellationToken,
) -> Result<(Arc<Api>, JoinSet<()>), ApiError> {
    let seed = |failure: Failure| ApiError::Seed {
        reason: failure.message,
    };
    let clock = Clock::system();
    let schemas = Arc::new(Schemas::generate());
    let objects = Objects::new(Arc::clone(&store), clock, Arc::clone(&schemas));
    seed::plant(&objects).await.map_err(seed)?;
    let tokens = Arc::new(Tokens::new(Arc::clone(&store), clock));
    tokens.prepare().await.map_err(seed)?;

    let cache = Arc::new(Cache::empty());
    let mut tasks = JoinSet::new();
    let following = Arc::clone(&cache);
    let (of_store, of_tokens) = (Arc::clone(&store), Arc::clone(&tokens));
    let until = shutdown.clone();
    tasks.spawn(async move { following.follow(of_store, of_tokens, until).await });
    tasks.spawn(namespaces::finish(
        objects.clone(),
        Arc::clone(&cache),
        shutdown.clone(),
    ));
    tasks.spawn(events::expire(objects.clone(), clock, shutdown.clone()));
    let until = shutdown.clone();
    tasks.spawn(async move { compact_periodically(&*store, history, until).await });
    wait_until_ready(&cache).await?;

    let api = Api {
        objects,
        cache,
        tokens,
        clock,
        documents: Documents::new(&schemas),
        places: Semaphore::new(MAX_IN_FLIGHT),
        shutdown: shutdown.clone(),
    };
    Ok((Arc::new(api), tasks))
}

async fn wait_until_ready(cache: &Cache) -> Result<(), ApiError> {
    let mut position = cache.position();
    let ready = position.wait_for(|position| position.is_ready);
    match tokio::time::timeout(READY, ready).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(ApiError::Seed {
            reason: "it could not be watched in time".to_owned(),
        }),
    }
}

/// The URL that clients are given.
fn url_of(config: &ApiConfig, local: SocketAddr) -> String {
    let address = match config.advertise.first() {
        Some(address) => *address,
        None if local.ip().is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        None => local.ip(),
    };
    format!("https://{}", SocketAddr::new(address, local.port()))
}

/// As Kubernetes' own compaction.
pub const DEFAULT_HISTORY: Duration = Duration::from_secs(300);

/// Requests worked on at once, as Kubernetes' default for reads.
const MAX_IN_FLIGHT: usize = 400;

/// For a store that has to answer a list and a watch.
const READY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
