//! The Mixer as a role: joined as a workload, on a port of its own.

use std::sync::Arc;

use mesh_identity::tls::Clients;
use mesh_identity::{CredentialStore, ServerTls};
use tonic::service::Routes;
use tracing::info;

use super::health::RoleState;
use super::join::{ApiJoin, until_ready};
use super::patience::patiently;
use super::publication::Publication;
use super::rendezvous::{Rendezvous, Service};
use super::{Context, Role, ServerError, grpc};
use crate::mixer::{AccessLogs, Metrics};

/// Runs the Mixer until it is time to stop.
pub(super) async fn start_mixer(
    context: Context,
    metrics: Arc<Metrics>,
) -> Result<(), ServerError> {
    let health = &context.health;
    health.set(Role::Mixer, RoleState::Starting("waiting for the API"));
    let access = context.access(Role::Mixer).await?;
    let address = context.config.listen.mixer;
    let listener = grpc::bind("the Mixer", address).await?;
    let found = patiently("reading the config map of the mesh", &context.stop, || {
        Rendezvous::read(&access.client)
    });
    let Some(found) = found.await else {
        return Ok(());
    };

    let store = CredentialStore::empty();
    let renewal = ApiJoin::new(access.client.clone(), Role::Mixer).renewal(
        &found.trust_domain,
        context.config.lifetimes,
        store.clone(),
    );
    let tls = ServerTls::new(store.clone(), Clients::Workloads);
    let routes = Routes::new(AccessLogs::new(metrics, context.stop.clone()).into_server());
    let ready = async {
        health.set(
            Role::Mixer,
            RoleState::Starting("waiting for a certificate"),
        );
        if !until_ready(&store, &context.stop).await {
            return;
        }
        let publication = Publication::new(&context, &access, Service::Mixer, address).await;
        if let Some(addresses) = publication.first(&[]).await {
            info!(?addresses, "Mixer published");
            health.set(Role::Mixer, RoleState::Ready);
            publication.follow(addresses).await;
        }
    };
    tokio::try_join!(
        grpc::serve("the Mixer", listener, tls, routes, &context.stop),
        async {
            tokio::join!(ready, renewal.run(context.stop.clone()));
            Ok(())
        },
    )?;
    Ok(())
}
