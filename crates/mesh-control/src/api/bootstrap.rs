//! First trust: the API's own CA, the server's certificate, and kubeconfigs for admin, Pilot, CA and Mixer.
//!
//! Everything lies in `MESH_HOME`, keys and kubeconfigs with mode 0600. What exists is kept; a client certificate
//! is renewed when less than a third of its life remains; the server's is made anew at each start.

mod etcd;
mod file;
mod kubeconfig;
mod memory;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use etcd::{EtcdFiles, prepare_etcd};
use file::{read, write};

pub use memory::Pair;

/// The API's CA, with its key; only on the machine of the API server.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    home: PathBuf,
}

/// A CA's name, and where its files are.
struct Place {
    name: &'static str,
    certificate: PathBuf,
    key: PathBuf,
}

impl Place {
    fn api(home: &Path) -> Self {
        let pki = home.join("pki");
        Self {
            name: "mesh api ca",
            certificate: pki.join("api-ca.crt"),
            key: pki.join("api-ca.key"),
        }
    }
}

/// What the server shows to clients.
pub(super) struct ServerCertificate {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// The CA whose client certificates count.
    pub(super) authority: CertificateDer<'static>,
}

/// Why first trust could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// A file could not be read or written.
    #[error("`{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// Of certificate and key of the CA one is missing.
    #[error("`{}` exists but `{}` does not", found.display(), missing.display())]
    Half {
        /// The one that exists.
        found: PathBuf,
        /// The one that does not.
        missing: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("`{}` does not hold {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
        /// What the parser says, where one was asked.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A certificate could not be made.
    #[error("making a certificate for `{name}`")]
    Certificate {
        /// Whose.
        name: String,
        /// What happened.
        #[source]
        source: rcgen::Error,
    },
}

// === impl Authority ===

impl Authority {
    /// Reads the CA of `home`, or makes it if there is none.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::Half`] if only one of certificate and key exists: a CA is never replaced silently.
    pub fn prepare(home: &Path) -> Result<Self, BootstrapError> {
        Self::prepare_at(home, &Place::api(home))
    }

    fn prepare_at(home: &Path, place: &Place) -> Result<Self, BootstrapError> {
        let Place {
            certificate, key, ..
        } = place;
        let half = |found: &Path, missing: &Path| {
            Err(BootstrapError::Half {
                found: found.to_owned(),
                missing: missing.to_owned(),
            })
        };
        match (certificate.exists(), key.exists()) {
            (true, true) => Self::load_at(home, place),
            (false, false) => Self::make(home, place),
            (true, false) => half(certificate, key),
            (false, true) => half(key, certificate),
        }
    }

    /// Reads the CA of `home`.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::File`] if it is not there, [`BootstrapError::Content`] if it cannot be used.
    pub fn load(home: &Path) -> Result<Self, BootstrapError> {
        Self::load_at(home, &Place::api(home))
    }

    fn load_at(home: &Path, place: &Place) -> Result<Self, BootstrapError> {
        let (pem, key) = (read(&place.certificate)?, read(&place.key)?);
        Self::parse(home, place, pem, &key)
    }

    /// A CA out of its texts; the place is what errors name.
    fn parse(home: &Path, place: &Place, pem: String, key: &str) -> Result<Self, BootstrapError> {
        let (certificate_path, key_path) = (&place.certificate, &place.key);
        let content = |path: &Path, expected, source| BootstrapError::Content {
            path: path.to_owned(),
            expected,
            source,
        };
        let key = KeyPair::from_pem(key)
            .map_err(|error| content(key_path, "a private key in PEM", Some(error.into())))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| {
            content(certificate_path, "a certificate in PEM", Some(error.into()))
        })?;
        let is_pair = X509Certificate::from_der(&certificate).is_ok_and(|(_, parsed)| {
            parsed.public_key().subject_public_key.data == key.public_key_raw()
        });
        if !is_pair {
            return Err(content(
                certificate_path,
                "the certificate of the CA's key",
                None,
            ));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| {
            content(
                certificate_path,
                "the certificate of a CA",
                Some(error.into()),
            )
        })?;
        Ok(Self {
            certificate,
            pem,
            issuer,
            home: home.to_owned(),
        })
    }

    fn make(home: &Path, place: &Place) -> Result<Self, BootstrapError> {
        let Pair { certificate, key } = Self::generate(place.name)?;
        // The key first: a certificate without key is of no use, and would stand in the way.
        write(&place.key, &key, 0o600)?;
        write(&place.certificate, &certificate, 0o644)?;
        Self::load_at(home, place)
    }

    /// The certificate of the CA, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server certificate for these addresses and names, and for localhost.
    pub(super) fn server(
        &self,
        addresses: &[IpAddr],
        names: &[String],
    ) -> Result<ServerCertificate, BootstrapError> {
        let failed = |source| BootstrapError::Certificate {
            name: "mesh api".to_owned(),
            source,
        };
        let mut params = params("mesh api", &[], SERVER_LIFE).map_err(failed)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let fixed_addresses = [
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ];
        let mut sans: Vec<SanType> = Vec::new();
        for address in addresses.iter().chain(&fixed_addresses) {
            // A wildcard is where one listens, not a name.
            if !address.is_unspecified() && !sans.contains(&SanType::IpAddress(*address)) {
                sans.push(SanType::IpAddress(*address));
            }
        }
        let fixed_names = SERVER_NAMES.iter().map(|name| (*name).to_owned());
        for name in names.iter().cloned().chain(fixed_names) {
            let name = SanType::DnsName(name.try_into().map_err(failed)?);
            if !sans.contains(&name) {
                sans.push(name);
            }
        }
        params.subject_alt_names = sans;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(ServerCertificate {
            chain: vec![certificate.der().clone(), self.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            authority: self.certificate.clone(),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

fn params(
    name: &str,
    groups: &[String],
    life: Duration,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    for group in groups {
        subject.push(DnType::OrganizationName, group.as_str());
    }
    params.distinguished_name = subject;
    // A minute for clocks that differ.
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + life).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from(serial()?.to_vec()));
    Ok(params)
}

/// Positive and 19 bytes long, so that it fits the 20 of RFC 5280.
fn serial() -> Result<[u8; 19], rcgen::Error> {
    let mut bytes = [0; 19];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|aws_lc_rs::error::Unspecified| rcgen::Error::RingUnspecified)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes)
}

/// By which names the server may be called.
const SERVER_NAMES: &[&str] = &["localhost", "api.mesh-system.mesh", "api.mesh-system"];

/// Ten years: the CA of one installation, replaced by making a new home.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 86400);

/// A year; the certificate is made anew at each start.
const SERVER_LIFE: Duration = Duration::from_secs(365 * 86400);
