//! Certificates for tests: a root and what it signs, as files.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

use super::bootstrap::Secrets;

/// A certificate authority of one test.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Writes a certificate for `identity`, its key and the roots into `dir`.
    pub(crate) fn issue(&self, identity: &str, dir: &Path) -> Secrets {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let secrets = Secrets {
            chain: dir.join("chain.pem"),
            key: dir.join("key.pem"),
            roots: dir.join("roots.pem"),
        };
        fs::write(&secrets.chain, certificate.pem()).unwrap();
        fs::write(&secrets.key, key.serialize_pem()).unwrap();
        fs::write(&secrets.roots, self.issuer.pem()).unwrap();
        secrets
    }
}
