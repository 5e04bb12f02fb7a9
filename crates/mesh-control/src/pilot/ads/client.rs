//! A delta client for tests and measurements: asks as Envoy asks, and believes nothing.
//!
//! Every resource's version must be the hash of its content, every name come once in a response,
//! everything come under the type asked for.

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::envoy::config::cluster::v3::Cluster;
use mesh_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use mesh_proto::envoy::config::core::v3::Node;
use mesh_proto::envoy::config::listener::v3::Listener;
use mesh_proto::envoy::config::listener::v3::filter::ConfigType;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use mesh_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use mesh_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use mesh_proto::google::rpc;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use xxhash_rust::xxh3::xxh3_64;

use crate::pilot::resource::ResourceType;

/// A client with a stream open.
#[derive(Debug)]
pub struct DeltaClient {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    held: Held,
    /// Responses, resources and bytes that came on this stream.
    pub received: Received,
    /// Bytes of the requests that opened it: what the client came with.
    pub asked_bytes: u64,
}

/// What a client has; it outlives the stream.
#[derive(Clone, Debug, Default)]
pub struct Held {
    types: [Type; ResourceType::ALL.len()],
}

#[derive(Clone, Debug, Default)]
struct Type {
    versions: BTreeMap<String, String>,
    /// Names asked for; none where everything is.
    names: BTreeSet<String>,
}

/// What came.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Received {
    /// Messages.
    pub responses: u64,
    /// Resources in them.
    pub resources: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their bytes by [`ResourceType::index`].
    pub by_type: [u64; ResourceType::ALL.len()],
}

/// What is wrong with a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// It ended the stream.
    #[error("the stream has ended")]
    Ended,
    /// It refused the stream.
    #[error("the stream was refused")]
    Refused(#[from] Box<Status>),
    /// It sent what must not be.
    #[error("`{name}` of type {type_url}: {what}")]
    Wrong {
        /// The resource, or the nonce where it is the response.
        name: String,
        /// The type.
        type_url: String,
        /// What is wrong.
        what: &'static str,
    },
}

// === impl DeltaClient ===

