//! What a job says about its own injection: meta keys that begin with `mesh.`.

use std::collections::BTreeMap;

use mesh_model::{Protocol, ServiceAccount};
use mesh_netfilter::{IdRange, IdSet, NetworkSet, PortRange, PortSet, parse_network};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as PlainError, StrDeserializer};

use crate::model::{Job, Network, TaskGroup};
use crate::refusal::Refusals;
use crate::sidecar::Mode;

/// What a group and its job say; the group's word counts where both speak.
#[derive(Clone, Debug, Default)]
pub(super) struct Annotations {
    pub(super) inject: Option<bool>,
    pub(super) mode: Option<ModeChoice>,
    pub(super) proxy_image: Option<String>,
    pub(super) proxy_cpu: Option<i64>,
    pub(super) proxy_memory: Option<i64>,
    pub(super) include_inbound_ports: Option<PortSet>,
    pub(super) exclude_inbound_ports: PortSet,
    pub(super) exclude_outbound_ports: PortSet,
    pub(super) exclude_outbound_cidrs: NetworkSet,
    pub(super) include_uids: IdSet,
    pub(super) exclude_uids: IdSet,
    pub(super) rewrite_checks: Option<bool>,
    pub(super) hold_app: Option<bool>,
    pub(super) upstreams: Vec<(String, u16)>,
    pub(super) service_account: Option<ServiceAccount>,
    pub(super) labels: BTreeMap<String, String>,
    /// By the label of the port.
    pub(super) protocols: BTreeMap<String, Protocol>,
    /// The port at which callers reach a service, by its name or the label of its port.
    pub(super) ports: BTreeMap<String, u16>,
    /// Keys of ours that nobody knows.
    pub(super) unknown: Vec<String>,
}

/// A mode, or the one that fits the cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "either it is said or it is not")]
pub enum ModeChoice {
    /// `cni` where every node can do it; nothing weaker is chosen in silence.
    Auto,
    /// This one.
    Mode(Mode),
}

impl std::str::FromStr for ModeChoice {
    type Err = mesh_model::Problem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Mode).map_err(|_problem: Self::Err| {
            let expected = "auto, cni, guard, explicit, host-exclusive or host-uid";
            mesh_model::Problem::new("", text, expected)
        })
    }
}

/// Keys that control-plane jobs carry; they say nothing about injection.
const OTHERS: &[&str] = &["owner", "component", "version", "role"];

impl Annotations {
    /// Reads both; what is wrong goes to `refusals`.
    pub(super) fn read(job: &Job, group: &TaskGroup, path: &str, refusals: &mut Refusals) -> Self {
        let mut found: BTreeMap<String, (String, &str)> = BTreeMap::new();
        let group_path = format!("{path}.Meta");
        for (meta, path) in [(&job.meta, "Meta"), (&group.meta, group_path.as_str())] {
            for (key, value) in meta.get().into_iter().flatten() {
                if let Some(rest) = key
                    .strip_prefix("mesh.")
                    .or_else(|| key.strip_prefix("mesh_"))
                {
                    let at = format!("{path}[{key}]");
                    found.insert(rest.to_owned(), (at, value));
                }
            }
        }
        let mut annotations = Self::default();
        let network = group.network();
        for (key, (path, value)) in found {
            if let Err(expected) = annotations.set(&key, value.trim(), network) {
                refusals.add(path, format!("`{value}` is not {expected}"), "");
            }
        }
        annotations
    }

    fn set(&mut self, key: &str, value: &str, network: Option<&Network>) -> Result<(), String> {
        match key {
            "inject" => self.inject = Some(flag(value)?),
            "mode" => {
                let choice = value
                    .parse::<ModeChoice>()
                    .map_err(|error| error.expected)?;
                self.mode = Some(choice);
            }
            "proxy_image" => self.proxy_image = Some(value.to_owned()),
            "proxy_cpu" => self.proxy_cpu = Some(amount(value, "MHz")?),
            "proxy_memory" => self.proxy_memory = Some(amount(value, "MiB")?),
            "include_inbound_ports" => {
                self.include_inbound_ports = Some(ports(value, network)?);
            }
            "exclude_inbound_ports" => self.exclude_inbound_ports = ports(value, network)?,
            "exclude_outbound_ports" => self.exclude_outbound_ports = ports(value, None)?,
            "exclude_outbound_cidrs" => {
                self.exclude_outbound_cidrs = items(value)
                    .map(|item| {
                        parse_network(item).map_err(|_found| "a list of networks".to_owned())
                    })
                    .collect::<Result<_, String>>()?;
            }
            "include_uids" => self.include_uids = users(value)?,
            "exclude_uids" => self.exclude_uids = users(value)?,
            "rewrite_checks" => self.rewrite_checks = Some(flag(value)?),
            "hold_app" => self.hold_app = Some(flag(value)?),
            "upstreams" => {
                self.upstreams = items(value).map(upstream).collect::<Result<_, _>>()?;
            }
            "service_account" => {
                let account = value
                    .parse()
                    .map_err(|_found| "a service account".to_owned())?;
                self.service_account = Some(account);
            }
            "labels" => self.labels = labels(value)?,
            key => match key.split_once(['.', '_']) {
                Some(("protocol", label)) => {
                    self.protocols.insert(label.to_owned(), protocol(value)?);
                }
                Some(("port", name)) => {
                    let port = value.parse().ok().filter(|port| *port > 0);
                    let port = port.ok_or_else(|| "a port between 1 and 65535".to_owned())?;
                    self.ports.insert(name.to_owned(), port);
                }
                _ if OTHERS.contains(&key) => {}
                _ => self.unknown.push(key.to_owned()),
            },
        }
        Ok(())
    }
}

/// What is spoken on a port, by its name.
pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    let read: StrDeserializer<'_, PlainError> = text.into_deserializer();
    Protocol::deserialize(read).map_err(|_found| "http, http2, grpc, tcp or tls".to_owned())
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ']).filter(|item| !item.is_empty())
}

fn flag(text: &str) -> Result<bool, String> {
    match text {
        "true" | "enabled" => Ok(true),
        "false" | "disabled" => Ok(false),
        _ => Err("`true` or `false`".to_owned()),
    }
}

fn amount(text: &str, unit: &str) -> Result<i64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("a number of {unit} above 0"))
}

/// Ports by number, range, or label of a port whose number the job fixes.
fn ports(text: &str, network: Option<&Network>) -> Result<PortSet, String> {
    let expected = || match network {
        Some(_) => "a list of ports, ranges, and labels of ports with a fixed `to`".to_owned(),
        None => "a list of ports and ranges".to_owned(),
    };
    items(text)
        .map(|item| {
            let label = || network?.port(item)?.inside();
            let number = label().map(|number| number.to_string());
            let text = number.as_deref().unwrap_or(item);
            text.parse::<PortRange>().map_err(|_found| expected())
        })
        .collect()
}

fn users(text: &str) -> Result<IdSet, String> {
    let ranges = items(text).map(str::parse::<IdRange>);
    let users: Result<IdSet, _> = ranges.collect();
    users.map_err(|_found| "a list of user numbers".to_owned())
}

fn upstream(item: &str) -> Result<(String, u16), String> {
    item.rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .filter(|(_, port)| *port > 0)
        .ok_or_else(|| "a list of `service:port`".to_owned())
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    items(text)
        .map(|item| {
            let (key, value) = item
                .split_once('=')
                .ok_or_else(|| "a list of `key=value`".to_owned())?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}
