//! Blocking queries: which index to ask with next, and what an answer means.

use std::time::Duration;

use super::Meta;

/// The state of one blocking query that is repeated for ever.
///
/// Source: <https://developer.hashicorp.com/nomad/api-docs#blocking-queries>.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Blocking {
    index: u64,
    wait: Duration,
    /// A clean answer came since the start or the last failure.
    is_known: bool,
}

/// What an answer to a blocking query means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// There may be something new.
    Changed,
    /// The wait ended and nothing is new.
    Unchanged,
    /// The servers are at an earlier index than before: restored, or behind. What the answer
    /// holds is to be judged, and the next query does not wait.
    WentBack,
}

// === impl Blocking ===

impl Blocking {
    /// A query whose first answer comes at once; later ones wait up to `wait` for a change.
    pub fn new(wait: Duration) -> Self {
        Self {
            index: 0,
            wait,
            is_known: false,
        }
    }

    /// The index that was seen last; 0 before the first answer.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The parameters of the next query: index and wait. None when it is not to wait.
    pub fn query(&self) -> Option<(u64, Duration)> {
        // An index of 0 would not block, and a loop over it would not rest.
        (self.is_known && self.index > 0).then_some((self.index, self.wait))
    }

    /// How long the next query may take: Nomad adds up to a sixteenth to the wait, and half of a
    /// minute is left for a slow answer.
    pub fn patience(&self) -> Duration {
        match self.query() {
            Some((_, wait)) => wait + wait / 16 + Duration::from_secs(30),
            None => Duration::from_secs(30),
        }
    }

    /// Takes the answer to the last query.
    pub fn answered(&mut self, meta: &Meta) -> Step {
        let before = self.index;
        let (was_known, index) = (self.is_known, meta.floor());
        self.index = index;
        if index < before {
            self.is_known = false;
            return Step::WentBack;
        }
        self.is_known = true;
        if was_known && index == before {
            return Step::Unchanged;
        }
        Step::Changed
    }

    /// Takes a failure: the next query does not wait, so that a change in the meantime is seen at
    /// once even if its index was lost.
    pub fn failed(&mut self) {
        self.is_known = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Meta {
        Meta {
            index,
            ..Meta::default()
        }
    }

    #[test]
    fn the_first_query_does_not_wait_and_later_ones_do() {
        let mut blocking = Blocking::new(Duration::from_secs(300));
        assert_eq!(blocking.query(), None);
        assert_eq!(blocking.answered(&at(7)), Step::Changed);
        assert_eq!(blocking.query(), Some((7, Duration::from_secs(300))));
        assert_eq!(blocking.answered(&at(7)), Step::Unchanged);
        assert_eq!(blocking.answered(&at(9)), Step::Changed);
    }

    #[test]
    fn an_index_that_goes_back_starts_over() {
        let mut blocking = Blocking::new(Duration::from_secs(300));
        blocking.answered(&at(9));
        assert_eq!(blocking.answered(&at(3)), Step::WentBack);
        assert_eq!(blocking.query(), None);
        assert_eq!(blocking.answered(&at(3)), Step::Changed);
        assert_eq!(blocking.query(), Some((3, Duration::from_secs(300))));
    }

    #[test]
    fn a_failure_makes_the_next_query_answer_at_once() {
        let mut blocking = Blocking::new(Duration::from_secs(300));
        blocking.answered(&at(9));
        blocking.failed();
        assert_eq!(blocking.query(), None);
        assert_eq!(blocking.answered(&at(9)), Step::Changed);
    }

    #[test]
    fn a_table_of_a_new_cluster_is_waited_for_like_any_other() {
        let mut blocking = Blocking::new(Duration::from_secs(300));
        assert_eq!(blocking.answered(&at(0)), Step::Changed);
        assert_eq!(blocking.query(), Some((1, Duration::from_secs(300))));
        assert_eq!(blocking.answered(&at(0)), Step::Unchanged);
    }
}
