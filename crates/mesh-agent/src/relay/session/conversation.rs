//! One type between Envoy and the relay: its subscription, and responses that wait for an answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};

use super::{Output, direct};
use crate::relay::accepted::{Accepted, AcceptedType};

/// By name, what was sent and not answered: the resource or its removal, oldest first.
pub(super) type Unconfirmed = BTreeMap<String, Vec<Option<Resource>>>;

/// One type on Envoy's present stream: what it wants, what it was sent, what it may hold.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    pub(super) subscription: Subscription,
    pub(super) in_flight: VecDeque<Sent>,
    /// Names that Envoy may hold in another state than the accepted one.
    pub(super) uncertain: BTreeSet<String>,
    /// Whether Pilot was asked on its present stream.
    pub(super) asked: bool,
}

/// The names that Envoy wants.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<String>,
}

/// A response that Envoy has not answered.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) nonce: String,
    /// Pilot's nonce, if it is Pilot's response and its stream still open.
    pub(super) pilot_nonce: Option<String>,
    pub(super) origin: Origin,
    pub(super) resources: Vec<Resource>,
    pub(super) removed: Vec<String>,
}

/// Whose response it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// Pilot sent it.
    Pilot,
    /// It was accepted before.
    Accepted,
}

// === impl Conversation ===

