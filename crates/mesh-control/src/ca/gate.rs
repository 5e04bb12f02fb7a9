//! Who calls the CA: settled before a byte of the request's body is read.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount as ServiceAccountObject;
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_identity::{Connection, Peer, Token};
use mesh_model::{Namespace, Problem, ServiceAccount, SpiffeId, TrustDomain};
use mesh_nomad::identity::{Refusal, VerifyError};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::nomad::{NomadCallers, allocation_of};

/// The audience of join tokens.
pub const AUDIENCE: &str = "mesh-ca";
/// Our tokens take about 700 bytes; what is longer is not one.
const MAX_TOKEN: usize = 8 * 1024;
/// Callers served at once; signing takes a tenth of a millisecond, asking the API a few.
const CONCURRENT: usize = 64;
/// How long a caller may wait for its turn before it is told to come back.
const TURN: Duration = Duration::from_secs(2);
/// One question to the API.
pub(super) const REVIEW: Duration = Duration::from_secs(5);
/// The whole request, its body included.
const REQUEST: Duration = Duration::from_secs(15);

/// Who proved to be calling, as the service finds it in the extensions of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// The identity to issue for.
    pub identity: SpiffeId,
    /// How it was proven.
    pub proof: ProvenBy,
    /// What the certificate is to say of the caller besides, so that it is known again by it.
    pub subject: Option<String>,
    /// The longest life that the proof bears, if it sets a bound.
    pub longest: Option<Duration>,
}

/// How a caller proved who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProvenBy {
    /// A join token that the API confirmed.
    Token,
    /// Its current certificate.
    Certificate,
    /// A workload identity of Nomad's.
    Nomad,
}

/// Lets callers through to `inner` who proved who they are; puts a [`Caller`] into the request.
#[derive(Clone)]
pub struct Gate<S> {
    inner: S,
    callers: Arc<Callers>,
}

/// Asks the API who a caller is.
struct Callers {
    client: Client,
    trust_domain: TrustDomain,
    /// What knows Nomad's workloads, on a server that is for a Nomad.
    nomad: Option<NomadCallers>,
    turns: Semaphore,
}

/// Why a caller is turned away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// Neither token nor certificate.
    #[error("show a join token or the current certificate of a workload")]
    NoProof,
    /// A token that is none.
    #[error("the authorization is not a bearer token")]
    NotBearer,
    /// The API does not confirm it.
    #[error("the join token is not valid (any more)")]
    InvalidToken,
    /// The API confirms it for others than the CA.
    #[error("the token is not for `{AUDIENCE}`")]
    WrongAudience,
    /// Whose token it is has no place in the mesh.
    #[error("the token is of `{user}`, expected a service account")]
    NotAnAccount {
        /// The user's name.
        user: String,
    },
    /// A certificate of an account that was deleted.
    #[error("service account `{namespace}/{name}` does not exist any more")]
    AccountGone {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: ServiceAccount,
    },
    /// A workload identity of Nomad's, of which this CA knows none.
    #[error("this control plane is not for a Nomad (`mesh server --nomad`)")]
    NotOnNomad,
    /// A workload identity of Nomad's, or an allocation, that proves nothing.
    #[error("the Nomad workload identity proves nothing (any more)")]
    Unproven {
        /// Why; for the log.
        source: Box<Refusal>,
    },
    /// Its job or namespace has a name that is none in the mesh.
    #[error("the Nomad job has no identity in the mesh: {problem}")]
    NoName {
        /// What is wrong with it.
        problem: Problem,
    },
    /// A job that would be the control plane.
    #[error("`{identity}` is of the control plane itself; no job of Nomad's is given it")]
    Reserved {
        /// Whose it would be.
        identity: Box<SpiffeId>,
    },
    /// The job asks for an account that it may not use.
    #[error(
        "job `{job}` may not run as service account `{namespace}/{account}`: bind user `{user}` in namespace `{namespace}` to a Role with verb `use` on `serviceaccounts`, resource name `{account}`"
    )]
    NotBound {
        /// The job.
        job: String,
        /// Its namespace.
        namespace: Namespace,
        /// The account that it asks for.
        account: ServiceAccount,
        /// The job as a user of the API.
        user: String,
    },
    /// The allocation is somebody else by now than its certificate says.
    #[error("the certificate is of `{found}`, and the allocation is `{expected}`")]
    OtherIdentity {
        /// Whose the certificate is.
        found: Box<SpiffeId>,
        /// Who the allocation is.
        expected: Box<SpiffeId>,
    },
    /// Nomad could not be asked.
    #[error("Nomad cannot be asked about the workload now")]
    Nomad {
        /// What happened; nothing when it did not answer in time.
        source: Option<Box<VerifyError>>,
    },
    /// The API could not be asked.
    #[error("the API cannot be asked about the token now")]
    Api {
        /// What happened.
        source: Box<kube::Error>,
    },
    /// The API did not answer in time.
    #[error("the API does not answer about the token in time")]
    ApiTimeout,
    /// Too many callers.
    #[error("the CA is busy; try again in some seconds")]
    Busy,
}

