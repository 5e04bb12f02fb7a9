//! Kubeconfigs with client certificates of the API's CA, in the home and for users.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::file::{read, write};
use super::{Authority, BootstrapError, params};
use crate::api::authorization::Policy;

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

impl Authority {
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
    pub(in crate::api) fn write_kubeconfigs(
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
        let mut params = params(user, groups, life).map_err(failed)?;
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

/// A year; renewed at a start in its last third.
const CLIENT_LIFE: Duration = Duration::from_secs(365 * 86400);

#[cfg(test)]
mod tests;
