//! One stream of delta xDS, as a state machine without I/O: requests and snapshots in, responses out.
//!
//! The rules are those of Envoy's xDS protocol description, with what Envoy 1.40 was seen to do:
//!
//! - a subscription is honoured on any message; a name asked for is always answered, one that
//!   does not exist once as removed;
//! - a client that comes back with versions is sent what differs, nothing else;
//! - changes go out as clusters, endpoints, listeners, routes, names.
//!   Envoy acknowledges a changed cluster only when it has endpoints for it, and does not ask for
//!   them again: they follow it unasked.
//!   What may use a new cluster waits until clusters are acknowledged, which means warm;
//! - a cluster goes only when the listeners and routes that replaced its users are acknowledged;
//! - a server that has just started may not know everything again: from a client that comes back it
//!   takes nothing away until it is told that it knows ([`Session::trust`]);
//! - the cluster of an address is nobody's but his who asks for it by name, whatever his wildcard.
//!   Envoy asks for it once, so where it was taken away it is sent unasked when somebody is there;
//! - the resources of a refused response are sent again one by one, so that the good ones apply.

mod dialed;
mod subscription;
mod view;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use self::dialed::Dialed;
use self::subscription::{Changes, Removal, Subscription};
use self::view::View;
use crate::pilot::resource::{ResourceType, Snapshot};
use crate::pilot::snapshot::Directory;

/// What a client says; the part of `DeltaDiscoveryRequest` that matters here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Request {
    /// The type it speaks of.
    pub type_url: String,
    /// The response that it judges; empty when it judges none.
    pub nonce: String,
    /// Names to be told of from now on.
    pub subscribe: Vec<String>,
    /// Names to be told of no more.
    pub unsubscribe: Vec<String>,
    /// On the first message of a type: what the client already has, with versions.
    pub versions: BTreeMap<String, String>,
    /// Why the response was refused; absent when it was accepted.
    pub error: Option<String>,
}

/// What a client is told; becomes one `DeltaDiscoveryResponse`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response {
    /// The type it speaks of.
    pub type_url: Cow<'static, str>,
    /// Resources, each encoded as a `resources` field of the message.
    pub entries: Vec<Bytes>,
    /// Names of resources that are not, or not any more.
    pub removed: Vec<Arc<str>>,
    /// Identifies it in the client's verdict; differs between streams too.
    pub nonce: String,
}

/// How a type of a stream stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Everything sent was acknowledged.
    Synced,
    /// Something waits for an answer, ours or the client's.
    Pending,
    /// The client refused something that is still wanted.
    Rejected,
}

/// How a type of a stream stands, with numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TypeStatus {
    /// The type.
    pub kind: ResourceType,
    /// Where it stands.
    pub state: State,
    /// Resources that the client is to have.
    pub resources: usize,
    /// Resources sent since the stream began; 0 after a resume without changes.
    pub sent: u64,
    /// The client's words when it refused; empty otherwise.
    pub error: String,
}

/// A client asked for more names than a stream may.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("more than {limit} names asked for on one stream")]
pub struct Overload {
    /// The most that a stream may ask for.
    pub limit: usize,
}

/// One stream.
///
/// Every call gives the responses that follow from it, in the order of sending.
#[derive(Debug)]
pub struct Session {
    /// Sets the nonces of this stream apart from those of others.
    id: u64,
    responses: u64,
    target: Option<Snapshot>,
    /// The clusters of the addresses that the client asked for, as `directory` has them.
    dialed: Dialed,
    directory: Option<Arc<Directory>>,
    types: [Subscription; ResourceType::ALL.len()],
    /// Whether the client had its time to ask for the types that it wants.
    expired: bool,
    /// Whether what the snapshot lacks is gone.
    trusted: bool,
}

impl Session {
    /// A stream that nothing was said on; `id` differs from that of the client's other streams.
    ///
    /// What the snapshots lack is taken for gone at once, or only after [`Self::trust`].
    pub fn new(id: u64, trusted: bool) -> Self {
        Self {
            id,
            responses: 0,
            target: None,
            dialed: Dialed::default(),
            directory: None,
            types: Default::default(),
            expired: false,
            trusted,
        }
    }

