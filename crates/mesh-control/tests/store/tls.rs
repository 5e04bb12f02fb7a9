//! An etcd that speaks TLS only, and only with clients that its authority has signed for.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use mesh_control::store::{EtcdTls, StoreConfig, StoreError, open};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use crate::suite::{create, take, value};
use crate::{Etcd, eventually};

/// An authority, whose files are in a directory.
struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
        Self {
            directory: directory.to_owned(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Signs for 127.0.0.1; certificate and key.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        params.subject_alt_names = vec![SanType::IpAddress(loopback)];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.directory.join(format!("{name}.{kind}.pem"));
        fs::write(path("crt"), certificate.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        (path("crt"), path("key"))
    }

    fn file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// What etcd is told so that it asks for certificates of this authority.
    fn server_options(&self) -> Vec<String> {
        let (certificate, key) = self.sign("server");
        let text = |path: PathBuf| path.display().to_string();
        let mut options = vec!["--client-cert-auth".to_owned()];
        for (name, path) in [
            ("--cert-file", certificate),
            ("--key-file", key),
            ("--trusted-ca-file", self.file()),
        ] {
            options.extend([name.to_owned(), text(path)]);
        }
        options
    }

    fn client_files(&self) -> EtcdTls {
        let (certificate, key) = self.sign("client");
        EtcdTls {
            authorities: Some(self.file()),
            certificate: Some(certificate),
            key: Some(key),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_tls_serves_whom_it_trusts_and_is_trusted_itself() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new(&directory.path().join("ours"));
    let others = Authority::new(&directory.path().join("others"));
    let etcd = Etcd::start_with(ours.server_options());
    let files = ours.client_files();
    let config = |tls: EtcdTls| StoreConfig::etcd(vec![etcd.url()], tls);

    let store = open(&config(files.clone())).await.unwrap();
    eventually(&store).await;
    let revision = create(&store, "a/x", "1").await;
    assert_eq!(value(&store, "a/x").await, "1");
    let mut watch = store.watch("a/", 0).await.unwrap();
    assert_eq!(take(&mut watch, 1).await[0].revision, revision);

    let unsigned = EtcdTls {
        certificate: None,
        key: None,
        ..files.clone()
    };
    let foreign = EtcdTls {
        authorities: Some(others.file()),
        ..files.clone()
    };
    for refused in [unsigned, foreign] {
        let store = open(&config(refused)).await.unwrap();
        let error = store.get("a/x").await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_files_are_taken_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path());
    let mut etcd = Etcd::start_with(authority.server_options());
    let config = StoreConfig::etcd(vec![etcd.url()], authority.client_files());
    let store = open(&config).await.unwrap();
    eventually(&store).await;
    create(&store, "a/x", "1").await;

    // The same files, of another authority: neither side would trust what the other had before.
    etcd.kill();
    let next = Authority::new(directory.path());
    next.server_options();
    next.client_files();
    etcd.restart();
    eventually(&store).await;
    assert_eq!(value(&store, "a/x").await, "1");
}

#[tokio::test]
async fn files_that_are_wrong_are_named_before_anything_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path());
    let empty = directory.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let files = authority.client_files();
    for wrong in [
        EtcdTls {
            authorities: Some(empty.clone()),
            ..files.clone()
        },
        EtcdTls {
            certificate: Some(empty.clone()),
            ..files.clone()
        },
        EtcdTls {
            key: Some(empty.clone()),
            ..files
        },
    ] {
        let config = StoreConfig::etcd(vec!["https://127.0.0.1:1".to_owned()], wrong);
        let error = open(&config).await.err().unwrap();
        assert!(
            matches!(error, StoreError::Configuration { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("empty.pem"), "{error}");
    }
}
