//! A client that behaves as Envoy was seen to, reduced to names, versions and references.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::BytesMut;
use mesh_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use mesh_proto::mesh::agent::v1::Name;
use prost::Message as _;

use crate::pilot::resource::ResourceType;
use crate::pilot::session::{Request, Response};

/// What a resource of the model says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Content {
    pub(super) version: String,
    /// Clusters that it sends requests to.
    pub(super) uses: Vec<String>,
    /// Whether clients refuse it.
    pub(super) bad: bool,
}

#[derive(Debug, Default)]
pub(super) struct Type {
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<String>,
    pub(super) have: BTreeMap<String, Content>,
    asked: bool,
}

#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) types: [Type; ResourceType::ALL.len()],
    pub(super) outbox: VecDeque<Request>,
    /// Verdicts on clusters, withheld until these clusters have endpoints.
    withheld: VecDeque<(Request, BTreeSet<String>)>,
    nonces: BTreeSet<String>,
}

impl Client {
    pub(super) fn of(&self, kind: ResourceType) -> &Type {
        &self.types[kind.index()]
    }

    fn at(&mut self, kind: ResourceType) -> &mut Type {
        &mut self.types[kind.index()]
    }

    /// Begins a stream: asks for every type, with the versions of what it has.
    pub(super) fn connect(&mut self) {
        self.outbox.clear();
        self.withheld.clear();
        self.nonces.clear();
        for kind in ResourceType::ALL {
            let state = self.at(kind);
            state.asked = true;
            let mut subscribe: Vec<_> = state.names.iter().cloned().collect();
            if state.wildcard && !subscribe.is_empty() {
                subscribe.push("*".to_owned());
            }
            let mut unsubscribe = Vec::new();
            if !state.wildcard && subscribe.is_empty() {
                if kind == ResourceType::Endpoint {
                    state.asked = false;
                    continue;
                }
                // "Nothing yet", as Istio says it.
                subscribe.push("*".to_owned());
                unsubscribe.push("*".to_owned());
            }
            let versions = state
                .have
                .iter()
                .map(|(name, content)| (name.clone(), content.version.clone()));
            let request = Request {
                type_url: kind.url().to_owned(),
                subscribe,
                unsubscribe,
                versions: versions.collect(),
                ..Request::default()
            };
            self.outbox.push_back(request);
        }
    }

    pub(super) fn subscribe(&mut self, kind: ResourceType, name: &str, nonce: &str) {
        if name == "*" {
            self.at(kind).wildcard = true;
        } else {
            self.at(kind).names.insert(name.to_owned());
        }
        self.at(kind).asked = true;
        self.outbox.push_back(Request {
            type_url: kind.url().to_owned(),
            nonce: nonce.to_owned(),
            subscribe: vec![name.to_owned()],
            ..Request::default()
        });
    }

    pub(super) fn unsubscribe(&mut self, kind: ResourceType, name: &str, nonce: &str) {
        let state = self.at(kind);
        if name == "*" {
            state.wildcard = false;
            let names = &state.names;
            state.have.retain(|name, _| names.contains(name));
        } else {
            state.names.remove(name);
            if !state.wildcard {
                state.have.remove(name);
            }
        }
        if state.asked {
            self.outbox.push_back(Request {
                type_url: kind.url().to_owned(),
                nonce: nonce.to_owned(),
                unsubscribe: vec![name.to_owned()],
                ..Request::default()
            });
        }
    }

    /// Takes a response; a response with a bad resource is refused, and of its good ones only the
    /// first `applied` before the bad one take effect.
    pub(super) fn take(&mut self, response: &Response, applied: usize) {
        assert!(
            self.nonces.insert(response.nonce.clone()),
            "nonce used twice"
        );
        let kind = ResourceType::from_url(&response.type_url).expect("a type asked for");
        assert!(self.of(kind).asked, "an answer to a question not asked");
        let entries = decode(response);
        let names = entries.iter().map(|(name, _)| name.as_str());
        let removed = response.removed.iter().map(AsRef::as_ref);
        let mut seen = BTreeSet::new();
        for name in names.chain(removed) {
            assert!(seen.insert(name.to_owned()), "`{name}` twice in a response");
        }
        let is_bad = entries.iter().any(|(_, content)| content.bad);
        let mut warming = BTreeSet::new();
        for name in &response.removed {
            self.remove(kind, name);
        }
        let mut left = if is_bad { applied } else { usize::MAX };
        for (name, content) in entries {
            if content.bad {
                left = 0;
            } else if left > 0 {
                left -= 1;
                if self.apply(kind, &name, &content) {
                    warming.insert(name);
                }
            }
        }
        if kind == ResourceType::Endpoint {
            for (_, waiting) in &mut self.withheld {
                waiting.retain(|name| !seen.contains(name));
            }
        }
        let verdict = Request {
            type_url: kind.url().to_owned(),
            nonce: response.nonce.clone(),
            error: is_bad.then(|| "bad".to_owned()),
            ..Request::default()
        };
        if kind == ResourceType::Cluster {
            self.withheld.push_back((verdict, warming));
        } else {
            self.outbox.push_back(verdict);
        }
        while let Some((verdict, _)) = self
            .withheld
            .pop_front_if(|(_, waiting)| waiting.is_empty())
        {
            self.outbox.push_back(verdict);
        }
    }

    /// Whether a cluster can be sent requests.
    pub(super) fn is_warm(&self, cluster: &str) -> bool {
        self.of(ResourceType::Cluster).have.contains_key(cluster)
            && self.of(ResourceType::Endpoint).have.contains_key(cluster)
    }

    fn remove(&mut self, kind: ResourceType, name: &str) {
        if self.at(kind).have.remove(name).is_some() && kind == ResourceType::Cluster {
            for (_, waiting) in &mut self.withheld {
                waiting.remove(name);
            }
            self.unsubscribe(ResourceType::Endpoint, name, "");
        }
    }

    /// Applies one resource; whether it is a cluster that now waits for endpoints.
    fn apply(&mut self, kind: ResourceType, name: &str, content: &Content) -> bool {
        let state = self.at(kind);
        if !state.wildcard && !state.names.contains(name) {
            return false;
        }
        let old = state.have.insert(name.to_owned(), content.clone());
        if kind != ResourceType::Cluster || old.as_ref() == Some(content) {
            return false;
        }
        // Endpoints of a cluster that only changed are not asked for again.
        if old.is_none() {
            self.subscribe(ResourceType::Endpoint, name, "");
        }
        true
    }
}

/// What a response says, read from its wire form.
fn decode(response: &Response) -> Vec<(String, Content)> {
    let mut wire = BytesMut::new();
    for entry in &response.entries {
        wire.extend_from_slice(entry);
    }
    let message = DeltaDiscoveryResponse::decode(wire.freeze()).expect("a response");
    let resources = message.resources.into_iter().map(|resource| {
        let value = resource.resource.expect("a resource").value;
        let name = Name::decode(value).expect("a resource of the model");
        let content = Content {
            version: resource.version,
            uses: name
                .addresses
                .iter()
                .filter_map(|text| text.strip_prefix("uses "))
                .map(str::to_owned)
                .collect(),
            bad: name.addresses.iter().any(|text| text == "bad"),
        };
        (resource.name, content)
    });
    resources.collect()
}
