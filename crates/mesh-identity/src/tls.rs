//! TLS 1.3 between identities: who the other side is comes from its certificate, checked in full.

mod client;
mod server;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_model::SpiffeId;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::{Certificate, Fingerprint, TrustBundle};

pub use client::ClientTls;
pub use server::{Clients, ServerTls};
pub use verify::PeerError;

/// Which roots a client trusts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trust {
    /// The roots among what the server sends whose SHA-256 is one of these: the first contact.
    Pinned(Vec<Fingerprint>),
    /// These roots.
    Roots(TrustBundle),
}

/// Who the other side of a connection is.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Peer {
    /// A workload, by a certificate of the mesh.
    Workload(SpiffeId),
    /// A user of the API, by a client certificate of the API's CA.
    User {
        /// Common name of the subject.
        name: String,
        /// Organizations of the subject.
        groups: Vec<String>,
    },
    /// Nobody: no certificate was shown.
    None,
}

/// One accepted connection, as handlers find it in the extensions of a request.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub peer: Peer,
    /// From where.
    pub remote: SocketAddr,
    /// The certificate that proved it.
    pub certificate: Option<Arc<Certificate>>,
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Own credentials are not there yet.
    #[error("there are no credentials yet")]
    NoCredentials,
    /// The server was asked for an identity that it does not have.
    #[error("no identity is called `{name}` here")]
    UnknownName {
        /// The server name that the client sent.
        name: String,
    },
    /// The configuration is refused by the TLS library.
    #[error("TLS cannot be configured")]
    Configuration {
        /// What the library says.
        source: rustls::Error,
    },
    /// No connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The handshake failed, on this side or the other.
    #[error("the TLS handshake with {address} failed")]
    Handshake {
        /// With whom.
        address: SocketAddr,
        /// What the library says.
        source: std::io::Error,
    },
    /// The other side is somebody, and not whom we accept.
    #[error("{address} is not accepted: {reason}")]
    Refused {
        /// Who.
        address: SocketAddr,
        /// What is wrong with its certificate.
        reason: String,
    },
}

impl TlsError {
    /// What a failed handshake was: our refusal in its own words, else the library's.
    fn of_handshake(address: SocketAddr, source: std::io::Error) -> Self {
        let refusal = source
            .get_ref()
            .and_then(|error| error.downcast_ref::<rustls::Error>())
            .and_then(refusal);
        match refusal {
            Some(reason) => Self::Refused { address, reason },
            None => Self::Handshake { address, source },
        }
    }

    fn of_peer(address: SocketAddr, error: &rustls::Error) -> Self {
        let reason = refusal(error).unwrap_or_else(|| error.to_string());
        Self::Refused { address, reason }
    }
}

/// Our own verifiers' words within an error of the TLS library, which would print them as debug text.
fn refusal(error: &rustls::Error) -> Option<String> {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(error)) => {
            Some(error.0.to_string())
        }
        _ => None,
    }
}

impl Peer {
    /// The workload's identity, if it is a workload.
    pub fn workload(&self) -> Option<&SpiffeId> {
        match self {
            Self::Workload(identity) => Some(identity),
            Self::User { .. } | Self::None => None,
        }
    }
}

/// The one cryptographic library, given explicitly: nothing here depends on a process-wide default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Protocol negotiated by ALPN: everything here speaks gRPC.
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// The server name by which a client says which of several identities it wants to talk to.
///
/// Only a hint for a listener that several roles share; what counts is the certificate.
pub(crate) fn server_name(identity: &SpiffeId) -> String {
    format!("{}.{}.mesh", identity.service_account, identity.namespace)
}