// === impl Gate ===

impl<S> Gate<S> {
    /// A gate before `inner`.
    pub fn new(
        inner: S,
        client: Client,
        trust_domain: TrustDomain,
        nomad: Option<mesh_nomad::client::Client>,
    ) -> Self {
        let nomad =
            nomad.map(|nomad| NomadCallers::new(nomad, client.clone(), trust_domain.clone()));
        let callers = Callers {
            client,
            nomad,
            trust_domain,
            turns: Semaphore::new(CONCURRENT),
        };
        Self {
            inner,
            callers: Arc::new(callers),
        }
    }
}

impl<S: NamedService> NamedService for Gate<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let callers = Arc::clone(&self.callers);
        // The one that was polled ready goes, its clone stays.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            let connection = request.extensions().get::<Connection>().cloned();
            let Ok(Ok(_turn)) = timeout(TURN, callers.turns.acquire()).await else {
                return Ok(GateError::Busy.to_status().into_http());
            };
            let identified = callers.identify(connection.as_ref(), request.headers());
            match identified.await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    match timeout(REQUEST, inner.call(request)).await {
                        Ok(response) => response,
                        Err(_elapsed) => {
                            let late = Status::deadline_exceeded("the request took too long");
                            Ok(late.into_http())
                        }
                    }
                }
                Err(error) => {
                    let cause: &dyn std::error::Error = &error;
                    tracing::warn!(
                        peer = ?connection.as_ref().map(|connection| &connection.peer),
                        remote = connection.as_ref().map(|it| tracing::field::display(it.remote)),
                        error = cause,
                        "caller of the CA turned away"
                    );
                    Ok(error.to_status().into_http())
                }
            }
        })
    }
}

impl<S> fmt::Debug for Gate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

// === impl Callers ===

impl Callers {
    /// A token counts before a certificate: who shows one asks to be known by it.
    async fn identify(
        &self,
        connection: Option<&Connection>,
        headers: &HeaderMap,
    ) -> Result<Caller, GateError> {
        if let Some(token) = bearer(headers)? {
            let signed_by_nomad = mesh_nomad::identity::Token::new(token.reveal());
            if signed_by_nomad.claims_to_be_of_nomad() {
                // Never shown to others: Nomad takes it as a credential of its own API.
                let nomad = self.nomad.as_ref().ok_or(GateError::NotOnNomad)?;
                return nomad.join(&signed_by_nomad).await;
            }
            return Ok(Caller {
                identity: self.review(&token).await?,
                proof: ProvenBy::Token,
                subject: None,
                longest: None,
            });
        }
        let peer = connection.map_or(&Peer::None, |connection| &connection.peer);
        let identity = peer.workload().ok_or(GateError::NoProof)?;
        let certificate = connection.and_then(|connection| connection.certificate.as_deref());
        if let Some(nomad) = &self.nomad
            && let Some(allocation) = certificate.and_then(allocation_of)
        {
            return nomad.renew(identity, allocation).await;
        }
        self.check_account(identity).await?;
        Ok(Caller {
            identity: identity.clone(),
            proof: ProvenBy::Certificate,
            subject: None,
            longest: None,
        })
    }

    async fn review(&self, token: &Token) -> Result<SpiffeId, GateError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: token.reveal().to_owned(),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = timeout(REVIEW, reviews.create(&params, &review)).await;
        let answer = answer
            .map_err(|_elapsed| GateError::ApiTimeout)?
            .map_err(|source| GateError::Api {
                source: Box::new(source),
            })?;
        confirmed(&answer, &self.trust_domain)
    }

    /// Renewal ends with the account.
    ///
    /// While the API does not answer the certificate alone decides: it was valid when it was shown,
    /// and workloads must outlive an outage of the API.
    async fn check_account(&self, identity: &SpiffeId) -> Result<(), GateError> {
        let SpiffeId {
            namespace,
            service_account: name,
            ..
        } = identity;
        let accounts: Api<ServiceAccountObject> =
            Api::namespaced(self.client.clone(), namespace.as_str());
        match timeout(REVIEW, accounts.get_opt(name.as_str())).await {
            Ok(Ok(Some(_))) => Ok(()),
            Ok(Ok(None)) => Err(GateError::AccountGone {
                namespace: namespace.clone(),
                name: name.clone(),
            }),
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(%identity, error, "renewing without a look at the account");
                Ok(())
            }
            Err(_elapsed) => {
                tracing::warn!(%identity, "renewing without a look at the account: no answer");
                Ok(())
            }
        }
    }
}

/// The token of a request, if it has one.
fn bearer(headers: &HeaderMap) -> Result<Option<Token>, GateError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(GateError::NotBearer);
    }
    let token = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN)
        .ok_or(GateError::NotBearer)?;
    Ok(Some(Token::new(token)))
}

