//! Encoded xDS resources, made once and shared by every proxy that gets them.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use mesh_proto::google::protobuf::Any;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use xxhash_rust::xxh3::xxh3_64;

use super::snapshot::direct::Directory;

/// The xDS types, in the order in which changes are sent: make before break.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoint,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`: certificates and keys of gateways.
    Secret,
    /// `envoy.config.listener.v3.Listener`.
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`.
    Route,
    /// `mesh.agent.v1.Name`, the name table of the agent's DNS.
    Name,
}

/// One resource, encoded as the `resources` entry of a delta response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resource {
    /// Its name.
    pub name: Arc<str>,
    /// Hash of its content, the same on every replica and after every restart.
    pub version: u64,
    /// The encoded entry with its tag and length; what a response consists of.
    pub entry: Bytes,
}

/// Resources of one type, sorted by name, each name once.
pub type Resources = Arc<[Resource]>;

/// The resources of every type, for one part of a view.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// By [`ResourceType::index`].
    types: [Option<Resources>; ResourceType::ALL.len()],
    /// The clusters of addresses, for who asks for them by name; none where nobody may.
    pub direct: Option<Arc<Directory>>,
}

/// What one proxy is to have: what it shares with others, and its own.
///
/// No name stands in both layers.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Outbound: the same for every proxy of a namespace.
    pub shared: Arc<Layer>,
    /// Inbound: of this workload.
    pub own: Arc<Layer>,
}

// === impl ResourceType ===

impl ResourceType {
    /// All of them, in the order of sending.
    pub const ALL: [Self; 6] = [
        Self::Cluster,
        Self::Endpoint,
        Self::Secret,
        Self::Listener,
        Self::Route,
        Self::Name,
    ];

    /// Position in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The type URL on the wire.
    pub fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Name => "type.googleapis.com/mesh.agent.v1.Name",
        }
    }

    /// The type of a URL, if it is one that Pilot serves.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

// === impl Resource ===

impl Resource {
    /// Encodes `message` under `name`; its version is the hash of the encoding.
    pub fn encode<M: prost::Name>(name: &str, message: &M) -> Self {
        let value = message.encode_to_vec();
        let version = xxh3_64(&value);
        let entry = mesh_proto::envoy::service::discovery::v3::Resource {
            name: name.to_owned(),
            version: format!("{version:016x}"),
            resource: Some(Any {
                type_url: M::type_url(),
                value: value.into(),
            }),
            ..Default::default()
        };
        let length = entry.encoded_len();
        let mut buffer = BytesMut::with_capacity(length + 8);
        // Field 2 of `DeltaDiscoveryResponse`: `repeated Resource resources`.
        encode_key(2, WireType::LengthDelimited, &mut buffer);
        encode_varint(length as u64, &mut buffer);
        buffer.put_slice(&entry.encode_to_vec());
        Self {
            name: name.into(),
            version,
            entry: buffer.freeze(),
        }
    }
}

// === impl Layer ===

impl Layer {
    /// The resources of a type, sorted by name.
    pub fn of(&self, kind: ResourceType) -> &[Resource] {
        self.types
            .get(kind.index())
            .and_then(Option::as_deref)
            .unwrap_or_default()
    }

    /// The resources of a type, shared; `None` when there are none.
    pub fn resources(&self, kind: ResourceType) -> Option<&Resources> {
        self.types.get(kind.index()).and_then(Option::as_ref)
    }

    /// Sets the resources of a type; sorts them.
    ///
    /// # Errors
    ///
    /// The first name that occurs twice: Envoy refuses a response that names a resource twice.
    pub fn set(
        &mut self,
        kind: ResourceType,
        mut resources: Vec<Resource>,
    ) -> Result<(), Arc<str>> {
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        let twice = resources.windows(2).find_map(|pair| match pair {
            [a, b] if a.name == b.name => Some(Arc::clone(&a.name)),
            _ => None,
        });
        if let Some(name) = twice {
            return Err(name);
        }
        if let Some(slot) = self.types.get_mut(kind.index()) {
            *slot = Some(resources.into());
        }
        Ok(())
    }

    /// Whether both are the same memory, type by type; after [`Self::share_with`], whether
    /// nothing changed.
    pub fn is_same(&self, other: &Self) -> bool {
        ResourceType::ALL.into_iter().all(|kind| {
            match (self.resources(kind), other.resources(kind)) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.is_empty() && b.is_empty()),
                (Some(some), None) | (None, Some(some)) => some.is_empty(),
                (None, None) => true,
            }
        }) && match (&self.direct, &other.direct) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        }
    }

    /// Takes over what did not change: each type and resource equal to `old`'s shares its memory.
    pub fn share_with(&mut self, old: &Self) {
        if let (Some(new), Some(known)) = (&self.direct, &old.direct) {
            self.direct = Some(new.sharing(known));
        }
        for (slot, old) in self.types.iter_mut().zip(&old.types) {
            let (Some(new), Some(old)) = (slot.as_ref(), old) else {
                continue;
            };
            if new == old {
                *slot = Some(Arc::clone(old));
                continue;
            }
            let shared = new.iter().map(|resource| {
                match old.binary_search_by(|other| other.name.cmp(&resource.name)) {
                    Ok(index) => old
                        .get(index)
                        .filter(|other| other.version == resource.version)
                        .unwrap_or(resource)
                        .clone(),
                    Err(_) => resource.clone(),
                }
            });
            *slot = Some(shared.collect());
        }
    }
}
