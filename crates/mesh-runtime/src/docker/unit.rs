//! Units of the Docker engine: a container each, in the network namespace of its group.

use std::time::Duration;

use bollard::models::ContainerState;
use bollard::query_parameters::{
    CreateContainerOptions, StartContainerOptions, StatsOptions, StopContainerOptions,
};
use futures_util::StreamExt as _;

use super::daemon::{found, message, status};
use super::group::Owner;
use super::notes::About;
use super::state::{self, Context};
use super::{Engine, blocking, files, label, plan};
use crate::process::unit::same;
use crate::{
    Creation, Name, Removal, RuntimeError, Start, Stop, UnitSpec, UnitState, UnitStats, UnitStatus,
};

/// A unit with its container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) spec: UnitSpec,
    state: ContainerState,
    restarts: u32,
}

// === impl Container ===

impl Container {
    /// When its run started, in milliseconds since 1970.
    pub(super) fn started(&self) -> Option<u64> {
        state::millis(self.state.started_at.as_deref())
    }

    fn is_active(&self) -> bool {
        self.state.running == Some(true) || self.state.restarting == Some(true)
    }
}

// === impl Engine ===

impl Engine {
    pub(super) async fn create_unit(
        &self,
        group: &Name,
        spec: &UnitSpec,
    ) -> Result<Creation, RuntimeError> {
        let sound = spec.check().into_result(());
        sound.map_err(RuntimeError::invalid("unit", &spec.name))?;
        let image = self.image_of(spec)?;
        let owner = self.owner_of(group).await?;
        let directory = &owner.group.directory;
        let there = self.find_container(group, &spec.name).await?;
        if there.as_ref().is_some_and(|there| !same(&there.spec, spec)) {
            return Err(RuntimeError::Differs {
                kind: "unit",
                name: spec.name.to_string(),
            });
        }
        if self.daemon.is_podman {
            mounts_are_there(spec)?;
        }
        self.write_shared(directory, spec).await?;
        if let Some(there) = there {
            self.upload(&there.id, &spec.name, directory, spec).await?;
            return Ok(Creation::Exists);
        }
        let plan = plan::UnitPlan {
            group: &owner.group.spec,
            pause: &owner.id,
            spec,
            image,
            directory: files::shares(spec, directory).then_some(directory.as_path()),
            // Podman keeps its logs elsewhere and knows no such options.
            limits_logs: !self.daemon.is_podman,
        };
        let body = plan.body(&self.names)?;
        let name = self.names.unit(group, &spec.name);
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..CreateContainerOptions::default()
        };
        let made = self.daemon.api.create_container(Some(options), body).await;
        let id = made
            .map_err(|error| self.why_no_unit(&name, spec, image, error))?
            .id;
        match self.upload(&id, &spec.name, directory, spec).await {
            Ok(()) => Ok(Creation::Created),
            Err(error) => match self.remove_container(&id).await {
                Ok(_) => Err(error),
                Err(undo) => Err(RuntimeError::Removal {
                    errors: vec![error, undo],
                }),
            },
        }
    }

    fn image_of<'a>(&'a self, spec: &'a UnitSpec) -> Result<&'a str, RuntimeError> {
        let what = if spec.uid != 0 && !spec.capabilities.is_empty() {
            let user = spec.uid;
            format!(
                "capabilities for users but root, and unit `{}` is user {user}",
                spec.name
            )
        } else if let Some(image) = spec.image.as_deref().or(self.image.as_deref()) {
            return Ok(image);
        } else {
            format!(
                "commands without an image, and unit `{}` names none",
                spec.name
            )
        };
        Err(RuntimeError::Unsupported {
            engine: "Docker",
            what,
        })
    }

    fn why_no_unit(
        &self,
        container: &str,
        spec: &UnitSpec,
        image: &str,
        error: bollard::errors::Error,
    ) -> RuntimeError {
        let said = message(&error).unwrap_or_default().to_lowercase();
        match status(&error) {
            Some(404) if said.contains("image") => RuntimeError::NotFound {
                kind: "image",
                name: image.to_owned(),
            },
            Some(409) => RuntimeError::NameTaken {
                kind: "container",
                name: container.to_owned(),
            },
            _ => self
                .daemon
                .failed(format!("make unit `{}`", spec.name), error),
        }
    }

    pub(super) async fn start_unit(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<Start, RuntimeError> {
        let container = self.container_of(group, unit).await?;
        if container.is_active() {
            return Ok(Start::AlreadyRunning);
        }
        let started = self
            .daemon
            .api
            .start_container(&container.id, None::<StartContainerOptions>);
        match started.await {
            Ok(()) => {
                self.notes.forget(group, About::Failed(unit))?;
                Ok(Start::Started)
            }
            // The daemon's answer to a command that cannot be run, and to a namespace that is gone.
            Err(error) => match message(&error) {
                Some(reason) if !reason.contains("no space left on device") => {
                    if self.daemon.is_podman {
                        self.notes.fail(group, unit, reason.trim_end())?;
                    }
                    Err(RuntimeError::NotStarted {
                        group: group.clone(),
                        unit: unit.clone(),
                        reason: reason.trim_end().to_owned(),
                    })
                }
                _ => Err(self.daemon.failed(format!("start unit `{unit}`"), error)),
            },
        }
    }

    pub(super) async fn stop_unit(&self, group: &Name, unit: &Name) -> Result<Stop, RuntimeError> {
        let container = self.container_of(group, unit).await?;
        if !container.is_active() {
            return Ok(Stop::NotRunning);
        }
        self.notes
            .write(group, About::Stopped(unit), container.started())?;
        // Process 1 of a namespace gets no signal that it does not catch, so TERM would be waited
        // for in vain; to a command that does not catch it, KILL makes no difference.
        let seconds = if self.catches_term(&container).await {
            plan::grace_seconds(&container.spec)
        } else {
            0
        };
        let options = StopContainerOptions {
            t: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            ..StopContainerOptions::default()
        };
        // The daemon answers when it is done, which may take the whole grace.
        let patience = self.daemon.api.timeout() + Duration::from_secs(seconds.unsigned_abs());
        let api = self.daemon.api.clone().with_timeout(patience);
        let stopped = api.stop_container(&container.id, Some(options)).await;
        stopped.map_err(|error| self.daemon.failed(format!("stop unit `{unit}`"), error))?;
        // Started again by its policy since we looked, it is another run.
        let after = self.container_of(group, unit).await?;
        if after.started() != container.started() {
            self.notes.forget(group, About::Stopped(unit))?;
            self.notes
                .write(group, About::Stopped(unit), after.started())?;
        }
        Ok(Stop::Stopped)
    }

    async fn catches_term(&self, container: &Container) -> bool {
        let Some(pid) = container.state.pid.filter(|pid| *pid > 0) else {
            return false;
        };
        let read = tokio::fs::read_to_string(format!("/proc/{pid}/status")).await;
        // When in doubt it is given its time.
        read.ok()
            .and_then(|status| catches(&status, rustix::process::Signal::TERM.as_raw()))
            .unwrap_or(true)
    }

    pub(super) async fn remove_unit(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<Removal, RuntimeError> {
        let Some(container) = self.find_container(group, unit).await? else {
            return Ok(Removal::Absent);
        };
        if container.is_active() {
            self.stop_unit(group, unit).await?;
        }
        let removal = self.remove_container(&container.id).await?;
        let (notes, group, unit) = (self.notes.clone(), group.clone(), unit.clone());
        blocking(move || notes.remove(&group, &unit)).await?;
        Ok(removal)
    }

    /// A unit of ours, which must be there.
    pub(super) async fn container_of(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<Container, RuntimeError> {
        let there = self.find_container(group, unit).await?;
        there.ok_or_else(|| RuntimeError::NotFound {
            kind: "unit",
            name: format!("{group}/{unit}"),
        })
    }

    async fn find_container(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<Option<Container>, RuntimeError> {
        let name = self.names.unit(group, unit);
        let Some(there) = self.inspect(&name, "unit").await? else {
            return Ok(None);
        };
        let labels = there.config.as_ref().and_then(|it| it.labels.as_ref());
        let restarts = there.restart_count.unwrap_or_default();
        Ok(Some(Container {
            spec: label::read(labels, label::SPEC, &name)?,
            id: there.id.unwrap_or_default(),
            state: there.state.unwrap_or_default(),
            restarts: u32::try_from(restarts).unwrap_or_default(),
        }))
    }

    /// What was asked for of the units of a group, by name.
    pub(super) async fn units(&self, group: &Name) -> Result<Vec<UnitSpec>, RuntimeError> {
        let mut units = Vec::new();
        for unit in self.names_of("unit", label::UNIT, Some(group)).await? {
            // It may have gone since it was listed.
            let there = self.find_container(group, &unit).await?;
            units.extend(there.map(|it| it.spec));
        }
        Ok(units)
    }

    pub(super) async fn status(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<UnitStatus, RuntimeError> {
        let container = self.container_of(group, unit).await?;
        let owner = self.find_group(group).await?;
        self.status_of(group, &container, owner.as_ref()).await
    }

    /// The status of a unit, which is asked whether it is ready.
    pub(super) async fn status_of(
        &self,
        group: &Name,
        container: &Container,
        owner: Option<&Owner>,
    ) -> Result<UnitStatus, RuntimeError> {
        let unit = &container.spec.name;
        let run = container.started();
        let state = self.state_of(group, container, owner)?;
        let ready = match (&state, owner) {
            (UnitState::Running { .. }, Some(owner)) => self.is_ready(container, owner).await,
            _ => false,
        };
        let ready_at = if ready {
            Some(self.notes.write(group, About::Ready(unit), run)?)
        } else {
            self.notes.read(group, About::Ready(unit), run)?
        };
        Ok(UnitStatus {
            name: unit.clone(),
            state,
            ready,
            restarts: container.restarts,
            started_at_millis: run,
            ready_at_millis: ready_at,
        })
    }

    /// The state of a unit, which is asked nothing.
    pub(super) async fn state(&self, group: &Name, unit: &Name) -> Result<UnitState, RuntimeError> {
        let container = self.container_of(group, unit).await?;
        let owner = self.find_group(group).await?;
        self.state_of(group, &container, owner.as_ref())
    }

    fn state_of(
        &self,
        group: &Name,
        container: &Container,
        owner: Option<&Owner>,
    ) -> Result<UnitState, RuntimeError> {
        let about = About::Stopped(&container.spec.name);
        let stopped = self.notes.read(group, about, container.started())?;
        let context = Context {
            stopped: stopped.is_some(),
            namespace_since: owner.and_then(|owner| owner.since),
            restart: container.spec.restart,
        };
        let state = state::of(&container.state, context);
        if state == UnitState::Created
            && let Some(reason) = self.notes.failure(group, &container.spec.name)?
        {
            return Ok(UnitState::Failed { reason });
        }
        Ok(state)
    }

    pub(super) async fn stats(&self, group: &Name, unit: &Name) -> Result<UnitStats, RuntimeError> {
        let container = self.container_of(group, unit).await?;
        if !container.is_active() {
            return Err(self.ended(group, unit).await);
        }
        let options = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let mut told = Box::pin(self.daemon.api.stats(&container.id, Some(options)));
        let told = match told.next().await {
            Some(told) => found(told)
                .map_err(|error| self.daemon.failed(format!("measure unit `{unit}`"), error))?,
            None => None,
        };
        let Some(told) = told else {
            return Err(self.ended(group, unit).await);
        };
        let cpu = told.cpu_stats.and_then(|it| it.cpu_usage?.total_usage);
        Ok(UnitStats {
            cpu: Duration::from_nanos(cpu.unwrap_or_default()),
            memory_bytes: told
                .memory_stats
                .and_then(|it| it.usage)
                .unwrap_or_default(),
            processes: told
                .pids_stats
                .and_then(|it| it.current)
                .unwrap_or_default(),
        })
    }

    /// The error of whoever wanted something from a unit that does not run.
    pub(super) async fn ended(&self, group: &Name, unit: &Name) -> RuntimeError {
        match self.status(group, unit).await {
            Ok(status) => RuntimeError::Ended {
                group: group.clone(),
                unit: unit.clone(),
                state: status.state,
            },
            Err(error) => error,
        }
    }
}

/// Podman takes mounts of what is not there, and fails when the container starts.
fn mounts_are_there(spec: &UnitSpec) -> Result<(), RuntimeError> {
    for mount in &spec.mounts {
        std::fs::metadata(&mount.source).map_err(|error| {
            let text = format!("{}: {error}", mount.source.display());
            let action = format!("mount what unit `{}` asks for", spec.name);
            RuntimeError::system(action, std::io::Error::new(error.kind(), text))
        })?;
    }
    Ok(())
}

/// Whether a process has a handler for a signal: a bit of `SigCgt`. Source: `proc_pid_status(5)`.
fn catches(status: &str, signal: i32) -> Option<bool> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    let bit = u32::try_from(signal).ok()?.checked_sub(1)?;
    Some(mask.checked_shr(bit)? & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_count_from_one() {
        let status = "Name:\tweb\nSigCgt:\t0000000000004000\n";
        assert_eq!(catches(status, 15), Some(true));
        assert_eq!(catches(status, 14), Some(false));
        assert_eq!(catches("Name:\tweb\n", 15), None);
    }
}
