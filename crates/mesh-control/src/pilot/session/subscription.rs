//! What one stream has of one type, what it asked for, and what it still has to be told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::dialed::MAX_DIALED;
use super::view::{View, parse_version};
use super::{Overload, Request, State};
use crate::pilot::cut;
use crate::pilot::resource::Resource;
use crate::pilot::snapshot::direct;

/// One type of one stream.
///
/// What the client has is not written down resource by resource: it is `last`, cut down to what
/// the client subscribed to, plus `held`.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    stage: Stage,
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// How many of the names are of addresses.
    direct: usize,
    /// Names to be answered next, whatever the client is believed to have.
    owed: BTreeSet<Arc<str>>,
    /// Names to be sent next if they are subscribed to, as they were when that became due.
    pushed: BTreeMap<Arc<str>, Resource>,
    /// Whether the wildcard was asked for again, which forgets what was sent.
    everything: bool,
    /// Up to where changes were sent.
    last: View,
    /// Gone, but the client may still use them: their removal is to be sent later.
    /// With the version that the client has, where that is known.
    held: BTreeMap<Arc<str>, Option<u64>>,
    /// Responses that were neither acknowledged nor refused.
    outstanding: VecDeque<Sent>,
    /// Resources that were refused when sent alone, by name; kept until they change.
    rejected: BTreeMap<Arc<str>, u64>,
    /// Whether the newest verdict of the client was a refusal of a response without resources.
    refused: bool,
    error: String,
    sent: u64,
}

/// How far the conversation about a type is.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Unasked,
    /// Asked and not yet answered; with the versions that the client came with.
    Asked(BTreeMap<String, String>),
    Answered,
}

/// A response on its way.
#[derive(Debug)]
struct Sent {
    nonce: String,
    resources: Vec<(Arc<str>, u64)>,
    removed: Vec<Arc<str>>,
}

/// What has to be sent; not empty unless an empty answer is what was asked for.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) resources: Vec<Resource>,
    pub(super) removed: Vec<Arc<str>>,
    /// Whether this is the first answer of its type.
    pub(super) first: bool,
}

/// What becomes of removals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Removal {
    /// Sent at once.
    Now,
    /// Held until what used the resources is gone.
    Later,
}

impl Subscription {
    /// Takes the names of a request.
    ///
    /// They count whatever the nonce of the request is: in delta a subscription may ride on any
    /// message, an outdated acknowledgement included.
    pub(super) fn ask(
        &mut self,
        request: &mut Request,
        target: Option<&View>,
    ) -> Result<(), Overload> {
        let first = matches!(self.stage, Stage::Unasked);
        if first {
            self.wildcard = request.subscribe.is_empty();
            let versions = std::mem::take(&mut request.versions);
            // Where there are too many addresses, those stay that the client has clusters for.
            request
                .subscribe
                .sort_by_key(|name| !versions.contains_key(name));
            self.stage = Stage::Asked(versions);
        }
        for name in request.subscribe.drain(..) {
            if name == WILDCARD {
                self.wildcard = true;
                if !first {
                    self.everything = true;
                    // A response of before may reach the client after it asked again.
                    let sent = self.outstanding.iter().flat_map(|sent| &sent.resources);
                    self.owed.extend(sent.map(|(name, _)| Arc::clone(name)));
                }
                continue;
            }
            let name = match target.and_then(|target| target.find(&name)) {
                Some(resource) => Arc::clone(&resource.name),
                None => name.into(),
            };
            if !first {
                self.owed.insert(Arc::clone(&name));
            }
            if !direct::is_name(&name) {
                self.names.insert(name);
            } else if self.direct < MAX_DIALED {
                // Beyond, it is answered as what is not, and the connection that waits is closed.
                self.direct += usize::from(self.names.insert(name));
            }
        }
        for name in request.unsubscribe.drain(..) {
            if name == WILDCARD {
                self.wildcard = false;
                self.everything = false;
                self.forget_unsubscribed();
            } else if let Some(name) = self.names.take(name.as_str()) {
                self.direct -= usize::from(direct::is_name(&name));
                if self.wildcard {
                    // The client wants to know whether the wildcard still gives it.
                    self.owed.insert(name);
                } else {
                    self.forget(&name);
                }
            }
        }
        if self.names.len() + self.owed.len() > MAX_NAMES {
            return Err(Overload { limit: MAX_NAMES });
        }
        Ok(())
    }

