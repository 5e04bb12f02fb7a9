//! The root of the mesh: made once, kept in a Secret that only the CA may read.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use mesh_identity::{Certificate, CertificateError, TrustBundle};
use mesh_model::Namespace;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use super::issuer::{IssueError, serial};

/// The Secret's name, in `mesh-system`.
pub const SECRET: &str = "mesh-ca";
/// Key of the private key of the root that signs, PKCS#8 in PEM.
const SIGNING_KEY: &str = "tls.key";
/// Key of the certificate of the root that signs, PEM.
const SIGNING_CERTIFICATE: &str = "tls.crt";
/// Key of all roots to trust, PEM: the signing one, and the next or the last while roots change.
const ROOTS: &str = "root.crt";

/// How long a root lives: what pins it outlives machines, and its end would end every identity.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Machines whose clocks lie behind must be able to verify at once.
const BACKDATE: Duration = Duration::from_secs(3600);

/// A root: key, certificate, and all roots to trust beside it.
#[derive(Debug)]
pub struct Root {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: Certificate,
    pub(super) bundle: TrustBundle,
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// A root could not be made.
    #[error("no root certificate could be made")]
    Generate {
        /// What the cryptographic library says.
        source: rcgen::Error,
    },
    /// No serial number.
    #[error("no root certificate could be made")]
    Issue(#[from] IssueError),
    /// The API did not answer as it should.
    #[error("cannot {action} secret `mesh-system/{SECRET}`")]
    Api {
        /// "read" or "create".
        action: &'static str,
        /// What it says.
        source: Box<kube::Error>,
    },
    /// The Secret lacks something.
    #[error("secret `mesh-system/{SECRET}` has no usable `{key}`: {reason}")]
    Secret {
        /// Which key of its data.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The signing root is not among the trusted ones, or has another key.
    #[error("secret `mesh-system/{SECRET}` contradicts itself: {reason}")]
    Contradiction {
        /// In what.
        reason: &'static str,
    },
    /// What was made cannot be read back.
    #[error("the root certificate is broken")]
    Broken(#[from] CertificateError),
}

impl Root {
    /// Makes a root that begins at `now`, on P-256.
    ///
    /// # Errors
    ///
    /// [`RootError::Generate`], [`RootError::Issue`].
    pub fn generate(now: SystemTime) -> Result<Self, RootError> {
        let failed = |source| RootError::Generate { source };
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + LIFE).into();
        params.serial_number = Some(serial()?);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "mesh");
        // Names differ as keys do, so that a chain of another mesh is of an unknown issuer.
        let fingerprint = mesh_identity::Fingerprint::of(&key.subject_public_key_info());
        let short: String = fingerprint.to_string().chars().take(16).collect();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("mesh root {short}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        let certificate = Certificate::from_der(certificate.into())?;
        Ok(Self {
            bundle: TrustBundle::new(vec![certificate.clone()])?,
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads the root from its Secret, or makes both; of several CAs that try, one wins.
    ///
    /// # Errors
    ///
    /// Every variant of [`RootError`].
    pub async fn load_or_create(client: &Client, now: SystemTime) -> Result<Self, RootError> {
        let failed = |action| {
            move |source| RootError::Api {
                action,
                source: Box::new(source),
            }
        };
        let namespace = Namespace::mesh_system();
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace.as_str());
        if let Some(secret) = secrets.get_opt(SECRET).await.map_err(failed("read"))? {
            return Self::of_secret(&secret);
        }
        let new = Self::generate(now)?;
        let created = secrets
            .create(&PostParams::default(), &new.to_secret())
            .await;
        match created {
            Ok(_) => {
                tracing::info!(
                    root = %new.certificate.fingerprint(),
                    "made the root certificate of the mesh"
                );
                Ok(new)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let theirs = secrets.get(SECRET).await.map_err(failed("read"))?;
                Self::of_secret(&theirs)
            }
            Err(error) => Err(failed("create")(error)),
        }
    }

    /// Reads the root from a Secret.
    ///
    /// # Errors
    ///
    /// [`RootError::Secret`], [`RootError::Contradiction`].
    pub fn of_secret(secret: &Secret) -> Result<Self, RootError> {
        let text = |key: &'static str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            let bytes = bytes.ok_or_else(|| unusable(key, "it is missing"))?;
            String::from_utf8(bytes.0.clone()).map_err(|error| unusable(key, &error))
        };
        let der = PrivateKeyDer::from_pem_slice(text(SIGNING_KEY)?.as_bytes())
            .map_err(|error| unusable(SIGNING_KEY, &error))?;
        let key = KeyPair::try_from(&der).map_err(|error| unusable(SIGNING_KEY, &error))?;
        let public_key = key.subject_public_key_info();
        let signing = TrustBundle::from_pem(&text(SIGNING_CERTIFICATE)?)
            .map_err(|error| unusable(SIGNING_CERTIFICATE, &error))?;
        let [certificate] = signing.roots() else {
            return Err(unusable(
                SIGNING_CERTIFICATE,
                "expected exactly one certificate",
            ));
        };
        let bundle =
            TrustBundle::from_pem(&text(ROOTS)?).map_err(|error| unusable(ROOTS, &error))?;
        if certificate.public_key() != public_key {
            return Err(RootError::Contradiction {
                reason: "the signing certificate is of another key",
            });
        }
        if !bundle.roots().contains(certificate) {
            return Err(RootError::Contradiction {
                reason: "the signing certificate is not among the roots",
            });
        }
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key)
            .map_err(|error| unusable(SIGNING_CERTIFICATE, &error))?;
        Ok(Self {
            issuer,
            certificate: certificate.clone(),
            bundle,
        })
    }

    /// The Secret that keeps the root.
    pub fn to_secret(&self) -> Secret {
        let data = [
            (SIGNING_KEY, self.issuer.key().serialize_pem()),
            (SIGNING_CERTIFICATE, self.certificate.to_pem()),
            (ROOTS, self.bundle.to_pem()),
        ];
        let data: BTreeMap<String, ByteString> = data
            .into_iter()
            .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
            .collect();
        Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(Namespace::mesh_system().to_string()),
                ..ObjectMeta::default()
            },
            type_: Some("mesh.dev/ca".to_owned()),
            data: Some(data),
            ..Secret::default()
        }
    }

