//! Whether and when a command that ended is started again.

use std::time::Duration;

use crate::{Exit, RestartPolicy};

/// Remembers how often a command ended soon after it started.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: RestartPolicy,
    short_runs: u32,
}

// === impl Backoff ===

impl Backoff {
    pub(super) fn new(policy: RestartPolicy) -> Self {
        Self {
            policy,
            short_runs: 0,
        }
    }

    /// How long to wait before the next start; `None` when there is none.
    ///
    /// The wait doubles with each run that was short, and begins small again after a long one.
    pub(super) fn after(&mut self, exit: Exit, ran_for: Duration) -> Option<Duration> {
        let again = match self.policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => !exit.is_success(),
            RestartPolicy::Always => true,
        };
        if !again {
            return None;
        }
        if ran_for >= LONG_RUN {
            self.short_runs = 0;
        }
        let wait = FIRST_WAIT.saturating_mul(1 << self.short_runs.min(16));
        self.short_runs = self.short_runs.saturating_add(1);
        Some(wait.min(LONGEST_WAIT))
    }
}

/// A crash once in a while costs no more than this.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// What crashes at once is tried again twice a minute.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// After a run as long as this, a crash is one of once in a while.
const LONG_RUN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_begin_small_after_a_long_run() {
        let mut backoff = Backoff::new(RestartPolicy::Always);
        let mut next = |ran_for| backoff.after(Exit::Code(1), ran_for).unwrap().as_millis();
        let short = Duration::ZERO;
        assert_eq!([next(short), next(short), next(short)], [100, 200, 400]);
        assert_eq!(next(LONG_RUN), 100);
        for _ in 0..40 {
            next(short);
        }
        assert_eq!(next(short), 30_000);
    }

    proptest! {
        #[test]
        fn policies_mean_what_they_say(code in 0..3, signal in 1..30) {
            for exit in [Exit::Code(code), Exit::Signal(signal)] {
                let again = |policy| Backoff::new(policy).after(exit, Duration::ZERO).is_some();
                prop_assert!(!again(RestartPolicy::Never));
                prop_assert!(again(RestartPolicy::Always));
                prop_assert_eq!(again(RestartPolicy::OnFailure), exit != Exit::Code(0));
            }
        }
    }
}
