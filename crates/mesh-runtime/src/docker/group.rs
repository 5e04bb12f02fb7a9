//! Groups of the Docker engine: a pause container, whose network namespace the units join.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as Status};
use bollard::query_parameters::{
    CreateContainerOptions, ListContainersOptions, RemoveContainerOptions, StartContainerOptions,
};

use super::daemon::{found, message, status};
use super::label::{self, Place};
use super::notes::About;
use super::{Engine, blocking, plan, state};
use crate::process::address;
use crate::redirect::{self, Policy};
use crate::{
    Addresses, Attachment, Creation, Group, GroupSpec, Name, NetworkSpec, Removal, RuntimeError,
    order,
};

/// A group with its pause container.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) id: String,
    pub(super) status: Option<Status>,
    /// Process id of the pause program, while it runs.
    pub(super) pid: Option<i64>,
    /// When the namespace began, in milliseconds since 1970, while it is there.
    pub(super) since: Option<u64>,
    pub(super) group: Group,
}

// === impl Engine ===

impl Engine {
    pub(super) async fn create_group(
        &self,
        spec: &GroupSpec,
    ) -> Result<(Creation, Group), RuntimeError> {
        if let Some(owner) = self.find_group(&spec.name).await? {
            if owner.group.spec != *spec {
                return Err(RuntimeError::Differs {
                    kind: "group",
                    name: spec.name.to_string(),
                });
            }
            let owner = match owner.since {
                Some(_) => owner,
                // Half made, or down with the daemon: its containers are kept.
                None => self.start_pause(&owner.id, spec).await?,
            };
            return Ok((Creation::Exists, owner.group));
        }
        let network = match spec.attachment.network() {
            None => None,
            Some(name) => Some(self.network(name).await?),
        };
        self.ensure_pause_image().await?;
        if let (Attachment::Container { id, .. }, Some(network)) = (&spec.attachment, &network) {
            let addresses = self.attach(id, spec, network).await?;
            return self.make_group(spec, Some(addresses)).await;
        }
        let mut taken = match &network {
            Some(network) => self.taken(network).await?,
            None => BTreeSet::new(),
        };
        loop {
            let number = match &network {
                Some(network) => Some((network, address::choose(network, spec, &taken)?)),
                None => None,
            };
            let chosen = number.map(|(network, number)| addresses(network, number));
            match self.make_group(spec, chosen).await {
                // A container of somebody else has it: the daemon alone knows.
                Err(RuntimeError::InUse {
                    kind: "address", ..
                }) if spec.address.is_none() => taken.extend(number.map(|(_, it)| it)),
                made => return made,
            }
        }
    }

    async fn make_group(
        &self,
        spec: &GroupSpec,
        addresses: Option<Addresses>,
    ) -> Result<(Creation, Group), RuntimeError> {
        let place = Place {
            addresses,
            directory: self.notes.files(&spec.name),
        };
        let body = plan::pause(&self.names, spec, &place)?;
        let container = self.names.group(&spec.name);
        let options = CreateContainerOptions {
            name: Some(container.clone()),
            ..CreateContainerOptions::default()
        };
        let id = match self.daemon.api.create_container(Some(options), body).await {
            Ok(made) => made.id,
            // Another process of ours was faster; one of somebody else is told as such.
            Err(error) if status(&error) == Some(409) => {
                let group = self.owner_of(&spec.name).await?.group;
                return if group.spec == *spec {
                    Ok((Creation::Exists, group))
                } else {
                    Err(RuntimeError::Differs {
                        kind: "group",
                        name: spec.name.to_string(),
                    })
                };
            }
            Err(error) => return Err(self.why_no_group(spec, addresses, error)),
        };
        let made = async {
            let directory = place.directory.clone();
            blocking(move || crate::process::record::make_directory(&directory)).await?;
            let owner = self
                .start_pause(&id, spec)
                .await
                .map_err(|error| match error {
                    RuntimeError::InUse {
                        kind: "address",
                        by,
                        ..
                    } => RuntimeError::InUse {
                        kind: "address",
                        name: addresses.map_or_else(String::new, |it| it.v4.to_string()),
                        by,
                    },
                    error => error,
                })?;
            Ok(owner.group)
        };
        match made.await {
            Ok(group) => Ok((Creation::Created, group)),
            Err(error) => match self.dismantle(&spec.name, &id).await {
                Ok(()) => Err(error),
                Err(undo) => Err(RuntimeError::Removal {
                    errors: vec![error, undo],
                }),
            },
        }
    }

    /// Starts a pause container.
    async fn start_pause(&self, id: &str, spec: &GroupSpec) -> Result<Owner, RuntimeError> {
        let started = self
            .daemon
            .api
            .start_container(id, None::<StartContainerOptions>);
        if let Err(error) = started.await {
            return Err(self.why_no_group(spec, None, error));
        }
        self.owner_of(&spec.name).await
    }

