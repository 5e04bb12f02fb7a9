//! The public keys that Nomad signs workload identities with.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey};

/// Public keys by their ID.
#[derive(Clone, Default)]
pub struct Keys {
    keys: BTreeMap<String, (Algorithm, DecodingKey)>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[error("the keys of Nomad cannot be read")]
pub struct KeysError {
    #[source]
    source: serde_json::Error,
}

/// The keys as they were fetched last, and when to fetch them again. Times are of any clock that
/// does not go back.
#[derive(Clone, Debug, Default)]
pub struct KeyCache {
    keys: Keys,
    fetched: Option<Duration>,
}

/// How long unknown key IDs cause no further fetch: whoever sends made-up ones causes one fetch in
/// that time, and a new key, which Nomad announces before it signs with it, waits no longer.
const FETCH_PAUSE: Duration = Duration::from_secs(5);

// === impl Keys ===

impl Keys {
    /// Reads a JSON Web Key Set (RFC 7517). Keys of other kinds than Nomad's are left out.
    ///
    /// # Errors
    ///
    /// When it is no key set.
    pub fn from_json(json: &[u8]) -> Result<Self, KeysError> {
        let set: serde_json::Value =
            serde_json::from_slice(json).map_err(|source| KeysError { source })?;
        // Key by key: one of a kind that is not known must not hide the others.
        let set: JwkSet =
            serde_json::from_value(lenient(set)).map_err(|source| KeysError { source })?;
        let keys = set.keys.iter().filter_map(key).collect();
        Ok(Self { keys })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn get(&self, id: &str) -> Option<&(Algorithm, DecodingKey)> {
        self.keys.get(id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

/// The set with only the keys that can be read.
fn lenient(mut set: serde_json::Value) -> serde_json::Value {
    if let Some(keys) = set.get_mut("keys").and_then(|keys| keys.as_array_mut()) {
        keys.retain(|key| serde_json::from_value::<Jwk>(key.clone()).is_ok());
    }
    set
}

fn key(jwk: &Jwk) -> Option<(String, (Algorithm, DecodingKey))> {
    use jsonwebtoken::jwk::AlgorithmParameters::{OctetKeyPair, RSA};

    // The algorithm is the key's, never the token's.
    let algorithm = match &jwk.algorithm {
        RSA(_) => Algorithm::RS256,
        OctetKeyPair(_) => Algorithm::EdDSA,
        _ => return None,
    };
    let id = jwk.common.key_id.clone()?;
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some((id, (algorithm, key)))
}

// === impl KeyCache ===

impl KeyCache {
    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whether to fetch because of a key that is not known. Nomad's `Cache-Control` is no reason:
    /// it holds until the next rotation, and one by hand comes earlier.
    pub fn should_fetch(&self, key: &str, now: Duration) -> bool {
        self.keys.get(key).is_none()
            && self
                .fetched
                .is_none_or(|fetched| now.saturating_sub(fetched) >= FETCH_PAUSE)
    }

    /// Notes that a fetch begins.
    pub fn begin(&mut self, now: Duration) {
        self.fetched = Some(now);
    }

    /// Stores what was fetched. Keys that are gone are forgotten, so that a revoked key is.
    pub fn store(&mut self, keys: Keys) {
        self.keys = keys;
    }
}
