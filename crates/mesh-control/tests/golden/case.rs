//! Cases of the snapshot: a mesh written down, and what is made of it as JSON.
//!
//! A case is a folder. `mesh.yaml` begins with a document that says which workloads are registered,
//! which jobs Nomad has placed, and whose configuration is of interest; Istio's objects follow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_control::pilot::mesh::{Config, Credential, CredentialKey, KeyPair, Mesh, OutboundPolicy};
use mesh_control::pilot::registry::merged::{Catalogue, Instances, merge};
use mesh_control::pilot::resource::{Layer, ResourceType};
use mesh_control::pilot::snapshot;
use mesh_model::istio::{IstioKind, IstioObject, check};
use mesh_model::{
    Health, Kind, Mode, Namespace, ServiceAccount, Workload, WorkloadId, virtual_address,
};
use mesh_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde::Deserialize;
use serde_json::Value;

use super::allocation::{self, Placing};

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// The mesh that it describes.
    pub(crate) mesh: Mesh,
    /// Whose configuration is of interest.
    pub(crate) of: Interest,
}

/// Whose configuration is of interest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Interest {
    /// What all proxies of these namespaces have in common.
    pub(crate) namespaces: Vec<Namespace>,
    /// What the proxies of all explicit workloads of these namespaces have in common.
    pub(crate) explicit: Vec<Namespace>,
    /// What the proxies of all gateways of these namespaces have in common.
    pub(crate) gateways: Vec<Namespace>,
    /// What the proxies of these workloads have for themselves.
    pub(crate) workloads: Vec<WorkloadId>,
}

/// The first document of a case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(default)]
    workloads: Vec<Registered>,
    #[serde(default)]
    nomad: Vec<Placing>,
    of: Interest,
    #[serde(default)]
    registry_only: bool,
    #[serde(default)]
    credentials: Vec<Found>,
}

/// A Secret of a gateway.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Found {
    namespace: Namespace,
    account: ServiceAccount,
    name: String,
    pair: Option<Pair>,
    roots: Option<String>,
    problem: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    chain: String,
    key: String,
}

#[derive(Debug, Deserialize)]
struct Registered {
    #[serde(default)]
    health: Option<Health>,
    #[serde(flatten)]
    workload: BTreeMap<String, Value>,
}

// === impl Case ===

impl Case {
    /// Every case, by the names of their folders.
    pub(crate) fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut dirs: Vec<_> = fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect();
        dirs.sort();
        assert!(!dirs.is_empty(), "no cases in {}", root.display());
        dirs.iter().map(|dir| Self::read(dir)).collect()
    }

    /// One case by its name.
    pub(crate) fn named(name: &str) -> Self {
        Self::read(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/golden")
                .join(name),
        )
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.dir.file_name().unwrap().to_str().unwrap()
    }

    /// The layers of interest, by the names of their golden files.
    pub(crate) fn layers(&self) -> Vec<(String, Layer)> {
        let shared = self.of.namespaces.iter().map(|namespace| {
            let layer = snapshot::shared(&self.mesh, namespace, Mode::Transparent);
            (format!("namespace-{namespace}"), layer)
        });
        let explicit = self.of.explicit.iter().map(|namespace| {
            let layer = snapshot::shared(&self.mesh, namespace, Mode::Explicit);
            (format!("explicit-{namespace}"), layer)
        });
        let gateways = self.of.gateways.iter().map(|namespace| {
            let layer = snapshot::shared(&self.mesh, namespace, Mode::Gateway);
            (format!("gateways-{namespace}"), layer)
        });
        let own = self.of.workloads.iter().map(|id| {
            let (workload, _) = self.mesh.workload(id).unwrap();
            let name = id.as_str().replace('/', "-");
            (
                format!("workload-{name}"),
                snapshot::own(&self.mesh, workload),
            )
        });
        shared.chain(explicit).chain(gateways).chain(own).collect()
    }

    fn read(dir: &Path) -> Self {
        let text = fs::read_to_string(dir.join("mesh.yaml")).unwrap();
        let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let head: Head = serde_json::from_value(documents.remove(0)).unwrap();
        let workloads = head.workloads.into_iter().map(registered);
        let placed = allocation::place(&head.nomad);
        let agents = placed.iter().filter_map(|placed| placed.agent.clone());
        let agents = agents.map(|agent| (agent, Health::Healthy));
        let catalogue = Catalogue {
            listed: &allocation::snapshot(&placed).instances,
            departed: &Instances::new(),
            inherited: &BTreeSet::new(),
            restarting: &BTreeSet::new(),
        };
        let workloads = merge(workloads.chain(agents), catalogue);
        let mut config = Config {
            outbound: if head.registry_only {
                OutboundPolicy::RegistryOnly
            } else {
                OutboundPolicy::AllowAny
            },
            mixer: vec![SocketAddr::from(([10, 213, 0, 1], 15011))],
            credentials: Arc::new(head.credentials.into_iter().map(found).collect()),
            ..Config::default()
        };
        for document in &documents {
            add(&mut config, document);
        }
        Self {
            dir: dir.to_owned(),
            mesh: assemble(config, &workloads),
            of: head.of,
        }
    }
}

