//! Networks and volumes of a file, and how a service uses a network.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::problem::Located;
use super::reader::{Field, Reader};

/// A network of a file: a bridge.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Network {
    /// Its name outside of the file; the key when absent.
    pub name: Option<String>,
    /// Whether it is there already and is not made.
    pub external: bool,
    /// Its IPv4 subnet; chosen when absent.
    pub v4: Option<Located<Ipv4Net>>,
    /// Its IPv6 subnet; chosen when absent.
    pub v6: Option<Located<Ipv6Net>>,
    /// Name of its bridge on the host; chosen when absent.
    pub bridge: Option<Located<String>>,
}

/// A volume of a file.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Volume {
    /// Its name outside of the file; the key when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is there already and is not made.
    pub external: bool,
}

/// How a service uses a network.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct NetworkUse {
    /// Further names by which others on the network find it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The IPv4 address that it must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<Located<Ipv4Addr>>,
    /// The IPv6 address that it must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<Located<Ipv6Addr>>,
}

/// An entry of the file's `networks`.
pub(super) fn read<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> Network {
    let mut network = Network::default();
    if field.is_null() {
        return network;
    }
    for (key, value) in reader.entries(field) {
        match key.value.as_str() {
            "driver" => reader.only(&value, &["bridge", "default"]),
            "name" => network.name = reader.text(&value).map(|it| it.value),
            "external" => read_external(reader, &value, &mut network.external, &mut network.name),
            "ipam" => read_ipam(reader, &value, &mut network),
            "driver_opts" => read_options(reader, &value, &mut network),
            // All networks here have both families.
            "enable_ipv6" | "enable_ipv4" => reader.only(&value, &["true"]),
            "internal" | "attachable" => reader.only(&value, &["false"]),
            _ => reader.unsupported(&key, &value, "a network"),
        }
    }
    network
}

/// `external: true`, or the older `external: {name: NAME}`.
fn read_external<'a>(
    reader: &mut Reader<'a>,
    field: &Field<'a>,
    external: &mut bool,
    name: &mut Option<String>,
) {
    if !field.is_map() {
        *external = reader.flag(field);
        return;
    }
    *external = true;
    for (key, value) in reader.entries(field) {
        match key.value.as_str() {
            "name" => *name = reader.text(&value).map(|it| it.value),
            _ => reader.unsupported(&key, &value, "`external`"),
        }
    }
}

fn read_ipam<'a>(reader: &mut Reader<'a>, field: &Field<'a>, network: &mut Network) {
    for (key, value) in reader.entries(field) {
        match key.value.as_str() {
            "driver" => reader.only(&value, &["default"]),
            "config" => {
                for item in reader.list(&value) {
                    read_subnet(reader, &item, network);
                }
            }
            _ => reader.unsupported(&key, &value, "`ipam`"),
        }
    }
}

fn read_subnet<'a>(reader: &mut Reader<'a>, field: &Field<'a>, network: &mut Network) {
    const EXPECTED: &str = "a subnet without host bits, as in `172.28.0.0/16`";
    let (mut subnet, mut gateway) = (None, None);
    for (key, value) in reader.entries(field) {
        match key.value.as_str() {
            "subnet" => {
                let parse = |it: &str| it.parse().ok().filter(|it: &IpNet| it.trunc() == *it);
                subnet = reader.parsed(&value, EXPECTED, parse);
            }
            "gateway" => {
                let parse = |it: &str| it.parse::<std::net::IpAddr>().ok();
                let found = reader.parsed(&value, "an IP address", parse);
                gateway = found.map(|it| (it, value));
            }
            _ => reader.unsupported(&key, &value, "an address pool"),
        }
    }
    let Some(Located { value: subnet, at }) = subnet else {
        return;
    };
    // As the engines have it: the first host of the subnet.
    if let Some((gateway, value)) = gateway
        && subnet.hosts().next() != Some(gateway.value)
    {
        reader.wrong(
            &value,
            &gateway.value.to_string(),
            "the first address of the subnet, which is the gateway here",
        );
    }
    let twice = match subnet {
        IpNet::V4(value) => network.v4.replace(Located { value, at }).is_some(),
        IpNet::V6(value) => network.v6.replace(Located { value, at }).is_some(),
    };
    if twice {
        reader.problem(field, "a network has one subnet of each family here");
    }
}

fn read_options<'a>(reader: &mut Reader<'a>, field: &Field<'a>, network: &mut Network) {
    for (key, value) in reader.entries(field) {
        match key.value.as_str() {
            BRIDGE_OPTION => network.bridge = reader.text(&value),
            _ => reader.unsupported(&key, &value, "`driver_opts`"),
        }
    }
}

/// Source: Docker's bridge driver, option "bridge name".
const BRIDGE_OPTION: &str = "com.docker.network.bridge.name";

/// An entry of the file's `volumes`.
pub(super) fn read_volume<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> Volume {
    let mut volume = Volume::default();
    if field.is_null() {
        return volume;
    }
    for (key, value) in reader.entries(field) {
        match key.value.as_str() {
            "driver" => reader.only(&value, &["local", "default"]),
            "name" => volume.name = reader.text(&value).map(|it| it.value),
            "external" => read_external(reader, &value, &mut volume.external, &mut volume.name),
            _ => reader.unsupported(&key, &value, "a volume"),
        }
    }
    volume
}

/// An entry of `networks` of a service.
pub(super) fn read_use<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> NetworkUse {
    let mut found = NetworkUse::default();
    if field.is_null() {
        return found;
    }
    for (key, value) in reader.entries(field) {
        match key.value.as_str() {
            "aliases" => {
                let names = reader.list(&value);
                let names = names.iter().filter_map(|item| {
                    let parse = |it: &str| super::mount::is_name(it).then(|| it.to_owned());
                    reader.parsed(item, "a name", parse)
                });
                found.aliases = names.map(|it| it.value).collect();
            }
            "ipv4_address" => {
                found.ipv4_address = reader.parsed(&value, "an IPv4 address", |it| it.parse().ok());
            }
            "ipv6_address" => {
                found.ipv6_address = reader.parsed(&value, "an IPv6 address", |it| it.parse().ok());
            }
            _ => reader.unsupported(&key, &value, "a network of a service"),
        }
    }
    found
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map::new();
        map.insert("external".to_owned(), self.external.into());
        if let Some(name) = &self.name {
            map.insert("name".to_owned(), name.clone().into());
        }
        let v4 = self.v4.map(|it| json!({ "subnet": it.value }));
        let v6 = self.v6.map(|it| json!({ "subnet": it.value }));
        let config: Vec<_> = v4.into_iter().chain(v6).collect();
        if !config.is_empty() {
            map.insert("ipam".to_owned(), json!({ "config": config }));
        }
        if let Some(bridge) = &self.bridge {
            map.insert(
                "driver_opts".to_owned(),
                json!({ BRIDGE_OPTION: bridge.value }),
            );
        }
        Value::Object(map).serialize(serializer)
    }
}