    /// How many addresses of a request there is no room for.
    pub(super) fn excess(&self, request: &Request) -> usize {
        let is_new = |name: &&String| direct::is_name(name) && !self.names.contains(name.as_str());
        let new = request.subscribe.iter().filter(is_new).count();
        (self.direct + new).saturating_sub(MAX_DIALED)
    }

    /// Takes an address for one that was never asked for.
    pub(super) fn forget_direct(&mut self, name: &str) {
        self.direct -= usize::from(self.names.remove(name));
    }

    /// Whether the name is to be answered next.
    pub(super) fn owes(&self, name: &str) -> bool {
        self.owed.contains(name)
    }

    /// What the client came with, as long as it is not answered.
    pub(super) fn versions(&self) -> Option<&BTreeMap<String, String>> {
        match &self.stage {
            Stage::Asked(versions) => Some(versions),
            Stage::Unasked | Stage::Answered => None,
        }
    }

    /// The names of addresses that were asked for, in order.
    pub(super) fn direct_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let from = (Bound::Included(direct::PREFIX), Bound::Unbounded);
        let names = self.names.range::<str, _>(from);
        names.take_while(|name| direct::is_name(name))
    }

    /// Has the resource sent with the next changes, changed or not, if it is subscribed to.
    pub(super) fn push(&mut self, resource: &Resource) {
        self.pushed
            .insert(Arc::clone(&resource.name), resource.clone());
    }

    /// What there is to send so that the client has `target`; counts as sent from here on.
    pub(super) fn advance(&mut self, target: &View, removal: Removal) -> Option<Changes> {
        if !self.is_behind(target) {
            return None;
        }
        let (mut resources, gone, mut removed, empty) = match std::mem::take(&mut self.stage) {
            Stage::Unasked => return None,
            Stage::Asked(versions) => self.first(target, &versions),
            Stage::Answered => self.next(target),
        };
        let first = empty.is_some();
        resources.retain(|resource| match self.held.remove(&resource.name) {
            Some(version) => {
                version != Some(resource.version)
                    || self.owed.contains(&resource.name)
                    || self.pushed.contains_key(&resource.name)
            }
            None => true,
        });
        for (name, version) in gone {
            if removal == Removal::Later && !removed.contains(&name) {
                self.held.insert(name, version);
            } else {
                removed.insert(name);
            }
        }
        for name in &removed {
            self.held.remove(name);
        }
        for resource in &resources {
            self.rejected.remove(&resource.name);
        }
        self.rejected.retain(|name, version| {
            target
                .find(name)
                .is_some_and(|resource| resource.version == *version)
        });
        self.stage = Stage::Answered;
        self.last = target.clone();
        self.owed.clear();
        self.pushed.clear();
        self.everything = false;
        let changes = Changes {
            resources,
            removed: removed.into_iter().collect(),
            first,
        };
        (!changes.is_empty() || empty == Some(true)).then_some(changes)
    }

    /// The answer to the first request: only what differs from what the client came with.
    fn first(&self, target: &View, versions: &BTreeMap<String, String>) -> Found {
        let version = |name: &str| versions.get(name).map(|version| parse_version(version));
        let is_gone = |name: &str| self.is_subscribed(name) && target.find(name).is_none();
        let mut resources: Vec<_> = target
            .iter()
            .filter(|resource| self.is_subscribed(&resource.name))
            .filter(|resource| {
                self.everything
                    || version(&resource.name) != Some(Some(resource.version))
                    || self.owed.contains(&resource.name)
                    || self.pushed.contains_key(&resource.name)
            })
            .cloned()
            .collect();
        let mut gone: BTreeMap<Arc<str>, _> = versions
            .keys()
            .filter(|name| is_gone(name))
            .map(|name| (name.as_str().into(), version(name).flatten()))
            .collect();
        // Something that was sent waits for these, and goes when it is not used any more.
        for (name, resource) in self.pushed.iter().filter(|(name, _)| is_gone(name)) {
            gone.insert(Arc::clone(name), Some(resource.version));
            resources.push(resource.clone());
        }
        let absent = self
            .names
            .iter()
            .filter(|name| target.find(name).is_none() && !gone.contains_key(*name))
            .cloned()
            .collect();
        let gone = gone.into_iter().collect();
        // Envoy waits for an answer to a wildcard, even if there is nothing to say.
        let empty = self.wildcard && versions.is_empty();
        (resources, gone, absent, Some(empty))
    }

    /// What changed since the last time, and what was asked for since.
    fn next(&self, target: &View) -> Found {
        let difference = target.since(&self.last);
        let mut resources: Vec<&Resource> = if self.everything {
            target.iter().collect()
        } else {
            difference.changed
        };
        let mut absent = BTreeSet::new();
        for name in &self.owed {
            match target.find(name) {
                Some(resource) => resources.push(resource),
                None => {
                    absent.insert(Arc::clone(name));
                }
            }
        }
        resources.extend(self.pushed.keys().filter_map(|name| target.find(name)));
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        resources.dedup_by(|a, b| a.name == b.name);
        let resources = resources
            .into_iter()
            .filter(|resource| self.is_subscribed(&resource.name))
            .cloned()
            .collect();
        let gone = difference
            .gone
            .into_iter()
            .filter(|resource| self.is_subscribed(&resource.name))
            .map(|resource| (Arc::clone(&resource.name), Some(resource.version)))
            .collect();
        (resources, gone, absent, None)
    }

    /// Notes that a response was sent.
    pub(super) fn sent(&mut self, nonce: String, changes: &Changes) {
        self.sent += changes.resources.len() as u64;
        let resources = changes
            .resources
            .iter()
            .map(|resource| (Arc::clone(&resource.name), resource.version));
        self.outstanding.push_back(Sent {
            nonce,
            resources: resources.collect(),
            removed: changes.removed.clone(),
        });
    }

    /// Takes the client's verdict on a response; gives what is to be sent again, each alone.
    ///
    /// A refusal speaks of a whole response, and Envoy may have left good resources of it
    /// unapplied; those arrive when every one comes in a response of its own.
    pub(super) fn judge(&mut self, nonce: &str, error: Option<String>) -> Vec<Changes> {
        let position = self.outstanding.iter().position(|sent| sent.nonce == nonce);
        let Some(sent) = position.and_then(|position| self.outstanding.remove(position)) else {
            return Vec::new();
        };
        let Some(mut error) = error else {
            self.refused = false;
            return Vec::new();
        };
        cut(&mut error, MAX_ERROR);
        self.error = error;
        self.refused = sent.resources.is_empty();
        let is_alone = sent.resources.len() + sent.removed.len() <= 1;
        let mut again = Vec::new();
        for (name, version) in sent.resources {
            if let Some(held) = self.held.get_mut(&name) {
                *held = None;
            }
            // What changed since then is on its way in a later response.
            let current = self
                .last
                .find(&name)
                .filter(|resource| resource.version == version && self.is_subscribed(&name));
            match current {
                Some(_) if is_alone => {
                    self.rejected.insert(name, version);
                }
                Some(resource) => again.push(Changes {
                    resources: vec![resource.clone()],
                    ..Changes::default()
                }),
                None => {}
            }
        }
        if !is_alone {
            let removed = sent.removed.into_iter();
            again.extend(
                removed
                    .filter(|name| self.last.find(name).is_none() && self.is_subscribed(name))
                    .map(|name| Changes {
                        removed: vec![name],
                        ..Changes::default()
                    }),
            );
        }
        again
    }

    /// The removals held so far; they count as sent from here on.
    pub(super) fn release(&mut self) -> Option<Changes> {
        let removed: Vec<_> = std::mem::take(&mut self.held).into_keys().collect();
        (!removed.is_empty()).then_some(Changes {
            removed,
            ..Changes::default()
        })
    }

    /// Whether the client asked for this type on this stream.
    pub(super) fn is_asked(&self) -> bool {
        !matches!(self.stage, Stage::Unasked)
    }

    /// Whether there may be something to send.
    pub(super) fn is_behind(&self, target: &View) -> bool {
        match self.stage {
            Stage::Unasked => false,
            Stage::Asked(_) => true,
            Stage::Answered => {
                self.everything
                    || !self.owed.is_empty()
                    || !self.pushed.is_empty()
                    || !self.last.is_same(target)
            }
        }
    }

    /// Whether removals wait.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether responses wait for a verdict of the client.
    pub(super) fn is_pending(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// Whether the client uses what was sent last, and nothing older.
    pub(super) fn is_accepted(&self) -> bool {
        self.is_asked() && self.outstanding.is_empty() && self.rejected.is_empty()
    }

    /// Whether the client came with names that `target` lacks and is not answered yet, or with
    /// addresses at which it knows somebody else.
    pub(super) fn comes_with_more(&self, target: &View) -> bool {
        self.comes_with(|name, version| {
            target.find(name).is_none_or(|resource| {
                let known = parse_version(version);
                direct::is_name(name) && known.is_some_and(|known| known != resource.version)
            })
        })
    }

    /// Whether the client came with names that `target` lacks or has otherwise and is not answered
    /// yet.
    pub(super) fn comes_with_other(&self, target: &View) -> bool {
        self.comes_with(|name, version| {
            target
                .find(name)
                .is_none_or(|resource| parse_version(version) != Some(resource.version))
        })
    }

    fn comes_with(&self, differs: impl Fn(&str, &str) -> bool) -> bool {
        match &self.stage {
            Stage::Asked(versions) => versions
                .iter()
                .any(|(name, version)| self.is_subscribed(name) && differs(name, version)),
            Stage::Unasked | Stage::Answered => false,
        }
    }

    /// How things stand, in the words of a proxy's status.
    pub(super) fn state(&self) -> State {
        if self.is_pending() || matches!(self.stage, Stage::Asked(_)) {
            State::Pending
        } else if self.refused || !self.rejected.is_empty() {
            State::Rejected
        } else {
            State::Synced
        }
    }

    /// Resources that the client is to have.
    pub(super) fn resources(&self) -> usize {
        if self.wildcard {
            self.last.len()
        } else {
            let known = |name: &&Arc<str>| self.last.find(name).is_some();
            self.names.iter().filter(known).count()
        }
    }

    /// Resources sent on this stream.
    pub(super) fn sent_resources(&self) -> u64 {
        self.sent
    }

    /// What the client said when it refused last.
    pub(super) fn error(&self) -> &str {
        if self.state() == State::Rejected {
            &self.error
        } else {
            ""
        }
    }

    fn is_subscribed(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn forget(&mut self, name: &str) {
        if let Stage::Asked(versions) = &mut self.stage {
            versions.remove(name);
        }
        self.owed.remove(name);
        self.held.remove(name);
        self.rejected.remove(name);
    }

    fn forget_unsubscribed(&mut self) {
        let names = &self.names;
        if let Stage::Asked(versions) = &mut self.stage {
            versions.retain(|name, _| names.contains(name.as_str()));
        }
        self.owed.retain(|name| names.contains(name));
        self.held.retain(|name, _| names.contains(name));
        self.rejected.retain(|name, _| names.contains(name));
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty()
    }
}

/// Resources to send, resources gone with the client's version, names to be answered by a removal,
/// and for a first answer whether it is owed even if empty.
type Found = (
    Vec<Resource>,
    Vec<(Arc<str>, Option<u64>)>,
    BTreeSet<Arc<str>>,
    Option<bool>,
);

/// Stands for every resource of a type.
const WILDCARD: &str = "*";

/// Names that one stream may ask for: ten times a mesh of 10,000 services, and 10 MB at most.
const MAX_NAMES: usize = 100_000;

/// Bytes kept of a client's error; Envoy's own are shorter but for whole lists of resources.
const MAX_ERROR: usize = 4096;
