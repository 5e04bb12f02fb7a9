//! The TLS side of a connection, from files.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{Error, Tls};

/// What verifies the server and shows the client's certificate.
pub(super) fn client_config(tls: &Tls) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |what: &str, source: rustls::Error| Error::Tls {
        what: what.to_owned(),
        source: Some(Box::new(source)),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| failed("no common protocol versions", source))?
        .with_root_certificates(roots(tls)?);
    let config = match (&tls.client_certificate, &tls.client_key) {
        (Some(chain), Some(key)) => builder
            .with_client_auth_cert(certificates(chain)?, private_key(key)?)
            .map_err(|source| failed("the client certificate does not fit its key", source))?,
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(tls: &Tls) -> Result<RootCertStore, Error> {
    let mut files: Vec<_> = tls.ca_file.iter().cloned().collect();
    if let Some(directory) = &tls.ca_directory {
        let entries =
            std::fs::read_dir(directory).map_err(|source| unreadable(directory, source))?;
        for entry in entries {
            let path = entry
                .map_err(|source| unreadable(directory, source))?
                .path();
            if path.is_file() {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        files.push(SYSTEM_ROOTS.into());
    }
    let mut store = RootCertStore::empty();
    for file in &files {
        store.add_parsable_certificates(certificates(file)?);
    }
    if store.is_empty() {
        let what = format!("no root certificate in {files:?}");
        return Err(Error::Tls { what, source: None });
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|source| unreadable(file, source))
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(file).map_err(|source| unreadable(file, source))
}

fn unreadable(file: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Tls {
        what: format!("`{}` cannot be read", file.display()),
        source: Some(source.into()),
    }
}

/// Where Debian and its kin keep the roots of the system.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
