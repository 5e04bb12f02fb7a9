//! What an engine is asked for to run a file: pure.

mod network;
mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::problem::Located;
use super::service::{NetworkMode, Service};
use super::{Compose, DEFAULT, FileProblem, FileProblems, Position};
use crate::{
    Attachment, Condition, Dependency, Dns, GroupSpec, Name, NetworkSpec, PublishedPort, UnitSpec,
};
use network::Networks;

/// How a file is turned into what an engine is asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlanOptions {
    /// The name of the file, for messages.
    pub file: String,
    /// The directory of the file, where its relative paths begin.
    pub directory: PathBuf,
    /// Where the volumes of the file are kept, each as a directory of its name; without it they are
    /// refused.
    pub volumes: Option<PathBuf>,
    /// What comes before the names of groups and networks, as in `shop.web`.
    pub prefix: Option<Name>,
}

impl PlanOptions {
    /// Without a prefix and without volumes.
    pub fn new(file: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            directory: directory.into(),
            volumes: None,
            prefix: None,
        }
    }
}

/// What an engine is asked for to run a file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use]
#[non_exhaustive]
pub struct Plan {
    /// The networks.
    pub networks: Vec<NetworkSpec>,
    /// Directories of volumes, to be made before anything starts.
    pub volumes: BTreeSet<PathBuf>,
    /// The groups: one for each service, but for those that share another's network.
    pub groups: Vec<GroupPlan>,
    /// The units in the order of starting.
    pub steps: Vec<Step>,
}

/// A group and what is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct GroupPlan {
    /// The group.
    pub group: GroupSpec,
    /// Its units: one for each service, by its name.
    pub units: Vec<UnitSpec>,
}

/// The start of a unit.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// The service of the file.
    pub service: String,
    /// Its group.
    pub group: Name,
    /// Its unit.
    pub unit: Name,
    /// What must have come first: always earlier steps.
    pub after: Vec<StepDependency>,
}

/// A unit of any group of a plan that comes first, and how far it must have come.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct StepDependency {
    /// Its group.
    pub group: Name,
    /// Its unit.
    pub unit: Name,
    /// How far it must have come.
    pub condition: Condition,
}

/// Ports that are published by all services of a file together: each is a rule of the host.
const MAX_PORTS: usize = 4096;

impl Compose {
    /// What an engine is asked for to run the file.
    ///
    /// The same file gives the same plan.
    ///
    /// # Errors
    ///
    /// Everything in it that no engine here can do, with line and column.
    pub fn plan(&self, options: &PlanOptions) -> Result<Plan, FileProblems> {
        let mut planner = Planner {
            compose: self,
            options,
            problems: Vec::new(),
            ports: 0,
            volumes: BTreeSet::new(),
        };
        let plan = planner.plan();
        if planner.problems.is_empty() {
            Ok(plan)
        } else {
            Err(FileProblems::new(&options.file, planner.problems))
        }
    }
}

impl Plan {
    /// The images that its units run in.
    pub fn images(&self) -> BTreeSet<&str> {
        let units = self.groups.iter().flat_map(|group| &group.units);
        units.filter_map(|unit| unit.image.as_deref()).collect()
    }
}

struct Planner<'a> {
    compose: &'a Compose,
    options: &'a PlanOptions,
    problems: Vec<FileProblem>,
    ports: usize,
    volumes: BTreeSet<PathBuf>,
}

/// Where a service runs.
struct Home<'a> {
    /// The service whose group it is.
    owner: &'a str,
    group: Name,
    unit: Name,
}

impl<'a> Planner<'a> {
    fn plan(&mut self) -> Plan {
        let homes = self.homes();
        let networks = Networks::of(self);
        let mut plan = Plan {
            networks: networks.specs(),
            ..Plan::default()
        };
        for (key, service) in &self.compose.services {
            let Some(home) = homes.get(key.as_str()) else {
                continue;
            };
            if home.owner != key {
                self.check_guest(key, &service.value);
                continue;
            }
            let Some(group) = self.group(key, service, home, &networks) else {
                continue;
            };
            let guests = homes.iter().filter(|(_, it)| it.owner == key);
            let units = guests.filter_map(|(guest, home)| {
                let service = self.compose.services.get(*guest)?;
                Some(self.unit(guest, service, home, &homes))
            });
            let units = units.collect();
            plan.groups.push(GroupPlan { group, units });
        }
        plan.steps = self.steps(&homes);
        plan.volumes = std::mem::take(&mut self.volumes);
        plan
    }

