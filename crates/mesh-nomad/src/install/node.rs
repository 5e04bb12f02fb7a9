//! Nodes: what one needs for injected groups, what it has, and the files that make up the
//! difference.

use std::fmt;
use std::path::Path;

use serde_json::json;

use super::settings::CniNetwork;
use crate::model::node::Node;

/// The plugin's name, in its network's chain and among the node's attributes.
pub const PLUGIN: &str = "mesh-cni";

/// The name of the proxy's user on nodes, for tasks that are processes.
pub const USER: &str = "mesh-proxy";

/// What a node is to injected groups.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Readiness {
    /// They can be placed there.
    Ready,
    /// The preparation has not been there, or something was lost.
    Lacks(Vec<Lack>),
}

/// Something that a node lacks.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Lack {
    /// A plugin in `cni_path`.
    Plugin(String),
    /// The network in `cni_config_dir`.
    Network(String),
    /// Plugins that Nomad calls when a group's network is to be checked; older ones it does not.
    Version {
        /// The plugin.
        plugin: String,
        /// Its version.
        found: String,
    },
}

// === impl Readiness ===

impl Readiness {
    /// What the node's own report says.
    pub fn of(node: &Node, network: &CniNetwork) -> Self {
        let attributes = node.attributes.get();
        let version = |plugin: &str| {
            attributes?
                .get(&format!("plugins.cni.version.{plugin}"))
                .map(String::as_str)
        };
        let mut lacks: Vec<_> = STANDARD
            .iter()
            .chain([&PLUGIN])
            .filter(|plugin| version(plugin).is_none())
            .map(|plugin| Lack::Plugin((*plugin).to_owned()))
            .collect();
        let mode = format!("cni/{}", network.name);
        let resources = node.resources.get();
        let networks = resources.map_or(&[][..], |resources| resources.networks.items());
        if !networks.iter().any(|found| found.mode.text() == mode) {
            lacks.push(Lack::Network(network.name.clone()));
        }
        if let Some(found) = version("bridge")
            && is_before(found, CHECKED)
        {
            lacks.push(Lack::Version {
                plugin: "bridge".to_owned(),
                found: found.to_owned(),
            });
        }
        if lacks.is_empty() {
            Self::Ready
        } else {
            Self::Lacks(lacks)
        }
    }

    /// Whether groups can be placed there.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Ready => true,
            // An old plugin only means that nobody repairs rules after a restart of the client.
            Self::Lacks(lacks) => lacks
                .iter()
                .all(|lack| matches!(lack, Lack::Version { .. })),
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Lacks(lacks) => {
                for (index, lack) in lacks.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    lack.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin(name) => write!(f, "no plugin {name}"),
            Self::Network(name) => write!(f, "no network cni/{name}"),
            Self::Version { plugin, found } => {
                write!(
                    f,
                    "plugin {plugin} is {found}: Nomad checks networks from 1.3.0 on"
                )
            }
        }
    }
}

/// The network's file for `cni_config_dir`, `<name>.conflist`.
///
/// Names and chains are its own, so that nothing of Nomad's bridge is touched. Addresses that are
/// taken are remembered below `/run`: a memory that outlives a reboot would refuse every group that
/// comes back.
pub fn conflist(network: &CniNetwork) -> String {
    let ranges = json!([[{ "subnet": network.subnet }]]);
    let chain = json!({
        "cniVersion": "1.0.0",
        "name": network.name,
        "plugins": [
            { "type": "loopback" },
            {
                "type": "bridge", "bridge": network.bridge, "ipMasq": true, "isGateway": true,
                "forceAddress": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "ranges": ranges, "routes": [{ "dst": "0.0.0.0/0" }],
                    "dataDir": format!("/run/cni/{}", network.name),
                },
            },
            { "type": "firewall", "backend": "iptables", "iptablesAdminChainName": "MESH-ADMIN" },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
            { "type": PLUGIN, "capabilities": { "portMappings": true } },
        ],
    });
    format!("{chain:#}\n")
}

/// What the preparation says of a directory above those of tasks that the proxy's user cannot get
/// through; Nomad's API tells of no directory's mode.
pub fn closed_directory(directory: &Path, mode: u32) -> String {
    format!(
        "{CLOSED}{} has mode {:04o}: user {USER} cannot get through it to the files of its tasks, so sidecars by driver raw_exec do not start; `chmod o+x {}` opens it",
        directory.display(),
        mode & 0o7777,
        directory.display()
    )
}

