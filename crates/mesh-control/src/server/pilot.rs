//! Pilot as a role: joined as a workload, on the listener that it shares with the CA.

use mesh_identity::{CredentialStore, TrustBundle};
use mesh_model::TrustDomain;
use tonic::service::RoutesBuilder;
use tracing::info;

use super::access::Access;
use super::health::RoleState;
use super::join::{ApiJoin, until_ready};
use super::patience::patiently;
use super::publication::Publication;
use super::rendezvous::{Rendezvous, Service};
use super::{Context, Role, ServerError};
use crate::pilot;
use crate::pilot::registry::NomadRegistry;
use crate::pilot::registry::nomad::complaint;

/// A Pilot that can be served.
pub(super) struct Pilot {
    /// Its own credentials, kept alive by [`Self::run`].
    pub(super) store: CredentialStore,
    /// The CA of the API's users, who may look inside.
    pub(super) users: TrustBundle,
    access: Access,
    trust_domain: TrustDomain,
    nomad: Option<NomadRegistry>,
    inner: pilot::Pilot,
}

/// Makes Pilot; waits for the API only when the trust domain is not known yet.
pub(super) async fn start_pilot(
    context: &Context,
    trust_domain: Option<TrustDomain>,
) -> Result<Option<Pilot>, ServerError> {
    let waiting = RoleState::Starting("waiting for the API");
    context.health.set(Role::Pilot, waiting);
    let access = context.access(Role::Pilot).await?;
    let trust_domain = if let Some(known) = trust_domain {
        known
    } else {
        let found = patiently("reading the config map of the mesh", &context.stop, || {
            Rendezvous::read(&access.client)
        });
        let Some(found) = found.await else {
            return Ok(None);
        };
        found.trust_domain
    };
    let nomad = context.config.nomad.clone();
    let nomad = nomad
        .map(|client| NomadRegistry::start(client, context.catalogue.clone().unwrap_or_default()));
    Ok(Some(Pilot {
        store: CredentialStore::empty(),
        users: access.roots.clone(),
        inner: pilot::Pilot::new(access.client.clone(), nomad.clone(), context.stop.clone()),
        nomad,
        access,
        trust_domain,
    }))
}

impl Pilot {
    /// Adds what it serves.
    pub(super) fn add_services(&self, routes: &mut RoutesBuilder) {
        self.inner.add_services(routes);
    }

    /// Joins, tells everybody where it is, and configures proxies until it is time to stop.
    pub(super) async fn run(self, context: &Context) -> Result<(), ServerError> {
        let renewal = ApiJoin::new(self.access.client.clone(), Role::Pilot).renewal(
            &self.trust_domain,
            context.config.lifetimes,
            self.store.clone(),
        );
        tokio::join!(
            renewal.run(context.stop.clone()),
            self.inner.run(),
            self.publish(context),
        );
        Ok(())
    }

    async fn publish(&self, context: &Context) {
        let health = &context.health;
        health.set(
            Role::Pilot,
            RoleState::Starting("waiting for a certificate"),
        );
        if !until_ready(&self.store, &context.stop).await {
            return;
        }
        let waiting = match self.nomad {
            None => "reading the configuration",
            Some(_) => "reading the configuration and Nomad's catalogue",
        };
        health.set(Role::Pilot, RoleState::Starting(waiting));
        tokio::select! {
            () = self.inner.assembled() => {}
            () = context.stop.cancelled() => return,
        }
        let listen = context.config.listen.grpc;
        let publication = Publication::new(context, &self.access, Service::Pilot, listen).await;
        if let Some(addresses) = publication.first(&[]).await {
            info!(?addresses, "Pilot published");
            health.set(Role::Pilot, RoleState::Ready);
            tokio::join!(publication.follow(addresses), self.report(context));
        }
    }

    /// Says when the catalogue cannot be read. Pilot is of use all the same: what it knows stays.
    async fn report(&self, context: &Context) {
        let Some(nomad) = &self.nomad else { return };
        let mut status = nomad.status();
        loop {
            let state = match complaint(&status.borrow_and_update()) {
                None => RoleState::Ready,
                Some(complaint) => RoleState::Impaired(complaint),
            };
            context.health.set(Role::Pilot, state);
            tokio::select! {
                () = context.stop.cancelled() => return,
                news = status.changed() => if news.is_err() { return },
            }
        }
    }
}
