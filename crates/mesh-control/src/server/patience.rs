//! Trying again while the API or the CA is away.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Tries until `attempt` gives a value; nothing when it is time to stop.
///
/// The first failures are expected where roles start together, and not logged.
pub(super) async fn patiently<T, E, F>(
    what: &'static str,
    stop: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Option<T>
where
    E: Error + 'static,
    F: Future<Output = Result<T, E>>,
{
    let mut pause = FIRST;
    loop {
        let outcome = tokio::select! {
            outcome = attempt() => outcome,
            () = stop.cancelled() => return None,
        };
        match outcome {
            Ok(value) => return Some(value),
            Err(error) => {
                if pause >= Duration::from_secs(1) {
                    let error: &dyn Error = &error;
                    warn!(error, retry_in = ?pause, "{what} failed");
                }
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return None,
        }
        pause = (pause * 2).min(LONGEST);
    }
}