/// Assembles a mesh in which every host that needs virtual addresses has some.
pub(crate) fn assemble(mut config: Config, workloads: &[(Workload, Health)]) -> Mesh {
    let hosts = Mesh::assemble(&config, workloads).unaddressed;
    let allocation = virtual_address::allocate(&BTreeMap::new(), &hosts);
    assert!(allocation.left_out.is_empty());
    config.virtual_addresses = allocation.addresses;
    let mesh = Mesh::assemble(&config, workloads);
    assert!(mesh.unaddressed.is_empty());
    mesh
}

/// Everything in a layer as JSON, by type and then by name.
pub(crate) fn json(layer: &Layer) -> BTreeMap<&'static str, BTreeMap<String, Value>> {
    let pool = DescriptorPool::decode(mesh_proto::DESCRIPTORS).unwrap();
    ResourceType::ALL
        .into_iter()
        .map(|kind| {
            let direct = layer
                .direct
                .iter()
                .filter(|_| kind == ResourceType::Cluster);
            let direct = direct.flat_map(|it| it.names().filter_map(|name| it.cluster(&name)));
            let resources = layer.of(kind).iter().cloned().chain(direct);
            let entries = resources.map(|resource| {
                let response = DeltaDiscoveryResponse::decode(&resource.entry[..]).unwrap();
                let any = response.resources[0].resource.clone().unwrap();
                let name = any.type_url.rsplit_once('/').unwrap().1;
                let descriptor = pool.get_message_by_name(name).unwrap();
                let message = DynamicMessage::decode(descriptor, any.value).unwrap();
                let options = SerializeOptions::new().use_proto_field_name(true);
                let value = message
                    .serialize_with_options(serde_json::value::Serializer, &options)
                    .unwrap();
                (resource.name.to_string(), value)
            });
            (kind_name(kind), entries.collect())
        })
        .collect()
}

fn kind_name(kind: ResourceType) -> &'static str {
    match kind {
        ResourceType::Cluster => "clusters",
        ResourceType::Endpoint => "endpoints",
        ResourceType::Secret => "secrets",
        ResourceType::Listener => "listeners",
        ResourceType::Route => "routes",
        ResourceType::Name => "names",
    }
}

fn found(found: Found) -> (CredentialKey, Credential) {
    let missing = || {
        let problem = found.problem.clone();
        problem.unwrap_or_else(|| "has none".to_owned())
    };
    let pair = found.pair.as_ref().map(|pair| KeyPair {
        chain: pair.chain.clone().into(),
        key: pair.key.clone().into(),
    });
    let credential = Credential {
        pair: pair.ok_or_else(missing),
        roots: found.roots.clone().map(Into::into).ok_or_else(missing),
    };
    let key = CredentialKey {
        namespace: found.namespace,
        account: found.account,
        name: found.name,
    };
    (key, credential)
}

fn registered(registered: Registered) -> (Workload, Health) {
    let workload = serde_json::to_value(registered.workload).unwrap();
    let health = registered.health.unwrap_or(Health::Healthy);
    (serde_json::from_value(workload).unwrap(), health)
}

/// Adds an object as the API server would take it.
pub(crate) fn add(config: &mut Config, document: &Value) {
    let text = |field: &str| document[field].as_str().unwrap_or_default();
    let kind = Kind::of_object(text("apiVersion"), text("kind")).unwrap();
    let checked = check(IstioKind::of(kind).unwrap(), document);
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    assert!(
        checked.unknown_fields.is_empty(),
        "{:?}",
        checked.unknown_fields
    );
    match checked.object.unwrap() {
        IstioObject::VirtualService(object) => config.virtual_services.push(Arc::new(object)),
        IstioObject::DestinationRule(object) => config.destination_rules.push(Arc::new(*object)),
        IstioObject::Gateway(object) => config.gateways.push(Arc::new(object)),
        IstioObject::ServiceEntry(object) => config.service_entries.push(Arc::new(object)),
        IstioObject::WorkloadEntry(object) => config.workload_entries.push(Arc::new(object)),
        IstioObject::PeerAuthentication(object) => {
            config.peer_authentications.push(Arc::new(object));
        }
        IstioObject::AuthorizationPolicy(object) => {
            config.authorization_policies.push(Arc::new(object));
        }
        other => panic!("a kind without a place: {:?}", other.kind()),
    }
}
