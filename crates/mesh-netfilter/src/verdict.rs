//! Verdict: what a watcher of the rules last saw, for those who may not look themselves.

/// What a watcher of the rules last saw. It is written to a file that others read, since reading
/// rules takes a capability that they should not have.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub struct Verdict {
    /// How the rules are.
    pub state: RuleState,
    /// Since when they are so, in seconds since the Unix epoch.
    pub since: u64,
    /// When they were last looked at, in seconds since the Unix epoch. A reader that finds this
    /// long ago should trust nothing else: the watcher is gone.
    pub at: u64,
    /// What is wrong, in words; empty if the state is intact.
    pub drifts: Vec<String>,
    /// What its watcher repaired last, if it ever had to.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "Option::is_none")
    )]
    pub repaired: Option<Repaired>,
}

/// A difference that a watcher took back.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub struct Repaired {
    /// When, in seconds since the Unix epoch.
    pub at: u64,
    /// What was wrong, in words.
    pub drifts: Vec<String>,
    /// Who changed rules before, as far as it is known: names of processes with their numbers.
    pub by: Vec<String>,
}

/// How the rules in the kernel compare with the plan.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RuleState {
    /// They are exactly as planned.
    Intact,
    /// They differ from the plan, or could not be read.
    Drifted,
    /// There are none.
    Absent,
}

// === impl Verdict ===

impl Verdict {
    /// The verdict that follows `previous`, made at `now`. What was repaired last stays known.
    ///
    /// ```
    /// use mesh_netfilter::{RuleState, Verdict};
    ///
    /// let first = Verdict::next(None, RuleState::Intact, Vec::new(), 100);
    /// let later = Verdict::next(Some(&first), RuleState::Intact, Vec::new(), 160);
    /// assert_eq!((later.since, later.at), (100, 160));
    /// let gone = Verdict::next(Some(&later), RuleState::Absent, vec!["no rules".into()], 161);
    /// assert_eq!((gone.since, gone.at), (161, 161));
    /// ```
    pub fn next(previous: Option<&Self>, state: RuleState, drifts: Vec<String>, now: u64) -> Self {
        let since = previous
            .filter(|previous| previous.state == state)
            .map_or(now, |previous| previous.since);
        Self {
            state,
            since,
            at: now,
            drifts,
            repaired: previous.and_then(|previous| previous.repaired.clone()),
        }
    }

    /// This verdict, once what it tells of was taken back.
    #[must_use]
    pub fn and_repaired(mut self, by: Vec<String>) -> Self {
        self.repaired = Some(Repaired {
            at: self.at,
            drifts: self.drifts.clone(),
            by,
        });
        self
    }

    /// The verdict when the rules could not be read: nobody can vouch for them.
    pub fn unreadable(previous: Option<&Self>, reason: &str, now: u64) -> Self {
        let drifts = vec![format!("the rules could not be read: {reason}")];
        Self::next(previous, RuleState::Drifted, drifts, now)
    }
}

impl RuleState {
    /// The state in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intact => "intact",
            Self::Drifted => "drifted",
            Self::Absent => "absent",
        }
    }
}
