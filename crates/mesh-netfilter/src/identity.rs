//! Who sends a packet: user, group, or a mark that the sender put on its socket.

use std::collections::BTreeSet;

use crate::{IdRange, IdSet, Problem};

/// A socket mark, compared under a mask.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Mark {
    value: u32,
    mask: u32,
}

/// The owner of the socket that a packet comes from, by the numbers that the kernel knows:
/// those of the user namespace that owns the network namespace.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Owner {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
}

/// Senders, by user, group and mark; whoever has one of them is meant.
///
/// ```
/// # use mesh_netfilter::{Identities, Owner};
/// let proxy = Identities::users([1337, 1338]).and_groups([1337]);
/// assert!(proxy.include(Some(Owner { user: 1338, group: 100 }), 0));
/// assert!(!proxy.include(Some(Owner { user: 1000, group: 100 }), 0));
/// ```
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Identities {
    users: IdSet,
    groups: IdSet,
    marks: BTreeSet<Mark>,
}

// === impl Mark ===

impl Mark {
    /// Packets whose mark equals `value` in the bits of `mask`.
    ///
    /// # Errors
    /// If `value` has a bit outside `mask` (nothing could match) or is 0 (unmarked traffic would).
    pub fn new(value: u32, mask: u32) -> Result<Self, Problem> {
        if value != 0 && value & !mask == 0 {
            Ok(Self { value, mask })
        } else {
            Err(Problem::new(
                "",
                format!("{value:#x}/{mask:#x}"),
                "a mark with a value other than 0 within its mask",
            ))
        }
    }

    /// Packets with this very mark, which is not 0.
    pub(crate) fn exactly(value: u32) -> Self {
        Self {
            value,
            mask: u32::MAX,
        }
    }

    /// The value.
    pub fn value(self) -> u32 {
        self.value
    }

    /// The bits that are compared.
    pub fn mask(self) -> u32 {
        self.mask
    }

    /// Whether a packet with this mark is meant.
    pub fn matches(self, mark: u32) -> bool {
        mark & self.mask == self.value
    }
}

// === impl Identities ===

impl Identities {
    /// These users: ids, or ranges of them.
    pub fn users<T: Into<IdRange>>(users: impl IntoIterator<Item = T>) -> Self {
        Self::default().and_users(users)
    }

    /// These groups: ids, or ranges of them.
    pub fn groups<T: Into<IdRange>>(groups: impl IntoIterator<Item = T>) -> Self {
        Self::default().and_groups(groups)
    }

    /// These marks.
    pub fn marks(marks: impl IntoIterator<Item = Mark>) -> Self {
        Self::default().and_marks(marks)
    }

    /// These users as well.
    #[must_use]
    pub fn and_users<T: Into<IdRange>>(mut self, users: impl IntoIterator<Item = T>) -> Self {
        let users: IdSet = users.into_iter().map(Into::into).collect();
        self.users = self.users.union(&users);
        self
    }

    /// These groups as well.
    #[must_use]
    pub fn and_groups<T: Into<IdRange>>(mut self, groups: impl IntoIterator<Item = T>) -> Self {
        let groups: IdSet = groups.into_iter().map(Into::into).collect();
        self.groups = self.groups.union(&groups);
        self
    }

    /// These marks as well.
    #[must_use]
    pub fn and_marks(mut self, marks: impl IntoIterator<Item = Mark>) -> Self {
        self.marks.extend(marks);
        self
    }

    /// Whether nobody is meant.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty() && self.marks.is_empty()
    }

    /// Whether a packet with this owner and mark is meant. A packet without a socket has no owner.
    pub fn include(&self, owner: Option<Owner>, mark: u32) -> bool {
        owner.is_some_and(|owner| {
            self.users.contains(owner.user) || self.groups.contains(owner.group)
        }) || self.marks.iter().any(|wanted| wanted.matches(mark))
    }

    /// The user ids.
    pub fn user_ids(&self) -> &IdSet {
        &self.users
    }

    /// The group ids.
    pub fn group_ids(&self) -> &IdSet {
        &self.groups
    }

    /// The marks.
    pub fn mark_values(&self) -> &BTreeSet<Mark> {
        &self.marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_matches_nothing_or_unmarked_traffic_is_refused() {
        assert!(Mark::new(0x539, 0xfff).is_ok());
        assert!(Mark::new(0x1539, 0xfff).is_err());
        assert!(Mark::new(0, 0xfff).is_err());
    }

    #[test]
    fn a_packet_without_socket_has_no_owner() {
        assert!(!Identities::users([0]).include(None, 0));
        assert!(Identities::marks([Mark::new(1, 1).unwrap()]).include(None, 3));
    }
}
