//! Services of a file.

mod choice;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

pub use choice::{CapabilityChoice, NetworkMode, Restart, User};

use super::duration;
use super::health::{self, HealthCheck};
use super::mount::{self, Mount, absolute, is_name};
use super::network::{self, NetworkUse};
use super::port::{self, Port};
use super::problem::Located;
use super::reader::{Field, Reader};
use crate::Condition;

/// One service of a file.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Service {
    /// Its image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Located<String>>,
    /// What follows the entry point; the image's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<Located<String>>>,
    /// The program and its first arguments; the image's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<Located<String>>>,
    /// The environment beside the image's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its networks, by their keys in the file; `default` when there is none and no mode.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, Located<NetworkUse>>,
    /// What it has instead of networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<Located<NetworkMode>>,
    /// Ports at which the host is asked for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Located<Port>>,
    /// What is mounted into it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Located<Mount>>,
    /// Whether it wants every right on the host.
    pub privileged: Located<bool>,
    /// Capabilities beside the usual ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<Located<CapabilityChoice>>,
    /// Capabilities that it must not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<Located<CapabilityChoice>>,
    /// Its user; the image's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Located<User>>,
    /// Where it starts; where the image says when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<PathBuf>,
    /// The name that it has for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Located<String>>,
    /// The name of its container elsewhere; here another name by which it is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    /// What happens when it ends by itself.
    pub restart: Located<Restart>,
    /// Services that come first, and how far they must have come.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "choice::write_depends_on"
    )]
    pub depends_on: BTreeMap<String, Located<Condition>>,
    /// How it shows that it can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Located<HealthCheck>>,
    /// How long a stop waits between TERM and KILL; ten seconds when absent.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::write"
    )]
    pub stop_grace_period: Option<Duration>,
    /// Its name servers; the runtime's own when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Domains that are tried behind a bare name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
}

/// An entry of the file's `services`.
pub(super) fn read<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> Service {
    let mut service = Service::default();
    let mut has_image = !field.is_map();
    for (key, value) in reader.entries(field) {
        has_image |= matches!(key.value.as_str(), "image" | "build");
        read_key(reader, &key, &value, &mut service);
    }
    if !has_image {
        let message = "found no `image`, and images are not built here";
        reader.problem(field, message);
    }
    if let Some(mode) = &service.network_mode
        && !service.networks.is_empty()
    {
        let message = "a service has `networks` or a `network_mode`, not both";
        let problem = super::FileProblem::new(mode.at, &field.path, message);
        reader.problems.push(problem);
    }
    service
}

