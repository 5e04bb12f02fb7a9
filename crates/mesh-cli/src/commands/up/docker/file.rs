//! `mesh up --file`: a Compose file beside the control plane. Which of its services are the control
//! plane's own, what they change about it, and what is left.

mod flag;
mod translate;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use mesh_runtime::compose::{
    Compose, FileProblem, FileProblems, GroupPlan, Located, Network, Plan, PlanOptions, Position,
    Reading,
};
use mesh_runtime::{Attachment, NetworkSpec};

use super::plan::{API, ETCD, Member};
use super::service;
use crate::exit::Failure;
use translate::{Api, Control, Etcd, Images, translate};

/// A file, read and translated.
#[derive(Debug)]
pub(super) struct ComposeFile {
    /// Its name, as it was given.
    pub(super) file: String,
    /// The group of etcd and what its command says.
    etcd: Option<(Etcd, GroupPlan)>,
    /// The group of the API server and what its command says.
    api: Option<(Api, GroupPlan)>,
    /// What is not the control plane's.
    pub(super) rest: Plan,
    /// What whoever reads the file should know.
    notes: Vec<FileProblem>,
}

/// What a file is read with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    /// What replaces the file's variables.
    pub(super) variables: &'a BTreeMap<String, String>,
    /// The mesh's directory, below which volumes are kept.
    pub(super) home: &'a Path,
    /// The control plane's network, which files may use by its name without defining it.
    pub(super) network: &'a NetworkSpec,
    /// The names of our images: the control plane's and etcd's.
    pub(super) images: (&'a str, &'a str),
}

impl ComposeFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it or not supported, as usage.
    pub(super) fn read(path: &Path, surroundings: Surroundings<'_>) -> Result<Self, Failure> {
        let file = path.display().to_string();
        let reading = |error| Failure::doing(format!("reading {file}"), &error);
        let mut source = Vec::new();
        // One byte more than is read says that it is too long.
        let longest = u64::try_from(Compose::MAX_BYTES).unwrap_or(u64::MAX);
        File::open(path)
            .and_then(|file| {
                file.take(longest.saturating_add(1))
                    .read_to_end(&mut source)
            })
            .map_err(reading)?;
        let full = std::path::absolute(path).map_err(reading)?;
        let directory = full.parent().unwrap_or_else(|| Path::new("/"));
        Self::of(&source, &file, directory, surroundings)
            .map_err(|problems| Failure::usage(problems.to_string()))
    }

    fn of(
        source: &[u8],
        file: &str,
        directory: &Path,
        surroundings: Surroundings<'_>,
    ) -> Result<Self, FileProblems> {
        let Surroundings { home, network, .. } = surroundings;
        let mut reading = Reading::new(file, surroundings.variables);
        let ours = (network.name.to_string(), as_written(network));
        reading.networks.extend([ours]);
        let mut compose = Compose::read(source, &reading)?;
        let (mesh, etcd) = surroundings.images;
        let control = translate(file, &mut compose, Images { etcd, mesh })?;
        let mut options = PlanOptions::new(file, directory);
        options.volumes = Some(home.join("volumes"));
        let mut rest = compose.plan(&options)?;

        let wrong = misplaced(&compose, &control, &rest);
        if !wrong.is_empty() {
            return Err(FileProblems {
                file: file.to_owned(),
                problems: wrong,
            });
        }
        let mut notes = compose.notes;
        notes.extend(control.notes);
        notes.sort_by_key(|note| note.at);
        let etcd = control.etcd.and_then(|it| {
            let group = take(&mut rest, &it.service)?;
            Some((it, group))
        });
        let api = control.api.and_then(|it| {
            let group = take(&mut rest, &it.service)?;
            Some((it, group))
        });
        for group in &mut rest.groups {
            let origin = (service::ORIGIN.to_owned(), service::COMPOSE.to_owned());
            group.group.labels.extend([origin]);
        }
        Ok(Self {
            file: file.to_owned(),
            etcd,
            api,
            rest,
            notes,
        })
    }

    /// What is done differently than the file says, a line each.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        let file = &self.file;
        self.notes.iter().map(move |note| format!("{file}:{note}"))
    }

    /// The network of the control plane: the API server's in the file, else `otherwise`.
    pub(super) fn network(&self, otherwise: NetworkSpec) -> NetworkSpec {
        let attachment = self.api.as_ref().map(|(_, plan)| &plan.group.attachment);
        let Some(Attachment::Network(name)) = attachment else {
            return otherwise;
        };
        let found = self.rest.networks.iter().find(|it| it.name == *name);
        found.cloned().unwrap_or(otherwise)
    }

    /// Whether an etcd is run for the control plane; nothing when the file has no API server.
    pub(super) fn runs_etcd(&self) -> Option<bool> {
        self.api.as_ref().map(|_| self.etcd.is_some())
    }

    /// Changes the members of the control plane to what the file says.
    ///
    /// # Errors
    ///
    /// When two would have the same address, or a service of the file the name of a member.
    pub(super) fn change(&self, stages: &mut [Vec<Member>]) -> Result<(), Failure> {
        for member in stages.iter_mut().flatten() {
            if member.group.name.as_str() == ETCD.name
                && let Some((etcd, plan)) = &self.etcd
            {
                merge(member, plan);
                etcd.change(&mut member.unit);
            }
            if member.group.name.as_str() == API.name
                && let Some((api, plan)) = &self.api
            {
                merge(member, plan);
                let address = member.group.address;
                api.change(&mut member.unit, address);
            }
        }
        let mut addresses = BTreeSet::new();
        for member in stages.iter().flatten() {
            let name = &member.group.name;
            if let Some(address) = member.group.address
                && !addresses.insert(address)
            {
                let message = format!(
                    "{}: `{name}` would have the address {address} of another",
                    self.file
                );
                return Err(
                    Failure::usage(message).with_hint("give the services of the file others")
                );
            }
            if self.rest.groups.iter().any(|it| it.group.name == *name) {
                let message = format!(
                    "{}: service `{name}` has the name of a part of the control plane",
                    self.file
                );
                return Err(Failure::usage(message).with_hint("give it another"));
            }
        }
        Ok(())
    }
}