/// The lines that [`closed_directory`] made, of what a preparation said.
pub fn closed_directories(said: &str) -> impl Iterator<Item = &str> {
    said.lines().filter(|line| line.starts_with(CLOSED))
}

/// How such a line begins.
const CLOSED: &str = "directory ";

/// What to do by hand, as root, on a node that no job can prepare.
pub fn manual_steps(network: &CniNetwork) -> Vec<String> {
    let CniNetwork {
        name,
        bridge,
        subnet,
    } = network;
    vec![
        format!("mesh nomad node prepare --network {name} --bridge {bridge} --subnet {subnet}"),
        HANGUP.to_owned(),
    ]
}

/// How to take back by hand what [`manual_steps`] did.
pub fn manual_removal(network: &CniNetwork) -> Vec<String> {
    vec![
        format!("mesh nomad node remove --network {}", network.name),
        HANGUP.to_owned(),
    ]
}

/// How a client is told to look at its plugins anew.
const HANGUP: &str = "kill -HUP <pid of the Nomad client>";

/// Whether a version, with or without `v` in front, is before `major.minor`.
fn is_before(version: &str, (major, minor): (u64, u64)) -> bool {
    let mut numbers = version
        .trim_start_matches('v')
        .split('.')
        .map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(found_major)), Some(Ok(found_minor))) => {
            (found_major, found_minor) < (major, minor)
        }
        _ => false,
    }
}

/// The plugins of the chain that are not ours.
const STANDARD: [&str; 5] = ["bridge", "firewall", "host-local", "loopback", "portmap"];

/// From here on Nomad calls CHECK: `nomad_cni` of its client.
const CHECKED: (u64, u64) = (1, 3);

#[cfg(test)]
mod tests {
    use super::*;

    fn node(attributes: &[(&str, &str)], networks: &[&str]) -> Node {
        let attributes: serde_json::Map<_, _> = attributes
            .iter()
            .map(|(name, version)| (format!("plugins.cni.version.{name}"), (*version).into()))
            .collect();
        let networks: Vec<_> = networks
            .iter()
            .map(|mode| json!({ "Mode": mode }))
            .collect();
        serde_json::from_value(json!({
            "Attributes": attributes, "NodeResources": { "Networks": networks },
        }))
        .unwrap()
    }

    fn all(bridge: &'static str) -> Vec<(&'static str, &'static str)> {
        let others = ["firewall", "host-local", "loopback", "portmap", PLUGIN];
        let mut all: Vec<_> = others.map(|name| (name, "v1.9.1")).to_vec();
        all.push(("bridge", bridge));
        all
    }

    #[test]
    fn a_node_with_everything_is_ready() {
        let found = Readiness::of(
            &node(&all("v1.9.1"), &["host", "cni/mesh"]),
            &CniNetwork::default(),
        );
        assert_eq!(found, Readiness::Ready);
    }

    #[test]
    fn what_is_missing_is_named() {
        let found = Readiness::of(
            &node(&[("bridge", "1.9.1")], &["host"]),
            &CniNetwork::default(),
        );
        assert!(!found.is_ready());
        let text = found.to_string();
        assert!(text.contains("no plugin mesh-cni"), "{text}");
        assert!(text.ends_with("no network cni/mesh"), "{text}");
    }

    #[test]
    fn an_old_bridge_is_told_and_does_not_stand_in_the_way() {
        let found = Readiness::of(&node(&all("1.0.0"), &["cni/mesh"]), &CniNetwork::default());
        assert!(found.is_ready());
        assert!(found.to_string().contains("1.0.0"), "{found}");
    }

    #[test]
    fn the_network_remembers_addresses_where_a_reboot_forgets_them() {
        let conflist: serde_json::Value =
            serde_json::from_str(&conflist(&CniNetwork::default())).unwrap();
        let plugins = conflist["plugins"].as_array().unwrap();
        assert_eq!(plugins[1]["ipam"]["dataDir"], "/run/cni/mesh");
        assert_eq!(plugins.last().unwrap()["type"], PLUGIN);
    }
}