fn read_key<'a>(
    reader: &mut Reader<'a>,
    key: &Located<String>,
    value: &Field<'a>,
    service: &mut Service,
) {
    match key.value.as_str() {
        "image" => service.image = image(reader, value),
        "command" => service.command = reader.command(value),
        "entrypoint" => service.entrypoint = reader.command(value),
        "environment" if value.is_null() => {}
        "environment" => service.environment = reader.pairs(value, true),
        "labels" => service.labels = reader.pairs(value, false),
        "networks" => service.networks = networks(reader, value),
        "network_mode" => {
            service.network_mode = reader.parsed(value, NetworkMode::EXPECTED, NetworkMode::parse);
        }
        "ports" => {
            let items = reader.list(value);
            service.ports = items.iter().filter_map(|it| port::read(reader, it)).collect();
        }
        // What is not published can be reached on the network all the same.
        "expose" => {
            for item in reader.list(value) {
                reader.parsed(&item, "a port", |it| Port::parse(it).filter(|it| it.published.is_none()));
            }
        }
        "volumes" => {
            let items = reader.list(value);
            service.volumes = items.iter().filter_map(|it| mount::read(reader, it)).collect();
        }
        "privileged" => service.privileged = value.located(reader.flag(value)),
        "cap_add" => service.cap_add = capabilities(reader, value),
        "cap_drop" => service.cap_drop = capabilities(reader, value),
        "user" => service.user = reader.parsed(value, User::EXPECTED, User::parse),
        "working_dir" => {
            let found = reader.parsed(value, "an absolute path without `..`", absolute);
            service.working_dir = found.map(|it| it.value);
        }
        "hostname" => service.hostname = reader.parsed(value, HOST_NAME, name),
        "container_name" => {
            service.container_name = reader.parsed(value, "a name", name).map(|it| it.value);
        }
        "restart" => {
            let found = reader.parsed(value, Restart::EXPECTED, Restart::parse);
            service.restart = found.unwrap_or_default();
        }
        "depends_on" => service.depends_on = depends_on(reader, value),
        "healthcheck" => service.healthcheck = health::read(reader, value),
        "stop_grace_period" => {
            let found = reader.parsed(value, duration::EXPECTED, duration::parse);
            service.stop_grace_period = found.map(|it| it.value);
        }
        "dns" => {
            for item in reader.one_or_more(value) {
                let parse = |it: &str| it.parse::<IpAddr>().ok();
                let found = reader.parsed(&item, "an IP address", parse);
                service.dns.extend(found.map(|it| it.value));
            }
        }
        "dns_search" => {
            let found = reader.texts(value).into_iter().map(|it| it.value);
            service.dns_search = found.collect();
        }
        // Every unit has that.
        "security_opt" => {
            for item in reader.list(value) {
                reader.only(&item, &["no-new-privileges:true", "no-new-privileges"]);
            }
        }
        "tty" | "stdin_open" | "read_only" | "init" => reader.only(value, &["false"]),
        "stop_signal" => reader.only(value, &["SIGTERM"]),
        "env_file" => reader.problem(
            value,
            "environment files are not read here: write `environment`, with `${NAME}` for what is elsewhere",
        ),
        "build" => reader.problem(value, "images are not built here: build it and name the image"),
        _ => reader.unsupported(key, value, "a service"),
    }
}

const HOST_NAME: &str = "a name (letters, digits, `-`, `_`, `.`; at most 63)";

fn name(text: &str) -> Option<String> {
    (is_name(text) && text.len() <= 63).then(|| text.to_owned())
}

fn image<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> Option<Located<String>> {
    let parse = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        plain.then(|| text.to_owned())
    };
    reader.parsed(field, "an image", parse)
}

fn capabilities<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> Vec<Located<CapabilityChoice>> {
    let items = reader.list(field);
    let parsed = items.iter().filter_map(|item| {
        reader.parsed(item, CapabilityChoice::EXPECTED, CapabilityChoice::parse)
    });
    parsed.collect()
}

/// A list of names, or a map of names and how each network is used.
fn networks<'a>(
    reader: &mut Reader<'a>,
    field: &Field<'a>,
) -> BTreeMap<String, Located<NetworkUse>> {
    if field.is_map() {
        let entries = reader.entries(field).into_iter();
        let entries = entries.map(|(key, value)| {
            let found = network::read_use(reader, &value);
            (
                key.value,
                Located {
                    value: found,
                    at: key.at,
                },
            )
        });
        return entries.collect();
    }
    let names = reader.texts(field).into_iter();
    names
        .map(|name| {
            let found = Located {
                value: NetworkUse::default(),
                at: name.at,
            };
            (name.value, found)
        })
        .collect()
}

/// A list of names, or a map of names and conditions.
fn depends_on<'a>(
    reader: &mut Reader<'a>,
    field: &Field<'a>,
) -> BTreeMap<String, Located<Condition>> {
    if !field.is_map() {
        let names = reader.texts(field).into_iter();
        return names
            .map(|it| {
                (
                    it.value,
                    Located {
                        value: Condition::Started,
                        at: it.at,
                    },
                )
            })
            .collect();
    }
    let mut found = BTreeMap::new();
    for (name, value) in reader.entries(field) {
        let mut condition = None;
        for (key, value) in reader.entries(&value) {
            match key.value.as_str() {
                "condition" => {
                    condition = reader.parsed(&value, choice::CONDITION, choice::parse_condition);
                }
                "required" => reader.only(&value, &["true"]),
                "restart" => reader.only(&value, &["false"]),
                _ => reader.unsupported(&key, &value, "a dependency"),
            }
        }
        let condition = condition.map_or(Condition::Started, |it| it.value);
        found.insert(
            name.value,
            Located {
                value: condition,
                at: name.at,
            },
        );
    }
    found
}
