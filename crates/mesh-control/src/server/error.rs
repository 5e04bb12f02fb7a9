//! What ends a server process.

use std::net::SocketAddr;
use std::path::PathBuf;

use mesh_identity::{CertificateError, CredentialsError, KeyError};
use mesh_model::TrustDomain;

use crate::ca::{IssueError, RootError};
use crate::store::StoreError;

/// What ends a server process: waiting would not mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {what}")]
    Bind {
        /// What was to be served there.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A kubeconfig cannot be used.
    #[error("kubeconfig `{}` cannot be used", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A kubeconfig lacks something.
    #[error("kubeconfig `{}` has no usable {what}", path.display())]
    KubeconfigLacks {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// The API cannot start.
    #[error("the API server cannot start")]
    Api {
        /// What it says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The root of the mesh cannot be used.
    #[error("the CA has no root")]
    Root(#[from] RootError),
    /// The CA has no certificate for itself.
    #[error("the CA cannot issue its own certificate")]
    OwnCertificate(#[from] OwnCertificateError),
    /// Another trust domain than the mesh has.
    #[error("trust domain `{found}` was asked for, and the mesh has `{expected}`")]
    TrustDomain {
        /// What was asked for.
        found: TrustDomain,
        /// What the mesh has.
        expected: TrustDomain,
    },
    /// The listener for gRPC failed.
    #[error("serving {what} failed")]
    Serve {
        /// What was served.
        what: &'static str,
        /// What the transport says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A task of ours panicked.
    #[error("a role ended by a panic (a bug; please report it)")]
    Ended {
        /// What is known of it.
        source: tokio::task::JoinError,
    },
}

/// Why the CA has no certificate for itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnCertificateError {
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its own request is refused.
    #[error(transparent)]
    Request(#[from] crate::ca::csr::CsrError),
    /// Nothing was signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// What was signed is not its own.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// What was signed cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl ServerError {
    /// What the operator can do, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => Some(
                "is another `mesh server` running? `--listen` and its kin choose other addresses",
            ),
            Self::Kubeconfig { .. } | Self::KubeconfigLacks { .. } => Some(
                "the API server writes a kubeconfig for each role into its home; name it with `--kubeconfig`",
            ),
            Self::Store(error) => error.hint(),
            Self::Root(RootError::Secret { .. } | RootError::Contradiction { .. }) => {
                Some("restore the secret from a backup; without it every workload must join again")
            }
            Self::TrustDomain { .. } => {
                Some("leave `--trust-domain` out: a mesh keeps the one that it began with")
            }
            _ => None,
        }
    }
}
