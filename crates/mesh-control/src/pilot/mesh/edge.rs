//! What a gateway serves: the servers of all `Gateway`s that select it, by port.
//!
//! Where two contradict each other the older object holds, and a warning names the other.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_model::gateway::{bound_hosts, hosts, selects};
use mesh_model::istio::gateway::{Server, ServerProtocol, ServerTlsMode, roots_name};
use mesh_model::istio::{Gateway, VirtualService};
use mesh_model::{Object, ObjectRef, Workload};

use super::credential::{Credential, CredentialKey};
use super::{Mesh, Warning};

/// What a gateway serves.
#[derive(Debug, Default)]
pub struct Edge<'a> {
    /// Its servers by port; all of a port go together.
    pub ports: BTreeMap<u16, Vec<Served<'a>>>,
    /// What is left out, and why.
    pub warnings: Vec<Warning>,
}

/// A server that is served.
#[derive(Clone, Debug)]
pub struct Served<'a> {
    /// The object that it is of.
    pub gateway: ObjectRef,
    /// The server.
    pub server: &'a Server,
    /// What is spoken.
    pub protocol: ServerProtocol,
    /// Its hosts that no older object has on this port.
    pub hosts: Vec<String>,
    /// The Secrets that it needs, where the gateway ends TLS.
    pub secrets: Option<Secrets>,
}

/// The names of the Secrets that a server needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Secrets {
    /// That of certificate and key.
    pub name: String,
    /// Whether callers need certificates: their roots are there too, or in a Secret of their own.
    pub is_mutual: bool,
}

impl Mesh {
    /// What a gateway serves; nothing for a workload that is none.
    pub fn edge(&self, workload: &Workload) -> Edge<'_> {
        let mut edge = Edge::default();
        for object in &self.gateways {
            if selects(object, workload) {
                for server in &object.spec.servers {
                    self.add_server(workload, object, server, &mut edge);
                }
            }
        }
        edge
    }

    /// The Secrets that all gateways need.
    pub fn wanted_credentials(&self) -> BTreeSet<CredentialKey> {
        let mut wanted = BTreeSet::new();
        for (workload, _) in self.workloads().filter(|(workload, _)| workload.gateway) {
            let objects = self.gateways.iter();
            let servers = objects
                .filter(|object| selects(object, workload))
                .flat_map(|object| &object.spec.servers);
            for tls in servers.filter_map(|server| server.tls.as_ref()) {
                if tls.credential_name.is_empty() {
                    continue;
                }
                wanted.insert(CredentialKey::of(workload, &tls.credential_name));
                if tls.mode == ServerTlsMode::Mutual {
                    let roots = roots_name(&tls.credential_name);
                    wanted.insert(CredentialKey::of(workload, roots));
                }
            }
        }
        wanted
    }

    /// A Secret of a gateway, once it was looked at.
    pub fn credential(&self, workload: &Workload, name: &str) -> Option<&Credential> {
        self.credentials.get(&CredentialKey::of(workload, name))
    }

    /// The roots for callers' certificates beside a Secret of a gateway: its own, else those of the
    /// Secret for them.
    pub fn roots(&self, workload: &Workload, name: &str) -> Option<&Bytes> {
        let of = |name: &str| self.credential(workload, name)?.roots.as_ref().ok();
        of(name).or_else(|| of(&roots_name(name)))
    }

    /// The routes that are bound to a server, by the hosts at which they hold; of each host the
    /// oldest object first.
    pub fn routes_at<'a>(
        &'a self,
        served: &Served<'_>,
        workload: &Workload,
    ) -> BTreeMap<String, Vec<&'a Object<VirtualService>>> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for object in &self.gateway_routes {
            let namespace = workload.namespace.as_str();
            for host in bound_hosts(served.server, &served.gateway, object, namespace) {
                found.entry(host).or_default().push(&**object);
            }
        }
        found
    }

    fn add_server<'a>(
        &'a self,
        workload: &Workload,
        object: &'a Object<Gateway>,
        server: &'a Server,
        edge: &mut Edge<'a>,
    ) {
        let (Some(port), Some(protocol)) = (&server.port, server.protocol()) else {
            return;
        };
        let warn = |message: String| {
            let source = format!(
                "Gateway {}/{}",
                object.metadata.namespace, object.metadata.name
            );
            let message = format!(
                "server `{}` (port {}) at gateway {}: {message}",
                port.name, port.number, workload.id
            );
            Warning::new(source, message)
        };
        let secrets = match self.secrets(workload, server, protocol) {
            Ok(secrets) => secrets,
            Err(reason) => {
                let message = format!("not served, because {reason}");
                edge.warnings.push(warn(message));
                return;
            }
        };
        let before = edge.ports.get(&port.number).map_or(&[][..], Vec::as_slice);
        if let Some(other) = before
            .iter()
            .find(|other| !go_together(other.protocol, protocol))
        {
            let (gateway, spoken) = (&other.gateway, other.protocol);
            edge.warnings.push(warn(format!(
                "not served, because the older Gateway {}/{} has {spoken:?} on this port",
                gateway.namespace, gateway.name
            )));
            return;
        }
        let mut own: Vec<String> = Vec::new();
        for host in hosts(server) {
            // By requests servers of one port may share a host; before TLS there is only one answer.
            let taken = is_secured(protocol)
                .then(|| before.iter().find(|other| other.hosts.contains(&host)))
                .flatten();
            if let Some(other) = taken {
                let gateway = &other.gateway;
                edge.warnings.push(warn(format!(
                    "host `{host}` is served by the older Gateway {}/{}",
                    gateway.namespace, gateway.name
                )));
            } else if !own.contains(&host) {
                own.push(host);
            }
        }
        if own.is_empty() {
            return;
        }
        edge.ports.entry(port.number).or_default().push(Served {
            gateway: ObjectRef::from(&object.metadata),
            server,
            protocol,
            hosts: own,
            secrets,
        });
    }

    /// The Secrets of a server, or why it cannot be served; one that nobody has looked at yet is
    /// waited for.
    fn secrets(
        &self,
        workload: &Workload,
        server: &Server,
        protocol: ServerProtocol,
    ) -> Result<Option<Secrets>, String> {
        let Some(tls) = server.tls.as_ref().filter(|_| is_secured(protocol)) else {
            return Ok(None);
        };
        if tls.mode == ServerTlsMode::Passthrough {
            return Ok(None);
        }
        let name = &tls.credential_name;
        let own = self.credential(workload, name);
        let broken =
            |name: &str, reason: &str| format!("Secret `{}/{name}` {reason}", workload.namespace);
        if let Some(Err(reason)) = own.map(|own| &own.pair) {
            return Err(broken(name, reason));
        }
        let is_mutual = tls.mode == ServerTlsMode::Mutual;
        if is_mutual && own.is_some_and(|own| own.roots.is_err()) {
            let apart = roots_name(name);
            let other = self.credential(workload, &apart);
            if let Some(Err(reason)) = other.map(|other| &other.roots) {
                return Err(broken(&apart, reason));
            }
        }
        Ok(Some(Secrets {
            name: name.clone(),
            is_mutual,
        }))
    }
}

/// Whether servers of these protocols can share a port.
fn go_together(one: ServerProtocol, other: ServerProtocol) -> bool {
    is_secured(one) && is_secured(other) || one == ServerProtocol::Http && other == one
}

/// Whether a server looks at TLS before anything else.
fn is_secured(protocol: ServerProtocol) -> bool {
    matches!(protocol, ServerProtocol::Https | ServerProtocol::Tls)
}
