//! Turns the API's objects and the registered workloads into configuration of proxies.
//!
//! ```text
//! config (list + watch) ─┐
//!                        ├─► Mesh ──snapshot──► Layers of encoded resources ──session──► agents
//! registry (agents, ─────┘   pure               shared by all with equal view     delta ADS
//!           Nomad)
//! ```
//!
//! [`Pilot`] puts the parts together: its services go onto a listener that proves who calls, its
//! [`run`](Pilot::run) keeps what they serve current.

pub mod ads;
mod assembly;
mod caller;
pub mod config;
mod credentials;
pub mod introspection;
pub mod mesh;
pub mod publisher;
pub mod registry;
pub mod resource;
pub mod session;
pub mod snapshot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use kube::Client;
use mesh_proto::mesh::agent::v1::agents_server::AgentsServer;
use mesh_proto::mesh::agent::v1::introspection_server::IntrospectionServer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use self::ads::AdsService;
use self::assembly::MeshAssembly;
pub use self::assembly::Resolved;
use self::introspection::IntrospectionService;
use self::publisher::{Publisher, Views};
use self::registry::{AgentRegistry, AgentsService, JoinedRegistry, NomadRegistry, Registry};

/// Pilot: everything but the listener that its services are on.
pub struct Pilot {
    client: Client,
    registry: AgentRegistry,
    /// The agents and Nomad's catalogue, where there is one.
    joined: Option<Arc<JoinedRegistry>>,
    views: Views,
    ads: AdsService,
    agents: AgentsService,
    introspection: IntrospectionService,
    resolved: watch::Sender<Option<Arc<Resolved>>>,
    stop: CancellationToken,
}

/// Bytes of an agent's message: Envoy's dump of a large configuration is some ten megabytes.
const MAX_AGENT_MESSAGE: usize = 64 * 1024 * 1024;

impl Pilot {
    /// A Pilot that reads the API by `client`, takes what `nomad` lists beside the agents that
    /// connect, and ends its streams and [`Self::run`] when `stop` is cancelled.
    pub fn new(client: Client, nomad: Option<NomadRegistry>, stop: CancellationToken) -> Self {
        let registry = AgentRegistry::beside(nomad.clone());
        let joined = nomad.map(|nomad| Arc::new(JoinedRegistry::new(registry.clone(), nomad)));
        let views = Views::new();
        let (resolved, current) = watch::channel(None);
        let ads = AdsService::new(registry.clone(), views.clone(), stop.clone());
        let introspection =
            IntrospectionService::new(client.clone(), registry.clone(), ads.sessions(), current);
        Self {
            agents: AgentsService::new(registry.clone(), stop.clone()),
            client,
            registry,
            joined,
            views,
            ads,
            introspection,
            resolved,
            stop,
        }
    }

    /// Adds its services: delta ADS, `mesh.agent.v1.Agents` and `mesh.agent.v1.Introspection`.
    ///
    /// Each asks the [`mesh_identity::Connection`] of a request who calls.
    pub fn add_services(&self, routes: &mut RoutesBuilder) {
        let agents =
            AgentsServer::new(self.agents.clone()).max_decoding_message_size(MAX_AGENT_MESSAGE);
        let introspection = IntrospectionServer::new(self.introspection.clone())
            .max_encoding_message_size(MAX_AGENT_MESSAGE);
        routes
            .add_service(agents)
            .add_service(introspection)
            .add_service(self.ads.clone());
    }

    /// Waits until the mesh was assembled for the first time: before, no proxy gets anything.
    pub async fn assembled(&self) {
        let mut resolved = self.resolved.subscribe();
        // `self` holds the sender: the wait ends only with a mesh.
        drop(resolved.wait_for(Option::is_some).await);
    }

    /// Reads the API, assembles the mesh and publishes to the streams, until it is time to stop.
    ///
    /// While the API is away it goes on with what it knows, and asks again.
    pub async fn run(&self) {
        let (config, read) = watch::channel(None);
        let (wanted, credentials_wanted) = watch::channel(BTreeSet::new());
        let (found, credentials_found) = watch::channel(mesh::Credentials::default());
        let (unaddressed, hosts) = watch::channel(BTreeSet::new());
        let registry: Arc<dyn Registry> = match &self.joined {
            Some(joined) => Arc::clone(joined) as _,
            None => Arc::new(self.registry.clone()),
        };
        let publisher = Publisher {
            assembly: || MeshAssembly::new(self.resolved.clone()),
            config: read,
            registry,
            views: self.views.clone(),
            unaddressed,
            credentials: wanted,
        };
        let join = async {
            if let Some(joined) = &self.joined {
                joined.run(self.stop.clone()).await;
            }
        };
        let work = async {
            tokio::join!(
                join,
                config::read_config(self.client.clone(), credentials_found, config),
                credentials::follow_credentials(self.client.clone(), credentials_wanted, found),
                config::record_addresses(self.client.clone(), hosts, self.resolved.subscribe()),
                self.registry.clone().expire(self.stop.clone()),
                publisher.run(self.stop.clone()),
            )
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = work => {}
        }
    }
}

impl fmt::Debug for Pilot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pilot")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// Cuts a text that others gave us to so many bytes at most, at the end of a character.
fn cut(text: &mut String, bytes: usize) {
    let end = (0..=bytes.min(text.len())).rev();
    let end = end.into_iter().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
}