    fn why_no_group(
        &self,
        spec: &GroupSpec,
        addresses: Option<Addresses>,
        error: bollard::errors::Error,
    ) -> RuntimeError {
        let said = message(&error).unwrap_or_default().to_lowercase();
        if said.contains("address already in use") && !said.contains("bind") {
            return RuntimeError::InUse {
                kind: "address",
                name: addresses.map_or_else(String::new, |it| it.v4.to_string()),
                by: "another container".to_owned(),
            };
        }
        if said.contains("port is already allocated") || said.contains("address already in use") {
            let ports = spec.ports.iter();
            // The daemon names the one that it failed at.
            let port = ports
                .map(|port| port.host.to_string())
                .find(|port| said.contains(&format!(":{port}")));
            return RuntimeError::InUse {
                kind: "port",
                name: port.unwrap_or_default(),
                by: "another container or process of the host".to_owned(),
            };
        }
        self.daemon
            .failed(format!("make group `{}`", spec.name), error)
    }

    /// A group of ours, which must be there.
    pub(super) async fn owner_of(&self, name: &Name) -> Result<Owner, RuntimeError> {
        let there = self.find_group(name).await?;
        there.ok_or_else(|| RuntimeError::NotFound {
            kind: "group",
            name: name.to_string(),
        })
    }

    pub(super) async fn find_group(&self, name: &Name) -> Result<Option<Owner>, RuntimeError> {
        let container = self.names.group(name);
        let there = self.inspect(&container, "group").await?;
        there.map(|it| self.owner(&it, &container)).transpose()
    }

