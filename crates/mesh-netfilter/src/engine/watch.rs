//! Watching: rules and local state are looked at whenever something changes, and mended.

use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::notice::{Heard, Notices};
use super::{Engine, EngineError, HostNetwork};
use crate::{Plan, Report, RuleState};

/// How to watch.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// The longest time between two looks. A change of nftables rules is looked at as it happens;
    /// legacy iptables, routes and addresses tell nobody.
    pub interval: Duration,
    /// What to do about a difference.
    pub repair: Repair,
    /// Whether a repair may be done in the host's own namespace.
    pub host: HostNetwork,
}

/// What to do about a difference.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "yes or no")]
pub enum Repair {
    /// Nothing but telling it.
    Off,
    /// The plan is applied again, at once. If somebody keeps undoing that, more and more seldom.
    On,
}

/// One look.
#[derive(Debug)]
#[non_exhaustive]
pub struct Look {
    /// What was found.
    pub report: Result<Report, EngineError>,
    /// Who changed nftables rules of the namespace since the look before; empty if that is not
    /// known. With a difference in the report, one of them made it.
    pub makers: Vec<Maker>,
    /// What was done about it, if something was to be done.
    pub repair: Option<Mended>,
}

/// A process that changed rules.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Maker {
    /// Its number, as the kernel's first process namespace has it.
    pub pid: u32,
    /// Its name, of up to 15 bytes.
    pub name: String,
}

/// What was done about a difference.
#[derive(Debug)]
#[non_exhaustive]
pub enum Mended {
    /// The plan is in force again.
    Repaired,
    /// Somebody keeps undoing repairs; the next comes after this time.
    Postponed {
        /// The time until then.
        remaining: Duration,
    },
    /// It could not be done.
    Failed(EngineError),
}

/// When to repair: at once, unless somebody fights.
#[derive(Debug, Default)]
struct Patience {
    /// Repairs of which none came later than [`MEMORY`] after the one before.
    fight: u32,
    last: Option<Instant>,
}

/// So many repairs in a row come at once.
const AT_ONCE: u32 = 4;
/// How long a fight is remembered: twice the longest pause, so that the pause does not end it.
const MEMORY: Duration = Duration::from_secs(60);
/// The pause after the first repair too many; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// However fast others change rules, looks are at least so far apart: a look takes some
/// milliseconds, and this keeps the watcher below a tenth of a core.
const BREATH: Duration = Duration::from_millis(50);

impl Engine {
    /// Looks at rules and local state whenever somebody changes nftables rules, and at least once
    /// in each interval, until `each` says that it is enough. Runs on the calling thread.
    ///
    /// # Errors
    /// [`EngineError::Watch`] if changes cannot be subscribed to. What a look found, also an
    /// error, goes to `each`.
    pub fn watch(
        &self,
        plan: &Plan,
        options: &WatchOptions,
        mut each: impl FnMut(&Look) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let subscribe = || Notices::open().map_err(|source| EngineError::Watch { source });
        let notices = self.namespace.enter(subscribe)?;
        let mut patience = Patience::default();
        let mut makers = Vec::new();
        loop {
            let began = Instant::now();
            let report = self.verify(plan);
            let is_sound = report
                .as_ref()
                .is_ok_and(|report| report.state == RuleState::Intact);
            let repair = match options.repair {
                Repair::On if !is_sound => Some(self.mend(plan, options.host, &mut patience)),
                _ => None,
            };
            let wait = match &repair {
                // Whether it holds is worth a look.
                Some(Mended::Repaired) => Duration::ZERO,
                Some(Mended::Postponed { remaining }) => options.interval.min(*remaining),
                _ => options.interval,
            };
            let look = Look {
                report,
                makers: std::mem::take(&mut makers),
                repair,
            };
            if each(&look).is_break() {
                return Ok(());
            }
            // A timeout of zero would mean to wait for ever.
            let wait = wait.max(Duration::from_millis(1));
            let Heard { any, makers: heard } = notices
                .wait(wait)
                .map_err(|source| EngineError::Watch { source })?;
            makers = heard;
            if any {
                std::thread::sleep(BREATH.saturating_sub(began.elapsed()));
            }
        }
    }

    fn mend(&self, plan: &Plan, host: HostNetwork, patience: &mut Patience) -> Mended {
        let now = Instant::now();
        let remaining = patience.remaining(now);
        if !remaining.is_zero() {
            return Mended::Postponed { remaining };
        }
        patience.note(now);
        match self.apply(plan, host) {
            Ok(_) => Mended::Repaired,
            Err(error) => Mended::Failed(error),
        }
    }
}

// === impl WatchOptions ===

impl Default for WatchOptions {
    /// Every second, without repair.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            repair: Repair::Off,
            host: HostNetwork::Refuse,
        }
    }
}

// === impl Maker ===

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

// === impl Patience ===

impl Patience {
    fn note(&mut self, now: Instant) {
        self.fight = self.fight.saturating_add(1);
        self.last = Some(now);
    }

    /// How long the next repair has to wait.
    fn remaining(&mut self, now: Instant) -> Duration {
        let Some(last) = self.last else {
            return Duration::ZERO;
        };
        let passed = now.saturating_duration_since(last);
        if passed > MEMORY {
            self.fight = 0;
        }
        let Some(excess) = self.fight.checked_sub(AT_ONCE) else {
            return Duration::ZERO;
        };
        let pause = LONGEST_PAUSE.min(FIRST_PAUSE * 2_u32.pow(excess.min(8)));
        pause.saturating_sub(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_repairs_come_at_once_and_then_ever_more_seldom() {
        let mut patience = Patience::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let pause = patience.remaining(now);
            pauses.push(pause.as_secs());
            now += pause;
            patience.note(now);
        }
        assert_eq!(pauses, [0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn after_a_quiet_minute_a_repair_comes_at_once_again() {
        let mut patience = Patience::default();
        let now = Instant::now();
        for _ in 0..8 {
            patience.note(now);
        }
        assert!(patience.remaining(now) > Duration::ZERO);
        let later = now + MEMORY + Duration::from_secs(1);
        assert_eq!(patience.remaining(later), Duration::ZERO);
    }
}
