//! CAs and certificates that are in no file: for who keeps them elsewhere, as in Nomad's variables.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Authority, BootstrapError, CA_LIFE, Place, params};

/// A certificate and its key, PEM. Its `Debug` does not show the key.
#[derive(Clone, Eq, PartialEq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key, a secret.
    pub key: String,
}

// === impl Authority ===

impl Authority {
    /// Makes a CA of this name.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::Certificate`].
    pub fn generate(name: &str) -> Result<Pair, BootstrapError> {
        let failed = |source| BootstrapError::Certificate {
            name: name.to_owned(),
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = params(name, &[], CA_LIFE).map_err(failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A CA out of its texts.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::Content`] if they are not those of a CA.
    pub fn from_pair(pair: &Pair) -> Result<Self, BootstrapError> {
        let nowhere = Path::new("");
        let certificate = pair.certificate.clone();
        Self::parse(nowhere, &Place::api(nowhere), certificate, &pair.key)
    }

    /// A certificate for the members of an etcd cluster at these addresses, towards clients and
    /// each other.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::Certificate`].
    pub fn etcd_member(
        &self,
        addresses: &[IpAddr],
        life: Duration,
    ) -> Result<Pair, BootstrapError> {
        let usages = [
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let names = addresses.iter().map(|address| SanType::IpAddress(*address));
        self.leaf("mesh etcd member", &usages, names.collect(), life)
    }

    /// A certificate for a client of etcd.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::Certificate`].
    pub fn etcd_client(&self, life: Duration) -> Result<Pair, BootstrapError> {
        let usages = [ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf("mesh api", &usages, Vec::new(), life)
    }

    /// A certificate of this CA with a key of its own.
    pub(super) fn leaf(
        &self,
        name: &str,
        usages: &[ExtendedKeyUsagePurpose],
        alternative_names: Vec<SanType>,
        life: Duration,
    ) -> Result<Pair, BootstrapError> {
        let failed = |source| BootstrapError::Certificate {
            name: name.to_owned(),
            source,
        };
        let mut params = params(name, &[], life).map_err(failed)?;
        params.extended_key_usages = usages.to_vec();
        params.subject_alt_names = alternative_names;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Whether a certificate is of this CA and more than a third of its life is left.
    pub fn is_fresh(&self, certificate: &str, now: SystemTime) -> bool {
        self.is_fresh_at(certificate, now).unwrap_or(false)
    }

    fn is_fresh_at(&self, certificate: &str, now: SystemTime) -> Option<bool> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        let (_, authority) = X509Certificate::from_der(&self.certificate).ok()?;
        parsed.verify_signature(Some(authority.public_key())).ok()?;
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let now = i64::try_from(seconds).ok()?;
        let validity = parsed.validity();
        let (begin, end) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        Some(end - now > (end - begin) / 3)
    }
}

// === impl Pair ===

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_certificate_is_fresh_for_two_thirds_of_its_life_and_for_its_own_ca() {
        let of = |name| Authority::from_pair(&Authority::generate(name).unwrap()).unwrap();
        let (ours, other) = (of("a"), of("a"));
        let member = ours
            .etcd_member(&["10.0.0.1".parse().unwrap()], HOUR)
            .unwrap();
        let now = SystemTime::now();
        assert!(ours.is_fresh(&member.certificate, now));
        assert!(!ours.is_fresh(&member.certificate, now + HOUR * 3 / 4));
        assert!(!other.is_fresh(&member.certificate, now));
        assert!(!ours.is_fresh("text", now));
        assert!(!format!("{member:?}").contains("PRIVATE"), "{member:?}");
    }

    #[test]
    fn a_key_of_another_ca_is_refused() {
        let (one, two) = (
            Authority::generate("a").unwrap(),
            Authority::generate("a").unwrap(),
        );
        let mixed = Pair {
            key: two.key,
            ..one
        };
        assert!(Authority::from_pair(&mixed).is_err());
    }
}