    /// Takes a message of the client.
    ///
    /// # Errors
    ///
    /// When the client asked for more names than a stream may; the stream is to be ended.
    pub fn receive(&mut self, mut request: Request) -> Result<Vec<Response>, Overload> {
        let Some(kind) = ResourceType::from_url(&request.type_url) else {
            return Ok(self.answer_unknown(request).into_iter().collect());
        };
        let error = request.error.take();
        let again = self.at(kind).judge(&request.nonce, error);
        let mut responses = Vec::new();
        for changes in again {
            self.send(kind, changes, &mut responses);
        }
        let target = self.target.as_ref().map(|target| self.view(target, kind));
        let asks = !request.subscribe.is_empty() || !request.unsubscribe.is_empty();
        for name in self.dialed.forgettable(self.of(kind).excess(&request)) {
            self.at(kind).forget_direct(&name);
        }
        self.at(kind).ask(&mut request, target.as_ref())?;
        if asks && kind == ResourceType::Cluster {
            self.look_up();
        }
        self.advance(false, &mut responses);
        Ok(responses)
    }

    /// Takes what the client is to have from now on.
    pub fn publish(&mut self, snapshot: Snapshot) -> Vec<Response> {
        let known = self.directory.as_ref().map(Arc::as_ptr);
        let is_new = snapshot.shared.direct.as_ref().map(Arc::as_ptr) != known;
        self.directory.clone_from(&snapshot.shared.direct);
        self.target = Some(snapshot);
        if is_new {
            self.look_up();
        }
        let mut responses = Vec::new();
        self.advance(false, &mut responses);
        responses
    }

    /// What snapshots lack from here on is gone, not merely unknown yet.
    pub fn trust(&mut self) -> Vec<Response> {
        self.trusted = true;
        let mut responses = Vec::new();
        self.advance(false, &mut responses);
        responses
    }

    /// Whether what snapshots lack is taken for gone.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whether something is kept back until the client acknowledges or asks for something else;
    /// if that takes long, the caller says so by [`Self::expire`].
    pub fn is_waiting(&self) -> bool {
        let Some(target) = &self.target else {
            return false;
        };
        ResourceType::ALL.iter().any(|kind| {
            let subscription = self.of(*kind);
            subscription.is_holding() || subscription.is_behind(&self.view(target, *kind))
        })
    }

    /// The client had time enough: changes go out although clusters are not acknowledged, and
    /// types not asked for until now are taken for unused.
    ///
    /// Removals go on waiting for acknowledgements: an unused cluster costs nothing, a missing one
    /// requests.
    pub fn expire(&mut self) -> Vec<Response> {
        self.expired = true;
        let mut responses = Vec::new();
        self.advance(true, &mut responses);
        responses
    }

    /// How the types stand that the client asked for.
    pub fn status(&self) -> Vec<TypeStatus> {
        let asked = ResourceType::ALL
            .into_iter()
            .filter(|kind| self.of(*kind).is_asked());
        asked
            .map(|kind| {
                let subscription = self.of(kind);
                TypeStatus {
                    kind,
                    state: subscription.state(),
                    resources: subscription.resources(),
                    sent: subscription.sent_resources(),
                    error: subscription.error().to_owned(),
                }
            })
            .collect()
    }

    /// Sends what may be sent now.
    fn advance(&mut self, impatient: bool, responses: &mut Vec<Response>) {
        use ResourceType::{Cluster, Endpoint, Listener, Name, Route, Secret};

        let Some(target) = self.target.clone() else {
            return;
        };
        if !self.trusted && self.would_take_away(&target) {
            return;
        }
        let mut update = |session: &mut Self, kind, removal| {
            let view = session.view(&target, kind);
            let changes = session.at(kind).advance(&view, removal);
            if let Some(changes) = changes {
                session.send(kind, changes, responses);
            }
        };
        update(self, Cluster, Removal::Later);
        update(self, Endpoint, Removal::Later);
        // Envoy keeps a secret that is taken away until nothing uses it.
        update(self, Secret, Removal::Now);
        if impatient || !self.of(Cluster).is_pending() {
            update(self, Listener, Removal::Now);
            update(self, Route, Removal::Later);
        }
        let before = [Cluster, Listener, Route];
        if impatient || !before.iter().any(|kind| self.of(*kind).is_pending()) {
            update(self, Name, Removal::Now);
        }

        let is_used = |session: &Self, kind| {
            let subscription = session.of(kind);
            if subscription.is_asked() {
                !subscription.is_accepted() || subscription.is_behind(&session.view(&target, kind))
            } else {
                !session.expired
            }
        };
        let release = |session: &mut Self, kind, responses: &mut Vec<Response>| {
            if let Some(changes) = session.at(kind).release() {
                session.send(kind, changes, responses);
            }
        };
        if !is_used(self, Listener) {
            release(self, Route, responses);
            if !is_used(self, Route) {
                release(self, Cluster, responses);
            }
        }
        if !is_used(self, Cluster) && !self.of(Cluster).is_holding() {
            release(self, Endpoint, responses);
        }
    }

