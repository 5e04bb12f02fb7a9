//! Units of the process engine: recorded here, run by a supervisor.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::files::{self, Home};
use super::record::{self, StatusRecord, UnitRecord};
use super::watch::ProcessWatch;
use super::{Engine, ProcessEngine, cgroup, launch, mountns, netns, supervisor, usage};
use crate::{
    Creation, ExecOutput, Exit, Name, Removal, RuntimeError, Start, Stop, UnitSpec, UnitState,
    UnitStats, UnitStatus,
};

// === impl ProcessEngine ===

impl ProcessEngine {
    pub(super) async fn start(&self, group: &Name, unit: &Name) -> Result<Start, RuntimeError> {
        let names = (group.clone(), unit.clone());
        let active = self
            .blocking(move |engine| engine.prepare_start(&names.0, &names.1))
            .await?;
        if active {
            return Ok(Start::AlreadyRunning);
        }
        self.outlast_supervisor(group, unit).await?;
        let said = self.spawn_supervisor(group, unit).await?;
        match said.trim_end() {
            supervisor::STARTED => Ok(Start::Started),
            // Somebody else started it since we looked.
            said if said.ends_with(supervisor::TAKEN) => Ok(Start::AlreadyRunning),
            said => Err(RuntimeError::NotStarted {
                group: group.clone(),
                unit: unit.clone(),
                reason: if said.is_empty() {
                    "the supervisor ended without a word".to_owned()
                } else {
                    said.to_owned()
                },
            }),
        }
    }

