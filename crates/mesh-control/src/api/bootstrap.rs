//! First trust: the API's own CA, the server's certificate, and kubeconfigs for admin, Pilot, CA and Mixer.
//!
//! Everything lies in `MESH_HOME`, keys and kubeconfigs with mode 0600. What exists is kept; a client certificate
//! is renewed when less than a third of its life remains; the server's is made anew at each start.

use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authorization::Policy;

/// The API's CA, with its key; only on the machine of the API server.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    home: PathBuf,
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
        let (certificate, key) = Self::paths(home);
        match (certificate.exists(), key.exists()) {
            (true, true) => Self::load(home),
            (false, false) => Self::make(home),
            (true, false) => Err(BootstrapError::Half {
                found: certificate,
                missing: key,
            }),
            (false, true) => Err(BootstrapError::Half {
                found: key,
                missing: certificate,
            }),
        }
    }

    /// Reads the CA of `home`.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::File`] if it is not there, [`BootstrapError::Content`] if it cannot be used.
    pub fn load(home: &Path) -> Result<Self, BootstrapError> {
        let (certificate_path, key_path) = Self::paths(home);
        let pem = read(&certificate_path)?;
        let content = |path: &Path, expected, source| BootstrapError::Content {
            path: path.to_owned(),
            expected,
            source,
        };
        let key = KeyPair::from_pem(&read(&key_path)?)
            .map_err(|error| content(&key_path, "a private key in PEM", Some(error.into())))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| {
            content(
                &certificate_path,
                "a certificate in PEM",
                Some(error.into()),
            )
        })?;
        let is_pair = X509Certificate::from_der(&certificate).is_ok_and(|(_, parsed)| {
            parsed.public_key().subject_public_key.data == key.public_key_raw()
        });
        if !is_pair {
            return Err(content(
                &certificate_path,
                "the certificate of the CA's key",
                None,
            ));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| {
            content(
                &certificate_path,
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

    fn make(home: &Path) -> Result<Self, BootstrapError> {
        let name = "mesh api ca";
        let failed = |source| BootstrapError::Certificate {
            name: name.to_owned(),
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = params(name, &[], CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        let (certificate_path, key_path) = Self::paths(home);
        // The key first: a certificate without key is of no use, and would stand in the way.
        write(&key_path, &key.serialize_pem(), 0o600)?;
        write(&certificate_path, &certificate.pem(), 0o644)?;
        Self::load(home)
    }

    fn paths(home: &Path) -> (PathBuf, PathBuf) {
        let pki = home.join("pki");
        (pki.join("api-ca.crt"), pki.join("api-ca.key"))
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
        let mut params = params("mesh api", &[], SERVER_LIFE);
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

    /// A kubeconfig with a new client certificate for a user in groups; the text is a secret.
    ///
    /// `server` is the URL of the API; without one the URL of the admin's kubeconfig is taken.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::Certificate`] if the certificate cannot be made, [`BootstrapError::Content`] if no URL is
    /// given and the admin's kubeconfig has none.
    pub fn user_kubeconfig(
        &self,
        user: &str,
        groups: &[String],
        ttl: Duration,
        server: Option<&str>,
    ) -> Result<String, BootstrapError> {
        let server = match server {
            Some(server) => server.to_owned(),
            None => self.known_server()?,
        };
        let client = self.client(user, groups, ttl)?;
        Ok(self.kubeconfig(user, &server, &client))
    }

    /// Makes the kubeconfigs of [`ACCOUNTS`] in the home, or brings them up to date.
    pub(super) fn write_kubeconfigs(
        &self,
        server: &str,
        now: SystemTime,
    ) -> Result<(), BootstrapError> {
        for account in ACCOUNTS {
            let path = self.home.join(account.file);
            let found = match fs::read_to_string(&path) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(source) => return Err(BootstrapError::File { path, source }),
            };
            let kept = found.as_deref().and_then(|text| self.usable(text, now));
            let client = if let Some(client) = kept {
                client
            } else {
                let groups: Vec<_> = account
                    .groups
                    .iter()
                    .map(|group| (*group).to_owned())
                    .collect();
                self.client(account.user, &groups, CLIENT_LIFE)?
            };
            let text = self.kubeconfig(account.user, server, &client);
            if found.as_deref() != Some(text.as_str()) {
                write(&path, &text, 0o600)?;
            }
        }
        Ok(())
    }

    /// The client of a kubeconfig, if this CA signed it and a third of its life remains.
    fn usable(&self, kubeconfig: &str, now: SystemTime) -> Option<Client> {
        let config: Value = serde_json::from_str(kubeconfig).ok()?;
        let user = config.pointer("/users/0/user")?;
        let part = |name: &str| {
            let bytes = BASE64.decode(user.get(name)?.as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let client = Client {
            certificate: part("client-certificate-data")?,
            key: part("client-key-data")?,
        };
        let der = CertificateDer::from_pem_slice(client.certificate.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        let (_, authority) = X509Certificate::from_der(&self.certificate).ok()?;
        parsed.verify_signature(Some(authority.public_key())).ok()?;
        KeyPair::from_pem(&client.key)
            .ok()
            .filter(|key| parsed.public_key().subject_public_key.data == key.public_key_raw())?;
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let now = i64::try_from(seconds).ok()?;
        let (begin, end) = (
            parsed.validity().not_before.timestamp(),
            parsed.validity().not_after.timestamp(),
        );
        (end - now > (end - begin) / 3).then_some(client)
    }

    fn client(
        &self,
        user: &str,
        groups: &[String],
        life: Duration,
    ) -> Result<Client, BootstrapError> {
        let failed = |source| BootstrapError::Certificate {
            name: user.to_owned(),
            source,
        };
        let mut params = params(user, groups, life);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Client {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// JSON, which is YAML as well.
    fn kubeconfig(&self, user: &str, server: &str, client: &Client) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "mesh", "cluster": {
                "server": server,
                "certificate-authority-data": BASE64.encode(&self.pem),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": BASE64.encode(&client.certificate),
                "client-key-data": BASE64.encode(&client.key),
            }}],
            "contexts": [{"name": "mesh", "context": {"cluster": "mesh", "user": user}}],
            "current-context": "mesh",
        });
        format!("{config:#}\n")
    }

    fn known_server(&self) -> Result<String, BootstrapError> {
        let path = self.home.join("kubeconfig");
        let config: Option<Value> = serde_json::from_str(&read(&path)?).ok();
        config
            .and_then(|config| {
                let server = config.pointer("/clusters/0/cluster/server")?;
                server.as_str().map(str::to_owned)
            })
            .ok_or(BootstrapError::Content {
                path,
                expected: "the URL of the API server",
                source: None,
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

/// Certificate and key, PEM.
struct Client {
    certificate: String,
    key: String,
}

/// Who gets a kubeconfig in the home.
struct Account {
    user: &'static str,
    groups: &'static [&'static str],
    file: &'static str,
}

fn params(name: &str, groups: &[String], life: Duration) -> CertificateParams {
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
    params.serial_number = Some(SerialNumber::from(serial().to_vec()));
    params
}

/// Positive and 19 bytes long, so that it fits the 20 of RFC 5280.
fn serial() -> [u8; 19] {
    let mut bytes = [0; 19];
    aws_lc_rs::rand::fill(&mut bytes).unwrap_or_default();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    bytes
}

fn read(path: &Path) -> Result<String, BootstrapError> {
    fs::read_to_string(path).map_err(|source| BootstrapError::File {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file whole or not at all, readable by nobody else before its mode is set.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), BootstrapError> {
    let failed = |source| BootstrapError::File {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
        if parent.file_name().is_some_and(|name| name == "pki") {
            fs::set_permissions(parent, Permissions::from_mode(0o700)).map_err(failed)?;
        }
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

/// The admin passes every check; the others have ClusterRoles of their names.
const ACCOUNTS: &[Account] = &[
    Account {
        user: "mesh:admin",
        groups: &[Policy::MASTERS],
        file: "kubeconfig",
    },
    Account {
        user: "mesh:pilot",
        groups: &[],
        file: "pilot.kubeconfig",
    },
    Account {
        user: "mesh:ca",
        groups: &[],
        file: "ca.kubeconfig",
    },
    Account {
        user: "mesh:mixer",
        groups: &[],
        file: "mixer.kubeconfig",
    },
];

/// By which names the server may be called.
const SERVER_NAMES: &[&str] = &["localhost", "api.mesh-system.mesh", "api.mesh-system"];

/// Ten years: the CA of one installation, replaced by making a new home.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 86400);

/// A year; the certificate is made anew at each start.
const SERVER_LIFE: Duration = Duration::from_secs(365 * 86400);

/// A year; renewed at a start in its last third.
const CLIENT_LIFE: Duration = Duration::from_secs(365 * 86400);

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://127.0.0.1:6443";

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_and_kubeconfigs_are_for_their_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::prepare(home.path()).unwrap();
        authority.write_kubeconfigs(URL, SystemTime::now()).unwrap();
        assert_eq!(mode(&home.path().join("pki")), 0o700);
        assert_eq!(mode(&home.path().join("pki/api-ca.key")), 0o600);
        for account in ACCOUNTS {
            assert_eq!(mode(&home.path().join(account.file)), 0o600);
        }
    }

    #[test]
    fn a_second_start_keeps_what_exists() {
        let home = tempfile::tempdir().unwrap();
        let first = Authority::prepare(home.path()).unwrap();
        first.write_kubeconfigs(URL, SystemTime::now()).unwrap();
        let before = fs::read(home.path().join("kubeconfig")).unwrap();
        let second = Authority::prepare(home.path()).unwrap();
        second.write_kubeconfigs(URL, SystemTime::now()).unwrap();
        assert_eq!(first.pem(), second.pem());
        assert_eq!(fs::read(home.path().join("kubeconfig")).unwrap(), before);
    }

    #[test]
    fn another_address_keeps_the_certificate_and_old_age_renews_it() {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::prepare(home.path()).unwrap();
        let certificate = || {
            let text = fs::read_to_string(home.path().join("kubeconfig")).unwrap();
            let config: Value = serde_json::from_str(&text).unwrap();
            config["users"][0]["user"]["client-certificate-data"].to_string()
        };
        let now = SystemTime::now();
        authority.write_kubeconfigs(URL, now).unwrap();
        let first = certificate();
        authority
            .write_kubeconfigs("https://10.0.0.1:6443", now)
            .unwrap();
        assert_eq!(certificate(), first);
        let (early, late) = (now + CLIENT_LIFE / 2, now + CLIENT_LIFE / 4 * 3);
        authority.write_kubeconfigs(URL, early).unwrap();
        assert_eq!(certificate(), first);
        authority.write_kubeconfigs(URL, late).unwrap();
        assert_ne!(certificate(), first);
    }

    #[test]
    fn half_a_ca_is_not_replaced() {
        let home = tempfile::tempdir().unwrap();
        Authority::prepare(home.path()).unwrap();
        fs::remove_file(home.path().join("pki/api-ca.key")).unwrap();
        let error = Authority::prepare(home.path()).unwrap_err();
        assert!(matches!(error, BootstrapError::Half { .. }), "{error}");
    }

    #[test]
    fn a_users_kubeconfig_knows_the_server() {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::prepare(home.path()).unwrap();
        authority.write_kubeconfigs(URL, SystemTime::now()).unwrap();
        let groups = ["readers".to_owned()];
        let life = Duration::from_secs(3600);
        let text = authority
            .user_kubeconfig("bob", &groups, life, None)
            .unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["clusters"][0]["cluster"]["server"], URL);
        let client = authority.usable(&text, SystemTime::now()).unwrap();
        let der = CertificateDer::from_pem_slice(client.certificate.as_bytes()).unwrap();
        let peer = crate::api::authentication::Peer::of_certificate(&der);
        assert!(format!("{peer:?}").contains("readers"), "{peer:?}");
    }
}
