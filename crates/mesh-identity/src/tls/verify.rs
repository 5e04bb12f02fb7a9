//! The decisions of authentication: which chain is whose. Everything else in TLS only calls these.

use std::sync::Arc;

use mesh_model::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, PeerMisbehaved, RootCertStore, SignatureScheme,
};

use super::{Peer, Trust, provider};
use crate::{Certificate, CertificateError, Fingerprint, TrustBundle};

/// Why a valid chain is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The certificate itself.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The server is somebody else.
    #[error("the server is `{found}`, expected `{expected}`")]
    WrongIdentity {
        /// Who it is.
        found: Box<SpiffeId>,
        /// Who it should be.
        expected: Box<SpiffeId>,
    },
    /// The client is of another trust domain than the roots that vouch for it.
    #[error("the client is `{found}`, expected trust domain `{expected}`")]
    WrongTrustDomain {
        /// Who it is.
        found: Box<SpiffeId>,
        /// The trust domain of this mesh.
        expected: TrustDomain,
    },
    /// None of the certificates that the server sent is a pinned root.
    #[error("none of the certificates that the server sent is a pinned root; found {found:?}")]
    NotPinned {
        /// Fingerprints of what it sent.
        found: Vec<Fingerprint>,
    },
    /// A user certificate without exactly one name.
    #[error("the client certificate has {found} common names, expected exactly one")]
    UserName {
        /// How many it has.
        found: usize,
    },
}

/// Accepts a server whose chain leads to a trusted root and whose only URI SAN is `expected`.
#[derive(Debug)]
pub(crate) struct ServerIdentity {
    pub(crate) trust: Trust,
    pub(crate) expected: SpiffeId,
}

/// Accepts workloads of the mesh and, where asked to, users of the API.
#[derive(Debug)]
pub(crate) struct ClientIdentity {
    workloads: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
    users: Option<Arc<dyn ClientCertVerifier>>,
    required: bool,
}

// === impl ServerIdentity ===

impl ServerIdentity {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<(), Error> {
        match &self.trust {
            Trust::Roots(bundle) => {
                server_chain(end_entity, intermediates, bundle.store(), now)?;
            }
            Trust::Pinned(pins) => {
                let roots = pinned_roots(intermediates, pins).map_err(refused)?;
                server_chain(end_entity, intermediates, &roots, now)?;
            }
        }
        let found = Certificate::from_der(end_entity.clone())
            .and_then(|leaf| leaf.identity())
            .map_err(|error| refused(error.into()))?;
        if found != self.expected {
            return Err(refused(PeerError::WrongIdentity {
                found: Box::new(found),
                expected: Box::new(self.expected.clone()),
            }));
        }
        Ok(())
    }
}

impl ServerCertVerifier for ServerIdentity {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let intermediates: Vec<CertificateDer<'static>> = intermediates
            .iter()
            .map(|one| one.clone().into_owned())
            .collect();
        self.check(end_entity, &intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

// === impl ClientIdentity ===

impl ClientIdentity {
    pub(crate) fn new(
        workloads: &TrustBundle,
        trust_domain: TrustDomain,
        users: Option<&TrustBundle>,
        required: bool,
    ) -> Result<Self, Error> {
        Ok(Self {
            workloads: client_chain_verifier(workloads)?,
            trust_domain,
            users: users.map(client_chain_verifier).transpose()?,
            required,
        })
    }

    /// Who showed this chain: a function of the chain, the roots and the time.
    pub(crate) fn peer(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, Error> {
        // The roots decide of what kind the peer is, never what the certificate looks like.
        let workload = self
            .workloads
            .verify_client_cert(end_entity, intermediates, now);
        let Err(error) = workload else {
            return self.workload(end_entity);
        };
        let Some(users) = &self.users else {
            return Err(error);
        };
        match users.verify_client_cert(end_entity, intermediates, now) {
            Ok(_) => user(end_entity),
            // Of an issuer that neither knows: the mesh's answer is the one to show.
            Err(Error::InvalidCertificate(TlsCertificateError::UnknownIssuer)) => Err(error),
            Err(error) => Err(error),
        }
    }

    fn workload(&self, end_entity: &CertificateDer<'_>) -> Result<Peer, Error> {
        let found = Certificate::from_der(end_entity.clone())
            .and_then(|leaf| leaf.identity())
            .map_err(|error| refused(error.into()))?;
        if found.trust_domain != self.trust_domain {
            return Err(refused(PeerError::WrongTrustDomain {
                found: Box::new(found),
                expected: self.trust_domain.clone(),
            }));
        }
        Ok(Peer::Workload(found))
    }
}

impl ClientCertVerifier for ClientIdentity {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Every client has one certificate: a hint would only tell strangers our issuers.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.peer(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Checks that a chain leads to a root, holds now and may be a server's; no names.
pub(crate) fn server_chain(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms().all)
}

fn client_chain_verifier(roots: &TrustBundle) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots.store()), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

fn user(end_entity: &CertificateDer<'_>) -> Result<Peer, Error> {
    let leaf = Certificate::from_der(end_entity.clone()).map_err(|error| refused(error.into()))?;
    match leaf.common_names() {
        [name] if !name.is_empty() => Ok(Peer::User {
            name: name.clone(),
            groups: leaf.organizations().to_vec(),
        }),
        names => Err(refused(PeerError::UserName { found: names.len() })),
    }
}

/// The certificates that the server sent and that are pinned.
fn pinned_roots(
    sent: &[CertificateDer<'static>],
    pins: &[Fingerprint],
) -> Result<RootCertStore, PeerError> {
    let mut roots = RootCertStore::empty();
    for certificate in sent {
        if pins.contains(&Fingerprint::of(certificate)) {
            roots
                .add(certificate.clone())
                .map_err(|error| CertificateError::Malformed {
                    reason: error.to_string(),
                })?;
        }
    }
    if roots.is_empty() {
        let found = sent.iter().map(|one| Fingerprint::of(one)).collect();
        return Err(PeerError::NotPinned { found });
    }
    Ok(roots)
}

fn refused(error: PeerError) -> Error {
    Error::InvalidCertificate(TlsCertificateError::Other(OtherError(Arc::new(error))))
}

/// Only TLS 1.3 is configured, so that this is never asked by an honest library.
fn no_tls12() -> Error {
    Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}
