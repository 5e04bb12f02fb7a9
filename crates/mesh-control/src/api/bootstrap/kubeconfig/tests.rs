//! What is kept, what is made anew, and who may read it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

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
    for user in ["", "pilot.", "ca.", "mixer."] {
        let file = home.path().join(format!("{user}kubeconfig"));
        assert_eq!(mode(&file), 0o600);
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
