//! The roots that a workload trusts, several at a time so that a root can change.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use mesh_model::Problem;
use rustls::RootCertStore;

use crate::certificate::{certificates_from_pem, hex};
use crate::{Certificate, CertificateError};

/// The roots that a workload trusts; never empty, each once.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    roots: Vec<Certificate>,
    store: Arc<RootCertStore>,
}

/// SHA-256 of a certificate's DER, written as 64 hex digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fingerprint([u8; 32]);

// === impl TrustBundle ===

impl TrustBundle {
    /// A bundle of these roots.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Missing`] when there is none,
    /// [`CertificateError::Malformed`] when one cannot be a trust anchor.
    pub fn new(roots: Vec<Certificate>) -> Result<Self, CertificateError> {
        let mut unique: Vec<Certificate> = Vec::with_capacity(roots.len());
        for root in roots {
            if !unique.contains(&root) {
                unique.push(root);
            }
        }
        if unique.is_empty() {
            return Err(CertificateError::Missing {
                what: "root certificate",
            });
        }
        let mut store = RootCertStore::empty();
        for root in &unique {
            store
                .add(root.der().clone())
                .map_err(|error| CertificateError::Malformed {
                    reason: error.to_string(),
                })?;
        }
        Ok(Self {
            roots: unique,
            store: Arc::new(store),
        })
    }

    /// Reads every certificate of a PEM text.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and [`CertificateError::Pem`].
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        Self::new(certificates_from_pem(text)?)
    }

    /// The roots in PEM.
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(Certificate::to_pem).collect()
    }

    /// The roots.
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// SHA-256 of each root, by which it may be pinned.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.roots.iter().map(Certificate::fingerprint).collect()
    }

    pub(crate) fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl Eq for TrustBundle {}

// === impl Fingerprint ===

impl Fingerprint {
    /// The fingerprint of a certificate's DER.
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        // SHA-256 gives 32 bytes, so that nothing is cut or left over.
        for (byte, digested) in bytes
            .iter_mut()
            .zip(digest::digest(&digest::SHA256, der).as_ref())
        {
            *byte = *digested;
        }
        Self(bytes)
    }
}

impl FromStr for Fingerprint {
    type Err = Problem;

    /// Reads 64 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::new("", text, "a SHA-256 in hex (64 digits)");
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * index..2 * index + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_not_hex| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_it_is_written() {
        let fingerprint = Fingerprint::of(b"abc");
        assert_eq!(
            fingerprint.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            fingerprint.to_string().to_uppercase().parse(),
            Ok(fingerprint)
        );
    }

    #[test]
    fn what_is_no_fingerprint_is_named() {
        for text in ["", "ab", &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
            let problem = text.parse::<Fingerprint>().unwrap_err();
            assert_eq!(problem.value, text);
        }
    }

    #[test]
    fn a_bundle_without_roots_is_refused() {
        assert!(matches!(
            TrustBundle::from_pem("no certificate here"),
            Err(CertificateError::Missing { .. })
        ));
    }
}