    fn wrong(&mut self, at: Position, path: String, message: impl Into<String>) {
        self.problems.push(FileProblem::new(at, path, message));
    }

    /// The group and unit of each service.
    fn homes(&mut self) -> BTreeMap<&'a str, Home<'a>> {
        let mut homes: BTreeMap<&str, Home<'_>> = BTreeMap::new();
        let mut taken = BTreeMap::new();
        for (key, service) in &self.compose.services {
            let path = || format!("services.{key}");
            let Some(owner) = self.owner(key) else {
                let message = "services use each other's network in a circle";
                self.wrong(service.at, path(), message);
                continue;
            };
            let (Some(group), Some(unit)) = (self.full_name(owner), name(key)) else {
                let message =
                    format!("`{key}` makes no name (letters, digits, `-`, `.`; no label empty)");
                self.wrong(service.at, path(), message);
                continue;
            };
            if let Some(other) = taken.insert(unit.clone(), key) {
                let message = format!("its name is that of service `{other}` in small letters");
                self.wrong(service.at, path(), message);
            }
            homes.insert(key, Home { owner, group, unit });
        }
        homes
    }

    /// The service in whose group a service is.
    fn owner(&self, key: &'a str) -> Option<&'a str> {
        let mut owner = key;
        for _ in 0..=self.compose.services.len() {
            let (name, service) = self.compose.services.get_key_value(owner)?;
            match service.value.network_mode.as_ref().map(|it| &it.value) {
                Some(NetworkMode::Service(other)) => owner = other,
                _ => return Some(name),
            }
        }
        None
    }

    fn full_name(&self, key: &str) -> Option<Name> {
        let name = name(key)?;
        match &self.options.prefix {
            None => Some(name),
            Some(prefix) => format!("{prefix}.{name}").parse().ok(),
        }
    }

    /// A service without a network of its own cannot say anything about it.
    fn check_guest(&mut self, key: &str, service: &Service) {
        let path = format!("services.{key}");
        let not_here = "belongs to the service whose network this one uses";
        for port in &service.ports {
            self.wrong(port.at, format!("{path}.ports"), not_here);
        }
        if let Some(hostname) = &service.hostname {
            self.wrong(hostname.at, format!("{path}.hostname"), not_here);
        }
        if let Some(mode) = &service.network_mode
            && !(service.dns.is_empty() && service.dns_search.is_empty())
        {
            self.wrong(mode.at, format!("{path}.dns"), not_here);
        }
    }

    fn group(
        &mut self,
        key: &str,
        service: &Located<Service>,
        home: &Home<'_>,
        networks: &Networks,
    ) -> Option<GroupSpec> {
        let path = format!("services.{key}");
        let Located { value: service, at } = service;
        let mut group = GroupSpec::new(home.group.clone(), Attachment::Host);
        group.labels.clone_from(&service.labels);
        group.dns = self.dns(*at, &path, service);
        if let Some(mode) = &service.network_mode {
            // The host's own.
            for port in &service.ports {
                let message =
                    "a service on the host's network publishes no ports: all are the host's";
                self.wrong(port.at, format!("{path}.ports"), message);
            }
            if let Some(hostname) = &service.hostname {
                let message = "a service on the host's network has the host's name";
                self.wrong(hostname.at, format!("{path}.hostname"), message);
            }
            debug_assert_eq!(mode.value, NetworkMode::Host, "others have another's group");
            return Some(group);
        }
        let mut uses = service.networks.iter();
        let (network, using) = match uses.next() {
            Some((network, using)) => (network.as_str(), Some(using)),
            None => (DEFAULT, None),
        };
        for (_, more) in uses {
            let message = "a service is attached to one network here";
            self.wrong(more.at, format!("{path}.networks"), message);
        }
        let spec = networks.get(network)?;
        group.attachment = Attachment::Network(spec.name.clone());
        group.hostname = service.hostname.as_ref().map(|it| it.value.clone());
        let mut aliases = BTreeSet::from([key]);
        aliases.extend(service.container_name.as_deref());
        if let Some(using) = using {
            aliases.extend(using.value.aliases.iter().map(String::as_str));
            let path = format!("{path}.networks.{network}");
            group.address = Networks::address(self, &path, spec, &using.value);
        }
        group.aliases = aliases.into_iter().map(ToOwned::to_owned).collect();
        group.ports = self.published(&path, service);
        Some(group)
    }

    fn dns(&mut self, at: Position, path: &str, service: &Service) -> Option<Dns> {
        if service.dns.is_empty() {
            if !service.dns_search.is_empty() {
                let message = "`dns_search` needs `dns` beside it here";
                self.wrong(at, format!("{path}.dns_search"), message);
            }
            return None;
        }
        Some(Dns {
            servers: service.dns.clone(),
            search: service.dns_search.clone(),
        })
    }

    fn published(&mut self, path: &str, service: &Service) -> Vec<PublishedPort> {
        let mut ports = Vec::new();
        for Located { value: port, at } in &service.ports {
            let path = format!("{path}.ports");
            let Some(published) = port.published else {
                let message =
                    format!("`{port}` names no port of the host, and none is chosen here");
                self.wrong(*at, path, message);
                continue;
            };
            self.ports += port.target.ports().len();
            if self.ports > MAX_PORTS {
                let message = format!("the file publishes more than {MAX_PORTS} ports");
                self.wrong(*at, path, message);
                return ports;
            }
            let pairs = published.ports().zip(port.target.ports());
            ports.extend(pairs.map(|(host, group)| PublishedPort {
                address: port.address,
                host,
                group,
                protocol: port.protocol,
            }));
        }
        ports
    }

    /// The services, each after those that it depends on; otherwise by name.
    fn steps(&mut self, homes: &BTreeMap<&str, Home<'_>>) -> Vec<Step> {
        let services = &self.compose.services;
        let mut waiting: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut waited_for: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, service) in services {
            let others = service.value.depends_on.keys().map(String::as_str);
            let others: BTreeSet<_> = others.filter(|it| homes.contains_key(it)).collect();
            for other in &others {
                waited_for.entry(other).or_default().push(key);
            }
            waiting.insert(key, others);
        }
        let free = waiting.iter().filter(|(_, others)| others.is_empty());
        let mut free: BTreeSet<&str> = free.map(|(key, _)| *key).collect();
        let mut steps = Vec::new();
        while let Some(key) = free.pop_first() {
            waiting.remove(key);
            for dependent in waited_for.remove(key).unwrap_or_default() {
                if let Some(others) = waiting.get_mut(dependent) {
                    others.remove(key);
                    if others.is_empty() {
                        free.insert(dependent);
                    }
                }
            }
            if let (Some(home), Some(service)) = (homes.get(key), services.get(key)) {
                steps.push(step(key, home, &service.value, homes));
            }
        }
        if let Some((key, _)) = waiting.first_key_value() {
            let names: Vec<_> = waiting.keys().copied().collect();
            let message = format!("services wait for each other: `{}`", names.join("`, `"));
            let at = services.get(*key).map_or(Position::START, |it| it.at);
            self.wrong(at, format!("services.{key}.depends_on"), message);
        }
        steps
    }
}

fn step(key: &str, home: &Home<'_>, service: &Service, homes: &BTreeMap<&str, Home<'_>>) -> Step {
    let after = service.depends_on.iter().filter_map(|(other, condition)| {
        let other = homes.get(other.as_str())?;
        Some(StepDependency {
            group: other.group.clone(),
            unit: other.unit.clone(),
            condition: condition.value,
        })
    });
    Step {
        service: key.to_owned(),
        group: home.group.clone(),
        unit: home.unit.clone(),
        after: after.collect(),
    }
}

/// Dependencies on units of the same group, which engines know of.
fn within_group(
    service: &Service,
    home: &Home<'_>,
    homes: &BTreeMap<&str, Home<'_>>,
) -> Vec<Dependency> {
    let inner = service.depends_on.iter().filter_map(|(other, condition)| {
        let other = homes.get(other.as_str())?;
        (other.group == home.group).then(|| Dependency {
            unit: other.unit.clone(),
            condition: condition.value,
        })
    });
    inner.collect()
}

/// A key of a file as a name here: small letters, and `-` for `_`.
fn name(key: &str) -> Option<Name> {
    key.to_ascii_lowercase().replace('_', "-").parse().ok()
}
