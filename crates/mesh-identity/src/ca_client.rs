//! Asking the CA for a certificate: one request, over a connection that proves the CA.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use mesh_model::{Namespace, SpiffeId, TrustDomain};
use mesh_proto::istio::v1::auth::IstioCertificateRequest;
use mesh_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tokio::time::timeout;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataValue};

use crate::{
    CertificateError, Chain, ClientTls, CredentialStore, Credentials, CredentialsError, Key,
    KeyError, Trust, transport,
};

/// One attempt at one address, from connecting to the answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Certificates are small; more is not an answer to our question.
const MAX_RESPONSE: usize = 256 * 1024;

/// A bearer token: a secret, which `Debug` does not show.
#[derive(Clone, Eq, PartialEq)]
pub struct Token(String);

/// How a caller shows the CA who it is.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A join token, at the first contact.
    Token {
        /// The token.
        token: Token,
        /// Which roots the CA's own certificate must lead to.
        trust: Trust,
    },
    /// The current certificate: a renewal.
    Current(CredentialStore),
}

/// Calls the CA, at whichever of its addresses answers.
#[derive(Clone, Debug)]
pub struct CaClient {
    ca: SpiffeId,
}

/// What to ask for.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// Replicas of the CA, tried in this order.
    pub addresses: Vec<SocketAddr>,
    /// Who asks.
    pub proof: Proof,
    /// Who the certificate must name; the CA decides, this is checked.
    pub identity: SpiffeId,
    /// The lifetime wished for; the CA may give less.
    pub ttl: Duration,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No address to ask at.
    #[error("no address of the CA is known")]
    NoAddress,
    /// No request could be made.
    #[error("no certificate request could be made")]
    Key(#[from] KeyError),
    /// The token has characters that a header cannot carry.
    #[error("the token is not a token: it has characters that no token has")]
    Token,
    /// The CA answered and refuses.
    #[error("the CA at {address} refuses: {message}")]
    Refused {
        /// Which replica.
        address: SocketAddr,
        /// The code of the answer.
        code: Code,
        /// The CA's own words.
        message: String,
    },
    /// No replica answered.
    #[error("no CA answered: {}", attempts.join("; "))]
    Unreachable {
        /// What went wrong, for each address.
        attempts: Vec<String>,
    },
    /// The answer is not a chain with roots.
    #[error("the CA at {address} answered with no certificate chain")]
    Answer {
        /// Which replica.
        address: SocketAddr,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The answer does not fit the key or the roots.
    #[error("the CA at {address} answered with a certificate that does not hold")]
    Credentials {
        /// Which replica.
        address: SocketAddr,
        /// What is wrong with it.
        source: Box<CredentialsError>,
    },
    /// The certificate names somebody else.
    #[error("the CA at {address} issued for `{found}`, expected `{expected}`")]
    WrongIdentity {
        /// Which replica.
        address: SocketAddr,
        /// Whom it names.
        found: Box<SpiffeId>,
        /// Whom it should name.
        expected: Box<SpiffeId>,
    },
}

// === impl Token ===

impl Token {
    /// A token; white space around it (the end of a file's line) is no part of it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

// === impl CaClient ===

impl CaClient {
    /// A client of the CA of `trust_domain`, `…/ns/mesh-system/sa/ca`.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            ca: SpiffeId {
                trust_domain,
                namespace: Namespace::mesh_system(),
                service_account: ca_account(),
            },
        }
    }

    /// Asks for a certificate of `key`, and checks that the answer is what was asked for:
    /// for this key, of this identity, leading to the roots that came with it, valid at `now`.
    ///
    /// # Errors
    ///
    /// Every variant of [`RequestError`].
    pub async fn request_certificate(
        &self,
        request: &CertificateRequest,
        key: &Key,
        now: SystemTime,
    ) -> Result<Credentials, RequestError> {
        let (tls, authorization) = self.prove(&request.proof)?;
        let csr = key.csr()?;
        if request.addresses.is_empty() {
            return Err(RequestError::NoAddress);
        }
        let mut attempts = Vec::new();
        for &address in &request.addresses {
            let message = IstioCertificateRequest {
                csr: csr.clone(),
                validity_duration: i64::try_from(request.ttl.as_secs()).unwrap_or(i64::MAX),
                metadata: None,
            };
            let call = call(address, tls.clone(), authorization.clone(), message);
            match timeout(ATTEMPT_TIMEOUT, call).await {
                Ok(Ok(chain)) => return accept(address, &chain, request, key, now),
                Ok(Err(Failure::Refused { code, message })) => {
                    return Err(RequestError::Refused {
                        address,
                        code,
                        message,
                    });
                }
                Ok(Err(Failure::NoAnswer(reason))) => {
                    attempts.push(format!("{address}: {reason}"));
                }
                Err(_elapsed) => attempts.push(format!("{address}: no answer in time")),
            }
        }
        Err(RequestError::Unreachable { attempts })
    }

    fn prove(
        &self,
        proof: &Proof,
    ) -> Result<(ClientTls, Option<MetadataValue<Ascii>>), RequestError> {
        match proof {
            Proof::Token { token, trust } => {
                let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.reveal())
                    .parse()
                    .map_err(|_not_ascii| RequestError::Token)?;
                value.set_sensitive(true);
                let tls = ClientTls::anonymous(trust.clone(), self.ca.clone());
                Ok((tls, Some(value)))
            }
            Proof::Current(store) => Ok((ClientTls::mutual(store.clone(), self.ca.clone()), None)),
        }
    }
}

