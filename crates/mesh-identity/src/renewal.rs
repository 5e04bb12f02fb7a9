//! Keeping credentials alive: renewed at half of their life, retried when that fails.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use mesh_model::SpiffeId;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ca_client::CertificateRequest;
use crate::{
    CaClient, CredentialDirectory, CredentialStore, Credentials, Fingerprint, Key, Proof,
    RequestError, Token, Trust,
};

/// A future of a trait that is used as an object.
pub type JoinFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, JoinError>> + Send + 'a>>;

/// Where a workload learns how to reach the CA and how to prove itself to it at first.
pub trait JoinSource: Send + Sync {
    /// Replicas of the CA, in the order in which to try them.
    fn addresses(&self) -> JoinFuture<'_, Vec<SocketAddr>>;

    /// A proof for a workload without a certificate that holds; asked for at each attempt.
    fn ticket(&self) -> JoinFuture<'_, Ticket>;

    /// Whether the ticket is shown before the current certificate: somebody renews it, and what it
    /// proves may have changed. The certificate follows when that fails.
    fn is_renewed(&self) -> bool {
        false
    }
}

/// What a workload without a certificate shows, and whom it believes.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The join token.
    pub token: Token,
    /// The roots that the CA's own certificate must lead to.
    pub trust: Trust,
}

/// Why there is no way to join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// There is no token at all.
    #[error("there is no join token, and no stored certificate that still holds")]
    NoToken,
    /// The token's file cannot be read.
    #[error("cannot read the join token `{}`", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another source failed.
    #[error("{what}")]
    Source {
        /// What was asked for.
        what: String,
        /// What it says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The join of an agent: addresses and pinned roots from its configuration, the token from a file.
#[derive(Clone, Debug)]
pub struct TokenFile {
    /// The file, read at each attempt; absent when only a stored certificate can be renewed.
    pub path: Option<PathBuf>,
    /// Replicas of the CA.
    pub addresses: Vec<SocketAddr>,
    /// SHA-256 of the roots to trust at first.
    pub roots: Vec<Fingerprint>,
}

/// Keeps the credentials of one identity alive.
pub struct Renewal {
    /// Whose.
    pub identity: SpiffeId,
    /// Lifetime to ask for.
    pub ttl: Duration,
    /// Where current credentials are published.
    pub store: CredentialStore,
    /// Where they are kept over restarts.
    pub directory: Option<CredentialDirectory>,
    /// How to join.
    pub source: Box<dyn JoinSource>,
    /// The time of day.
    pub clock: Clock,
    /// Numbers in −1..=1, evenly spread.
    pub jitter: Jitter,
}

/// The time of day; [`system_clock`] but in tests.
pub type Clock = Box<dyn Fn() -> SystemTime + Send + Sync>;
/// Numbers in −1..=1, evenly spread; [`random_jitter`] but in tests.
pub type Jitter = Box<dyn Fn() -> f64 + Send + Sync>;

/// Why an attempt to get a certificate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewalError {
    /// No address or token.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The CA gave none.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Longest pause between attempts.
const MAX_RETRY: Duration = Duration::from_secs(60);
/// Shortest pause between attempts.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// Longest sleep at a time: a machine that was suspended, or whose clock was set, looks again.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// When to renew a certificate: at half of its life, moved by up to 10 % of it.
///
/// `jitter` is in −1..=1; half a fleet that started together is so spread over a fifth of a life.
///
/// ```
/// use mesh_identity::renewal::next_renewal;
/// use std::time::{Duration, SystemTime};
///
/// let from = SystemTime::UNIX_EPOCH;
/// let until = from + Duration::from_secs(1000);
/// assert_eq!(next_renewal(from, until, from, 0.0), from + Duration::from_secs(500));
/// assert_eq!(next_renewal(from, until, from, 1.0), from + Duration::from_secs(600));
/// // Late already: now.
/// assert_eq!(next_renewal(from, until, until, 0.0), until);
/// ```
pub fn next_renewal(
    not_before: SystemTime,
    not_after: SystemTime,
    now: SystemTime,
    jitter: f64,
) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let due = not_before + life.mul_f64(0.5 + 0.1 * bounded(jitter));
    due.max(now)
}

