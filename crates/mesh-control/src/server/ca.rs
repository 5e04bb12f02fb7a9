//! The CA as a role: its root, its own certificate, its entries in the ConfigMap.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::renewal::{next_renewal, random_jitter};
use mesh_identity::{CredentialStore, Credentials, Key};
use mesh_model::{SpiffeId, TrustDomain};
use mesh_proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::access::Access;
use super::error::OwnCertificateError;
use super::health::RoleState;
use super::patience::patiently;
use super::publication::Publication;
use super::rendezvous::{self, Service};
use super::{Context, Role, ServerError};
use crate::ca::csr::PublicKey;
use crate::ca::{CertificateService, Gate, Issuer, Lifetimes, Order, Root, RootError, RootIssuer};

/// A CA that can be served.
pub(super) struct Ca {
    /// Its service, behind the gate.
    pub(super) service: Gate<IstioCertificateServiceServer<CertificateService>>,
    /// Its own credentials, kept alive by [`Self::renew`].
    pub(super) store: CredentialStore,
    /// The trust domain that it signs for.
    pub(super) trust_domain: TrustDomain,
    access: Access,
    issuer: Arc<dyn Issuer>,
    lifetimes: Lifetimes,
}

/// Longest sleep at a time: a machine that was suspended looks again.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// After a failure; nothing but the machine itself can be at fault.
const RETRY: Duration = Duration::from_secs(5);

/// Waits for the API and gets the root; nothing when it is time to stop.
pub(super) async fn start_ca(context: &Context) -> Result<Option<Ca>, ServerError> {
    let waiting = RoleState::Starting("waiting for the API");
    context.health.set(Role::Ca, waiting);
    let access = context.access(Role::Ca).await?;
    let client = &access.client;
    let stored = patiently("reading the trust domain", &context.stop, || {
        rendezvous::stored_trust_domain(client)
    });
    let Some(stored) = stored.await else {
        return Ok(None);
    };
    let trust_domain = agree(context.config.trust_domain.as_ref(), stored)?;
    let root = patiently("getting the root of the mesh", &context.stop, || async {
        match Root::load_or_create(client, SystemTime::now()).await {
            Err(error @ RootError::Api { .. }) => Err(error),
            settled => Ok(settled),
        }
    });
    let Some(root) = root.await else {
        return Ok(None);
    };
    let issuer: Arc<dyn Issuer> = Arc::new(RootIssuer::new(root?));
    let lifetimes = context.config.lifetimes;
    let identity = Role::Ca.identity(&trust_domain);
    let own = issue_own(&*issuer, &identity, lifetimes, SystemTime::now()).await?;
    let service = CertificateService::new(Arc::clone(&issuer), lifetimes).guarded(
        client.clone(),
        trust_domain.clone(),
        context.config.nomad.clone(),
    );
    Ok(Some(Ca {
        service,
        store: CredentialStore::new(own),
        trust_domain,
        access,
        issuer,
        lifetimes,
    }))
}

impl Ca {
    /// Tells everybody where it is and what to trust, once it listens, until it is time to stop.
    pub(super) async fn publish(&self, context: &Context) {
        let listen = context.config.listen.grpc;
        let publication = Publication::new(context, &self.access, Service::Ca, listen).await;
        let roots = self.issuer.roots();
        let trust = rendezvous::trust_entries(&self.trust_domain, &roots);
        if let Some(addresses) = publication.first(&trust).await {
            let roots = roots.fingerprints();
            info!(?addresses, ?roots, trust_domain = %self.trust_domain, "CA published");
            context.health.set(Role::Ca, RoleState::Ready);
            publication.follow(addresses).await;
        }
    }

    /// What keeps its own certificate alive until `stop`.
    pub(super) fn renew(&self, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        let identity = Role::Ca.identity(&self.trust_domain);
        let (issuer, lifetimes) = (Arc::clone(&self.issuer), self.lifetimes);
        let store = self.store.clone();
        async move {
            let renewing = renew_own(&*issuer, &identity, lifetimes, &store);
            tokio::select! {
                () = renewing => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

/// The trust domain of the mesh: what it has, else what was asked for, else the default.
fn agree(
    asked: Option<&TrustDomain>,
    stored: Option<TrustDomain>,
) -> Result<TrustDomain, ServerError> {
    match (asked, stored) {
        (Some(asked), Some(stored)) if *asked != stored => Err(ServerError::TrustDomain {
            found: asked.clone(),
            expected: stored,
        }),
        (_, Some(stored)) => Ok(stored),
        (asked, None) => Ok(asked.cloned().unwrap_or_default()),
    }
}

async fn issue_own(
    issuer: &dyn Issuer,
    identity: &SpiffeId,
    lifetimes: Lifetimes,
    now: SystemTime,
) -> Result<Credentials, OwnCertificateError> {
    let key = Key::generate()?;
    let order = Order {
        key: PublicKey::of_request(&key.csr()?)?,
        identity: identity.clone(),
        subject: None,
        ttl: lifetimes.default_ttl(),
        now,
    };
    let chain = issuer.issue(&order).await?;
    Ok(Credentials::new(key, chain, issuer.roots())?)
}

async fn renew_own(
    issuer: &dyn Issuer,
    identity: &SpiffeId,
    lifetimes: Lifetimes,
    store: &CredentialStore,
) {
    let jitter = random_jitter();
    loop {
        let current = store.ready().await;
        let spread = jitter();
        loop {
            let now = SystemTime::now();
            let due = next_renewal(current.not_before(), current.not_after(), now, spread);
            match due.duration_since(now) {
                Ok(rest) if !rest.is_zero() => sleep(rest.min(MAX_SLEEP)).await,
                _ => break,
            }
        }
        match issue_own(issuer, identity, lifetimes, SystemTime::now()).await {
            Ok(new) => {
                info!(serial = new.serial(), "the CA renewed its own certificate");
                store.publish(new);
            }
            Err(failed) => {
                {
                    let error: &dyn std::error::Error = &failed;
                    error!(error, "the CA could not renew its own certificate");
                }
                sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_keeps_its_trust_domain() {
        let td = |text: &str| text.parse::<TrustDomain>().unwrap();
        assert_eq!(agree(None, None).unwrap(), TrustDomain::default());
        assert_eq!(agree(Some(&td("a")), None).unwrap(), td("a"));
        assert_eq!(agree(None, Some(td("b"))).unwrap(), td("b"));
        assert_eq!(agree(Some(&td("b")), Some(td("b"))).unwrap(), td("b"));
        let error = agree(Some(&td("a")), Some(td("b"))).unwrap_err();
        assert!(error.hint().unwrap().contains("--trust-domain"));
    }
}
