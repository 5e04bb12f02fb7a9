//! How Pilot and the Mixer join the mesh: as workloads do, with a token of their service account.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use mesh_identity::renewal::{JoinFuture, random_jitter, system_clock};
use mesh_identity::{CredentialStore, JoinError, JoinSource, Renewal, Ticket, Token, Trust};
use mesh_model::{Namespace, TrustDomain};
use tokio_util::sync::CancellationToken;

use super::Role;
use super::rendezvous::{Rendezvous, Service};
use crate::ca::Lifetimes;
use crate::ca::gate::AUDIENCE;

/// Joins by a token that the API makes for the role's own account, at the CA that the API names.
#[derive(Clone)]
pub(super) struct ApiJoin {
    client: Client,
    role: Role,
    /// Where the CA was last: a certificate can be renewed while the API is away.
    last: Arc<Mutex<Vec<SocketAddr>>>,
}

/// The token is used at once; the API makes none that lives shorter than ten minutes.
const TOKEN_SECONDS: i64 = 600;

impl ApiJoin {
    /// The join of a role.
    pub(super) fn new(client: Client, role: Role) -> Self {
        Self {
            client,
            role,
            last: Arc::default(),
        }
    }

    /// What keeps the role's credentials alive in `store`.
    pub(super) fn renewal(
        self,
        trust_domain: &TrustDomain,
        lifetimes: Lifetimes,
        store: CredentialStore,
    ) -> Renewal {
        Renewal {
            identity: self.role.identity(trust_domain),
            ttl: lifetimes.default_ttl(),
            store,
            // A role that starts needs the API anyway: nothing of it has to outlive the process.
            directory: None,
            source: Box::new(self),
            clock: system_clock(),
            jitter: random_jitter(),
        }
    }

    async fn token(&self) -> Result<Token, kube::Error> {
        let namespace = Namespace::mesh_system();
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.client.clone(), namespace.as_str());
        let name = self.role.as_str();
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let params = PostParams::default();
        let asked = accounts.create_subresource("token", name, &params, &request);
        let answer: TokenRequest = match asked.await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.create_account(&accounts).await?;
                accounts
                    .create_subresource("token", name, &params, &request)
                    .await?
            }
            answer => answer?,
        };
        let token = answer.status.and_then(|status| status.token);
        Ok(Token::new(&token.unwrap_or_default()))
    }

    async fn create_account(&self, accounts: &Api<ServiceAccount>) -> Result<(), kube::Error> {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(self.role.as_str().to_owned()),
                namespace: Some(Namespace::mesh_system().to_string()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        match accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            created => created.map(drop),
        }
    }
}

impl JoinSource for ApiJoin {
    fn addresses(&self) -> JoinFuture<'_, Vec<SocketAddr>> {
        Box::pin(async {
            let found = Rendezvous::read(&self.client)
                .await
                .and_then(|found| found.addresses(Service::Ca));
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            match found {
                Ok(addresses) => {
                    last.clone_from(&addresses);
                    Ok(addresses)
                }
                Err(_away) if !last.is_empty() => Ok(last.clone()),
                Err(error) => Err(failed("the addresses of the CA", error)),
            }
        })
    }

    fn ticket(&self) -> JoinFuture<'_, Ticket> {
        Box::pin(async {
            let found = Rendezvous::read(&self.client)
                .await
                .map_err(|error| failed("the roots of the mesh", error))?;
            let token = self
                .token()
                .await
                .map_err(|error| failed("a join token", error))?;
            Ok(Ticket {
                token,
                trust: Trust::Roots(found.roots),
            })
        })
    }
}

impl std::fmt::Debug for ApiJoin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiJoin")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Waits for the first certificate; false when it is time to stop.
pub(super) async fn until_ready(store: &CredentialStore, stop: &CancellationToken) -> bool {
    tokio::select! {
        _ = store.ready() => true,
        () = stop.cancelled() => false,
    }
}

fn failed(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> JoinError {
    JoinError::Source {
        what: format!("the API gave no answer about {what}"),
        source: Box::new(error),
    }
}
