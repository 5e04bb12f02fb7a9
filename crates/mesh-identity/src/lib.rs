//! Who a workload is on the wire: key, CSR, client of the CA, and TLS that checks SPIFFE identities.
//!
//! ```text
//! Key ──csr──► CaClient ──Chain, TrustBundle──► Credentials ──publish──► CredentialStore
//!                 ▲                                                        │ read at each handshake
//!             Renewal: at half of life                     ServerTls, ClientTls ──► transport (tonic)
//! ```
//!
//! Everything that authenticates goes through the verifiers of [`tls`]: a chain is validated whole
//! (signatures, validity, usage), the leaf has exactly one URI SAN, and that is a [`SpiffeId`]
//! of the mesh's trust domain. DNS names in certificates mean nothing here.
//!
//! ```
//! use mesh_identity::{Fingerprint, Key};
//!
//! let key = Key::generate()?;
//! assert!(key.csr()?.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
//! assert_eq!(format!("{key:?}"), "Key(..)");
//!
//! let pin = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
//! assert_eq!(pin.parse(), Ok(Fingerprint::of(b"test")));
//! # Ok::<(), mesh_identity::KeyError>(())
//! ```
//!
//! [`SpiffeId`]: mesh_model::SpiffeId

pub mod bundle;
pub mod ca_client;
pub mod certificate;
pub mod credentials;
pub mod directory;
pub mod key;
mod pem;
pub mod renewal;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
pub mod tls;
pub mod transport;

pub use bundle::{Fingerprint, TrustBundle};
pub use ca_client::{CaClient, Proof, RequestError, Token};
pub use certificate::{Certificate, CertificateError, Chain};
pub use credentials::{CredentialStore, Credentials, CredentialsError};
pub use directory::{CredentialDirectory, DirectoryError};
pub use key::{Key, KeyError};
pub use renewal::{JoinError, JoinSource, Renewal, Ticket, TokenFile};
pub use tls::{ClientTls, Connection, Peer, ServerTls, TlsError, Trust};
