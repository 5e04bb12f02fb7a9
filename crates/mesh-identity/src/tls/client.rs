//! The calling side of TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_model::SpiffeId;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::verify::ServerIdentity;
use super::{ALPN_H2, TlsError, Trust, provider, server_name};
use crate::{Certificate, Chain, CredentialStore, Key, TrustBundle};

/// How to call one server of the mesh: whom it must prove to be, and who we are.
#[derive(Clone, Debug)]
pub struct ClientTls {
    expected: SpiffeId,
    own: Own,
}

/// Who we are, and whom we believe.
#[derive(Clone, Debug)]
enum Own {
    /// A workload: certificate and roots are read at each handshake.
    Workload(CredentialStore),
    /// Nobody yet.
    Nobody(Trust),
    /// A user of the API.
    User(Arc<User>),
}

#[derive(Debug)]
struct User {
    key: Key,
    chain: Vec<Certificate>,
    bundle: TrustBundle,
}

impl ClientTls {
    /// Calls `expected` as the workload whose current credentials are in `store`.
    pub fn mutual(store: CredentialStore, expected: SpiffeId) -> Self {
        Self {
            expected,
            own: Own::Workload(store),
        }
    }

    /// Calls `expected` without a certificate: the first contact.
    pub fn anonymous(trust: Trust, expected: SpiffeId) -> Self {
        Self {
            expected,
            own: Own::Nobody(trust),
        }
    }

    /// Calls `expected` with a client certificate of the API's CA.
    pub fn user(key: Key, chain: &Chain, bundle: TrustBundle, expected: SpiffeId) -> Self {
        let chain = chain.iter().cloned().collect();
        Self {
            expected,
            own: Own::User(Arc::new(User { key, chain, bundle })),
        }
    }

    /// Whom the server must prove to be.
    pub fn expected(&self) -> &SpiffeId {
        &self.expected
    }

    /// Connects and shakes hands.
    ///
    /// # Errors
    ///
    /// [`TlsError::NoCredentials`], [`TlsError::Connect`], [`TlsError::Handshake`], and
    /// [`TlsError::Refused`] when the server is not whom we expect.
    pub async fn connect(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>, TlsError> {
        let config = self.config()?;
        let name = ServerName::try_from(server_name(&self.expected))
            // Too long for a DNS name: without the hint the server shows its first identity.
            .unwrap_or_else(|_not_a_name| ServerName::IpAddress(address.ip().into()));
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = connect
            .await
            .map_err(|source| TlsError::Connect { address, source })?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|source| TlsError::of_handshake(address, source))
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let credentials = match &self.own {
            Own::Workload(store) => Some(store.current().ok_or(TlsError::NoCredentials)?),
            Own::Nobody(_) | Own::User(_) => None,
        };
        let trust = match (&self.own, &credentials) {
            (Own::Nobody(trust), _) => trust.clone(),
            (Own::User(user), _) => Trust::Roots(user.bundle.clone()),
            (Own::Workload(_), Some(credentials)) => Trust::Roots(credentials.bundle().clone()),
            (Own::Workload(_), None) => return Err(TlsError::NoCredentials),
        };
        let verifier = ServerIdentity {
            trust,
            expected: self.expected.clone(),
        };
        let failed = |source| TlsError::Configuration { source };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let der = |one: &Certificate| one.der().clone();
        let mut config = match (&self.own, &credentials) {
            (Own::User(user), _) => builder
                .with_client_auth_cert(user.chain.iter().map(der).collect(), user.key.to_der())
                .map_err(failed)?,
            (_, Some(credentials)) => builder
                .with_client_auth_cert(
                    credentials.chain().iter().map(der).collect(),
                    credentials.key().to_der(),
                )
                .map_err(failed)?,
            (_, None) => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        // A resumed session would skip the check of a certificate that may have changed since.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}
