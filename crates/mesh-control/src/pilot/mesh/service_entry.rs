//! Services that a `ServiceEntry` declares.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_model::istio::service_entry::{
    ServiceEntryLocation, ServiceEntryPort, ServiceEntryResolution,
};
use mesh_model::istio::{ServiceEntry, WorkloadEntry};
use mesh_model::service::{EndpointAddress, Location, Resolution};
use mesh_model::{
    Endpoint, Health, Host, Namespace, Object, ServicePort, SpiffeId, TrustDomain, Workload,
    WorkloadId, virtual_address,
};

use super::registered::{self, primary};
use super::{Config, Entry, Warning, by_age, is_reserved};

/// The label with which an endpoint says whether it has a sidecar, and the value for none.
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// What the entries of one object are made from.
struct Source<'a> {
    config: &'a Config,
    workloads: &'a BTreeMap<WorkloadId, (Workload, Health)>,
    object: &'a Object<ServiceEntry>,
    namespace: Namespace,
}

/// Adds the services that no workload declares. The oldest object that names a host has it.
pub(super) fn add(
    config: &Config,
    workloads: &BTreeMap<WorkloadId, (Workload, Health)>,
    entries: &mut BTreeMap<Host, Entry>,
    warnings: &mut Vec<Warning>,
) {
    let short = short_names(entries.values());
    let mut claimed = BTreeSet::new();
    for object in by_age(&config.service_entries) {
        let Ok(namespace) = object.metadata.namespace.parse() else {
            continue;
        };
        let source = Source {
            config,
            workloads,
            object: &object,
            namespace,
        };
        for text in &object.spec.hosts {
            let mut warn = |message: String| {
                warnings.push(Warning::of("ServiceEntry", &object.metadata, message));
            };
            let Ok(host) = Host::resolve(text, &source.namespace) else {
                warn(format!("`{text}` is not a host and is left out"));
                continue;
            };
            if owner(&host, &short).is_some_and(|owner| owner != source.namespace) {
                warn(format!("`{host}` is of another namespace and is left out"));
            } else if let MapEntry::Vacant(place) = entries.entry(host) {
                let mut entry = source.entry(place.key(), &mut warn);
                entry.own_addresses.retain(|address| {
                    let claims = entry.service.ports.keys().map(|port| (*address, *port));
                    let free = claims.clone().all(|claim| !claimed.contains(&claim));
                    if free {
                        claimed.extend(claims);
                    } else {
                        warn(format!(
                            "address `{address}` is an older service's on the same port"
                        ));
                    }
                    free
                });
                place.insert(entry);
            } else {
                warn(format!(
                    "`{text}` is declared by workloads or by an older object, and this one has no effect on it"
                ));
            }
        }
    }
}

