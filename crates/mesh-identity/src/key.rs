//! A workload's private key: made in memory, and it stays with the workload.

use std::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::{Certificate, pem};

/// A P-256 key pair.
///
/// `Debug` shows nothing of it; clones share it.
#[derive(Clone)]
pub struct Key(Arc<KeyPair>);

/// Why there is no key, or no request made with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The system gave no randomness.
    #[error("no key could be made")]
    Generate {
        /// What the cryptographic library says.
        source: rcgen::Error,
    },
    /// The text holds no private key in PEM.
    #[error("no private key found in PEM text")]
    Pem {
        /// What the reader says.
        source: rustls::pki_types::pem::Error,
    },
    /// A key of another kind than PKCS#8 with ECDSA.
    #[error("the private key is not an ECDSA key in PKCS#8")]
    Unsupported {
        /// What the cryptographic library says.
        source: rcgen::Error,
    },
    /// The request could not be signed.
    #[error("the certificate request could not be signed")]
    Sign {
        /// What the cryptographic library says.
        source: rcgen::Error,
    },
}

impl Key {
    /// Makes a new P-256 key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Generate`] when the system has no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        match KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256) {
            Ok(pair) => Ok(Self(Arc::new(pair))),
            Err(source) => Err(KeyError::Generate { source }),
        }
    }

    /// Reads the first private key of a PEM text; it must be PKCS#8.
    ///
    /// # Errors
    ///
    /// [`KeyError::Pem`] when there is none, [`KeyError::Unsupported`] when it is of another kind.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|source| KeyError::Pem { source })?;
        match KeyPair::try_from(&der) {
            Ok(pair) => Ok(Self(Arc::new(pair))),
            Err(source) => Err(KeyError::Unsupported { source }),
        }
    }

    /// The key as PKCS#8 in PEM: a secret, for the workload's own files and its proxy only.
    pub fn to_pem(&self) -> String {
        pem::encode("PRIVATE KEY", self.0.serialized_der())
    }

    /// A certificate request (PKCS#10) in PEM, signed with this key.
    ///
    /// It names nobody: who the certificate is for is decided by what the caller proves to the CA.
    ///
    /// # Errors
    ///
    /// [`KeyError::Sign`], which no valid key gives.
    pub fn csr(&self) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .serialize_request(&*self.0)
            .and_then(|request| request.pem())
            .map_err(|source| KeyError::Sign { source })
    }

    /// The public half, as DER of `SubjectPublicKeyInfo`.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// Whether `certificate` is one of this key.
    pub fn matches(&self, certificate: &Certificate) -> bool {
        self.public_key() == certificate.public_key()
    }

    pub(crate) fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.serialize_der().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pem_form() {
        let key = Key::generate().unwrap();
        let read = Key::from_pem(&key.to_pem()).unwrap();
        assert_eq!(read.public_key(), key.public_key());
    }

    #[test]
    fn two_keys_differ() {
        let (one, two) = (Key::generate().unwrap(), Key::generate().unwrap());
        assert_ne!(one.public_key(), two.public_key());
    }

    #[test]
    fn text_without_a_key_is_an_error() {
        let error = Key::from_pem("nothing").unwrap_err();
        assert_eq!(error.to_string(), "no private key found in PEM text");
    }
}