/// How long to wait after the `failures`-th failure in a row: doubling from 1 s to 60 s, at most
/// a fifth of what is `left` of the certificate's life, moved by up to a quarter; 1 s at least.
pub fn retry_delay(failures: u32, left: Duration, jitter: f64) -> Duration {
    let doubled = MIN_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    let mut delay = doubled.min(MAX_RETRY);
    if !left.is_zero() {
        delay = delay.min(left / 5);
    }
    delay.mul_f64(1.0 + 0.25 * bounded(jitter)).max(MIN_PAUSE)
}

/// The system's time of day.
pub fn system_clock() -> Clock {
    Box::new(SystemTime::now)
}

/// Jitter from the system's randomness.
pub fn random_jitter() -> Jitter {
    Box::new(|| {
        let mut bytes = [0; 4];
        // Without randomness there is no spread: bad manners, no danger.
        if aws_lc_rs::rand::fill(&mut bytes).is_err() {
            return 0.0;
        }
        f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX) * 2.0 - 1.0
    })
}

// === impl TokenFile ===

impl JoinSource for TokenFile {
    fn addresses(&self) -> JoinFuture<'_, Vec<SocketAddr>> {
        Box::pin(async { Ok(self.addresses.clone()) })
    }

    fn ticket(&self) -> JoinFuture<'_, Ticket> {
        Box::pin(async {
            let path = self.path.as_ref().ok_or(JoinError::NoToken)?;
            let text =
                tokio::fs::read_to_string(path)
                    .await
                    .map_err(|source| JoinError::TokenFile {
                        path: path.clone(),
                        source,
                    })?;
            Ok(Ticket {
                token: Token::new(&text),
                trust: Trust::Pinned(self.roots.clone()),
            })
        })
    }
}

// === impl Renewal ===

impl Renewal {
    /// Renews until `stop`: takes what the directory kept if it still holds, else joins;
    /// publishes each new certificate; goes on with the old one when renewal fails.
    pub async fn run(self, stop: CancellationToken) {
        self.restore();
        let mut failures = 0;
        let mut pause = Duration::ZERO;
        loop {
            if !self.sleep_until_due(pause, failures == 0, &stop).await {
                return;
            }
            let attempt = tokio::select! {
                attempt = self.attempt() => attempt,
                () = stop.cancelled() => return,
            };
            match attempt {
                Ok(credentials) => {
                    failures = 0;
                    info!(
                        identity = %credentials.identity(),
                        serial = credentials.serial(),
                        "certificate obtained"
                    );
                    self.keep(&credentials);
                    self.store.publish(credentials);
                    // A clock that is ahead of the CA's must not turn renewal into a flood.
                    pause = (self.left() / 10).max(MIN_PAUSE);
                }
                Err(error) => {
                    failures += 1;
                    pause = retry_delay(failures, self.left(), (self.jitter)());
                    let error: &dyn std::error::Error = &error;
                    warn!(
                        identity = %self.identity,
                        error,
                        retry_in = ?pause,
                        certificate_left = ?self.left(),
                        "no certificate obtained"
                    );
                }
            }
        }
    }