impl Conversation {
    /// The first request of a type on a stream to Pilot; none while Envoy wants nothing of it.
    pub(super) fn ask(
        &mut self,
        type_url: &str,
        accepted: Option<&AcceptedType>,
    ) -> Option<Output> {
        let subscribe = self.subscription.as_first()?;
        self.asked = true;
        let pending = |sent: &&Sent| sent.origin == Origin::Pilot;
        let uncertain: BTreeSet<&String> = self
            .in_flight
            .iter()
            .filter(pending)
            .flat_map(Sent::names)
            .chain(&self.uncertain)
            .filter(|name| self.subscription.covers(name))
            .collect();
        let mut versions: BTreeMap<String, String> = accepted
            .into_iter()
            .flat_map(|accepted| &accepted.resources)
            .filter(|(name, _)| self.subscription.covers(name))
            .map(|(name, resource)| (name.clone(), resource.version.clone()))
            .collect();
        versions.extend(
            uncertain
                .into_iter()
                .map(|name| (name.clone(), UNCERTAIN.to_owned())),
        );
        Some(Output::ToPilot(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: subscribe,
            initial_resource_versions: versions,
            ..Default::default()
        }))
    }

    /// Sends Envoy what was accepted before.
    pub(super) fn send(
        &mut self,
        type_url: &str,
        nonce: String,
        resources: Vec<Resource>,
        removed: Vec<String>,
    ) -> Output {
        self.in_flight.push_back(Sent {
            nonce: nonce.clone(),
            pilot_nonce: None,
            origin: Origin::Accepted,
            resources: resources.clone(),
            removed: removed.clone(),
        });
        Output::ToEnvoy(DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            resources,
            removed_resources: removed,
            nonce,
            ..Default::default()
        })
    }

    /// Compares what Envoy says it has with what it is known to have accepted.
    /// A version that was sent and never answered is accepted if Envoy names it now.
    /// Says whether the accepted configuration changed.
    pub(super) fn reconcile(
        &mut self,
        accepted: &mut Accepted,
        type_url: &str,
        has: &BTreeMap<String, String>,
        mut unconfirmed: Unconfirmed,
    ) -> bool {
        if has.is_empty() {
            // A fresh process, or one that never had any: nothing to compare.
            return false;
        }
        let accepted = accepted.0.entry(type_url.to_owned()).or_default();
        let mut changed = false;
        for (name, version) in has {
            let known = accepted.resources.get(name);
            if known.is_some_and(|known| &known.version == version) {
                continue;
            }
            let sent = unconfirmed.remove(name).unwrap_or_default();
            let confirmed = sent
                .into_iter()
                .flatten()
                .find(|resource| &resource.version == version && may_be_kept(resource));
            if let Some(resource) = confirmed {
                accepted.insert(resource);
                changed = true;
            } else {
                self.uncertain.insert(name.clone());
            }
        }
        for (name, sent) in &unconfirmed {
            if !has.contains_key(name) && sent.contains(&None) {
                changed |= accepted.resources.remove(name).is_some();
            }
        }
        // Envoy lists all that it wants of a type in the first request: other names are given up.
        let before = accepted.resources.len() + accepted.absent.len();
        accepted
            .resources
            .retain(|name, _| self.subscription.covers(name));
        accepted
            .absent
            .retain(|name| self.subscription.names.contains(name));
        changed | (before != accepted.resources.len() + accepted.absent.len())
    }

    /// Takes an acknowledged response into the accepted configuration; says whether that changed it.
    pub(super) fn accept(&mut self, accepted: &mut AcceptedType, sent: Sent) -> bool {
        let superseded: BTreeSet<&String> = self.in_flight.iter().flat_map(Sent::names).collect();
        let mut changed = false;
        for resource in sent.resources {
            let name = resource.name.clone();
            if resource.resource.is_none() {
                // A heartbeat: the content is what it was.
                continue;
            }
            let known = accepted.resources.get(&name);
            if may_be_kept(&resource) && self.subscription.covers(&name) {
                if !superseded.contains(&name) {
                    self.uncertain.remove(&name);
                }
                if known.is_none_or(|known| known.version != resource.version) {
                    accepted.insert(resource);
                    changed = true;
                }
            } else {
                changed |= accepted.resources.remove(&name).is_some();
                self.uncertain.insert(name);
            }
        }
        for name in sent.removed {
            if !superseded.contains(&name) {
                self.uncertain.remove(&name);
            }
            changed |= accepted.resources.remove(&name).is_some();
            // A guess made while Pilot was away is not knowledge.
            if sent.origin == Origin::Pilot && self.subscription.names.contains(&name) {
                changed |= accepted.absent.insert(name);
            }
        }
        changed
    }

    /// Drops what Envoy gave up; says whether there was any.
    pub(super) fn forget(&mut self, accepted: &mut AcceptedType, given_up: &[String]) -> bool {
        let subscription = &self.subscription;
        self.uncertain
            .retain(|name| subscription.covers(name) || !given_up.contains(name));
        let mut changed = false;
        for name in given_up {
            if name == WILDCARD {
                let before = accepted.resources.len();
                accepted
                    .resources
                    .retain(|name, _| subscription.covers(name));
                changed |= before != accepted.resources.len();
                continue;
            }
            changed |= accepted.absent.remove(name);
            if !subscription.covers(name) {
                changed |= accepted.resources.remove(name).is_some();
            }
        }
        changed
    }

    /// The clusters of addresses that Envoy waits for, as they are while nobody can say more.
    pub(super) fn awaited(&self, accepted: Option<&AcceptedType>) -> Vec<Resource> {
        let is_answered = |name: &String| {
            let known = accepted.is_some_and(|accepted| {
                accepted.resources.contains_key(name) || accepted.absent.contains(name)
            });
            let mut sent = self.in_flight.iter().flat_map(Sent::names);
            known || sent.any(|other| other == name)
        };
        let names = self.subscription.names.iter();
        names
            .filter(|name| direct::is_name(name) && !is_answered(name))
            .map(|name| direct::passthrough(name))
            .collect()
    }

    /// The answer to the first request of a type out of what is known.
    ///
    /// Envoy gets what it lacks; what it has in another version stays, it may be newer.
    /// With `guess_absent`, names that are not known are said not to exist:
    /// a starting Envoy that only ever heard the accepted configuration would wait for them for ever.
    pub(super) fn answer_first(
        &self,
        accepted: &AcceptedType,
        has: &BTreeMap<String, String>,
        guess_absent: bool,
    ) -> (Vec<Resource>, Vec<String>) {
        let lacks = |name: &String| !has.contains_key(name);
        let resources = accepted
            .resources
            .iter()
            .filter(|(name, _)| lacks(name) && self.subscription.covers(name))
            .map(|(_, resource)| resource.clone());
        let may_guess = |name: &str| guess_absent && !direct::is_name(name);
        let unknown = |name: &&String| lacks(name) && !accepted.resources.contains_key(*name);
        let removed = self
            .subscription
            .names
            .iter()
            .filter(unknown)
            .filter(|name| may_guess(name) || accepted.absent.contains(*name));
        (resources.collect(), removed.cloned().collect())
    }

    /// The answer to a later subscription out of what is known, the newest first.
    pub(super) fn answer_later(
        &self,
        accepted: &AcceptedType,
        wanted: &[String],
        guess_absent: bool,
    ) -> (Vec<Resource>, Vec<String>) {
        let (mut resources, mut removed) = (BTreeMap::new(), BTreeSet::new());
        let everything = wanted.iter().any(|name| name == WILDCARD);
        let named = wanted.iter().filter(|name| *name != WILDCARD);
        let of_wildcard = everything.then(|| accepted.resources.keys());
        for name in named.chain(of_wildcard.into_iter().flatten()) {
            let pending = self
                .in_flight
                .iter()
                .rev()
                .find(|sent| sent.names().any(|other| other == name));
            let newest = match pending {
                Some(sent) => sent
                    .resources
                    .iter()
                    .find(|resource| &resource.name == name),
                None => accepted.resources.get(name),
            };
            if let Some(resource) = newest {
                resources.insert(name, resource.clone());
            } else if pending.is_none()
                && (guess_absent && !direct::is_name(name) || accepted.absent.contains(name))
            {
                removed.insert(name.clone());
            }
        }
        (
            resources.into_values().collect(),
            removed.into_iter().collect(),
        )
    }
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub(super) fn change(&mut self, request: &DeltaDiscoveryRequest) {
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                self.wildcard = true;
            } else {
                self.names.insert(name.clone());
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            } else {
                self.names.remove(name);
            }
        }
    }

    /// As the first request of a stream says it: nothing at all means everything.
    fn as_first(&self) -> Option<Vec<String>> {
        match (self.wildcard, self.names.is_empty()) {
            (true, true) => Some(Vec::new()),
            (false, true) => None,
            (wildcard, false) => {
                let star = wildcard.then(|| WILDCARD.to_owned());
                Some(star.into_iter().chain(self.names.iter().cloned()).collect())
            }
        }
    }
}

