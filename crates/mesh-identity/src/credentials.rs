//! A workload's credentials, and the place where TLS reads the current ones at each handshake.

use std::sync::Arc;
use std::time::SystemTime;

use mesh_model::SpiffeId;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;

use crate::tls::verify;
use crate::{Certificate, CertificateError, Chain, Key, TrustBundle};

/// A key, its certificate chain and the roots to trust: what a workload is on the wire.
#[derive(Clone, Debug)]
pub struct Credentials {
    key: Key,
    chain: Chain,
    bundle: TrustBundle,
    identity: SpiffeId,
}

/// Why key, chain and roots do not make credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The leaf is of another key.
    #[error("certificate `{serial}` is of another key")]
    KeyMismatch {
        /// Serial of the leaf.
        serial: String,
    },
    /// The leaf names nobody, or nobody of the mesh.
    #[error("certificate `{serial}` has no identity of the mesh")]
    Identity {
        /// Serial of the leaf.
        serial: String,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The chain does not lead to one of the roots, or does not hold now.
    #[error("certificate `{serial}` does not verify against the trusted roots")]
    Invalid {
        /// Serial of the leaf.
        serial: String,
        /// What verification says.
        source: rustls::Error,
    },
}

/// Where the current credentials are: written by whoever renews, read at each handshake.
///
/// Clones share it. It is empty until the first credentials are published.
#[derive(Clone, Debug)]
pub struct CredentialStore {
    current: watch::Sender<Option<Arc<Credentials>>>,
}

// === impl Credentials ===

impl Credentials {
    /// Puts key, chain and roots together.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::KeyMismatch`] and [`CredentialsError::Identity`]; whether the chain holds
    /// at a time is [`Self::verify`]'s.
    pub fn new(key: Key, chain: Chain, bundle: TrustBundle) -> Result<Self, CredentialsError> {
        let serial = || chain.leaf().serial();
        if !key.matches(chain.leaf()) {
            return Err(CredentialsError::KeyMismatch { serial: serial() });
        }
        let identity = chain
            .leaf()
            .identity()
            .map_err(|source| CredentialsError::Identity {
                serial: serial(),
                source,
            })?;
        Ok(Self {
            key,
            chain,
            bundle,
            identity,
        })
    }

    /// Checks that the chain leads to one of the roots and holds at `now`.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Invalid`].
    pub fn verify(&self, now: SystemTime) -> Result<(), CredentialsError> {
        let since_epoch = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        verify::server_chain(
            self.chain.leaf().der(),
            &self.intermediates_der(),
            self.bundle.store(),
            UnixTime::since_unix_epoch(since_epoch),
        )
        .map_err(|source| CredentialsError::Invalid {
            serial: self.serial(),
            source,
        })
    }

    /// Whose they are.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The private key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The leaf of the chain.
    pub fn leaf(&self) -> &Certificate {
        self.chain.leaf()
    }

    /// The roots to trust.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The leaf's serial number, in lower-case hex.
    pub fn serial(&self) -> String {
        self.leaf().serial()
    }

    /// From when the leaf holds.
    pub fn not_before(&self) -> SystemTime {
        self.leaf().not_before()
    }

    /// Until when the leaf holds.
    pub fn not_after(&self) -> SystemTime {
        self.leaf().not_after()
    }

    fn intermediates_der(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        let intermediates = self.chain.intermediates().iter();
        intermediates.map(|one| one.der().clone()).collect()
    }
}

// === impl CredentialStore ===

impl CredentialStore {
    /// A store that holds nothing yet.
    pub fn empty() -> Self {
        Self {
            current: watch::Sender::new(None),
        }
    }

    /// A store that holds `credentials`.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            current: watch::Sender::new(Some(Arc::new(credentials))),
        }
    }

    /// The current credentials, if there are any yet; they may have expired.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.current.borrow().clone()
    }

    /// Makes `credentials` the current ones: every later handshake uses them.
    pub fn publish(&self, credentials: Credentials) {
        self.current.send_replace(Some(Arc::new(credentials)));
    }

    /// Tells of each change, for whoever hands credentials on (SDS).
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Credentials>>> {
        self.current.subscribe()
    }

    /// Waits until there are credentials.
    pub async fn ready(&self) -> Arc<Credentials> {
        let mut changes = self.current.subscribe();
        loop {
            if let Some(credentials) = changes.borrow_and_update().clone() {
                return credentials;
            }
            if changes.changed().await.is_err() {
                // Cannot be: `self` holds the sender. Waiting for ever is then the honest answer.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Default for CredentialStore {
    fn default() -> Self {
        Self::empty()
    }
}