    /// The root that signs.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// All roots to trust.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }
}

fn unusable(key: &'static str, reason: &(impl ToString + ?Sized)) -> RootError {
    RootError::Secret {
        key,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        Root::generate(SystemTime::now()).unwrap()
    }

    fn with(secret: &Secret, key: &str, text: String) -> Secret {
        let mut secret = secret.clone();
        let data = secret.data.get_or_insert_default();
        data.insert(key.to_owned(), ByteString(text.into_bytes()));
        secret
    }

    #[test]
    fn a_root_survives_its_secret() {
        let made = root();
        let read = Root::of_secret(&made.to_secret()).unwrap();
        assert_eq!(read.certificate(), made.certificate());
        assert_eq!(read.bundle(), made.bundle());
        assert_eq!(
            read.issuer.key().serialized_der(),
            made.issuer.key().serialized_der()
        );
        assert!(made.certificate().is_root());
    }

    #[test]
    fn a_second_root_may_be_trusted_beside_the_signing_one() {
        let (now, next) = (root(), root());
        let both = format!("{}{}", now.bundle().to_pem(), next.bundle().to_pem());
        let read = Root::of_secret(&with(&now.to_secret(), ROOTS, both)).unwrap();
        assert_eq!(read.certificate(), now.certificate());
        assert_eq!(read.bundle().roots().len(), 2);
    }

    #[test]
    fn a_secret_that_contradicts_itself_is_refused() {
        let (ours, other) = (root(), root());
        let secret = ours.to_secret();
        let key = with(&secret, SIGNING_KEY, other.issuer.key().serialize_pem());
        let roots = with(&secret, ROOTS, other.bundle().to_pem());
        for secret in [key, roots] {
            let error = Root::of_secret(&secret).unwrap_err();
            assert!(matches!(error, RootError::Contradiction { .. }), "{error}");
        }
    }

    #[test]
    fn what_the_secret_lacks_is_named() {
        let secret = root().to_secret();
        for key in [SIGNING_KEY, SIGNING_CERTIFICATE, ROOTS] {
            let mut without = secret.clone();
            without.data.get_or_insert_default().remove(key);
            let error = Root::of_secret(&without).unwrap_err().to_string();
            assert!(error.contains(&format!("no usable `{key}`")), "{error}");
            let error = Root::of_secret(&with(&secret, key, "x".to_owned())).unwrap_err();
            assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        }
    }
}