    /// One attempt: by the current certificate while it holds, and by a join token if that fails;
    /// the other way round with a source that renews its token.
    ///
    /// # Errors
    ///
    /// What the last of them says, or of a token that is renewed what was said of it.
    pub async fn attempt(&self) -> Result<Credentials, RenewalError> {
        let addresses = self.source.addresses().await?;
        let key = Key::generate().map_err(RequestError::from)?;
        let now = (self.clock)();
        let ask = |proof| {
            let request = CertificateRequest {
                addresses: addresses.clone(),
                proof,
                identity: self.identity.clone(),
                ttl: self.ttl,
            };
            let client = CaClient::new(self.identity.trust_domain.clone());
            let key = &key;
            // Boxed, for it is asked in three places.
            Box::pin(async move { client.request_certificate(&request, key, now).await })
        };
        let by_certificate = async {
            if self.left().is_zero() {
                None
            } else {
                Some(ask(Proof::Current(self.store.clone())).await)
            }
        };
        if self.source.is_renewed() {
            let by_token = async {
                let Ticket { token, trust } = self.source.ticket().await?;
                let asked = ask(Proof::Token { token, trust }).await;
                asked.map_err(RenewalError::from)
            };
            return match by_token.await {
                Ok(credentials) => Ok(credentials),
                Err(error) => match by_certificate.await {
                    Some(Ok(credentials)) => {
                        let error: &dyn std::error::Error = &error;
                        warn!(identity = %self.identity, error, "the token is not taken; renewed by the certificate");
                        Ok(credentials)
                    }
                    _ => Err(error),
                },
            };
        }
        let renewed = by_certificate.await;
        if let Some(Ok(credentials)) = renewed {
            return Ok(credentials);
        }
        match (self.source.ticket().await, renewed) {
            (Ok(Ticket { token, trust }), _) => Ok(ask(Proof::Token { token, trust }).await?),
            // Without a token the answer to the renewal is the one that counts.
            (Err(_no_ticket), Some(Err(error))) => Err(error.into()),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// What is left of the current certificate's life; nothing when there is none.
    fn left(&self) -> Duration {
        let current = self.store.current();
        current
            .and_then(|current| current.not_after().duration_since((self.clock)()).ok())
            .unwrap_or_default()
    }

    /// Sleeps `pause`, and on until renewal is due when the last attempt was none or a success.
    /// False when it is time to stop.
    async fn sleep_until_due(
        &self,
        pause: Duration,
        until_due: bool,
        stop: &CancellationToken,
    ) -> bool {
        let jitter = (self.jitter)();
        let mut delay = pause;
        loop {
            tokio::select! {
                () = sleep(delay) => {}
                () = stop.cancelled() => return false,
            }
            let now = (self.clock)();
            let due = match self.store.current() {
                Some(current) if until_due => {
                    next_renewal(current.not_before(), current.not_after(), now, jitter)
                }
                _ => return true,
            };
            match due.duration_since(now) {
                Ok(rest) if !rest.is_zero() => delay = rest.min(MAX_SLEEP),
                _ => return true,
            }
        }
    }

    /// Publishes what the directory kept, if it is ours and still holds.
    fn restore(&self) {
        let (None, Some(directory)) = (self.store.current(), &self.directory) else {
            return;
        };
        match directory.load() {
            Ok(Some(kept)) if *kept.identity() == self.identity => {
                match kept.verify((self.clock)()) {
                    Ok(()) => self.store.publish(kept),
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        info!(error, "the stored certificate does not hold any more");
                    }
                }
            }
            Ok(Some(kept)) => warn!(
                found = %kept.identity(),
                expected = %self.identity,
                "the stored certificate is somebody else's"
            ),
            Ok(None) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(error, "the stored certificate cannot be used");
            }
        }
    }

    fn keep(&self, credentials: &Credentials) {
        let Some(directory) = &self.directory else {
            return;
        };
        if let Err(error) = directory.save(credentials) {
            let error: &dyn std::error::Error = &error;
            warn!(error, "the new certificate could not be stored");
        }
    }
}

impl std::fmt::Debug for Renewal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewal")
            .field("identity", &self.identity)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// Keeps a foreign number within what the arithmetic is made for.
fn bounded(jitter: f64) -> f64 {
    if jitter.is_finite() {
        jitter.clamp(-1.0, 1.0)
    } else {
        0.0
    }
}