/// Whose token the API confirms.
fn confirmed(review: &TokenReview, trust_domain: &TrustDomain) -> Result<SpiffeId, GateError> {
    let status = review.status.as_ref().ok_or(GateError::InvalidToken)?;
    if status.authenticated != Some(true) {
        return Err(GateError::InvalidToken);
    }
    // An API that does not know audiences names none: then the token is for the API itself.
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(GateError::WrongAudience);
    }
    let user = status
        .user
        .as_ref()
        .and_then(|user| user.username.as_deref())
        .unwrap_or_default();
    account(user, trust_domain).ok_or_else(|| GateError::NotAnAccount {
        user: user.to_owned(),
    })
}

/// `system:serviceaccount:<namespace>:<name>` as an identity.
fn account(user: &str, trust_domain: &TrustDomain) -> Option<SpiffeId> {
    let (namespace, name) = user
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')?;
    Some(SpiffeId {
        trust_domain: trust_domain.clone(),
        namespace: namespace.parse().ok()?,
        service_account: name.parse().ok()?,
    })
}

// === impl GateError ===

impl GateError {
    /// Who could not be asked, not who was found to be somebody else.
    pub(super) fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Api { .. } | Self::ApiTimeout | Self::Nomad { .. }
        )
    }

    fn to_status(&self) -> Status {
        let message = self.to_string();
        match self {
            Self::NoProof
            | Self::NotBearer
            | Self::InvalidToken
            | Self::WrongAudience
            | Self::NotOnNomad
            | Self::Unproven { .. } => Status::unauthenticated(message),
            Self::NotAnAccount { .. }
            | Self::AccountGone { .. }
            | Self::NoName { .. }
            | Self::Reserved { .. }
            | Self::NotBound { .. }
            | Self::OtherIdentity { .. } => Status::permission_denied(message),
            Self::Api { .. } | Self::ApiTimeout | Self::Nomad { .. } => {
                Status::unavailable(message)
            }
            Self::Busy => Status::resource_exhausted(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
    use proptest::prelude::*;

    use super::*;

    fn review(authenticated: bool, audiences: &[&str], user: &str) -> TokenReview {
        TokenReview {
            status: Some(TokenReviewStatus {
                authenticated: Some(authenticated),
                audiences: Some(audiences.iter().map(|one| (*one).to_owned()).collect()),
                user: Some(UserInfo {
                    username: Some(user.to_owned()),
                    ..UserInfo::default()
                }),
                error: None,
            }),
            ..TokenReview::default()
        }
    }

    const WEB: &str = "system:serviceaccount:shop:web";

    #[test]
    fn a_confirmed_token_is_its_account() {
        let td = TrustDomain::default();
        let identity = confirmed(&review(true, &["other", AUDIENCE], WEB), &td).unwrap();
        assert_eq!(
            identity.to_string(),
            "spiffe://cluster.local/ns/shop/sa/web"
        );
    }

    #[test]
    fn what_the_api_does_not_confirm_is_nobody() {
        let td = TrustDomain::default();
        let cases = [
            TokenReview::default(),
            review(false, &[AUDIENCE], WEB),
            review(true, &[], WEB),
            review(true, &["mesh-api"], WEB),
            review(true, &[AUDIENCE], "alice"),
            review(true, &[AUDIENCE], "system:serviceaccount:shop"),
            review(true, &[AUDIENCE], "system:serviceaccount:shop:web:more"),
            review(true, &[AUDIENCE], "system:serviceaccount:Shop:web"),
            review(true, &[AUDIENCE], "system:serviceaccount:a/b:web"),
        ];
        for review in cases {
            assert!(confirmed(&review, &td).is_err(), "{review:?}");
        }
    }

    #[test]
    fn only_one_bearer_token_is_taken() {
        let mut headers = HeaderMap::new();
        assert!(bearer(&headers).unwrap().is_none());
        for wrong in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(wrong));
            assert!(bearer(&headers).is_err(), "`{wrong}`");
        }
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("bearer abc"),
        );
        assert_eq!(bearer(&headers).unwrap(), Some(Token::new("abc")));
        headers.append(
            header::AUTHORIZATION,
            HeaderValue::from_static("bearer def"),
        );
        assert!(bearer(&headers).is_err());
    }

    proptest! {
        #[test]
        fn hostile_headers_are_no_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let mut headers = HeaderMap::new();
                headers.insert(header::AUTHORIZATION, value);
                drop(bearer(&headers));
            }
        }

        #[test]
        fn an_account_is_what_it_says(user in "\\PC{0,80}|system:serviceaccount:[a-z./:]{0,30}") {
            if let Some(identity) = account(&user, &TrustDomain::default()) {
                let again = format!(
                    "system:serviceaccount:{}:{}",
                    identity.namespace, identity.service_account
                );
                prop_assert_eq!(again, user);
            }
        }
    }
}
