//! Assembly of the roles into one process: who starts after whom, who is ready, how all stop.
//!
//! ```text
//! api ──ready──► ca: root, own certificate, ConfigMap `mesh` ──► pilot, mixer: join as workloads do
//! ```
//!
//! CA and Pilot share one listener, where a client's server name says whom it wants to talk to;
//! the others have their own. Every role reaches the API over the network, with its own credential,
//! also within one process: so it makes no difference where the API runs.

pub mod health;
pub mod rendezvous;
pub mod role;

mod access;
mod api;
mod ca;
mod error;
mod grpc;
mod join;
mod mixer;
mod patience;
mod pilot;
mod publication;
mod replicas;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_model::TrustDomain;
use mesh_model::sidecar::{API_PORT, METRICS_PORT, MIXER_PORT, XDS_PORT};
use mesh_nomad::instances::Following;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::ca::Lifetimes;
use crate::mixer::{Bounds, Metrics};
use crate::pilot::registry::CatalogueMetrics;
use crate::store::StoreConfig;

use access::Access;
pub use error::ServerError;
use health::{Health, Reporting};
use replicas::Replicas;
pub use role::{Role, Roles};

/// What a server process is.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Which roles it runs.
    pub roles: Roles,
    /// Where the API keeps its CA and the kubeconfigs, and the file store its file.
    pub home: PathBuf,
    /// Where the roles listen.
    pub listen: Listen,
    /// Addresses at which workloads reach the CA, Pilot and the Mixer, those of the replicas
    /// included; found out from the way to the API when there are none.
    pub advertise: Vec<IpAddr>,
    /// Names by which clients call the API, besides those that it always has.
    pub api_names: Vec<String>,
    /// What the API keeps objects in.
    pub store: StoreConfig,
    /// How the other roles reach the API; `<role>.kubeconfig` of `home` when absent.
    pub kubeconfig: Option<PathBuf>,
    /// The mesh's trust domain, for the CA of a new mesh; the others read it from the API.
    pub trust_domain: Option<TrustDomain>,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
    /// The Nomad of a server that is for one: Pilot takes its catalogue as a registry beside the
    /// connected agents, the CA believes its workload identities, and replicas publish each other.
    pub nomad: Option<mesh_nomad::client::Client>,
    /// Nomad's service that is the API server, instead of the address in the kubeconfig.
    pub api_service: Option<Following>,
}

/// The name in the certificates of API servers that are found as a service of Nomad's.
pub const API_SERVICE_TLS_NAME: &str = "mesh-api";

/// Nomad's namespace of the control plane, and the namespace of the mesh's own accounts.
pub const SYSTEM_NAMESPACE: &str = "mesh-system";

/// Where the roles listen.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The API; several, so that it can be reached on loopback too.
    pub api: Vec<SocketAddr>,
    /// CA and Pilot.
    pub grpc: SocketAddr,
    /// The Mixer.
    pub mixer: SocketAddr,
    /// Metrics and readiness, in clear.
    pub metrics: SocketAddr,
}

/// How long the roles may take to stop once they are asked to.
const STOP: Duration = Duration::from_secs(8);

/// What every role is given.
#[derive(Clone, Debug)]
struct Context {
    config: Arc<ServerConfig>,
    health: Health,
    /// Where Pilot counts what Nomad's catalogue lists.
    catalogue: Option<CatalogueMetrics>,
    stop: CancellationToken,
    /// The API servers, if they are a service of Nomad's.
    api: Option<Replicas>,
}

// === impl Listen ===

impl Listen {
    /// The usual ports at one address.
    pub fn at(address: IpAddr) -> Self {
        Self {
            api: vec![SocketAddr::new(address, API_PORT)],
            grpc: SocketAddr::new(address, XDS_PORT),
            mixer: SocketAddr::new(address, MIXER_PORT),
            metrics: SocketAddr::new(address, METRICS_PORT),
        }
    }