/// How one attempt failed.
enum Failure {
    /// The CA decided; another replica would decide the same.
    Refused { code: Code, message: String },
    /// Another replica may answer.
    NoAnswer(String),
}

async fn call(
    address: SocketAddr,
    tls: ClientTls,
    authorization: Option<MetadataValue<Ascii>>,
    message: IstioCertificateRequest,
) -> Result<String, Failure> {
    let channel = transport::connect(address, tls)
        .await
        .map_err(|error| Failure::NoAnswer(with_causes(&error)))?;
    let mut client =
        IstioCertificateServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
    let mut request = tonic::Request::new(message);
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value);
    }
    match client.create_certificate(request).await {
        Ok(response) => Ok(response.into_inner().cert_chain.join("\n")),
        Err(status) => Err(failure(&status)),
    }
}

fn failure(status: &tonic::Status) -> Failure {
    match status.code() {
        code @ (Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::FailedPrecondition) => Failure::Refused {
            code,
            message: status.message().to_owned(),
        },
        _ => Failure::NoAnswer(with_causes(status)),
    }
}

fn accept(
    address: SocketAddr,
    chain: &str,
    request: &CertificateRequest,
    key: &Key,
    now: SystemTime,
) -> Result<Credentials, RequestError> {
    let (chain, bundle) = Chain::with_roots_from_pem(chain)
        .map_err(|source| RequestError::Answer { address, source })?;
    let wrong = |source| RequestError::Credentials {
        address,
        source: Box::new(source),
    };
    let credentials = Credentials::new(key.clone(), chain, bundle).map_err(wrong)?;
    credentials.verify(now).map_err(wrong)?;
    if *credentials.identity() != request.identity {
        return Err(RequestError::WrongIdentity {
            address,
            found: Box::new(credentials.identity().clone()),
            expected: Box::new(request.identity.clone()),
        });
    }
    Ok(credentials)
}

/// The message and those of its causes: transport errors say what happened only in the last.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Wrappers repeat what they wrap.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[expect(
    clippy::expect_used,
    reason = "`ca` is a DNS label: two lower-case letters"
)]
fn ca_account() -> mesh_model::ServiceAccount {
    "ca".parse().expect("a valid name")
}
