//! What is taken from a certificate request: the public key, proven to be the caller's.

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, Oid};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};
use x509_parser::x509::SubjectPublicKeyInfo;

/// Requests beyond this length are refused unread: an ECDSA request takes half a KiB.
pub const MAX_LENGTH: usize = 8 * 1024;

/// A public key whose private half signed the request; DER of `SubjectPublicKeyInfo`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey(Vec<u8>);

/// Why a request is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Too long to be a request.
    #[error("the certificate request has {length} bytes, expected at most {MAX_LENGTH}")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// Not PEM of a request.
    #[error("the certificate request is not PEM: {reason}")]
    Pem {
        /// What the reader says.
        reason: String,
    },
    /// Not DER of a request.
    #[error("the certificate request cannot be parsed: {reason}")]
    Malformed {
        /// What the parser says.
        reason: String,
    },
    /// A key that the mesh does not use.
    #[error("the certificate request has {found}, expected an ECDSA key on P-256 or P-384")]
    Key {
        /// What it has.
        found: String,
    },
    /// The caller does not have the private key.
    #[error("the certificate request is not signed with its own key")]
    Signature,
}

impl PublicKey {
    /// Reads a request in PEM and checks that its own key signed it (RFC 2986 section 3).
    ///
    /// Only keys on P-256 and P-384 pass: a stock Envoy verifies no other ECDSA and no Ed25519
    /// signature by default, and RSA is slower for nothing.
    ///
    /// # Errors
    ///
    /// Every variant of [`CsrError`].
    pub fn of_request(pem: &str) -> Result<Self, CsrError> {
        if pem.len() > MAX_LENGTH {
            return Err(CsrError::TooLong { length: pem.len() });
        }
        let der =
            CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|error| {
                CsrError::Pem {
                    reason: error.to_string(),
                }
            })?;
        let malformed = |reason: String| CsrError::Malformed { reason };
        let (rest, request) = X509CertificationRequest::from_der(&der)
            .map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes after its end", rest.len())));
        }
        let key = &request.certification_request_info.subject_pki;
        check_curve(key)?;
        request
            .verify_signature()
            .map_err(|_wrong| CsrError::Signature)?;
        Ok(Self(key.raw.to_vec()))
    }

    /// DER of `SubjectPublicKeyInfo`.
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }
}

fn check_curve(key: &SubjectPublicKeyInfo<'_>) -> Result<(), CsrError> {
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err(CsrError::Key {
            found: format!("a key of type `{}`", key.algorithm.algorithm),
        });
    }
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| Oid::try_from(parameters.clone()).ok());
    match curve {
        Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
        Some(curve) => Err(CsrError::Key {
            found: format!("a key on curve `{curve}`"),
        }),
        None => Err(CsrError::Key {
            found: "a key on a curve without a name".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use mesh_identity::Key;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> (KeyPair, String) {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default()
            .serialize_request(&pair)
            .unwrap();
        let pem = request.pem().unwrap();
        (pair, pem)
    }

    #[test]
    fn the_key_of_a_workload_is_taken() {
        let key = Key::generate().unwrap();
        let taken = PublicKey::of_request(&key.csr().unwrap()).unwrap();
        assert_eq!(taken.as_der(), key.public_key());
    }

    #[test]
    fn p384_is_taken_too() {
        let (pair, pem) = request(&rcgen::PKCS_ECDSA_P384_SHA384);
        let taken = PublicKey::of_request(&pem).unwrap();
        assert_eq!(taken.as_der(), pair.subject_public_key_info());
    }

    #[test]
    fn keys_that_proxies_cannot_verify_are_refused() {
        for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P521_SHA512] {
            let (_, pem) = request(algorithm);
            let error = PublicKey::of_request(&pem).unwrap_err();
            assert!(matches!(error, CsrError::Key { .. }), "{error}");
        }
    }

    #[test]
    fn a_request_of_another_key_is_refused() {
        // The signature of one request under the content of another.
        let (ours, theirs) = (Key::generate().unwrap(), Key::generate().unwrap());
        let der = |key: &Key| {
            let pem = key.csr().unwrap();
            CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
                .unwrap()
                .to_vec()
        };
        let mut forged = der(&ours);
        let place = forged
            .windows(65)
            .position(|bytes| ours.public_key().ends_with(bytes))
            .unwrap();
        let public = theirs.public_key();
        forged[place..place + 65].copy_from_slice(&public[public.len() - 65..]);
        assert_eq!(
            PublicKey::of_request(&pem(&forged)),
            Err(CsrError::Signature)
        );
    }

    #[test]
    fn what_is_no_request_is_named() {
        let long = "x".repeat(MAX_LENGTH + 1);
        assert!(matches!(
            PublicKey::of_request(&long),
            Err(CsrError::TooLong { .. })
        ));
        assert!(matches!(
            PublicKey::of_request(""),
            Err(CsrError::Pem { .. })
        ));
        assert!(matches!(
            PublicKey::of_request(&pem(b"nonsense")),
            Err(CsrError::Malformed { .. })
        ));
    }

    fn pem(der: &[u8]) -> String {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    }

    proptest! {
        #[test]
        fn hostile_text_is_an_error(text in "\\PC{0,2000}") {
            prop_assert!(PublicKey::of_request(&text).is_err());
        }

        #[test]
        fn hostile_der_is_an_error(der in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(PublicKey::of_request(&pem(&der)).is_err());
        }

        #[test]
        fn a_changed_request_is_never_somebody_elses_key(
            place in 0_usize..1000,
            value in any::<u8>(),
        ) {
            let key = Key::generate().unwrap();
            let text = key.csr().unwrap();
            let mut der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
                .unwrap()
                .to_vec();
            let place = place % der.len();
            der[place] = value;
            if let Ok(taken) = PublicKey::of_request(&pem(&der)) {
                prop_assert_eq!(taken.as_der(), key.public_key());
            }
        }
    }
}