    /// The API on loopback too, at the port of its first address, for who works on the machine.
    #[must_use]
    pub fn with_api_on_loopback(mut self) -> Self {
        let is_local =
            |address: &SocketAddr| address.ip().is_unspecified() || address.ip().is_loopback();
        if let Some(first) = self.api.first()
            && !self.api.iter().any(is_local)
        {
            let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), first.port());
            self.api.push(loopback);
        }
        self
    }
}

// === impl ServerConfig ===

impl ServerConfig {
    /// The kubeconfig of a role.
    fn kubeconfig(&self, role: Role) -> PathBuf {
        let default = || self.home.join(format!("{role}.kubeconfig"));
        self.kubeconfig.clone().unwrap_or_else(default)
    }
}

/// Runs the roles until `shutdown` or until one of them fails, and stops all of them.
///
/// # Errors
///
/// [`ServerError`]: what cannot be mended by waiting. While the API is away the other roles wait.
pub async fn run(config: ServerConfig, shutdown: CancellationToken) -> Result<(), ServerError> {
    let stop = shutdown.child_token();
    let health = Health::new(&config.roles);
    let mut registry = Registry::default();
    health.register(&mut registry);
    let metrics = config
        .roles
        .has(Role::Mixer)
        .then(|| Arc::new(Metrics::new(Bounds::default(), &mut registry)));
    let mut tasks = JoinSet::new();
    let api = config.api_service.clone().map(|service| {
        let (replicas, following) = Replicas::follow(service);
        let until = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = following => {}
                () = until.cancelled() => {}
            }
            Ok(())
        });
        replicas
    });
    let catalogue = config
        .nomad
        .is_some()
        .then(|| CatalogueMetrics::new(&mut registry));
    let context = Context {
        catalogue,
        config: Arc::new(config),
        health,
        stop: stop.clone(),
        api,
    };

    let started = start(&context, registry, metrics, &mut tasks).await;
    let outcome = match started {
        Ok(()) => wait(&mut tasks, &stop).await,
        Err(error) => Err(error),
    };
    stop.cancel();
    let stopped = timeout(STOP, async {
        while let Some(ended) = tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                let cause: &dyn std::error::Error = &error;
                error!(error = cause, "a role did not stop cleanly");
            }
        }
    });
    if stopped.await.is_err() {
        error!("some roles did not stop in time; they are ended");
        tasks.shutdown().await;
    }
    info!("stopped");
    outcome
}

async fn start(
    context: &Context,
    registry: Registry,
    metrics: Option<Arc<Metrics>>,
    tasks: &mut JoinSet<Result<(), ServerError>>,
) -> Result<(), ServerError> {
    let roles = &context.config.roles;
    let reporting = Reporting::bind(context.config.listen.metrics).await?;
    tasks.spawn(reporting.serve(context.health.clone(), registry, context.stop.clone()));
    if roles.has(Role::Api) {
        let api = api::start_api(context).await?;
        tasks.spawn(api);
    }
    if roles.has(Role::Ca) || roles.has(Role::Pilot) {
        tasks.spawn(grpc::run_ca_and_pilot(context.clone()));
    }
    if let Some(metrics) = metrics {
        tasks.spawn(mixer::start_mixer(context.clone(), metrics));
    }
    Ok(())
}

/// Until somebody asks to stop, or a task ends, which none does by itself.
async fn wait(
    tasks: &mut JoinSet<Result<(), ServerError>>,
    stop: &CancellationToken,
) -> Result<(), ServerError> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            Some(Err(panic)) => Err(ServerError::Ended { source: panic }),
            // A role that ends well was asked to.
            Some(Ok(Ok(()))) | None => Ok(()),
        },
    }
}

/// Reads of the configuration that more than one role makes.
impl Context {
    /// A role's way to the API.
    async fn access(&self, role: Role) -> Result<Access, ServerError> {
        Access::open(&self.config.kubeconfig(role), self.api.as_ref()).await
    }

    fn home(&self) -> &Path {
        &self.config.home
    }
}
