//! How long certificates live: what is asked for, within what the operator allows.

use std::time::Duration;

/// The bounds of certificate lifetimes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetimes {
    default: Duration,
    min: Duration,
    max: Duration,
}

/// Bounds that cannot be kept.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "certificate lifetimes: found minimum {min:?}, default {default:?} and maximum {max:?}, \
     expected {FLOOR:?} ≤ minimum ≤ default ≤ maximum ≤ {CEILING:?}"
)]
pub struct LifetimesError {
    min: Duration,
    default: Duration,
    max: Duration,
}

/// Below it a certificate is dead before everybody has it.
pub const FLOOR: Duration = Duration::from_secs(30);
/// Certificates are not revoked, they end: more than a quarter of a year is no end.
pub const CEILING: Duration = Duration::from_secs(90 * 24 * 3600);
/// How far clocks of machines may lie behind the CA's.
const MAX_BACKDATE: Duration = Duration::from_secs(120);

impl Lifetimes {
    /// Bounds with a default for requests that ask for nothing.
    ///
    /// # Errors
    ///
    /// [`LifetimesError`] unless 30 s ≤ `min` ≤ `default` ≤ `max` ≤ 90 days.
    pub fn new(default: Duration, min: Duration, max: Duration) -> Result<Self, LifetimesError> {
        if FLOOR <= min && min <= default && default <= max && max <= CEILING {
            Ok(Self { default, min, max })
        } else {
            Err(LifetimesError { min, default, max })
        }
    }

    /// The lifetime of one certificate; `requested` in seconds, nothing when it is not positive.
    pub fn decide(&self, requested: i64) -> Duration {
        match u64::try_from(requested) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).clamp(self.min, self.max),
            _ => self.default,
        }
    }

    /// The same, where the proof of who asks bears no longer one; never below the shortest.
    pub fn decide_within(&self, requested: i64, longest: Option<Duration>) -> Duration {
        let decided = self.decide(requested);
        longest.map_or(decided, |longest| decided.min(longest).max(self.min))
    }

    /// The lifetime when nothing is asked for.
    pub fn default_ttl(&self) -> Duration {
        self.default
    }

    /// How much earlier than now a certificate begins: a tenth of its life, at most two minutes,
    /// so that half of the life of a short one still lies ahead.
    pub fn backdate(ttl: Duration) -> Duration {
        (ttl / 10).min(MAX_BACKDATE)
    }
}

impl Default for Lifetimes {
    /// A day; between 10 minutes and a week.
    fn default() -> Self {
        Self {
            default: Duration::from_secs(24 * 3600),
            min: Duration::from_secs(600),
            max: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn nothing_asked_for_is_the_default() {
        let lifetimes = Lifetimes::default();
        for requested in [0, -1, i64::MIN] {
            assert_eq!(lifetimes.decide(requested), 24 * HOUR);
        }
        assert_eq!(lifetimes.decide(3600), HOUR);
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        assert!(Lifetimes::new(HOUR, 2 * HOUR, 3 * HOUR).is_err());
        assert!(Lifetimes::new(2 * HOUR, HOUR, HOUR).is_err());
        assert!(Lifetimes::new(HOUR, FLOOR / 2, HOUR).is_err());
        assert!(Lifetimes::new(HOUR, HOUR, CEILING + HOUR).is_err());
        assert!(Lifetimes::new(FLOOR, FLOOR, FLOOR).is_ok());
    }

    proptest! {
        #[test]
        fn every_answer_is_within_the_bounds(requested in any::<i64>()) {
            let lifetimes = Lifetimes::default();
            let ttl = lifetimes.decide(requested);
            prop_assert!(lifetimes.min <= ttl && ttl <= lifetimes.max);
            let within = lifetimes.decide_within(requested, Some(HOUR));
            prop_assert!(lifetimes.min <= within && within <= HOUR);
            let shortest = lifetimes.decide_within(requested, Some(Duration::ZERO));
            prop_assert_eq!(shortest, lifetimes.min);
            prop_assert!(Lifetimes::backdate(ttl) <= MAX_BACKDATE);
        }
    }
}
