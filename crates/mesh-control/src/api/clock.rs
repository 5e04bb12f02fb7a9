//! The time, so that decisions about it can be tested.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Tells the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(fn() -> SystemTime);

impl Clock {
    /// The machine's.
    pub(crate) fn system() -> Self {
        Self(SystemTime::now)
    }

    /// Seconds since 1970.
    pub(crate) fn now_seconds(self) -> i64 {
        let since = self.since_epoch().as_secs();
        i64::try_from(since).unwrap_or(i64::MAX)
    }

    /// As Kubernetes writes it: RFC 3339, UTC, whole seconds.
    pub(crate) fn now_text(self) -> String {
        text(self.now_seconds())
    }

    fn since_epoch(self) -> Duration {
        (self.0)().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Seconds since 1970 as Kubernetes writes them.
pub(crate) fn text(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}