    /// Finds the clusters of the addresses that the client asked for.
    fn look_up(&mut self) {
        let mut dialed = std::mem::take(&mut self.dialed);
        dialed.look_up(self.of(ResourceType::Cluster), self.directory.as_deref());
        self.dialed = dialed;
    }

    /// What there is of a type, for this client.
    fn view(&self, target: &Snapshot, kind: ResourceType) -> View {
        match kind {
            ResourceType::Cluster => View::with(target, kind, self.dialed.clusters()),
            _ => View::of(target, kind),
        }
    }

    /// Whether a client that comes back would lose clusters or get other endpoints.
    fn would_take_away(&self, target: &Snapshot) -> bool {
        let endpoints = self.view(target, ResourceType::Endpoint);
        let clusters = self.view(target, ResourceType::Cluster);
        self.of(ResourceType::Endpoint).comes_with_other(&endpoints)
            || self.of(ResourceType::Cluster).comes_with_more(&clusters)
    }

    /// Cuts changes into responses.
    fn send(&mut self, kind: ResourceType, changes: Changes, responses: &mut Vec<Response>) {
        if kind == ResourceType::Cluster
            && let Some(target) = &self.target
        {
            let endpoints = View::of(target, ResourceType::Endpoint);
            for cluster in &changes.resources {
                if let Some(endpoints) = endpoints.find(&cluster.name) {
                    self.at(ResourceType::Endpoint).push(endpoints);
                }
            }
        }
        // Envoy calls itself live with the first listeners that it gets: they come together.
        let limit = if kind == ResourceType::Listener && changes.first {
            usize::MAX
        } else {
            CHUNK_BYTES
        };
        let mut rest = changes.resources.into_iter().peekable();
        let mut removed = changes.removed;
        loop {
            let mut bytes = 0;
            let mut chunk = Changes {
                removed: std::mem::take(&mut removed),
                ..Changes::default()
            };
            while bytes < limit
                && let Some(resource) = rest.next()
            {
                bytes += resource.entry.len();
                chunk.resources.push(resource);
            }
            let nonce = self.nonce();
            responses.push(Response {
                type_url: Cow::Borrowed(kind.url()),
                entries: chunk
                    .resources
                    .iter()
                    .map(|resource| resource.entry.clone())
                    .collect(),
                removed: chunk.removed.clone(),
                nonce: nonce.clone(),
            });
            self.at(kind).sent(nonce, &chunk);
            if rest.peek().is_none() {
                return;
            }
        }
    }

    /// Types that Pilot does not serve are empty.
    fn answer_unknown(&mut self, request: Request) -> Option<Response> {
        if !request.nonce.is_empty() && request.subscribe.is_empty() {
            return None;
        }
        let removed: BTreeSet<_> = request
            .subscribe
            .iter()
            .filter(|name| *name != "*")
            .collect();
        Some(Response {
            removed: removed
                .into_iter()
                .map(|name| name.as_str().into())
                .collect(),
            type_url: Cow::Owned(request.type_url),
            entries: Vec::new(),
            nonce: self.nonce(),
        })
    }

    fn nonce(&mut self) -> String {
        self.responses += 1;
        format!("{:x}.{}", self.id, self.responses)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the array has an entry for each member of ResourceType::ALL"
    )]
    fn of(&self, kind: ResourceType) -> &Subscription {
        &self.types[kind.index()]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the array has an entry for each member of ResourceType::ALL"
    )]
    fn at(&mut self, kind: ResourceType) -> &mut Subscription {
        &mut self.types[kind.index()]
    }
}

impl From<DeltaDiscoveryRequest> for Request {
    fn from(request: DeltaDiscoveryRequest) -> Self {
        Self {
            type_url: request.type_url,
            nonce: request.response_nonce,
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            versions: request.initial_resource_versions,
            error: request.error_detail.map(|status| status.message),
        }
    }
}

/// Bytes of resources after which a response is full: large enough that framing costs nothing,
/// small enough that a thousand first syncs at once do not hold their whole size in buffers.
const CHUNK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
