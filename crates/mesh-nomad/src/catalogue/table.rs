//! Which answers are newer than what is known.

use std::time::Duration;

/// The index at which something was read last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Table {
    index: u64,
    /// Since when every answer is older than what is known.
    behind_since: Option<Duration>,
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Age {
    /// It is as new as what is known, or newer.
    Newer,
    /// It is older: of a server that is behind, or late. To be dropped and asked again.
    Older,
    /// It is older, and nothing else has come for so long that the servers were restored.
    Restored,
}

/// How long answers may be older before they are believed. A server that is behind catches up
/// within an election and the transfer of a snapshot; until then nothing is forgotten.
pub(super) const RESTORED_AFTER: Duration = Duration::from_secs(10);

impl Table {
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    pub(super) fn take(&mut self, index: u64, now: Duration) -> Age {
        if index >= self.index {
            self.index = index;
            self.behind_since = None;
            return Age::Newer;
        }
        let since = *self.behind_since.get_or_insert(now);
        if now.saturating_sub(since) < RESTORED_AFTER {
            return Age::Older;
        }
        self.index = index;
        self.behind_since = None;
        Age::Restored
    }
}
