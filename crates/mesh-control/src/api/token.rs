//! Tokens of service accounts: short-lived JWTs (ES256), signed with a key that lives in the store.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::authentication::User;
use super::clock::Clock;
use super::json::at;
use super::kind::Kind;
use super::status::Failure;
use crate::store::{Store, StoreError};

/// Makes tokens and tells whose they are.
pub struct Tokens {
    store: Arc<dyn Store>,
    clock: Clock,
    key: ArcSwapOption<SigningKey>,
}

/// A token that was made.
#[derive(Clone, Eq, PartialEq)]
pub struct Issued {
    /// The token; whoever shows it is the account.
    pub token: String,
    /// Until when, seconds since 1970.
    pub expires: i64,
}

/// Whose a token is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reviewed {
    /// The account as a user.
    pub user: User,
    /// Which of the asked audiences the token is for.
    pub audiences: Vec<String>,
}

/// Why a token is not valid; for the log, not for the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Signature, time, issuer or audience are wrong.
    #[error("token: {0}")]
    Malformed(#[from] jsonwebtoken::errors::Error),
    /// The claims of the account and the subject disagree.
    #[error("token: subject `{subject}` is not the account of the token")]
    Subject {
        /// The subject found.
        subject: String,
    },
    /// The account is gone, or another one has its name.
    #[error("service account `{namespace}/{name}` of the token does not exist any more")]
    Gone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Nothing was signed yet.
    #[error("there is no signing key")]
    NoKey,
}

struct SigningKey {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// The claims, as Kubernetes has them.
#[derive(Debug, Deserialize, Serialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

/// What the token is bound to.
#[derive(Debug, Deserialize, Serialize)]
struct Bound {
    namespace: String,
    serviceaccount: Account,
}

#[derive(Debug, Deserialize, Serialize)]
struct Account {
    name: String,
    uid: String,
}

/// For whom a token is made.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Namespace of the account.
    pub namespace: &'a str,
    /// Name of the account.
    pub name: &'a str,
    /// Id of the account, so that a successor of the same name is another one.
    pub uid: &'a str,
    /// For whom it is valid.
    pub audiences: &'a [String],
    /// For how long.
    pub seconds: i64,
}

// === impl Tokens ===

