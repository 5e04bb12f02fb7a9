//! The objects of the API that configure proxies, by list and watch.
//!
//! Pilot is a client of the API server like everybody else. What it read stays in force while the
//! API server is away; an object that cannot be read stays as it was when it could.

mod address;
mod object;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use mesh_model::istio::IstioKind;
use mesh_model::{Kind, Namespace, TrustDomain};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tracing::{debug, info, warn};

use self::object::Objects;
use super::mesh::{Config, Credentials, OutboundPolicy};

#[cfg(test)]
pub(super) use self::address::AddressBook;
pub use self::address::record_addresses;

/// Where the mesh's own objects are.
fn system() -> Namespace {
    Namespace::mesh_system()
}

/// The ConfigMap by which the pieces of the mesh find each other.
const MESH: &str = "mesh";

/// Something that the API server said.
enum Change {
    Istio(IstioKind, Event<DynamicObject>),
    ConfigMap(Event<ConfigMap>),
    Credentials(Credentials),
}

/// Everything read so far.
#[derive(Debug, Default)]
struct Reader {
    objects: Objects,
    config_maps: BTreeMap<String, ConfigMap>,
    /// The config maps of a list that is not complete yet.
    listed: BTreeMap<String, ConfigMap>,
    are_config_maps_known: bool,
    credentials: Credentials,
}

/// Reads the API and sends each new state of it, the first when everything has been read once, and
/// of the credentials of gateways, which somebody else reads.
///
/// Ends only with `config`'s receivers or by being dropped.
pub async fn read_config(
    client: Client,
    credentials: watch::Receiver<Credentials>,
    config: watch::Sender<Option<Arc<Config>>>,
) {
    let credentials = WatchStream::new(credentials).map(Change::Credentials);
    let mut changes = stream::select_all(
        IstioKind::ALL
            .into_iter()
            .filter_map(|kind| {
                Some(watch_kind(
                    &client,
                    kind,
                    Kind::named(kind.group(), kind.as_str())?,
                ))
            })
            .chain([watch_config_maps(&client), credentials.boxed()]),
    );
    let mut reader = Reader::default();
    let mut is_known = false;
    while let Some(change) = changes.next().await {
        if !reader.take(change) || config.is_closed() {
            continue;
        }
        let Some(new) = reader.config() else {
            debug!("the API has not been read whole yet");
            continue;
        };
        if !is_known {
            info!("the API has been read");
            is_known = true;
        }
        config.send_replace(Some(Arc::new(new)));
    }
}

fn watch_kind(client: &Client, kind: IstioKind, served: &Kind) -> BoxStream<'static, Change> {
    let gvk = GroupVersionKind::gvk(served.group, served.version(), served.kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, served.plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    events
        .filter_map(move |event| async move {
            let event = heard(kind.as_str(), event)?;
            Some(Change::Istio(kind, event))
        })
        .boxed()
}

fn watch_config_maps(client: &Client) -> BoxStream<'static, Change> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), system().as_str());
    let events = watcher(api, watcher::Config::default()).default_backoff();
    events
        .filter_map(|event| async { heard("ConfigMap", event).map(Change::ConfigMap) })
        .boxed()
}

/// The event, unless the API server is away: then what was read stays.
fn heard<K>(kind: &str, event: Result<Event<K>, watcher::Error>) -> Option<Event<K>> {
    match event {
        Ok(event) => Some(event),
        Err(error) => {
            warn!(kind, %error, "cannot read the API; what was read stays in force");
            None
        }
    }
}

impl Reader {
    /// Takes a change; whether it is worth looking at the whole again.
    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Istio(kind, event) => self.objects.take(kind, event),
            Change::Credentials(found) => {
                self.credentials = found;
                true
            }
            Change::ConfigMap(event) => {
                let name = |map: &ConfigMap| map.metadata.name.clone().unwrap_or_default();
                let is_whole = !matches!(event, Event::Init | Event::InitApply(_));
                match event {
                    Event::Apply(map) => {
                        self.config_maps.insert(name(&map), map);
                    }
                    Event::Delete(map) => {
                        self.config_maps.remove(&name(&map));
                    }
                    Event::Init => self.listed.clear(),
                    Event::InitApply(map) => {
                        self.listed.insert(name(&map), map);
                    }
                    Event::InitDone => {
                        self.config_maps = std::mem::take(&mut self.listed);
                        self.are_config_maps_known = true;
                    }
                }
                is_whole
            }
        }
    }

    /// The whole, once every kind was read and the trust domain is known.
    ///
    /// Identities are made of the trust domain: to guess it would configure proxies to refuse
    /// each other.
    fn config(&self) -> Option<Config> {
        if !self.are_config_maps_known || !self.objects.is_known() {
            return None;
        }
        let mesh = self.config_maps.get(MESH)?.data.as_ref()?;
        let text = mesh.get("trustDomain")?;
        let trust_domain: TrustDomain = match text.parse() {
            Ok(domain) => domain,
            Err(problem) => {
                warn!(%problem, "`trustDomain` of ConfigMap `mesh` is not valid");
                return None;
            }
        };
        let outbound = match mesh.get("outboundTrafficPolicy").map(String::as_str) {
            Some("REGISTRY_ONLY") => OutboundPolicy::RegistryOnly,
            _ => OutboundPolicy::AllowAny,
        };
        let recorded = self.config_maps.get(address::CONFIG_MAP);
        let config = Config {
            trust_domain,
            outbound,
            mixer: read_addresses("mixer.addresses", mesh),
            credentials: Arc::clone(&self.credentials),
            virtual_addresses: recorded.map(address::read).unwrap_or_default(),
            ..Config::default()
        };
        Some(self.objects.add_to(config))
    }
}

/// A list of socket addresses, `ip:port[,ip:port…]`; what is none is left out.
fn read_addresses(key: &str, data: &BTreeMap<String, String>) -> Vec<SocketAddr> {
    let text = data.get(key).map_or("", String::as_str);
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .filter_map(|part| match part.parse() {
            Ok(address) => Some(address),
            Err(error) => {
                warn!(key, address = part, %error, "not an address in ConfigMap `mesh`");
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
