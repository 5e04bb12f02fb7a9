//! The name table: which addresses the hosts of the mesh have, as Pilot tells them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_proto::envoy::service::discovery::v3::Resource;
use mesh_proto::mesh::agent::v1::Name;
use prost::Message as _;

/// Hosts in lower case, without a final dot, and their addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct NameTable {
    hosts: BTreeMap<String, Vec<IpAddr>>,
    complete: bool,
}

impl NameTable {
    /// The table of these resources, of which each is known to be a [`Name`].
    pub(crate) fn new<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> Self {
        let hosts = resources.into_iter().filter_map(|resource| {
            let name = Name::decode(resource.resource.as_ref()?.value.as_ref()).ok()?;
            let addresses = name.addresses.iter().filter_map(|one| one.parse().ok());
            Some((name.host.to_ascii_lowercase(), addresses.collect()))
        });
        Self {
            hosts: hosts.collect(),
            complete: true,
        }
    }

    /// Whether Pilot ever told it: before, nothing can be said not to exist.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The addresses of a host, or of the wildcard that covers it (`*.example.com`).
    pub(crate) fn addresses(&self, host: &str) -> Option<&[IpAddr]> {
        if let Some(addresses) = self.hosts.get(host) {
            return Some(addresses);
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(addresses) = self.hosts.get(&format!("*.{parent}")) {
                return Some(addresses);
            }
            rest = parent;
        }
        None
    }

    /// How many hosts there are.
    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
    }

    #[cfg(test)]
    pub(crate) fn of(hosts: &[(&str, &[&str])]) -> Self {
        let entry = |(host, addresses): &(&str, &[&str])| {
            let addresses = addresses.iter().map(|one| one.parse().unwrap());
            ((*host).to_owned(), addresses.collect())
        };
        Self {
            hosts: hosts.iter().map(entry).collect(),
            complete: true,
        }
    }
}