// === impl Sent ===

impl Sent {
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        let resources = self.resources.iter().map(|resource| &resource.name);
        resources.chain(&self.removed)
    }
}

/// What Pilot is to hear of a later request of Envoy's, if anything.
pub(super) fn forward(
    request: DeltaDiscoveryRequest,
    pilot_nonce: Option<String>,
) -> Option<Output> {
    let error_detail = request.error_detail.filter(|_| pilot_nonce.is_some());
    let says_something = pilot_nonce.is_some()
        || !request.resource_names_subscribe.is_empty()
        || !request.resource_names_unsubscribe.is_empty();
    says_something.then(|| {
        Output::ToPilot(DeltaDiscoveryRequest {
            type_url: request.type_url,
            resource_names_subscribe: request.resource_names_subscribe,
            resource_names_unsubscribe: request.resource_names_unsubscribe,
            response_nonce: pilot_nonce.unwrap_or_default(),
            error_detail,
            ..Default::default()
        })
    })
}

/// Whether a resource may outlive Pilot: not if it says that it ends by itself or is not to be kept.
fn may_be_kept(resource: &Resource) -> bool {
    let refuses = resource
        .cache_control
        .is_some_and(|control| control.do_not_cache);
    resource.resource.is_some() && resource.ttl.is_none() && !refuses
}

/// Stands for every resource of a type.
pub(super) const WILDCARD: &str = "*";
/// A version that no resource has (versions are hashes of 16 hex digits): Pilot sends what it finds
/// different, or removes what is gone, and so makes certain what Envoy holds.
pub(super) const UNCERTAIN: &str = "0";
