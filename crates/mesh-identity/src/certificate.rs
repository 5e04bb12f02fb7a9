//! Certificates and chains: what is read from them, strictly.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_model::SpiffeId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{Fingerprint, TrustBundle, pem};

/// One X.509 certificate, with the facts that the mesh reads from it.
#[derive(Clone, Eq, PartialEq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    public_key: Vec<u8>,
    uris: Vec<String>,
    common_names: Vec<String>,
    organizations: Vec<String>,
    serial: Vec<u8>,
    not_before: SystemTime,
    not_after: SystemTime,
    is_root: bool,
}

/// A leaf certificate and the intermediates that lead to a root; never empty, without the root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chain {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not PEM.
    #[error("the text is not PEM: {reason}")]
    Pem {
        /// What the reader says.
        reason: String,
    },
    /// PEM without what was looked for.
    #[error("no {what} found in PEM text")]
    Missing {
        /// "leaf certificate" or "root certificate".
        what: &'static str,
    },
    /// Not DER of a certificate.
    #[error("the certificate cannot be parsed: {reason}")]
    Malformed {
        /// What the parser says.
        reason: String,
    },
    /// Not exactly one URI SAN.
    #[error("the certificate has {found} URI SANs, expected exactly one SPIFFE id")]
    UriCount {
        /// How many there are.
        found: usize,
    },
    /// A URI SAN that is no SPIFFE id of Istio's form.
    #[error("the URI SAN {problem}")]
    NotSpiffe {
        /// What is wrong with it.
        problem: mesh_model::Problem,
    },
}

// === impl Certificate ===

impl Certificate {
    /// Parses DER; bytes after the certificate are an error.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Malformed`].
    pub fn from_der(der: CertificateDer<'_>) -> Result<Self, CertificateError> {
        let der = der.into_owned();
        let malformed = |reason: String| CertificateError::Malformed { reason };
        let (rest, parsed) =
            X509Certificate::from_der(&der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes after its end", rest.len())));
        }
        // A second SAN extension is an error of the parser, not a choice.
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| malformed(error.to_string()))?;
        let uris = names.map_or_else(Vec::new, |extension| {
            let uri = |name: &GeneralName<'_>| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            };
            extension
                .value
                .general_names
                .iter()
                .filter_map(uri)
                .collect()
        });
        let is_ca = parsed
            .basic_constraints()
            .map_err(|error| malformed(error.to_string()))?
            .is_some_and(|extension| extension.value.ca);
        let texts = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute
                .as_str()
                .map(str::to_owned)
                .map_err(|error| malformed(error.to_string()))
        };
        let certificate = Self {
            public_key: parsed.public_key().raw.to_vec(),
            uris,
            common_names: parsed
                .subject()
                .iter_common_name()
                .map(texts)
                .collect::<Result<_, _>>()?,
            organizations: parsed
                .subject()
                .iter_organization()
                .map(texts)
                .collect::<Result<_, _>>()?,
            serial: parsed.raw_serial().to_vec(),
            not_before: at(parsed.validity().not_before.timestamp()),
            not_after: at(parsed.validity().not_after.timestamp()),
            is_root: is_ca && parsed.subject() == parsed.issuer(),
            der: der.clone(),
        };
        Ok(certificate)
    }

    /// The DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate in PEM.
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der)
    }

    /// Whose it is: its only URI SAN, a SPIFFE id.
    ///
    /// # Errors
    ///
    /// [`CertificateError::UriCount`] when there is none or more than one,
    /// [`CertificateError::NotSpiffe`] when it is of another form.
    pub fn identity(&self) -> Result<SpiffeId, CertificateError> {
        match self.uris.as_slice() {
            [uri] => uri
                .parse()
                .map_err(|problem| CertificateError::NotSpiffe { problem }),
            uris => Err(CertificateError::UriCount { found: uris.len() }),
        }
    }

    /// The public key, as DER of `SubjectPublicKeyInfo`.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The serial number, in lower-case hex.
    pub fn serial(&self) -> String {
        hex(&self.serial)
    }

    /// From when it holds.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it holds.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// SHA-256 of the DER.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// Whether it is a CA's and names itself as its issuer.
    pub fn is_root(&self) -> bool {
        self.is_root
    }

    /// The common name of its subject, if it has exactly one.
    pub fn common_name(&self) -> Option<&str> {
        match self.common_names.as_slice() {
            [name] => Some(name),
            _ => None,
        }
    }

    pub(crate) fn common_names(&self) -> &[String] {
        &self.common_names
    }

    pub(crate) fn organizations(&self) -> &[String] {
        &self.organizations
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("serial", &self.serial())
            .field("uris", &self.uris)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

// === impl Chain ===

impl Chain {
    /// A chain of a leaf and its intermediates.
    pub fn new(leaf: Certificate, intermediates: Vec<Certificate>) -> Self {
        Self {
            leaf,
            intermediates,
        }
    }

    /// Reads PEM: the leaf, its intermediates, and from the first self-issued CA certificate on
    /// the roots, as the CA answers and as credentials are kept on disk.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Pem`], [`CertificateError::Malformed`], and
    /// [`CertificateError::Missing`] when there is no leaf or no root.
    pub fn with_roots_from_pem(text: &str) -> Result<(Self, TrustBundle), CertificateError> {
        let mut certificates = certificates_from_pem(text)?;
        let first_root = certificates
            .iter()
            .position(Certificate::is_root)
            .unwrap_or(certificates.len());
        let roots = certificates.split_off(first_root);
        let mut chain = certificates.into_iter();
        let leaf = chain.next().ok_or(CertificateError::Missing {
            what: "leaf certificate",
        })?;
        Ok((Self::new(leaf, chain.collect()), TrustBundle::new(roots)?))
    }

    /// The leaf.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// What lies between leaf and root.
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// Leaf first, then the intermediates.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.intermediates)
    }

    /// The chain in PEM, leaf first.
    pub fn to_pem(&self) -> String {
        self.iter().map(Certificate::to_pem).collect()
    }
}

/// Every certificate of a PEM text, in its order.
pub(crate) fn certificates_from_pem(text: &str) -> Result<Vec<Certificate>, CertificateError> {
    let read = |der: Result<CertificateDer<'static>, rustls::pki_types::pem::Error>| match der {
        Ok(der) => Certificate::from_der(der),
        Err(error) => Err(CertificateError::Pem {
            reason: error.to_string(),
        }),
    };
    CertificateDer::pem_slice_iter(text.as_bytes())
        .map(read)
        .collect()
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15];
    bytes
        .iter()
        .flat_map(digits)
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// A time of a certificate; those before 1970 count as 1970, when nobody was valid yet.
fn at(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or_default())
}