/// What a group of the file changes about a member of the control plane. Its name stays, so that
/// every other verb finds it.
fn merge(member: &mut Member, plan: &GroupPlan) {
    let (group, theirs) = (&mut member.group, &plan.group);
    group.address = theirs.address.or(group.address);
    group.hostname.clone_from(&theirs.hostname);
    for alias in &theirs.aliases {
        if !group.aliases.contains(alias) {
            group.aliases.push(alias.clone());
        }
    }
    // Ours may be among theirs.
    let taken: BTreeSet<_> = theirs.ports.iter().map(|it| (it.host, it.group)).collect();
    group
        .ports
        .retain(|it| !taken.contains(&(it.host, it.group)));
    group.ports.extend(&theirs.ports);
    for (label, value) in &theirs.labels {
        group
            .labels
            .entry(label.clone())
            .or_insert_with(|| value.clone());
    }
    let environment = plan.units.iter().flat_map(|unit| &unit.environment);
    for (name, value) in environment {
        member.unit.environment.insert(name.clone(), value.clone());
    }
}

/// Takes a service of the control plane out of a plan; what waits for it starts later anyway.
fn take(plan: &mut Plan, service: &str) -> Option<GroupPlan> {
    let step = plan.steps.iter().position(|step| step.service == service)?;
    let step = plan.steps.remove(step);
    for other in &mut plan.steps {
        other.after.retain(|it| it.group != step.group);
    }
    let group = plan
        .groups
        .iter()
        .position(|it| it.group.name == step.group)?;
    Some(plan.groups.remove(group))
}

/// What services of the control plane and others cannot be to each other.
fn misplaced(compose: &Compose, control: &Control, plan: &Plan) -> Vec<FileProblem> {
    let etcd = control.etcd.iter().map(|it| it.service.as_str());
    let ours: BTreeSet<_> = etcd
        .chain(control.api.iter().map(|it| it.service.as_str()))
        .collect();
    let mut wrong = Vec::new();
    for step in plan
        .steps
        .iter()
        .filter(|it| ours.contains(it.service.as_str()))
    {
        let Some(service) = compose.services.get(&step.service) else {
            continue;
        };
        let path = format!("services.{}", step.service);
        for (other, condition) in &service.value.depends_on {
            if !ours.contains(other.as_str()) {
                let message = "the control plane is up before every other service";
                let path = format!("{path}.depends_on.{other}");
                wrong.push(FileProblem::new(condition.at, path, message));
            }
        }
        let guests = plan
            .steps
            .iter()
            .filter(|it| it.group == step.group && it.service != step.service);
        for guest in guests {
            let at = compose
                .services
                .get(&guest.service)
                .map_or(Position::START, |it| it.at);
            let message = "the control plane's network namespaces are its own";
            let path = format!("services.{}.network_mode", guest.service);
            wrong.push(FileProblem::new(at, path, message));
        }
    }
    wrong.sort_by_key(|problem| problem.at);
    wrong
}

/// A network as a file would define it.
fn as_written(network: &NetworkSpec) -> Network {
    let at = Position::START;
    Network {
        name: Some(network.name.to_string()),
        v4: Some(Located {
            value: network.v4,
            at,
        }),
        v6: Some(Located {
            value: network.v6,
            at,
        }),
        bridge: Some(Located {
            value: network.bridge.clone(),
            at,
        }),
        ..Network::default()
    }
}

#[cfg(test)]
mod tests;
