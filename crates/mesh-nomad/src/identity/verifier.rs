//! Verification with keys and allocations of a server.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{
    Allocations, Expectation, KeyCache, Keys, KeysError, Proven, Refusal, Token, identify,
    identify_allocation, verify,
};
use crate::client::{Client, Error};
use crate::model::allocation::Allocation;

/// Proves who bears a token, asking a server for keys and allocations. Unlike the keys, the
/// allocation is asked for every time: it is what revokes a token.
#[derive(Debug)]
pub struct Verifier {
    client: Client,
    expected: Expectation,
    started: Instant,
    cache: Mutex<KeyCache>,
}

/// Why nobody is proven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The token proves nothing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nomad did not answer; the same token may prove something later.
    #[error("Nomad cannot be asked")]
    Nomad(#[source] Error),
    /// Nomad's keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl Verifier {
    /// A verifier that has no keys yet.
    pub fn new(client: Client, expected: Expectation) -> Self {
        Self {
            client,
            expected,
            started: Instant::now(),
            cache: Mutex::default(),
        }
    }

    /// Who bears a token at `now`, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Refused`] when it proves nothing; the others when that could not be found
    /// out.
    pub async fn prove(&self, token: &Token, now: i64) -> Result<Proven, VerifyError> {
        let mut keys = self.cache.lock().await.keys().clone();
        let claims = match verify(token, &keys, &self.expected, now) {
            Err(Refusal::UnknownKey { key }) => {
                keys = self.fetch(&key).await?;
                verify(token, &keys, &self.expected, now)?
            }
            other => other?,
        };
        let found = self.allocation(&claims.allocation).await?;
        Ok(identify(&claims, found.as_ref())?)
    }

    /// Who the injected proxy of an allocation is, for one who proved before that it is this one.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Refused`] when it is nobody any more; the others when that could not be
    /// found out.
    pub async fn prove_allocation(&self, id: &str) -> Result<Proven, VerifyError> {
        let found = self.allocation(id).await?;
        Ok(identify_allocation(id, found.as_ref())?)
    }

    async fn allocation(&self, id: &str) -> Result<Option<Allocation>, VerifyError> {
        let found = Allocations::allocation(&self.client, id).await;
        found.map_err(VerifyError::Nomad)
    }

    /// The keys, fetched again if the one of this ID is worth it.
    async fn fetch(&self, key: &str) -> Result<Keys, VerifyError> {
        {
            let mut cache = self.cache.lock().await;
            let now: Duration = self.started.elapsed();
            if !cache.should_fetch(key, now) {
                return Ok(cache.keys().clone());
            }
            cache.begin(now);
        }
        let json = self.client.jwks().await.map_err(VerifyError::Nomad)?;
        let keys = Keys::from_json(&json)?;
        self.cache.lock().await.store(keys.clone());
        Ok(keys)
    }
}

impl Allocations for Client {
    type Error = Error;

    async fn allocation(&self, id: &str) -> Result<Option<Allocation>, Error> {
        match Self::allocation(self, id).await {
            Ok(reply) => Ok(Some(reply.value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
