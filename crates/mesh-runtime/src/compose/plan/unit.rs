//! The unit of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::{Home, Planner, within_group};
use crate::compose::health::HealthCheck;
use crate::compose::mount::MountSource;
use crate::compose::problem::Located;
use crate::compose::service::{CapabilityChoice, Restart, Service};
use crate::{Capability, Check, Condition, MountSpec, Readiness, RestartPolicy, UnitSpec};

/// What a health check has where the file says nothing.
///
/// Source: Compose specification, `healthcheck`.
const CHECK_TIME: Duration = Duration::from_secs(30);

impl Planner<'_> {
    pub(super) fn unit(
        &mut self,
        key: &str,
        service: &Located<Service>,
        home: &Home<'_>,
        homes: &BTreeMap<&str, Home<'_>>,
    ) -> UnitSpec {
        let path = format!("services.{key}");
        let Located { value: service, at } = service;
        let said = |words: &Option<Vec<Located<String>>>| -> Vec<String> {
            let words = words.iter().flatten();
            words.map(|word| word.value.clone()).collect()
        };
        let mut unit = UnitSpec::new(home.unit.clone(), Vec::<String>::new());
        unit.image = service.image.as_ref().map(|it| it.value.clone());
        if service.entrypoint.is_some() {
            unit.command = said(&service.entrypoint);
            unit.command.extend(said(&service.command));
        } else {
            unit.arguments = said(&service.command);
        }
        unit.environment.clone_from(&service.environment);
        match &service.user {
            None => unit.image_user = true,
            Some(user) => {
                unit.uid = user.value.uid;
                unit.gid = user.value.gid.unwrap_or(0);
            }
        }
        // Empty: where the image says.
        unit.working_directory = service.working_dir.clone().unwrap_or_else(PathBuf::new);
        unit.capabilities = self.capabilities(&path, service);
        unit.mounts = self.mounts(&path, service);
        unit.restart = self.restart(&path, &service.restart);
        unit.readiness = service.healthcheck.as_ref().map(|it| readiness(&it.value));
        unit.after = within_group(service, home, homes);
        unit.stop_grace = service.stop_grace_period.unwrap_or(unit.stop_grace);
        self.refuse(&path, service);
        for (other, condition) in &service.depends_on {
            let checked = self.compose.services.get(other);
            let checked = checked.is_none_or(|it| it.value.healthcheck.is_some());
            if condition.value == Condition::Ready && !checked {
                let message =
                    format!("service `{other}` has no `healthcheck`: it is never healthy");
                self.wrong(condition.at, format!("{path}.depends_on.{other}"), message);
            }
        }
        for problem in unit.check().0 {
            self.wrong(*at, path.clone(), problem.to_string());
        }
        unit
    }

    fn mounts(&mut self, path: &str, service: &Service) -> Vec<MountSpec> {
        let mut mounts = Vec::new();
        for Located { value: mount, at } in &service.volumes {
            let source = match &mount.source {
                MountSource::Bind(path) => Ok(clean(&self.options.directory.join(path))),
                MountSource::Named(key) => self.volume(key),
                MountSource::Anonymous => Err("volumes without a name are not kept here"),
            };
            match source {
                Ok(source) => mounts.push(MountSpec {
                    source,
                    target: clean(&mount.target),
                    read_only: mount.read_only,
                }),
                Err(message) => self.wrong(*at, format!("{path}.volumes"), message),
            }
        }
        mounts
    }

    /// The directory of a volume of the file.
    fn volume(&mut self, key: &str) -> Result<PathBuf, &'static str> {
        let volume = self.compose.volumes.get(key).map(|it| &it.value);
        if volume.is_some_and(|it| it.external) {
            return Err("volumes of others are not used here: mount their directory");
        }
        let Some(root) = &self.options.volumes else {
            return Err("volumes with a name are not kept here: mount a directory");
        };
        let name = volume.and_then(|it| it.name.as_deref()).unwrap_or(key);
        // No name may lead out of the directory of all volumes.
        let mut parts = Path::new(name).components();
        let alone = matches!((parts.next(), parts.next()), (Some(Component::Normal(it)), None) if it == name);
        if !alone {
            return Err("the name of the volume makes no name of a directory");
        }
        let directory = root.join(name);
        self.volumes.insert(directory.clone());
        Ok(directory)
    }

    /// What no engine here does.
    fn refuse(&mut self, path: &str, service: &Service) {
        if service.privileged.value {
            let message =
                "no unit has every right on the host here: name what it needs in `cap_add`";
            self.wrong(service.privileged.at, format!("{path}.privileged"), message);
        }
    }

    /// What servers that start as root usually need, less and more what the file says.
    fn capabilities(&mut self, path: &str, service: &Service) -> BTreeSet<Capability> {
        let other_user = service.user.as_ref().filter(|it| it.value.uid != 0);
        let mut kept = match other_user {
            None => Capability::of_a_server(),
            Some(_) => BTreeSet::new(),
        };
        for dropped in &service.cap_drop {
            match dropped.value {
                CapabilityChoice::All => kept.clear(),
                CapabilityChoice::One(capability) => drop(kept.remove(&capability)),
            }
        }
        for added in &service.cap_add {
            let path = format!("{path}.cap_add");
            match added.value {
                CapabilityChoice::All => {
                    let message = "no unit has every capability here: name those that it needs";
                    self.wrong(added.at, path, message);
                }
                CapabilityChoice::One(_) if other_user.is_some() => {
                    let message = "only user 0 is given capabilities";
                    self.wrong(added.at, path, message);
                }
                CapabilityChoice::One(capability) => drop(kept.insert(capability)),
            }
        }
        kept
    }

    fn restart(&mut self, path: &str, restart: &Located<Restart>) -> RestartPolicy {
        match restart.value {
            Restart::No => RestartPolicy::Never,
            // Who stops a unit here stops it for good.
            Restart::Always | Restart::UnlessStopped => RestartPolicy::Always,
            Restart::OnFailure(None) => RestartPolicy::OnFailure,
            Restart::OnFailure(Some(_)) => {
                let message = "restarts are not counted here: leave out the number";
                self.wrong(restart.at, format!("{path}.restart"), message);
                RestartPolicy::OnFailure
            }
        }
    }
}

/// A path without `.` and `..`, by its words alone.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            // Above the root is the root.
            Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean
}

/// Engines ask often until the unit is ready, so that retries and a time to start in say nothing.
fn readiness(check: &HealthCheck) -> Readiness {
    Readiness {
        check: Check::Command(check.test.clone()),
        interval: check.interval.unwrap_or(CHECK_TIME),
        timeout: check.timeout.unwrap_or(CHECK_TIME),
    }
}