impl Tokens {
    /// No key yet: [`Self::prepare`] gets it.
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self {
            store,
            clock,
            key: ArcSwapOption::empty(),
        }
    }

    /// Reads the signing key, or makes it if there is none; of several servers that try, one wins.
    ///
    /// # Errors
    ///
    /// What the store says, or 500 if the stored key is not one.
    pub async fn prepare(&self) -> Result<(), Failure> {
        if let Some(found) = self.store.get(&key_of_secret()).await? {
            return self.learn(&found.value);
        }
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| Failure::internal(error.to_string()))?;
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": KEY_SECRET,
                "namespace": KEY_NAMESPACE,
                "uid": super::identifier::uid(),
                "creationTimestamp": self.clock.now_text(),
            },
            "type": "mesh.dev/token-key",
            "data": {
                "private.pem": BASE64.encode(pair.serialize_pem()),
                "public.pem": BASE64.encode(pair.public_key_pem()),
            },
        });
        let bytes = secret.to_string().into_bytes();
        match self
            .store
            .create(&key_of_secret(), bytes.clone().into(), None)
            .await
        {
            Ok(_) => self.learn(&bytes),
            Err(StoreError::Exists { .. }) => {
                let found = self.store.get(&key_of_secret()).await?;
                let found = found.ok_or_else(|| Failure::internal("the signing key vanished"))?;
                self.learn(&found.value)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the key of a (changed) Secret.
    ///
    /// # Errors
    ///
    /// 500 if it holds no key.
    pub fn learn(&self, secret: &[u8]) -> Result<(), Failure> {
        // What the parser says may repeat a part of the key: it is not told.
        let broken = |what: &str| {
            Failure::internal(format!(
                "secret `{KEY_NAMESPACE}/{KEY_SECRET}` has no usable `{what}`"
            ))
        };
        let secret: Option<Value> = serde_json::from_slice(secret).ok();
        let pem = |name: &str| {
            let text = secret.as_ref()?.get("data")?.get(name)?.as_str()?;
            BASE64.decode(text).ok()
        };
        let public = pem("public.pem").ok_or_else(|| broken("public.pem"))?;
        let key = SigningKey {
            id: format!("{:016x}", xxh3_64(&public)),
            encoding: pem("private.pem")
                .and_then(|private| EncodingKey::from_ec_pem(&private).ok())
                .ok_or_else(|| broken("private.pem"))?,
            decoding: DecodingKey::from_ec_pem(&public)
                .ok()
                .ok_or_else(|| broken("public.pem"))?,
        };
        self.key.store(Some(Arc::new(key)));
        Ok(())
    }

    /// Makes a token.
    ///
    /// # Errors
    ///
    /// 503 before [`Self::prepare`], 500 if signing fails.
    pub fn issue(&self, order: &Order<'_>) -> Result<Issued, Failure> {
        let key = self.key.load();
        let key = key
            .as_ref()
            .ok_or_else(|| Failure::unavailable(TokenError::NoKey.to_string()))?;
        let now = self.clock.now_seconds();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{}:{}", order.namespace, order.name),
            aud: order.audiences.to_vec(),
            exp: now + order.seconds,
            iat: now,
            nbf: now,
            jti: super::identifier::uid(),
            kubernetes: Bound {
                namespace: order.namespace.to_owned(),
                serviceaccount: Account {
                    name: order.name.to_owned(),
                    uid: order.uid.to_owned(),
                },
            },
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key.id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &key.encoding)
            .map_err(|error| Failure::internal(error.to_string()))?;
        Ok(Issued {
            token,
            expires: claims.exp,
        })
    }

    /// Whose a token is, and which of the audiences it is for.
    ///
    /// # Errors
    ///
    /// Outside: what the store says. Inside: why the token is not valid.
    pub async fn review(
        &self,
        token: &str,
        audiences: &[&str],
    ) -> Result<Result<Reviewed, TokenError>, Failure> {
        let claims = match self.verify(token, audiences) {
            Ok(claims) => claims,
            Err(error) => return Ok(Err(error)),
        };
        let Bound {
            namespace,
            serviceaccount: Account { name, uid },
        } = claims.kubernetes;
        if claims.sub != format!("system:serviceaccount:{namespace}:{name}") {
            return Ok(Err(TokenError::Subject {
                subject: claims.sub,
            }));
        }
        let kind = Kind::find("", "v1", "serviceaccounts").ok_or_else(Failure::no_such_path)?;
        let account = self.store.get(&kind.key(Some(&namespace), &name)).await?;
        let is_same = account
            .and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok())
            .is_some_and(|account| *at(&account, "metadata.uid") == uid.as_str());
        if !is_same {
            return Ok(Err(TokenError::Gone { namespace, name }));
        }
        let audiences = audiences
            .iter()
            .filter(|audience| claims.aud.iter().any(|found| found == *audience))
            .map(|audience| (*audience).to_owned())
            .collect();
        Ok(Ok(Reviewed {
            user: User {
                groups: vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    User::AUTHENTICATED.to_owned(),
                ],
                name: claims.sub,
                uid,
            },
            audiences,
        }))
    }

    fn verify(&self, token: &str, audiences: &[&str]) -> Result<Claims, TokenError> {
        let key = self.key.load();
        let key = key.as_ref().ok_or(TokenError::NoKey)?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub", "nbf"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECONDS;
        Ok(jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation)?.claims)
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The key in the store of the Secret with the signing key.
pub fn key_of_secret() -> String {
    format!("core/secrets/{KEY_NAMESPACE}/{KEY_SECRET}")
}

/// For joining the mesh: what a TokenRequest without audience gets.
pub const JOIN_AUDIENCE: &str = "mesh-ca";

/// For calling this API; a join token does not open it.
pub const API_AUDIENCE: &str = "mesh-api";

/// The longest life of a token, seconds.
pub const MAX_SECONDS: i64 = 3600;

/// The shortest life of a token, seconds; below it a token is dead before it is used.
pub const MIN_SECONDS: i64 = 10;

/// Names who signed; not fetched by anybody.
const ISSUER: &str = "https://mesh.dev/api";

const KEY_NAMESPACE: &str = "mesh-system";
const KEY_SECRET: &str = "mesh-token-key";

/// Clocks of machines differ; a token's life is at most an hour.
const LEEWAY_SECONDS: u64 = 5;
