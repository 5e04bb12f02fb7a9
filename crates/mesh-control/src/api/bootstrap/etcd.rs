//! TLS between the API server and an etcd that is run for it alone: a CA of its own, so that nobody
//! whom the API knows by a certificate can read the store past it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::file::{read, write};
use super::{Authority, BootstrapError, CA_LIFE, Place};

/// Where the files are. Keys have mode 0600.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct EtcdFiles {
    /// The certificate of the CA, for clients.
    pub authority: PathBuf,
    /// The certificate by which the API server is known to etcd.
    pub client_certificate: PathBuf,
    /// The key of that.
    pub client_key: PathBuf,
    /// A directory with all that etcd needs and nothing else: `ca.crt`, `server.crt`,
    /// `server.key`.
    pub server: PathBuf,
}

/// Sees to it that the files are in `home`. What is there is kept, unless etcd's certificate is not
/// for one of these addresses or names. All of it lives as long as the CA, ten years.
///
/// # Errors
///
/// [`BootstrapError`], as when files cannot be written or the CA's are half there.
pub fn prepare_etcd(
    home: &Path,
    addresses: &[IpAddr],
    names: &[&str],
) -> Result<EtcdFiles, BootstrapError> {
    let files = EtcdFiles::of(home);
    let directory = EtcdFiles::directory(home);
    let place = Place {
        name: "mesh etcd ca",
        certificate: files.authority.clone(),
        key: directory.join("ca.key"),
    };
    let authority = Authority::prepare_at(home, &place)?;
    let client = (&files.client_certificate, &files.client_key);
    if !(client.0.exists() && client.1.exists()) {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        issue(&authority, "mesh:apiserver", usage, Vec::new(), client)?;
    }
    let server = (
        &files.server.join("server.crt"),
        &files.server.join("server.key"),
    );
    if !(server.1.exists() && is_for(server.0, addresses, names)) {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let mut alternatives: Vec<_> = addresses.iter().copied().map(SanType::IpAddress).collect();
        for name in names {
            let name = (*name).try_into();
            alternatives.push(SanType::DnsName(name.map_err(|source| {
                BootstrapError::Certificate {
                    name: "etcd".to_owned(),
                    source,
                }
            })?));
        }
        issue(&authority, "etcd", usage, alternatives, server)?;
    }
    write(&files.server.join("ca.crt"), authority.pem(), 0o644)?;
    Ok(files)
}

impl EtcdFiles {
    /// Where the files of `home` are, or will be.
    pub fn of(home: &Path) -> Self {
        let directory = Self::directory(home);
        Self {
            authority: directory.join("ca.crt"),
            client_certificate: directory.join("client.crt"),
            client_key: directory.join("client.key"),
            server: directory.join("server"),
        }
    }

    fn directory(home: &Path) -> PathBuf {
        home.join("pki").join("etcd")
    }
}

/// Writes a certificate and its key.
fn issue(
    authority: &Authority,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
    alternatives: Vec<SanType>,
    (certificate, key): (&PathBuf, &PathBuf),
) -> Result<(), BootstrapError> {
    let pair = authority.leaf(name, &[usage], alternatives, CA_LIFE)?;
    write(key, &pair.key, 0o600)?;
    write(certificate, &pair.certificate, 0o644)
}

/// Whether a certificate is there and for all of these.
fn is_for(certificate: &Path, addresses: &[IpAddr], names: &[&str]) -> bool {
    let Ok(pem) = read(certificate) else {
        return false;
    };
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else {
        return false;
    };
    let Ok((_, parsed)) = X509Certificate::from_der(&der) else {
        return false;
    };
    let Ok(Some(alternatives)) = parsed.subject_alternative_name() else {
        return false;
    };
    let found = &alternatives.value.general_names;
    let has_address = |address: &IpAddr| {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let mut found = found.iter();
        found.any(|it| matches!(it, GeneralName::IPAddress(it) if *it == bytes.as_slice()))
    };
    let has_name = |name: &&str| {
        let mut found = found.iter();
        found.any(|it| matches!(it, GeneralName::DNSName(it) if it == name))
    };
    addresses.iter().all(has_address) && names.iter().all(has_name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_for_their_owner_alone_and_stay_until_the_address_changes() {
        let home = tempfile::tempdir().unwrap();
        let address: IpAddr = "172.28.0.12".parse().unwrap();
        let prepare = |address| prepare_etcd(home.path(), &[address], &["etcd"]).unwrap();
        let files = prepare(address);
        let keys = [
            files.client_key.clone(),
            files.server.join("server.key"),
            home.path().join("pki/etcd/ca.key"),
        ];
        for key in &keys {
            let mode = fs::metadata(key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", key.display());
        }
        let texts = || keys.each_ref().map(|key| fs::read_to_string(key).unwrap());
        let before = texts();
        assert_eq!(prepare(address), files);
        assert_eq!(texts(), before);
        prepare("172.29.0.12".parse().unwrap());
        let after = texts();
        assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
        assert_ne!(after[1], before[1], "a certificate for the new address");
    }

    #[test]
    fn etcd_sees_no_key_but_its_own() {
        let home = tempfile::tempdir().unwrap();
        let files = prepare_etcd(home.path(), &[], &["etcd"]).unwrap();
        let mut names: Vec<_> = fs::read_dir(files.server)
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["ca.crt", "server.crt", "server.key"]);
    }
}