    /// A container of ours and of this kind; one of somebody else is an error.
    pub(super) async fn inspect(
        &self,
        container: &str,
        kind: &str,
    ) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        let looked = self.daemon.inspect(container).await;
        let there = found(looked).map_err(|error| {
            self.daemon
                .failed(format!("look at container `{container}`"), error)
        })?;
        let labels = |it: &ContainerInspectResponse| it.config.clone().and_then(|it| it.labels);
        match there {
            Some(it) if !self.names.own(labels(&it).as_ref(), kind) => {
                Err(RuntimeError::NameTaken {
                    kind: "container",
                    name: container.to_owned(),
                })
            }
            there => Ok(there),
        }
    }

    fn owner(&self, container: &ContainerInspectResponse, of: &str) -> Result<Owner, RuntimeError> {
        let labels = container.config.as_ref().and_then(|it| it.labels.as_ref());
        let spec: GroupSpec = label::read(labels, label::SPEC, of)?;
        let place: Place = label::read(labels, label::PLACE, of)?;
        let state = container.state.as_ref();
        let runs = state.is_some_and(|state| state.running == Some(true));
        let since = state
            .filter(|_| runs)
            .and_then(|state| state::millis(state.started_at.as_deref()));
        let pid = state.filter(|_| runs).and_then(|state| state.pid);
        let has_namespace = spec.attachment.network().is_some();
        let namespace = pid
            .filter(|_| has_namespace)
            .map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        let rules = self.notes.read(&spec.name, About::Rules, since)?;
        Ok(Owner {
            id: container.id.clone().unwrap_or_default(),
            status: state.and_then(|state| state.status),
            pid,
            since,
            group: Group {
                addresses: place.addresses,
                namespace,
                directory: place.directory,
                rules_applied_at_millis: rules,
                spec,
            },
        })
    }

    pub(super) async fn redirect_group(
        &self,
        name: &Name,
        policy: &Policy,
    ) -> Result<Creation, RuntimeError> {
        let owner = self.owner_of(name).await?;
        let (group, policy) = (name.clone(), policy.clone());
        let creation = owner
            .within(move |path| {
                redirect::apply(path, &policy)
                    .map_err(|source| RuntimeError::Redirect { group, source })
            })
            .await?;
        self.notes.write(name, About::Rules, owner.since)?;
        Ok(creation)
    }

    pub(super) async fn remove_group(&self, name: &Name) -> Result<Removal, RuntimeError> {
        let owner = self.find_group(name).await?;
        let units = self.units(name).await?;
        let mut errors = Vec::new();
        let ordered: Vec<Name> = match order(&units) {
            Ok(ordered) => ordered.iter().map(|unit| unit.name.clone()).collect(),
            // What cannot be started in order may still be stopped.
            Err(_problems) => units.iter().map(|unit| unit.name.clone()).collect(),
        };
        for unit in ordered.iter().rev() {
            errors.extend(self.remove_unit(name, unit).await.err());
        }
        let removal = match &owner {
            Some(_) => Removal::Removed,
            None if !units.is_empty() => Removal::Removed,
            None => Removal::Absent,
        };
        if let (true, Some(owner)) = (errors.is_empty(), &owner) {
            errors.extend(self.let_go(owner).await.err());
        }
        if errors.is_empty() {
            let id = self.names.group(name);
            errors.extend(self.dismantle(name, &id).await.err());
        }
        if errors.is_empty() {
            Ok(removal)
        } else {
            Err(RuntimeError::Removal { errors })
        }
    }

    /// Removes what a group is without its units: files, notes, and its container last, by which it
    /// is found again by whoever goes on if this is cut short.
    pub(super) async fn dismantle(&self, name: &Name, container: &str) -> Result<(), RuntimeError> {
        let directory = self.notes.group(name);
        blocking(move || match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let action = format!("remove `{}`", directory.display());
                Err(RuntimeError::system(action, error))
            }
            _ => Ok(()),
        })
        .await?;
        self.remove_container(container).await.map(drop)
    }

    /// Removes a container that runs or not, with what is in it.
    pub(super) async fn remove_container(&self, container: &str) -> Result<Removal, RuntimeError> {
        let options = RemoveContainerOptions {
            v: true,
            force: true,
            ..RemoveContainerOptions::default()
        };
        let removed = self.daemon.api.remove_container(container, Some(options));
        match found(removed.await) {
            Ok(Some(())) => Ok(Removal::Removed),
            Ok(None) => Ok(Removal::Absent),
            // Somebody else removes it already: as good as gone, and its name soon is.
            Err(error) if message(&error).is_some_and(|it| it.contains("already in progress")) => {
                Ok(Removal::Removed)
            }
            Err(error) => Err(self
                .daemon
                .failed(format!("remove container `{container}`"), error)),
        }
    }

    /// What was asked for and given of all groups: in their labels, so one call tells it.
    pub(super) async fn groups(&self) -> Result<Vec<(GroupSpec, Place)>, RuntimeError> {
        let labels = self.labels_of("group", None).await?;
        let read = |labels: &HashMap<String, String>| {
            let of = labels.get(label::GROUP).map_or("a group", String::as_str);
            let spec = label::read(Some(labels), label::SPEC, of)?;
            Ok((spec, label::read(Some(labels), label::PLACE, of)?))
        };
        labels.iter().map(read).collect()
    }

    /// The names that containers of ours carry in a label, sorted; of one group or of all.
    pub(super) async fn names_of(
        &self,
        kind: &str,
        key: &str,
        group: Option<&Name>,
    ) -> Result<BTreeSet<Name>, RuntimeError> {
        let labels = self.labels_of(kind, group).await?;
        // A label that is no name was not written by us.
        Ok(labels
            .iter()
            .filter_map(|it| it.get(key)?.parse().ok())
            .collect())
    }

    /// The labels of all containers of ours of this kind; of one group or of all.
    async fn labels_of(
        &self,
        kind: &str,
        group: Option<&Name>,
    ) -> Result<Vec<HashMap<String, String>>, RuntimeError> {
        let mut filters = self.names.filter(kind);
        if let (Some(group), Some(labels)) = (group, filters.get_mut("label")) {
            labels.push(format!("{}={group}", label::GROUP));
        }
        let options = ListContainersOptions {
            all: true,
            filters: Some(filters),
            ..ListContainersOptions::default()
        };
        let listed = self.daemon.list(options).await;
        let listed = listed.map_err(|error| self.daemon.failed("list containers", error))?;
        Ok(listed.into_iter().filter_map(|it| it.labels).collect())
    }

    /// The host numbers of a network that groups have.
    pub(super) async fn taken(&self, network: &NetworkSpec) -> Result<BTreeSet<u32>, RuntimeError> {
        let groups = self.groups().await?;
        let on_it = groups
            .iter()
            .filter(|(spec, _)| spec.attachment.network() == Some(&network.name));
        let addresses = on_it.filter_map(|(_, place)| place.addresses);
        Ok(addresses
            .filter_map(|it| network.host_number(it.v4))
            .collect())
    }
}

/// The addresses of one host number.
pub(super) fn addresses(network: &NetworkSpec, number: u32) -> Addresses {
    let (v4, v6) = network.addresses(number);
    let gateways = network.gateways();
    Addresses { v4, v6, gateways }
}

// === impl Owner ===

impl Owner {
    /// Does something with the namespace, which stays the same meanwhile whoever ends.
    pub(super) async fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let name = self.group.spec.name.to_string();
        let gone = || RuntimeError::NotFound {
            kind: "network namespace of group",
            name: name.clone(),
        };
        let namespace = self.group.namespace.clone().ok_or_else(gone)?;
        let (pid, id) = (self.pid.unwrap_or_default(), self.id.clone());
        let failed = {
            let action = format!("open `{}`", namespace.display());
            move |error| RuntimeError::system(action, error)
        };
        let lost = gone();
        blocking(move || {
            let open = File::open(&namespace).map_err(failed)?;
            // The process may have ended, and another may have got its number, since we asked.
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if !cgroup.contains(&id) {
                return Err(lost);
            }
            work(Path::new(&format!("/proc/self/fd/{}", open.as_raw_fd())))
        })
        .await
    }
}