/// Whether an address can be one of a machine outside the mesh.
fn is_elsewhere(address: IpAddr) -> bool {
    let is_virtual = match address {
        IpAddr::V4(address) => virtual_address::V4_RANGE.contains(&address),
        IpAddr::V6(address) => virtual_address::V6_RANGE.contains(&address),
    };
    !is_virtual
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

/// The short names of services that workloads declare, which mean nothing else in the mesh.
fn short_names<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeMap<String, Namespace> {
    entries
        .flat_map(|entry| {
            let namespace = &entry.service.namespace;
            let names = entry.service.host.names(namespace);
            names.into_iter().map(|name| (name, namespace.clone()))
        })
        .collect()
}

/// The namespace that alone may declare a host, if there is one.
///
/// Istio lets anybody declare any; then one namespace could take the callers of another's service.
fn owner(host: &Host, short: &BTreeMap<String, Namespace>) -> Option<Namespace> {
    if let Some(namespace) = short.get(host.as_str()) {
        return Some(namespace.clone());
    }
    let rest = host.as_str().strip_suffix(".mesh")?;
    rest.rsplit_once('.')?.1.parse().ok()
}

// === impl Source ===

impl Source<'_> {
    fn entry(&self, host: &Host, warn: &mut dyn FnMut(String)) -> Entry {
        let spec = &self.object.spec;
        let mut entry = Entry::new(host.clone(), self.namespace.clone());
        entry.foreign = true;
        entry.export_to.clone_from(&spec.export_to);
        entry.subject_alt_names.clone_from(&spec.subject_alt_names);
        for text in &spec.addresses {
            match text.parse() {
                Ok(address) if is_elsewhere(address) => {
                    if !entry.own_addresses.contains(&address) {
                        entry.own_addresses.push(address);
                    }
                }
                _ => warn(format!(
                    "address `{text}` is not one address of another machine; calls to it are not \
                     known to be of `{host}`"
                )),
            }
        }
        // UDP is passed by, not through, the mesh.
        let ports = spec.ports.iter();
        for port in ports.filter(|port| !port.protocol.eq_ignore_ascii_case("UDP")) {
            if is_reserved(port.number) {
                warn(format!("port {} is one of the sidecar's own", port.number));
                continue;
            }
            let known = ServicePort {
                name: port.name.clone(),
                protocol: port.protocol(),
            };
            entry.service.ports.insert(port.number, known);
        }
        entry.service.location = match spec.location {
            ServiceEntryLocation::MeshInternal => Location::MeshInternal,
            _ => Location::MeshExternal,
        };
        entry.service.resolution = match spec.resolution {
            ServiceEntryResolution::Static => Resolution::Static,
            ServiceEntryResolution::Dns | ServiceEntryResolution::DnsRoundRobin => Resolution::Dns,
            _ => Resolution::None,
        };
        entry.service.endpoints = self.endpoints(host, entry.service.resolution, warn);
        entry
    }

    fn endpoints(
        &self,
        host: &Host,
        resolution: Resolution,
        warn: &mut dyn FnMut(String),
    ) -> Vec<Endpoint> {
        if resolution == Resolution::None {
            return Vec::new();
        }
        let spec = &self.object.spec;
        if let Some(selector) = &spec.workload_selector {
            return self.selected(&selector.labels, resolution, warn);
        }
        if spec.endpoints.is_empty() && resolution == Resolution::Dns {
            if host.as_str().starts_with('*') {
                warn(format!("`{host}` cannot be looked up and has no endpoints"));
                return Vec::new();
            }
            let own = WorkloadEntry {
                address: host.to_string(),
                ..WorkloadEntry::default()
            };
            return self.endpoint(&own, resolution, warn).into_iter().collect();
        }
        spec.endpoints
            .iter()
            .filter_map(|endpoint| self.endpoint(endpoint, resolution, warn))
            .collect()
    }

    /// The workloads and `WorkloadEntries` of this namespace that have these labels.
    fn selected(
        &self,
        labels: &BTreeMap<String, String>,
        resolution: Resolution,
        warn: &mut dyn FnMut(String),
    ) -> Vec<Endpoint> {
        let has = |own: &BTreeMap<String, String>| {
            labels
                .iter()
                .all(|(key, value)| own.get(key) == Some(value))
        };
        let registered = self
            .workloads
            .values()
            .filter(|(workload, _)| workload.namespace == self.namespace && has(&workload.labels))
            .filter_map(|(workload, health)| {
                Some(Endpoint {
                    workload: Some(workload.id.clone()),
                    address: EndpointAddress::Ip(primary(&workload.addresses)?),
                    ports: self.targets(&BTreeMap::new()),
                    labels: workload.labels.clone(),
                    identity: registered::identity(workload, &self.config.trust_domain),
                    health: *health,
                    weight: 1,
                })
            });
        let mut endpoints: Vec<_> = registered.collect();
        for object in by_age(&self.config.workload_entries) {
            let (metadata, spec) = (&object.metadata, &object.spec);
            let labels: BTreeMap<_, _> = metadata
                .labels
                .iter()
                .chain(&spec.labels)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            if metadata.namespace != self.namespace.as_str() || !has(&labels) {
                continue;
            }
            let labelled = WorkloadEntry {
                labels,
                ..spec.clone()
            };
            endpoints.extend(self.endpoint(&labelled, resolution, warn));
        }
        endpoints
    }

    fn endpoint(
        &self,
        entry: &WorkloadEntry,
        resolution: Resolution,
        warn: &mut dyn FnMut(String),
    ) -> Option<Endpoint> {
        let address = match (entry.address.parse::<IpAddr>(), resolution) {
            (Ok(address), _) => EndpointAddress::Ip(address),
            (Err(_), Resolution::Dns) if entry.address.parse::<Host>().is_ok() => {
                EndpointAddress::Name(entry.address.clone())
            }
            _ => {
                warn(format!(
                    "endpoint `{}` is not an address that can be called and is left out",
                    entry.address
                ));
                return None;
            }
        };
        Some(Endpoint {
            workload: None,
            address,
            ports: self.targets(&entry.ports),
            labels: entry.labels.clone(),
            identity: identity(entry, &self.namespace, &self.config.trust_domain),
            health: Health::Healthy,
            weight: entry.weight.max(1),
        })
    }

    /// Service port to target port, where an endpoint's own word on a port comes first.
    fn targets(&self, own: &BTreeMap<String, u16>) -> BTreeMap<u16, u16> {
        let target = |port: &ServiceEntryPort| {
            let own = own.get(&port.name).copied();
            own.or(port.target_port).unwrap_or(port.number)
        };
        self.object
            .spec
            .ports
            .iter()
            .map(|port| (port.number, target(port)))
            .collect()
    }
}

/// Who must answer at an endpoint: it has a sidecar if its label says so, and without a label if
/// it names its account, as in Istio.
fn identity(
    entry: &WorkloadEntry,
    namespace: &Namespace,
    trust_domain: &TrustDomain,
) -> Option<SpiffeId> {
    let mode = entry.labels.get(TLS_MODE).map(String::as_str);
    if mode.is_some_and(|mode| mode != "istio") {
        return None;
    }
    Some(SpiffeId {
        trust_domain: trust_domain.clone(),
        namespace: namespace.clone(),
        service_account: entry.service_account.parse().ok()?,
    })
}
