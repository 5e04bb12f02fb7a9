//! How long to wait before trying again: longer each time, never the same for everybody.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// Delays that double from a least to a most, each spread over its upper half.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    random: fn() -> u64,
}

impl Backoff {
    /// Begins with `min` and ends at `max`.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
            random,
        }
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Whether nothing failed since the last success.
    pub(crate) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// After a failure: how long to wait.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let full = self
            .min
            .saturating_mul(1 << self.failures.min(16))
            .min(self.max);
        self.failures = self.failures.saturating_add(1);
        // Of the upper half, so that a restarted Pilot does not see everybody in one moment.
        let part = u32::try_from((self.random)() % 1024).unwrap_or_default();
        full / 2 + full / 2 * part / 1024
    }
}

/// A number that differs each time: the keys of the standard library's hash maps.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_most_and_begin_anew_after_a_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff {
            random: || 512,
            ..Backoff::new(second, 4 * second)
        };
        let delays: Vec<_> = (0..4).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(delays, [750, 1500, 3000, 3000]);
        backoff.reset();
        assert_eq!(backoff.next_delay().as_millis(), 750);
    }
}