impl DeltaClient {
    /// Opens a stream as the proxy and agent of `workload`, that already have `held`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`].
    pub async fn connect(
        channel: Channel,
        workload: &str,
        held: Held,
    ) -> Result<Self, ClientError> {
        let (requests, outbound) = mpsc::unbounded_channel();
        let mut asked_bytes = 0;
        for kind in ResourceType::ALL {
            let state = held.of(kind);
            if is_named(kind) && state.names.is_empty() {
                continue;
            }
            let node = (kind == ResourceType::Cluster).then(|| Node {
                id: workload.to_owned(),
                ..Node::default()
            });
            let request = DeltaDiscoveryRequest {
                node,
                type_url: kind.url().to_owned(),
                resource_names_subscribe: state.names.iter().cloned().collect(),
                initial_resource_versions: state.versions.clone(),
                ..DeltaDiscoveryRequest::default()
            };
            asked_bytes += request.encoded_len() as u64;
            // The other end lives in this function.
            drop(requests.send(request));
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(256 * 1024 * 1024);
        let responses = client
            .delta_aggregated_resources(UnboundedReceiverStream::new(outbound))
            .await
            .map_err(Box::new)?
            .into_inner();
        Ok(Self {
            requests,
            responses,
            held,
            received: Received::default(),
            asked_bytes,
        })
    }

    /// Takes one response and acknowledges it.
    ///
    /// # Errors
    ///
    /// When the stream ends or the response is wrong.
    pub async fn next(&mut self) -> Result<ResourceType, ClientError> {
        let (kind, nonce) = self.take_resources().await?;
        self.say(kind, nonce, None);
        Ok(kind)
    }

    /// Takes one response and refuses it, without effect on what the client has.
    ///
    /// # Errors
    ///
    /// When the stream ends or the response is wrong.
    pub async fn refuse(&mut self, why: &str) -> Result<ResourceType, ClientError> {
        let held = self.held.clone();
        let (kind, nonce) = self.take_resources().await?;
        self.held = held;
        self.say(kind, nonce, Some(why));
        Ok(kind)
    }

    /// Takes responses until `held` says that it is enough.
    ///
    /// # Errors
    ///
    /// When the stream ends or a response is wrong.
    pub async fn until(&mut self, enough: impl Fn(&Held) -> bool) -> Result<(), ClientError> {
        while !enough(&self.held) {
            self.next().await?;
        }
        Ok(())
    }

    /// Asks for a type that there is not and takes responses until that is answered: the server
    /// has heard everything before by then, and said what followed from it.
    ///
    /// # Errors
    ///
    /// When the stream ends or a response is wrong.
    pub async fn settle(&mut self) -> Result<(), ClientError> {
        self.send(DeltaDiscoveryRequest {
            type_url: NOTHING.to_owned(),
            ..DeltaDiscoveryRequest::default()
        });
        while let Some((kind, nonce)) = self.take().await? {
            self.say(kind, nonce, None);
        }
        Ok(())
    }

    /// What it has now.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Ends the stream; what it has stays.
    pub fn disconnect(self) -> Held {
        self.held
    }

    async fn take_resources(&mut self) -> Result<(ResourceType, String), ClientError> {
        let taken = self.take().await?;
        taken.ok_or_else(|| ClientError::Wrong {
            name: String::new(),
            type_url: NOTHING.to_owned(),
            what: "nobody asked for it",
        })
    }

    /// One response: its type and nonce, or none where it answers [`Self::settle`].
    async fn take(&mut self) -> Result<Option<(ResourceType, String)>, ClientError> {
        let response = self.responses.message().await.map_err(Box::new)?;
        let response = response.ok_or(ClientError::Ended)?;
        if response.type_url == NOTHING {
            return Ok(None);
        }
        let wrong = |name: &str, what| ClientError::Wrong {
            name: name.to_owned(),
            type_url: response.type_url.clone(),
            what,
        };
        let kind = ResourceType::from_url(&response.type_url)
            .ok_or_else(|| wrong(&response.nonce, "nobody asked for it"))?;
        self.received.responses += 1;
        let bytes = response.encoded_len() as u64;
        self.received.bytes += bytes;
        if let Some(of_type) = self.received.by_type.get_mut(kind.index()) {
            *of_type += bytes;
        }
        let mut seen = BTreeSet::new();
        // As Envoy does: what follows from one response is asked for at once.
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for name in &response.removed_resources {
            if !seen.insert(name) {
                return Err(wrong(name, "it comes twice in a response"));
            }
            self.held.at(kind).versions.remove(name);
            if kind == ResourceType::Cluster {
                unwanted.push(name.clone());
            }
        }
        for resource in &response.resources {
            let name = &resource.name;
            if !seen.insert(name) {
                return Err(wrong(name, "it comes twice in a response"));
            }
            let value = resource.resource.as_ref().map(|any| &any.value);
            let value = value.ok_or_else(|| wrong(name, "it has no content"))?;
            if resource.version != format!("{:016x}", xxh3_64(value)) {
                return Err(wrong(name, "its version is not the hash of its content"));
            }
            let state = self.held.at(kind);
            if is_named(kind) && !state.names.contains(name) {
                continue;
            }
            state
                .versions
                .insert(name.clone(), resource.version.clone());
            self.received.resources += 1;
            wanted.extend(references(kind, resource));
        }
        self.subscribe(wanted);
        self.unsubscribe(ResourceType::Endpoint, unwanted);
        Ok(Some((kind, response.nonce)))
    }

    fn subscribe(&mut self, names: Vec<(ResourceType, String)>) {
        let mut new: BTreeMap<ResourceType, Vec<String>> = BTreeMap::new();
        for (kind, name) in names {
            if self.held.at(kind).names.insert(name.clone()) {
                new.entry(kind).or_default().push(name);
            }
        }
        for (kind, names) in new {
            self.send(DeltaDiscoveryRequest {
                type_url: kind.url().to_owned(),
                resource_names_subscribe: names,
                ..DeltaDiscoveryRequest::default()
            });
        }
    }

    fn unsubscribe(&mut self, kind: ResourceType, mut names: Vec<String>) {
        let state = self.held.at(kind);
        names.retain(|name| {
            state.versions.remove(name);
            state.names.remove(name)
        });
        if !names.is_empty() {
            self.send(DeltaDiscoveryRequest {
                type_url: kind.url().to_owned(),
                resource_names_unsubscribe: names,
                ..DeltaDiscoveryRequest::default()
            });
        }
    }

    fn say(&self, kind: ResourceType, nonce: String, error: Option<&str>) {
        self.send(DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            response_nonce: nonce,
            error_detail: error.map(|error| rpc::Status {
                code: 13,
                message: error.to_owned(),
                ..rpc::Status::default()
            }),
            ..DeltaDiscoveryRequest::default()
        });
    }

