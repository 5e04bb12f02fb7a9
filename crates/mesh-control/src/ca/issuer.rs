//! Signing: a public key, an identity and a lifetime become a chain.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use mesh_identity::{Certificate, CertificateError, Chain, TrustBundle};
use mesh_model::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};

use super::Root;
use super::csr::PublicKey;
use super::lifetime::Lifetimes;

/// What to sign.
#[derive(Clone, Debug)]
pub struct Order {
    /// The key that the certificate is for.
    pub key: PublicKey,
    /// Who was proven to hold it.
    pub identity: SpiffeId,
    /// What the subject says besides, which no proxy looks at; nothing for most.
    pub subject: Option<String>,
    /// How long the certificate lives.
    pub ttl: Duration,
    /// When it begins.
    pub now: SystemTime,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The system gave no randomness for a serial number.
    #[error("no serial number could be drawn")]
    Serial,
    /// The cryptographic library refused.
    #[error("the certificate could not be signed")]
    Sign {
        /// What it says.
        source: rcgen::Error,
    },
    /// What was signed cannot be read back.
    #[error("the signed certificate is broken (a bug; please report it)")]
    Broken {
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The root ends before the certificate would begin.
    #[error("the root certificate has expired")]
    RootExpired,
}

/// A future of a trait that is used as an object.
pub type IssueFuture<'a> = Pin<Box<dyn Future<Output = Result<Chain, IssueError>> + Send + 'a>>;

/// Who signs: the built-in root, or another authority behind the same question.
pub trait Issuer: Send + Sync {
    /// Signs a leaf and gives the chain up to, and without, the root.
    fn issue<'a>(&'a self, order: &'a Order) -> IssueFuture<'a>;

    /// The roots to trust, those included that do not sign yet or any more.
    fn roots(&self) -> TrustBundle;
}

/// Signs with the root that the mesh made itself.
#[derive(Debug)]
pub struct RootIssuer {
    issuer: rcgen::Issuer<'static, KeyPair>,
    not_after: SystemTime,
    roots: TrustBundle,
}

impl RootIssuer {
    /// Signs with `root`.
    pub fn new(root: Root) -> Self {
        let Root {
            issuer,
            certificate,
            bundle,
        } = root;
        Self {
            issuer,
            not_after: certificate.not_after(),
            roots: bundle,
        }
    }

    /// Signs a leaf; the same question as [`Issuer::issue`], answered at once.
    ///
    /// # Errors
    ///
    /// Every variant of [`IssueError`].
    pub fn sign(&self, order: &Order) -> Result<Chain, IssueError> {
        let failed = |source| IssueError::Sign { source };
        let key = SubjectPublicKeyInfo::from_der(order.key.as_der()).map_err(failed)?;
        let params = self.leaf(order)?;
        let signed = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let leaf =
            Certificate::from_der(signed.into()).map_err(|source| IssueError::Broken { source })?;
        Ok(Chain::new(leaf, Vec::new()))
    }

    /// Everything that a leaf says.
    ///
    /// An X.509-SVID: one URI SAN, no CA, for both ends of TLS. The SAN is critical where the
    /// subject is empty (RFC 5280 4.2.1.6).
    fn leaf(&self, order: &Order) -> Result<CertificateParams, IssueError> {
        let not_after = (order.now + order.ttl).min(self.not_after);
        if not_after <= order.now {
            return Err(IssueError::RootExpired);
        }
        let uri = order
            .identity
            .to_string()
            .try_into()
            .map_err(|source| IssueError::Sign { source })?;
        let mut params = CertificateParams::default();
        params.not_before = (order.now - Lifetimes::backdate(order.ttl)).into();
        params.not_after = not_after.into();
        params.serial_number = Some(serial()?);
        params.distinguished_name = DistinguishedName::new();
        if let Some(subject) = &order.subject {
            params
                .distinguished_name
                .push(DnType::CommonName, subject.as_str());
        }
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl Issuer for RootIssuer {
    fn issue<'a>(&'a self, order: &'a Order) -> IssueFuture<'a> {
        Box::pin(std::future::ready(self.sign(order)))
    }

    fn roots(&self) -> TrustBundle {
        self.roots.clone()
    }
}

/// 126 random bits: positive, never zero, at most 16 bytes long (RFC 5280 4.1.2.2).
pub(crate) fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).map_err(|_no_randomness| IssueError::Serial)?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use mesh_identity::{Credentials, Key};
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

    fn order(key: &Key, ttl: Duration) -> Order {
        Order {
            key: PublicKey::of_request(&key.csr().unwrap()).unwrap(),
            identity: WEB.parse().unwrap(),
            subject: None,
            ttl,
            now: SystemTime::now(),
        }
    }

    fn issuer() -> RootIssuer {
        RootIssuer::new(Root::generate(SystemTime::now()).unwrap())
    }

    #[test]
    fn a_leaf_is_an_svid_of_its_key() {
        let key = Key::generate().unwrap();
        let issuer = issuer();
        let order = order(&key, Duration::from_secs(3600));
        let chain = issuer.sign(&order).unwrap();

        let credentials = Credentials::new(key, chain.clone(), issuer.roots()).unwrap();
        assert_eq!(credentials.identity().to_string(), WEB);
        credentials.verify(order.now).unwrap();
        assert!(
            credentials
                .verify(order.now + Duration::from_secs(3601))
                .is_err()
        );

        let (_, leaf) = X509Certificate::from_der(chain.leaf().der()).unwrap();
        assert_eq!(leaf.subject().as_raw(), [0x30, 0]);
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical);
        assert_eq!(names.value.general_names, [GeneralName::URI(WEB)]);
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
        assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    }

    #[test]
    fn a_leaf_begins_two_minutes_back_and_a_short_one_a_tenth_of_its_life() {
        let key = Key::generate().unwrap();
        for (ttl, back) in [(86_400, 120), (30, 3)] {
            let order = order(&key, Duration::from_secs(ttl));
            let chain = issuer().sign(&order).unwrap();
            let early = order.now.duration_since(chain.leaf().not_before()).unwrap();
            // Times in certificates have whole seconds.
            assert!((back..=back + 1).contains(&early.as_secs()), "{early:?}");
        }
    }

    #[test]
    fn a_leaf_ends_with_its_root() {
        let key = Key::generate().unwrap();
        let now = SystemTime::now();
        let issuer = RootIssuer::new(Root::generate(now).unwrap());
        let mut order = order(&key, Duration::from_secs(86_400));
        order.now = issuer.not_after - Duration::from_secs(60);
        let chain = issuer.sign(&order).unwrap();
        assert_eq!(chain.leaf().not_after(), issuer.not_after);
        order.now = issuer.not_after;
        assert!(matches!(issuer.sign(&order), Err(IssueError::RootExpired)));
    }

    #[test]
    fn serial_numbers_differ_and_are_positive() {
        let one = serial().unwrap().to_bytes();
        let two = serial().unwrap().to_bytes();
        assert_ne!(one, two);
        for bytes in [one, two] {
            assert_eq!(bytes.len(), 16);
            assert!((0x40..0x80).contains(&bytes[0]));
        }
    }
}
