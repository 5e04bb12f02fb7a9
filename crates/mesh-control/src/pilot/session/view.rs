//! The resources of one type in one snapshot, and the difference between two of them.

use std::sync::Arc;

use crate::pilot::resource::{Resource, ResourceType, Resources, Snapshot};

/// The resources of one type in both layers of a snapshot, and those that only one client asked
/// for: pointers, whatever their number.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    shared: Option<Resources>,
    own: Option<Resources>,
    asked: Option<Resources>,
}

/// What one view has and another has not.
#[derive(Debug, Default)]
pub(super) struct Difference<'a> {
    /// New or of another version, in the order of names.
    pub(super) changed: Vec<&'a Resource>,
    /// Not there any more, as they were.
    pub(super) gone: Vec<&'a Resource>,
}

// === impl View ===

impl View {
    pub(super) fn of(snapshot: &Snapshot, kind: ResourceType) -> Self {
        Self {
            shared: snapshot.shared.resources(kind).cloned(),
            own: snapshot.own.resources(kind).cloned(),
            asked: None,
        }
    }

    /// The same with what the client asked for, of which neither layer has any.
    pub(super) fn with(snapshot: &Snapshot, kind: ResourceType, asked: &Resources) -> Self {
        Self {
            asked: Some(Arc::clone(asked)),
            ..Self::of(snapshot, kind)
        }
    }

    /// Whether both point to the same memory, which is what unchanged means here.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |a: &Option<Resources>, b: &Option<Resources>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.is_empty() && b.is_empty()),
            (None, None) => true,
            (Some(some), None) | (None, Some(some)) => some.is_empty(),
        };
        same(&self.shared, &other.shared)
            && same(&self.own, &other.own)
            && same(&self.asked, &other.asked)
    }

    /// The resource of a name.
    pub(super) fn find(&self, name: &str) -> Option<&Resource> {
        [&self.shared, &self.own, &self.asked]
            .into_iter()
            .find_map(|part| {
                let part = part.as_deref()?;
                let index = part.binary_search_by(|resource| resource.name.as_ref().cmp(name));
                part.get(index.ok()?)
            })
    }

    /// All resources, in the order of names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Resource> {
        let mut parts = [&self.shared, &self.own, &self.asked].map(|part| slice(part.as_ref()));
        std::iter::from_fn(move || {
            let rests = parts.iter_mut().filter(|rest| !rest.is_empty());
            let rest = rests.min_by(|a, b| head(a).cmp(&head(b)))?;
            let (first, others) = rest.split_first()?;
            *rest = others;
            Some(first)
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        [&self.shared, &self.own, &self.asked]
            .into_iter()
            .map(|part| slice(part.as_ref()).len())
            .sum()
    }

    /// What has to be sent to somebody who has `old`.
    pub(super) fn since<'a>(&'a self, old: &'a Self) -> Difference<'a> {
        let mut difference = Difference::default();
        walk(old.shared.as_ref(), self.shared.as_ref(), &mut difference);
        walk(old.own.as_ref(), self.own.as_ref(), &mut difference);
        walk(old.asked.as_ref(), self.asked.as_ref(), &mut difference);
        // A name may move from one layer to the other; the walks see it leave and arrive.
        let Difference { changed, gone } = &mut difference;
        gone.retain(|gone| self.find(&gone.name).is_none());
        changed.retain(|new| {
            old.find(&new.name)
                .is_none_or(|old| old.version != new.version)
        });
        changed.sort_by(|a, b| a.name.cmp(&b.name));
        difference
    }
}

/// The version that a client names, if it is one that we could have given.
pub(super) fn parse_version(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn slice(part: Option<&Resources>) -> &[Resource] {
    part.map(AsRef::as_ref).unwrap_or_default()
}

/// The name that comes first.
fn head(part: &[Resource]) -> Option<&str> {
    part.first().map(|resource| &*resource.name)
}

/// Walks two sorted lists once.
fn walk<'a>(
    old: Option<&'a Resources>,
    new: Option<&'a Resources>,
    difference: &mut Difference<'a>,
) {
    if let (Some(old), Some(new)) = (old, new)
        && Arc::ptr_eq(old, new)
    {
        return;
    }
    let mut old = slice(old).iter().peekable();
    for resource in slice(new) {
        while let Some(gone) =
            old.next_if(|old| !Arc::ptr_eq(&old.name, &resource.name) && old.name < resource.name)
        {
            difference.gone.push(gone);
        }
        match old.next_if(|old| Arc::ptr_eq(&old.name, &resource.name) || old.name == resource.name)
        {
            Some(old) if old.version == resource.version => {}
            _ => difference.changed.push(resource),
        }
    }
    difference.gone.extend(old);
}