    fn send(&self, request: DeltaDiscoveryRequest) {
        // The next read tells that the stream has ended.
        drop(self.requests.send(request));
    }
}

// === impl Held ===

impl Held {
    /// Versions by name.
    pub fn versions(&self, kind: ResourceType) -> &BTreeMap<String, String> {
        &self.of(kind).versions
    }

    /// How many of the names asked for by name are not there.
    pub fn missing(&self) -> usize {
        let types = ResourceType::ALL.into_iter().map(|kind| self.of(kind));
        types
            .map(|state| {
                let missing = |name: &&String| !state.versions.contains_key(*name);
                state.names.iter().filter(missing).count()
            })
            .sum()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the array has an entry for each member of ResourceType::ALL"
    )]
    fn of(&self, kind: ResourceType) -> &Type {
        &self.types[kind.index()]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the array has an entry for each member of ResourceType::ALL"
    )]
    fn at(&mut self, kind: ResourceType) -> &mut Type {
        &mut self.types[kind.index()]
    }
}

/// A type that no server has.
const NOTHING: &str = "type.googleapis.com/google.protobuf.Empty";

/// Whether a type is asked for name by name.
fn is_named(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Endpoint | ResourceType::Route)
}

/// The names that Envoy asks for when it has a resource.
fn references(kind: ResourceType, resource: &Resource) -> Vec<(ResourceType, String)> {
    let value = resource.resource.as_ref().map(|any| any.value.clone());
    let value = value.unwrap_or_default();
    match kind {
        ResourceType::Cluster => {
            let cluster = Cluster::decode(value).unwrap_or_default();
            let by_eds = ClusterDiscoveryType::Type(DiscoveryType::Eds.into());
            let is_eds = cluster.cluster_discovery_type == Some(by_eds);
            is_eds
                .then_some((ResourceType::Endpoint, cluster.name))
                .into_iter()
                .collect()
        }
        ResourceType::Listener => {
            let listener = Listener::decode(value).unwrap_or_default();
            let chains = listener.filter_chains.into_iter();
            let chains = chains.chain(listener.default_filter_chain);
            let filters = chains.flat_map(|chain| chain.filters);
            let routes = filters.filter_map(|filter| {
                let ConfigType::TypedConfig(any) = filter.config_type? else {
                    return None;
                };
                let manager = HttpConnectionManager::decode(any.value).ok()?;
                let RouteSpecifier::Rds(rds) = manager.route_specifier? else {
                    return None;
                };
                Some((ResourceType::Route, rds.route_config_name))
            });
            routes.collect()
        }
        ResourceType::Endpoint
        | ResourceType::Secret
        | ResourceType::Route
        | ResourceType::Name => Vec::new(),
    }
}
