//! A workload identity as Nomad signs it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};

/// A workload identity token. Nomad's own API takes it as a credential whatever its audience is,
/// so its `Debug` shows nothing, and it goes over verified TLS only.
#[derive(Clone, Eq, PartialEq)]
pub struct Token(String);

/// What a token says, once its signature was verified.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[non_exhaustive]
pub struct Claims {
    /// The namespace of the job.
    #[serde(rename = "nomad_namespace")]
    pub namespace: String,
    /// The job; of a dispatched or periodic child its parent.
    #[serde(rename = "nomad_job_id")]
    pub job: String,
    /// The allocation.
    #[serde(rename = "nomad_allocation_id")]
    pub allocation: String,
    /// The task; a token of a service has none.
    #[serde(rename = "nomad_task", default)]
    pub task: Option<String>,
    /// Who it is for.
    #[serde(rename = "aud", default, deserialize_with = "one_or_many")]
    pub audiences: Vec<String>,
    /// When it was issued, seconds since 1970.
    #[serde(rename = "iat")]
    pub issued: i64,
    /// From when it holds.
    #[serde(rename = "nbf")]
    pub not_before: i64,
    /// Until when; default identities have none.
    #[serde(rename = "exp", default)]
    pub expires: Option<i64>,
    /// Its own ID.
    #[serde(rename = "jti", default)]
    pub id: String,
}

impl Token {
    /// Takes a token as it came, without white space around it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Whether it says of itself that it is one of Nomad's: its claims, which nothing has verified,
    /// name an allocation. It tells where a token is to be verified, and proves nothing.
    pub fn claims_to_be_of_nomad(&self) -> bool {
        let mut parts = self.0.split('.');
        let (Some(_header), Some(claims), Some(_signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let json = URL_SAFE_NO_PAD.decode(claims).unwrap_or_default();
        let claims = serde_json::from_slice::<serde_json::Value>(&json);
        claims.is_ok_and(|claims| claims.get("nomad_allocation_id").is_some())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// One audience is a string, several are a list (RFC 7519, 4.1.3), and Nomad writes both.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }

    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}
