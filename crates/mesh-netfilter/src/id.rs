//! Numeric ids of users and groups: one, a range, a set.

use std::fmt;
use std::str::FromStr;

use crate::Problem;

/// User or group ids from `first` to `last`, both included.
///
/// ```
/// # use mesh_netfilter::IdRange;
/// assert_eq!("1000-1999".parse::<IdRange>().unwrap().to_string(), "1000-1999");
/// assert!("4294967295".parse::<IdRange>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IdRange {
    first: u32,
    last: u32,
}

/// User or group ids, kept as ascending ranges that neither overlap nor touch: equal sets compare
/// equal.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IdSet(Vec<IdRange>);

/// The id that means "nobody in particular" to the kernel, so no rule may name it.
pub(crate) const INVALID_ID: u32 = u32::MAX;

// === impl IdRange ===

impl IdRange {
    /// Ids from `first` to `last`; none if they are in the wrong order.
    pub fn new(first: u32, last: u32) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest id.
    pub fn first(self) -> u32 {
        self.first
    }

    /// The highest id.
    pub fn last(self) -> u32 {
        self.last
    }
}

impl From<u32> for IdRange {
    fn from(id: u32) -> Self {
        Self {
            first: id,
            last: id,
        }
    }
}

impl FromStr for IdRange {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let id = |text: &str| {
            // `u32::from_str` takes a leading `+`, which nobody means.
            Some(text)
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse::<u32>().ok())
                .filter(|id| *id != INVALID_ID)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = || Self::new(id(first)?, id(last)?);
        range().ok_or_else(|| {
            Problem::new(
                "",
                text,
                "a numeric id between 0 and 4294967294, or a range such as `1000-1999`",
            )
        })
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        if self.first != self.last {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

// === impl IdSet ===

impl IdSet {
    /// Whether the set has no id.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: u32) -> bool {
        self.0
            .iter()
            .any(|range| range.first <= id && id <= range.last)
    }

    /// The lowest id.
    pub fn first(&self) -> Option<u32> {
        self.0.first().map(|range| range.first)
    }

    /// The ranges, ascending, apart from each other.
    pub fn ranges(&self) -> &[IdRange] {
        &self.0
    }

    /// The ids of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }

    /// The ids that both sets have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.0
            .iter()
            .flat_map(|a| {
                other
                    .0
                    .iter()
                    .filter_map(|b| IdRange::new(a.first.max(b.first), a.last.min(b.last)))
            })
            .collect()
    }
}

impl FromIterator<IdRange> for IdSet {
    fn from_iter<I: IntoIterator<Item = IdRange>>(ranges: I) -> Self {
        let mut ranges: Vec<IdRange> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<IdRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.first <= last.last.saturating_add(1) => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl FromIterator<u32> for IdSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        ids.into_iter().map(IdRange::from).collect()
    }
}

impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for IdSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_numbers_and_never_the_one_that_means_nobody() {
        assert_eq!("0".parse::<IdRange>().unwrap().to_string(), "0");
        assert_eq!(
            "65536-4294967294".parse::<IdRange>().unwrap().to_string(),
            "65536-4294967294"
        );
        for bad in [
            "",
            "-1",
            "+1",
            "root",
            "2-1",
            "1-",
            "4294967295",
            "0-4294967295",
        ] {
            assert!(bad.parse::<IdRange>().is_err(), "{bad}");
        }
    }

    fn any_set() -> impl Strategy<Value = IdSet> {
        proptest::collection::vec((0..200_u32, 0..20_u32), 0..8).prop_map(|ranges| {
            ranges
                .into_iter()
                .map(|(first, length)| IdRange::new(first, first + length).unwrap())
                .collect()
        })
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_membership(a in any_set(), b in any_set(), id in 0..240_u32) {
            prop_assert_eq!(a.union(&b).contains(id), a.contains(id) || b.contains(id));
            prop_assert_eq!(a.intersection(&b).contains(id), a.contains(id) && b.contains(id));
        }
    }
}