    /// A supervisor that has said its last word holds the unit until it is gone, a moment later.
    async fn outlast_supervisor(&self, group: &Name, unit: &Name) -> Result<(), RuntimeError> {
        let Some(status) = self.engine.status_record(group, unit)? else {
            return Ok(());
        };
        let failed = |error: io::Error| RuntimeError::system(format!("start unit `{unit}`"), error);
        if !status.state.is_active() && status.supervisor.is_alive() {
            let watch = ProcessWatch::new(&status.supervisor).map_err(failed)?;
            let ended = timeout(SUPERVISOR_GRACE, watch.ended()).await;
            ended
                .map_err(|_elapsed| failed(io::ErrorKind::TimedOut.into()))?
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Starts a supervisor and returns the first line that it says.
    async fn spawn_supervisor(&self, group: &Name, unit: &Name) -> Result<String, RuntimeError> {
        let directory = self.engine.layout.unit(group, unit);
        let failed = |error: io::Error| {
            RuntimeError::system(format!("start the supervisor of unit `{unit}`"), error)
        };
        let (program, arguments) = self.engine.supervisor.split_first().ok_or_else(|| {
            failed(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no command is given for it",
            ))
        })?;
        let own_log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(directory.join("supervisor.log"))
            .map_err(failed)?;
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .arg(&directory)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(own_log));
        let cgroup = cgroup::create(&self.engine.cgroup().join(SUPERVISORS));
        launch::detach(&mut command, cgroup.as_deref()).map_err(failed)?;
        // Dropping the handle lets it live on; the event loop reaps it if it ends before us.
        let mut child = Command::from(command).spawn().map_err(failed)?;
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut lines = BufReader::new(stdout);
            match timeout(START_LIMIT, lines.read_line(&mut said)).await {
                Ok(read) => drop(read.map_err(failed)?),
                Err(_elapsed) => {
                    child.kill().await.map_err(failed)?;
                    return Err(failed(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        Ok(said)
    }

    pub(super) async fn stop(&self, group: &Name, unit: &Name) -> Result<Stop, RuntimeError> {
        let names = (group.clone(), unit.clone());
        let (record, status) = self
            .blocking(move |engine| {
                let record = engine.unit_record(&names.0, &names.1)?;
                Ok((record, engine.status_record(&names.0, &names.1)?))
            })
            .await?;
        let failed = |error: io::Error| RuntimeError::system(format!("stop unit `{unit}`"), error);
        let mut outcome = Stop::NotRunning;
        if let Some(status) = &status
            && status.supervisor.is_alive()
        {
            outcome = Stop::Stopped;
            let watch = ProcessWatch::new(&status.supervisor).map_err(failed)?;
            status.supervisor.signal(Signal::TERM).map_err(failed)?;
            let patience = record.spec.stop_grace.saturating_add(SUPERVISOR_GRACE);
            if timeout(patience, watch.ended()).await.is_err() {
                tracing::warn!(%group, %unit, "the supervisor does not end and is killed");
                status.supervisor.signal(Signal::KILL).map_err(failed)?;
                watch.ended().await.map_err(failed)?;
            }
        }
        let names = (group.clone(), unit.clone());
        let left = self
            .blocking(move |engine| engine.finish_stop(&names.0, &names.1))
            .await?;
        Ok(if left { Stop::Stopped } else { outcome })
    }
}

// === impl Engine ===

impl Engine {
    pub(super) fn create_unit(
        &self,
        group: &Name,
        spec: &UnitSpec,
    ) -> Result<Creation, RuntimeError> {
        let sound = spec.check().into_result(());
        sound.map_err(RuntimeError::invalid("unit", &spec.name))?;
        if !spec.mounts.is_empty() {
            return Err(RuntimeError::Unsupported {
                engine: "process",
                what: format!("mounts, and unit `{}` names some", spec.name),
            });
        }
        if spec.image.is_some() {
            return Err(RuntimeError::Unsupported {
                engine: "process",
                what: format!("images, and unit `{}` names one", spec.name),
            });
        }
        let _lock = self.layout.lock()?;
        let owner = self.group(group)?;
        let directory = self.layout.unit(group, &spec.name);
        let path = directory.join(supervisor::UNIT);
        let found: Option<UnitRecord> = record::read(&path)?;
        if found.as_ref().is_some_and(|found| !same(&found.spec, spec)) {
            return Err(RuntimeError::Differs {
                kind: "unit",
                name: spec.name.to_string(),
            });
        }
        self.write_files(group, spec)?;
        if found.is_some() {
            return Ok(Creation::Exists);
        }
        record::make_directory(&directory)?;
        let resolv_conf = owner.spec.dns.as_ref();
        let record = UnitRecord {
            spec: spec.clone(),
            namespace: owner.namespace,
            resolv_conf: resolv_conf.map(|_| self.layout.resolv_conf(group)),
            cgroup: None,
        };
        record::write(&path, &record)?;
        Ok(Creation::Created)
    }

    pub(super) fn remove_unit(&self, group: &Name, unit: &Name) -> Result<Removal, RuntimeError> {
        let _lock = self.layout.lock()?;
        let directory = self.layout.unit(group, unit);
        let failed = |error| RuntimeError::system(format!("remove unit `{unit}`"), error);
        for cgroup in cgroup::existing(&self.cgroup().join(group).join(unit)) {
            cgroup::remove(&cgroup).map_err(failed)?;
        }
        match fs::remove_dir_all(directory) {
            Ok(()) => Ok(Removal::Removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removal::Absent),
            Err(error) => Err(failed(error)),
        }
    }

    /// The units of a group, by name.
    pub(super) fn units(&self, group: &Name) -> Result<Vec<UnitSpec>, RuntimeError> {
        let mut units = Vec::new();
        for name in record::Layout::entries(&self.layout.units(group))? {
            let directory = self.layout.unit(group, &name);
            let record: Option<UnitRecord> = record::read(&directory.join(supervisor::UNIT))?;
            units.extend(record.map(|record| record.spec));
        }
        Ok(units)
    }

    pub(super) fn unit_record(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<UnitRecord, RuntimeError> {
        let directory = self.layout.unit(group, unit);
        record::read(&directory.join(supervisor::UNIT))?.ok_or_else(|| RuntimeError::NotFound {
            kind: "unit",
            name: format!("{group}/{unit}"),
        })
    }

    pub(super) fn status_record(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<Option<StatusRecord>, RuntimeError> {
        let directory = self.layout.unit(group, unit);
        record::read(&directory.join(supervisor::STATUS))
    }

    pub(super) fn status(&self, group: &Name, unit: &Name) -> Result<UnitStatus, RuntimeError> {
        let record = self.unit_record(group, unit)?;
        let Some(mut status) = self.status_record(group, unit)? else {
            return Ok(UnitStatus {
                name: unit.clone(),
                state: UnitState::Created,
                ready: false,
                restarts: 0,
                started_at_millis: None,
                ready_at_millis: None,
            });
        };
        if status.state.is_active() && !status.supervisor.is_alive() {
            // Its last word may have come between the two looks.
            status = self.status_record(group, unit)?.unwrap_or(status);
        }
        if status.state.is_active() && !status.supervisor.is_alive() {
            status.state = UnitState::Lost {
                left_behind: left_behind(&record)?,
            };
            status.ready = false;
        }
        Ok(UnitStatus {
            name: unit.clone(),
            state: status.state,
            ready: status.ready,
            restarts: status.restarts,
            started_at_millis: status.started_at_millis,
            ready_at_millis: status.ready_at_millis,
        })
    }

    /// The process of a unit that runs.
    fn pid_of(&self, group: &Name, unit: &Name) -> Result<u32, RuntimeError> {
        match self.status(group, unit)?.state {
            UnitState::Running { pid } => Ok(pid),
            state => Err(RuntimeError::Ended {
                group: group.clone(),
                unit: unit.clone(),
                state,
            }),
        }
    }

    pub(super) fn exec(
        &self,
        group: &Name,
        unit: &Name,
        command: &[String],
    ) -> Result<ExecOutput, RuntimeError> {
        let record = self.unit_record(group, unit)?;
        let pid = self.pid_of(group, unit)?;
        let work = || {
            mountns::enter_that_of(pid)?;
            let cgroup = record.cgroup.as_deref();
            let mut command = launch::prepare(command, &record.spec, cgroup)?;
            command.stdin(Stdio::null()).output()
        };
        let output = netns::within(record.namespace.as_deref(), work)
            .and_then(|done| done)
            .map_err(|error| RuntimeError::system(format!("run a command in `{unit}`"), error))?;
        Ok(ExecOutput {
            exit: exit(output.status),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    pub(super) fn stats(&self, group: &Name, unit: &Name) -> Result<UnitStats, RuntimeError> {
        let record = self.unit_record(group, unit)?;
        let pid = self.pid_of(group, unit)?;
        let failed = |error| RuntimeError::system(format!("measure unit `{unit}`"), error);
        let processes = match &record.cgroup {
            Some(cgroup) => cgroup::processes(cgroup).map_err(failed)?,
            None => vec![pid],
        };
        usage::of(&processes).map_err(failed)
    }

    /// Makes the cgroup and writes the orders, unless the unit is taken care of already.
    fn prepare_start(&self, group: &Name, unit: &Name) -> Result<bool, RuntimeError> {
        let _lock = self.layout.lock()?;
        let mut record = self.unit_record(group, unit)?;
        if self.status(group, unit)?.state.is_active() {
            return Ok(true);
        }
        let cgroup = cgroup::create(&self.cgroup().join(group).join(unit));
        if cgroup.is_none() {
            tracing::warn!(%group, %unit, "no cgroup can be made; orphans are found by parentage");
        }
        if cgroup != record.cgroup {
            record.cgroup = cgroup;
            let directory = self.layout.unit(group, unit);
            record::write(&directory.join(supervisor::UNIT), &record)?;
        }
        Ok(false)
    }

    /// Ends what a supervisor left behind, and says whether there was anything.
    fn finish_stop(&self, group: &Name, unit: &Name) -> Result<bool, RuntimeError> {
        let record = self.unit_record(group, unit)?;
        let failed = |error| RuntimeError::system(format!("stop unit `{unit}`"), error);
        let left = !left_behind(&record)?.is_empty();
        for cgroup in cgroup::existing(&self.cgroup().join(group).join(unit)) {
            cgroup::kill(&cgroup).map_err(failed)?;
            cgroup::remove(&cgroup).map_err(failed)?;
        }
        if let Some(mut status) = self.status_record(group, unit)?
            && status.state.is_active()
            && !status.supervisor.is_alive()
        {
            status.state = UnitState::Stopped;
            status.ready = false;
            let directory = self.layout.unit(group, unit);
            record::write(&directory.join(supervisor::STATUS), &status)?;
        }
        Ok(left)
    }

    fn write_files(&self, group: &Name, spec: &UnitSpec) -> Result<(), RuntimeError> {
        let path = self.layout.files(group);
        let home = Home::open(&path)?;
        for directory in &spec.directories {
            home.make_directory(directory)?;
        }
        for file in &spec.files {
            home.write(file)?;
        }
        files::check_reach(&path, spec)
    }
}

/// Equal but for the contents of files, which are not recorded.
pub(crate) fn same(recorded: &UnitSpec, asked: &UnitSpec) -> bool {
    let mut asked = asked.clone();
    for file in &mut asked.files {
        file.contents.0.clear();
    }
    *recorded == asked
}

fn left_behind(record: &UnitRecord) -> Result<Vec<u32>, RuntimeError> {
    match &record.cgroup {
        Some(cgroup) => cgroup::processes(cgroup).map_err(|error| {
            RuntimeError::system(format!("read cgroup `{}`", cgroup.display()), error)
        }),
        None => Ok(Vec::new()),
    }
}

fn exit(status: ExitStatus) -> Exit {
    match status.code() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.signal().unwrap_or_default()),
    }
}

/// The cgroup of all supervisors: no name of a group can be the same.
const SUPERVISORS: &str = "_supervisors";

/// A supervisor has said how it goes long before this.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What a supervisor may take beyond the grace of its unit.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(5);
