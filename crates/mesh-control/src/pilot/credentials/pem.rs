//! What a gateway's Envoy would refuse is found here first: it would keep the whole listener from
//! being served.

use bytes::Bytes;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, pki_types};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::pilot::mesh::KeyPair;

/// The shortest key of RSA that Envoy takes, in bits.
const SHORTEST_RSA: usize = 2048;

/// A certificate with its key, if they belong together and hold at `now`, in seconds since 1970.
pub(super) fn pair(chain: Option<&[u8]>, key: Option<&[u8]>, now: i64) -> Result<KeyPair, String> {
    let chain = chain.ok_or("has no `tls.crt`")?;
    let key = key.ok_or("has no `tls.key`")?;
    let certificates = certificates(chain).map_err(|reason| format!("`tls.crt` {reason}"))?;
    let leaf = certificates
        .first()
        .ok_or("has no certificate in `tls.crt`")?;
    check(leaf, now)?;
    let parsed = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_wrong| "has no private key that can be read in `tls.key`".to_owned())?;
    let signer = any_supported_type(&parsed)
        .map_err(|_wrong| "has a private key of an unknown kind in `tls.key`".to_owned())?;
    if !matches!(
        signer.algorithm(),
        SignatureAlgorithm::RSA | SignatureAlgorithm::ECDSA
    ) {
        return Err("has a key that is neither RSA nor ECDSA".to_owned());
    }
    CertifiedKey::new(certificates, signer)
        .keys_match()
        .map_err(|_wrong| "has a key that is not that of its certificate".to_owned())?;
    Ok(KeyPair {
        chain: Bytes::copy_from_slice(chain),
        key: Bytes::copy_from_slice(key),
    })
}

/// Roots for callers' certificates.
pub(super) fn roots(pem: Option<&[u8]>) -> Result<Bytes, String> {
    let pem = pem.ok_or("has no `ca.crt`")?;
    let found = certificates(pem).map_err(|reason| format!("`ca.crt` {reason}"))?;
    for root in &found {
        X509Certificate::from_der(root).map_err(|_wrong| "has no certificate in `ca.crt`")?;
    }
    if found.is_empty() {
        return Err("has no certificate in `ca.crt`".to_owned());
    }
    Ok(Bytes::copy_from_slice(pem))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, pki_types::pem::Error>>()
        .map_err(|_wrong| "is not PEM".to_owned())
}

fn check(leaf: &CertificateDer<'_>, now: i64) -> Result<(), String> {
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|_wrong| "has no certificate in `tls.crt`")?;
    let validity = parsed.validity();
    if now > validity.not_after.timestamp() {
        return Err(format!("expired at {}", validity.not_after));
    }
    if now < validity.not_before.timestamp() {
        return Err(format!("is not valid before {}", validity.not_before));
    }
    match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < SHORTEST_RSA => Err(format!(
            "has a key of RSA with {} bits, fewer than {SHORTEST_RSA}",
            key.key_size()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair as Key};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn issued(key: &Key, from: i64, until: i64) -> String {
        let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        let time = |seconds: i64| {
            rcgen::date_time_ymd(1970, 1, 1)
                + std::time::Duration::from_secs(seconds.unsigned_abs())
        };
        params.not_before = time(from);
        params.not_after = time(until);
        params.self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_key_that_belongs_to_its_certificate_is_taken() {
        let key = Key::generate().unwrap();
        let (chain, key) = (issued(&key, NOW - 1, NOW + 1), key.serialize_pem());
        let pair = pair(Some(chain.as_bytes()), Some(key.as_bytes()), NOW).unwrap();
        assert_eq!(format!("{pair:?}"), "KeyPair(…)");
        assert_eq!((pair.chain, pair.key), (chain.into(), key.into()));
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        let key = Key::generate().unwrap();
        let pem = key.serialize_pem();
        let good = issued(&key, NOW - 1, NOW + 1);
        let other = Key::generate().unwrap().serialize_pem();
        let reason = |chain: &str, key: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec());
            pair(some(chain).as_deref(), some(key).as_deref(), NOW).unwrap_err()
        };
        assert_eq!(reason("", &pem), "has no `tls.crt`");
        assert_eq!(reason(&good, ""), "has no `tls.key`");
        assert!(reason("nonsense", &pem).contains("no certificate"));
        assert!(reason(&good, "nonsense").contains("no private key"));
        assert_eq!(
            reason(&good, &other),
            "has a key that is not that of its certificate"
        );
        assert!(reason(&issued(&key, NOW - 2, NOW - 1), &pem).starts_with("expired at"));
        assert!(reason(&issued(&key, NOW + 1, NOW + 2), &pem).starts_with("is not valid before"));
        let edwards = Key::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let chain = issued(&edwards, NOW - 1, NOW + 1);
        assert!(reason(&chain, &edwards.serialize_pem()).contains("neither RSA nor ECDSA"));
    }

    #[test]
    fn roots_are_certificates() {
        let key = Key::generate().unwrap();
        let chain = issued(&key, 0, 1);
        assert!(roots(Some(chain.as_bytes())).is_ok());
        assert_eq!(roots(None), Err("has no `ca.crt`".to_owned()));
        assert!(roots(Some(b"nonsense")).is_err());
    }
}
