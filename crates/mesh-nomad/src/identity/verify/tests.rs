//! Tokens made here, with keys made here, and what is made of them.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;
const ALLOCATION: &str = "019ea0a5-16a2-ea2a-6c56-2d1e1372f68f";

struct Signer {
    key: EncodingKey,
    keys: Keys,
}

impl Signer {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate().unwrap();
        let private = document.to_pkcs8().unwrap();
        let public = URL_SAFE_NO_PAD.encode(document.public_key());
        let set = json!({ "keys": [
            { "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "k1", "x": public },
            { "kty": "later", "kid": "k2" },
        ] });
        Self {
            key: EncodingKey::from_ed_der(private.as_ref()),
            keys: Keys::from_json(set.to_string().as_bytes()).unwrap(),
        }
    }

    fn sign(&self, claims: &Value) -> Token {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("k1".to_owned());
        Token::new(&encode(&header, claims, &self.key).unwrap())
    }

    fn verify(&self, claims: &Value) -> Result<Claims, Refusal> {
        verify(&self.sign(claims), &self.keys, &Expectation::default(), NOW)
    }
}

fn claims() -> Value {
    json!({
        "aud": "mesh-ca", "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 3590, "jti": "j",
        "sub": "global:default:web:app:mesh-proxy:mesh",
        "nomad_namespace": "default", "nomad_job_id": "web", "nomad_task": "mesh-proxy",
        "nomad_allocation_id": ALLOCATION,
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

fn allocation() -> Value {
    json!({
        "ID": ALLOCATION, "Namespace": "default", "JobID": "web", "TaskGroup": "app",
        "NodeID": "n1", "DesiredStatus": "run", "ClientStatus": "running",
        "Job": { "ID": "web", "Namespace": "default", "TaskGroups": [{ "Name": "app", "Tasks": [
            { "Name": "web" },
            { "Name": "mesh-proxy", "Meta": { "mesh.role": "proxy" } },
        ] }] },
    })
}

fn identified(allocation: Value) -> Result<Proven, Refusal> {
    let claims: Claims = serde_json::from_value(claims()).unwrap();
    let allocation = serde_json::from_value(allocation).unwrap();
    identify(&claims, Some(&allocation))
}

#[test]
fn a_token_for_us_is_verified_whether_its_audience_is_text_or_list() {
    let signer = Signer::new();
    for audience in [json!("mesh-ca"), json!(["other", "mesh-ca"])] {
        let claims = signer.verify(&with("aud", audience)).unwrap();
        assert_eq!(claims.allocation, ALLOCATION);
        assert_eq!(claims.task.as_deref(), Some("mesh-proxy"));
    }
}

#[test]
fn a_token_for_others_or_of_another_time_is_refused() {
    let signer = Signer::new();
    let refused = |key, value| signer.verify(&with(key, value)).unwrap_err();
    assert!(matches!(
        refused("aud", json!("nomadproject.io")),
        Refusal::Audience { .. }
    ));
    assert!(matches!(
        refused("aud", json!([])),
        Refusal::Audience { .. }
    ));
    assert!(matches!(
        refused("exp", json!(NOW - 31)),
        Refusal::Expired { .. }
    ));
    assert!(matches!(
        refused("exp", Value::Null),
        Refusal::Lasting { .. }
    ));
    assert!(matches!(
        refused("exp", json!(NOW + 86_400)),
        Refusal::Lasting { .. }
    ));
    assert!(matches!(
        refused("nbf", json!(NOW + 31)),
        Refusal::NotYet { .. }
    ));
    assert!(matches!(
        refused("iat", json!(NOW + 31)),
        Refusal::NotYet { .. }
    ));
    // Clocks may be apart a little.
    assert!(signer.verify(&with("exp", json!(NOW - 29))).is_ok());
    assert!(signer.verify(&with("nbf", json!(NOW + 29))).is_ok());
}

#[test]
fn signatures_of_others_and_algorithms_of_the_token_are_refused() {
    let (signer, other) = (Signer::new(), Signer::new());
    let expected = Expectation::default();
    let token = other.sign(&claims());
    assert!(matches!(
        verify(&token, &signer.keys, &expected, NOW).unwrap_err(),
        Refusal::Signature
    ));
    assert!(matches!(
        verify(&token, &Keys::default(), &expected, NOW).unwrap_err(),
        Refusal::UnknownKey { .. }
    ));
    // "alg": "none", and HMAC with the public key as secret.
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = json!({ "alg": "none", "kid": "k1" });
    let forged = Token::new(&format!("{}.{}.", encoded(&none), encoded(&claims())));
    assert!(verify(&forged, &signer.keys, &expected, NOW).is_err());
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k1".to_owned());
    let forged = encode(&header, &claims(), &EncodingKey::from_secret(b"public")).unwrap();
    assert!(matches!(
        verify(&Token::new(&forged), &signer.keys, &expected, NOW).unwrap_err(),
        Refusal::Signature
    ));
}

#[test]
fn the_bearer_is_who_its_allocation_is() {
    let proven = identified(allocation()).unwrap();
    assert_eq!(
        proven.identity(&TrustDomain::default()).to_string(),
        "spiffe://cluster.local/ns/default/sa/web"
    );
    assert_eq!(proven.workload.as_str(), format!("{ALLOCATION}/app"));
    assert!(matches!(proven.account, Account::OfJob(_)));
}

#[test]
fn allocations_that_are_dead_or_of_others_prove_nothing() {
    let refused = |path: &str, value: &str| {
        let mut changed = allocation();
        *changed.pointer_mut(path).unwrap() = json!(value);
        identified(changed).unwrap_err()
    };
    assert!(matches!(
        refused("/ClientStatus", "complete"),
        Refusal::Dead { .. }
    ));
    assert!(matches!(
        refused("/DesiredStatus", "stop"),
        Refusal::Dead { .. }
    ));
    assert!(matches!(
        refused("/ClientStatus", "lost"),
        Refusal::Dead { .. }
    ));
    assert!(matches!(
        refused("/JobID", "other"),
        Refusal::OtherJob { .. }
    ));
    assert!(matches!(
        refused("/Namespace", "prod"),
        Refusal::OtherJob { .. }
    ));
    assert!(matches!(refused("/ID", "x"), Refusal::Unknown { .. }));
    assert!(matches!(
        refused("/Job/TaskGroups/0/Tasks/1/Meta/mesh.role", "app"),
        Refusal::OtherTask { .. }
    ));
    assert!(matches!(
        refused("/Job/TaskGroups/0/Tasks/1/Name", "renamed"),
        Refusal::OtherTask { .. }
    ));
    let claims: Claims = serde_json::from_value(claims()).unwrap();
    assert!(matches!(
        identify(&claims, None),
        Err(Refusal::Unknown { .. })
    ));
}

#[test]
fn a_dispatched_job_has_the_account_of_its_parent() {
    let mut child = allocation();
    child["JobID"] = json!("web/dispatch-1-2");
    child["Job"]["ID"] = json!("web/dispatch-1-2");
    child["Job"]["ParentID"] = json!("web");
    let proven = identified(child).unwrap();
    assert_eq!(proven.account.service_account().as_str(), "web");
}

#[test]
fn tokens_are_not_shown() {
    let token = Signer::new().sign(&claims());
    assert_eq!(format!("{token:?}"), "Token(..)");
}

#[test]
fn made_up_keys_cause_few_fetches() {
    let mut cache = super::super::KeyCache::default();
    let at = Duration::from_secs;
    assert!(cache.should_fetch("k1", at(0)));
    cache.begin(at(0));
    assert!(!cache.should_fetch("x", at(4)));
    assert!(cache.should_fetch("x", at(5)));
    cache.store(Signer::new().keys);
    assert!(!cache.should_fetch("k1", at(60)));
}

#[test]
fn tokens_of_nomad_are_told_apart_unverified() {
    let signer = Signer::new();
    assert!(signer.sign(&claims()).claims_to_be_of_nomad());
    let account = json!({ "sub": "system:serviceaccount:shop:web" });
    assert!(!signer.sign(&account).claims_to_be_of_nomad());
    for text in ["", "a", "a.b", "a.b.c.d", "..", "a.!.c"] {
        assert!(!Token::new(text).claims_to_be_of_nomad(), "{text}");
    }
}

#[test]
fn an_allocation_is_known_again_without_a_token() {
    let found: Allocation = serde_json::from_value(allocation()).unwrap();
    let again = identify_allocation(ALLOCATION, Some(&found)).unwrap();
    assert_eq!(again.account.service_account().as_str(), "web");
    assert_eq!(again.expires, None);
    assert!(matches!(
        identify_allocation(ALLOCATION, None),
        Err(Refusal::Unknown { .. })
    ));
    let mut stopped = allocation();
    stopped["DesiredStatus"] = "stop".into();
    let stopped = serde_json::from_value(stopped).unwrap();
    assert!(matches!(
        identify_allocation(ALLOCATION, Some(&stopped)),
        Err(Refusal::Dead { .. })
    ));
    let mut plain = allocation();
    plain["Job"]["TaskGroups"][0]["Tasks"] = json!([{ "Name": "main" }]);
    let plain = serde_json::from_value(plain).unwrap();
    assert!(matches!(
        identify_allocation(ALLOCATION, Some(&plain)),
        Err(Refusal::NoProxy { .. })
    ));
}
