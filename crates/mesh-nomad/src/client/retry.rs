//! Which requests are sent again, and when.

use std::time::Duration;

use super::{Error, Reason, Request};

/// Which requests are sent again, and when. Reads are, on everything that passes by itself; writes
/// only if they were certainly not carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Retry {
    /// How often a request is sent again.
    pub attempts: u32,
    /// How long to wait before the first time; doubled for each that follows.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
}

// === impl Retry ===

impl Retry {
    /// Nothing is sent again.
    pub const NEVER: Self = Self {
        attempts: 0,
        first: Duration::ZERO,
        most: Duration::ZERO,
    };

    /// How long to wait before the next try after `error`, the try being number `attempt` from 0;
    /// none if this was the last. `jitter`, between 0 and 1, takes up to half of the wait away.
    pub fn delay(
        &self,
        attempt: u32,
        request: &Request,
        error: &Error,
        jitter: f64,
    ) -> Option<Duration> {
        let may_repeat =
            error.is_transient() && (request.is_read() || error.is_before_any_effect());
        if attempt >= self.attempts || !may_repeat {
            return None;
        }
        let mut delay = self.pause(attempt, jitter);
        // The limit is on connections; those of others have to end first.
        if error.reason() == Some(Reason::TooMany) {
            delay = delay.max(self.most / 2);
        }
        Some(delay)
    }

    /// How long to wait before try number `attempt`, from 0.
    pub fn pause(&self, attempt: u32, jitter: f64) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.min(16));
        let whole = self.first.saturating_mul(factor).min(self.most);
        whole.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }
}

impl Default for Retry {
    /// Long enough for the election of a leader, which takes 2 to 3 s.
    fn default() -> Self {
        Self {
            attempts: 6,
            first: Duration::from_millis(100),
            most: Duration::from_secs(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ApiError;
    use super::*;

    fn api(status: u16, body: &str) -> Error {
        Error::Api(Box::new(ApiError {
            method: String::new(),
            path: String::new(),
            status,
            body: body.to_owned(),
        }))
    }

    #[test]
    fn a_write_is_repeated_only_if_it_had_no_effect() {
        let retry = Retry::default();
        let (read, write) = (Request::get(&["a"]), Request::put(&["a"]));
        let delay = |request, error: &Error| retry.delay(0, request, error, 0.0);
        let cut = api(500, "rpc error: EOF");
        assert!(delay(&read, &cut).is_some());
        assert!(delay(&write, &cut).is_none());
        let leaderless = api(500, "No cluster leader");
        assert!(delay(&write, &leaderless).is_some());
        assert!(delay(&read, &api(400, "Invalid wait time")).is_none());
        assert!(retry.delay(6, &read, &cut, 0.0).is_none());
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let retry = Retry::default();
        let waits: Vec<_> = (0..7).map(|n| retry.pause(n, 0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(retry.pause(0, 1.0), Duration::from_millis(50));
    }
}
