//! TCP and UDP ports: one, a range, a set.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::Problem;

/// A TCP or UDP port, 1 to 65535.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Port(NonZeroU16);

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortRange {
    first: Port,
    last: Port,
}

/// Ports, kept as ascending ranges that neither overlap nor touch: equal sets compare equal.
///
/// ```
/// # use mesh_netfilter::{PortRange, PortSet};
/// let set: PortSet = ["80", "8000-8010", "81"]
///     .iter()
///     .map(|text| text.parse::<PortRange>().unwrap())
///     .collect();
/// assert_eq!(set.to_string(), "80-81, 8000-8010");
/// ```
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortSet(Vec<PortRange>);

// === impl Port ===

impl Port {
    /// The port of this number; none for 0.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// A port that is known when the program is written; does not compile for 0.
    ///
    /// ```
    /// # use mesh_netfilter::Port;
    /// const OUTBOUND: Port = Port::of::<15001>();
    /// assert_eq!(OUTBOUND.get(), 15001);
    /// ```
    pub const fn of<const NUMBER: u16>() -> Self {
        const {
            assert!(NUMBER != 0, "port 0 does not exist");
        }
        Self(NonZeroU16::MIN.saturating_add(NUMBER - 1))
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl FromStr for Port {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        // `u16::from_str` takes a leading `+`, which nobody means.
        Some(text)
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .and_then(Self::new)
            .ok_or_else(|| Problem::new("", text, "a port between 1 and 65535"))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl PortRange ===

impl PortRange {
    /// Ports from `first` to `last`; none if they are in the wrong order.
    pub fn new(first: Port, last: Port) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> Port {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> Port {
        self.last
    }
}

impl From<Port> for PortRange {
    fn from(port: Port) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

impl FromStr for PortRange {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let expected = || Problem::new("", text, "a port or a range of ports such as `8000-8010`");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = || Self::new(first.parse().ok()?, last.parse().ok()?);
        range().ok_or_else(expected)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        if self.first != self.last {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

// === impl PortSet ===

impl PortSet {
    /// Whether the set has no port.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: Port) -> bool {
        self.0
            .iter()
            .any(|range| range.first <= port && port <= range.last)
    }

    /// Every port.
    pub fn everything() -> Self {
        let last = Port(NonZeroU16::MAX);
        Self(vec![PortRange {
            first: Port::of::<1>(),
            last,
        }])
    }

    /// Whether the set has every port.
    pub fn is_everything(&self) -> bool {
        matches!(self.0.as_slice(), [range] if range.first.get() == 1 && range.last.get() == u16::MAX)
    }

    /// The ranges, ascending, apart from each other.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// The ports of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }

    /// The ports of this set that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut rest: Vec<PortRange> = self.0.clone();
        for cut in &other.0 {
            rest = rest
                .into_iter()
                .flat_map(|range| subtract(range, *cut))
                .flatten()
                .collect();
        }
        rest.into_iter().collect()
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut ranges: Vec<PortRange> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.first.get() <= last.last.get().saturating_add(1) => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl FromIterator<Port> for PortSet {
    fn from_iter<I: IntoIterator<Item = Port>>(ports: I) -> Self {
        ports.into_iter().map(PortRange::from).collect()
    }
}

impl<const N: usize> From<[Port; N]> for PortSet {
    fn from(ports: [Port; N]) -> Self {
        ports.into_iter().collect()
    }
}

impl fmt::Display for PortSet {
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
impl serde::Serialize for Port {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.get())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for PortSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

/// What is left of `range` below and above `cut`.
fn subtract(range: PortRange, cut: PortRange) -> [Option<PortRange>; 2] {
    if cut.last < range.first || range.last < cut.first {
        return [Some(range), None];
    }
    let below = Port::new(cut.first.get() - 1).and_then(|last| PortRange::new(range.first, last));
    let above = cut
        .last
        .get()
        .checked_add(1)
        .and_then(Port::new)
        .and_then(|first| PortRange::new(first, range.last));
    [below, above]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &[&str]) -> PortSet {
        text.iter()
            .map(|range| range.parse::<PortRange>().unwrap())
            .collect()
    }

    #[test]
    fn ranges_are_written_as_people_write_them() {
        assert_eq!("80".parse::<PortRange>().unwrap().to_string(), "80");
        assert_eq!("80-90".parse::<PortRange>().unwrap().to_string(), "80-90");
        for bad in [
            "", "0", "65536", "90-80", "-1", "1-", "+1", " 1", "1-2-3", "http",
        ] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn touching_ranges_become_one() {
        assert_eq!(set(&["3-5", "1-2", "4-9", "11"]).to_string(), "1-9, 11");
        assert!(set(&["1-100", "101-65535"]).is_everything());
    }

    #[test]
    fn cutting_leaves_both_sides() {
        assert_eq!(
            set(&["1-10", "20"])
                .without(&set(&["4-5", "20-30"]))
                .to_string(),
            "1-3, 6-10"
        );
        assert!(set(&["1-65535"]).without(&set(&["1-65535"])).is_empty());
    }

    fn any_set() -> impl Strategy<Value = PortSet> {
        proptest::collection::vec((1..200u16, 1..20u16), 0..8).prop_map(|ranges| {
            ranges
                .into_iter()
                .map(|(first, length)| {
                    PortRange::new(
                        Port::new(first).unwrap(),
                        Port::new(first + length).unwrap(),
                    )
                    .unwrap()
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_membership(a in any_set(), b in any_set(), port in 1..240u16) {
            let port = Port::new(port).unwrap();
            prop_assert_eq!(a.union(&b).contains(port), a.contains(port) || b.contains(port));
            prop_assert_eq!(a.without(&b).contains(port), a.contains(port) && !b.contains(port));
        }
    }
}
