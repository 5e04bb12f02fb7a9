//! When to make views again: at once after quiet, less often the more there is to do.

use std::time::Duration;

use tokio::time::Instant;

/// Decides how long changes are collected before they are acted on.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last build ended.
    last: Option<Instant>,
    /// How long changes are collected while they keep coming.
    delay: Duration,
}

/// Why views are to be made.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Cause {
    /// A stream waits for its first.
    View,
    /// Workloads came, went, or changed their health.
    Workloads,
    /// Objects changed; they come in groups when files are applied.
    Config,
}

/// Collected at least, so that objects applied together are seen together.
const CONFIG_DELAY: Duration = Duration::from_millis(10);

/// Collected at most.
const MAX_DELAY: Duration = Duration::from_millis(100);

/// After so long without a build it is quiet.
const QUIET: Duration = Duration::from_millis(200);

impl Pace {
    /// How long to collect changes after one at `now`.
    pub(super) fn delay(&self, now: Instant, cause: Cause) -> Duration {
        let is_quiet = self.last.is_none_or(|last| now - last >= QUIET);
        let delay = if is_quiet { Duration::ZERO } else { self.delay };
        match cause {
            // Its own view is all that it waits for, and cheap.
            Cause::View => delay.min(CONFIG_DELAY),
            Cause::Workloads => delay,
            Cause::Config => delay.max(CONFIG_DELAY),
        }
    }

    /// Notes a build.
    pub(super) fn built(&mut self, began: Instant, ended: Instant) {
        let is_quiet = self.last.is_none_or(|last| began - last >= QUIET);
        self.delay = if is_quiet {
            Duration::ZERO
        } else {
            let doubled = (self.delay * 2).max(CONFIG_DELAY);
            // Builds that take long may have half of the time, no more.
            doubled.min(MAX_DELAY).max(ended - began)
        };
        self.last = Some(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_of_workloads_after_quiet_does_not_wait() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.delay(now, Cause::Workloads), Duration::ZERO);
        assert_eq!(pace.delay(now, Cause::Config), CONFIG_DELAY);
        pace.built(now, now);
        pace.built(now, now);
        assert_eq!(pace.delay(now, Cause::Workloads), CONFIG_DELAY);
        assert_eq!(pace.delay(now + QUIET, Cause::Workloads), Duration::ZERO);
    }

    #[test]
    fn changes_that_keep_coming_wait_longer_but_not_too_long() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        let mut delays = Vec::new();
        for _ in 0..8 {
            now += pace.delay(now, Cause::Workloads);
            pace.built(now, now);
            delays.push(pace.delay(now, Cause::Workloads));
        }
        assert!(delays.is_sorted());
        assert_eq!(delays.last(), Some(&MAX_DELAY));
    }

    #[test]
    fn long_builds_take_half_of_the_time_at_most() {
        let now = Instant::now();
        let mut pace = Pace::default();
        let long = Duration::from_secs(1);
        pace.built(now, now + long);
        pace.built(now + long, now + 2 * long);
        assert_eq!(pace.delay(now + 2 * long, Cause::Workloads), long);
    }
}
