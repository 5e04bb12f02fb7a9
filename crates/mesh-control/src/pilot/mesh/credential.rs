//! Certificates and keys of gateways, as they were found.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mesh_model::{Namespace, ServiceAccount, Workload};

/// A Secret that a gateway needs: in its own namespace, and read only if its account may.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CredentialKey {
    /// The namespace of Secret and gateway.
    pub namespace: Namespace,
    /// The account of the gateway.
    pub account: ServiceAccount,
    /// The name of the Secret.
    pub name: String,
}

/// What is known of a Secret that a gateway needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// Certificate and key, or why it has none that can be served.
    pub pair: Result<KeyPair, String>,
    /// Roots for callers' certificates, PEM, or why it has none.
    pub roots: Result<Bytes, String>,
}

/// A certificate and its key; `Debug` shows neither.
#[derive(Clone, Eq, PartialEq)]
pub struct KeyPair {
    /// The certificate and those up to its root, PEM.
    pub chain: Bytes,
    /// The key, PEM.
    pub key: Bytes,
}

/// The credentials that were looked at; one that was not yet is not in here.
pub type Credentials = Arc<BTreeMap<CredentialKey, Credential>>;

// === impl CredentialKey ===

impl CredentialKey {
    /// The Secret of that name, for a gateway.
    pub fn of(workload: &Workload, name: impl Into<String>) -> Self {
        Self {
            namespace: workload.namespace.clone(),
            account: workload.service_account.clone(),
            name: name.into(),
        }
    }
}

// === impl Credential ===

impl Credential {
    /// One that cannot be used at all.
    pub fn unusable(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self {
            pair: Err(reason.clone()),
            roots: Err(reason),
        }
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(…)")
    }
}
