//! What the process engine writes down: one small JSON file per network, group and unit.
//!
//! ```text
//! <root>/lock                              held while networks, groups and units change
//!       /networks/<network>.json           NetworkRecord
//!       /netns/<group>                     the group's network namespace, mounted on a file
//!       /groups/<group>/group.json         GroupRecord
//!                      /resolv.conf        what its units see as /etc/resolv.conf
//!                      /files/…            files of its units
//!                      /units/<unit>/unit.json      UnitRecord, the supervisor's orders
//!                                   /status.json    StatusRecord, the supervisor's word
//!                                   /log, log.1     what the command wrote
//!                                   /supervisor.log what the supervisor itself has to say
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::identity::ProcessId;
use crate::{Addresses, GroupSpec, Name, NetworkSpec, RuntimeError, UnitSpec, UnitState};

/// Where everything is; paths only.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
}

/// How far something is made. Written before the first step and after the last one, so that a
/// crash in between leaves a trace.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    Creating,
    Ready,
    Removing,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct NetworkRecord {
    pub(super) phase: Phase,
    pub(super) spec: NetworkSpec,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct GroupRecord {
    pub(super) phase: Phase,
    pub(super) spec: GroupSpec,
    /// Its number in the subnets of its network.
    pub(super) host_number: Option<u32>,
    pub(super) addresses: Option<Addresses>,
    /// Name of the end of its cable on the host.
    pub(super) link: Option<String>,
    #[serde(default)]
    pub(super) rules_applied_at_millis: Option<u64>,
}

/// The orders of a supervisor.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct UnitRecord {
    pub(crate) spec: UnitSpec,
    /// The network namespace to enter.
    pub(crate) namespace: Option<PathBuf>,
    /// What to mount on `/etc/resolv.conf`.
    pub(crate) resolv_conf: Option<PathBuf>,
    /// The cgroup of the command; absent where none can be made.
    pub(crate) cgroup: Option<PathBuf>,
}

/// The word of a supervisor.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct StatusRecord {
    pub(crate) supervisor: ProcessId,
    pub(crate) state: UnitState,
    pub(crate) ready: bool,
    pub(crate) restarts: u32,
    pub(crate) started_at_millis: Option<u64>,
    pub(crate) ready_at_millis: Option<u64>,
}

/// Held while networks, groups and units change, by all processes that use one root.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

// === impl Layout ===

impl Layout {
    pub(super) fn networks(&self) -> PathBuf {
        self.root.join("networks")
    }

    pub(super) fn network(&self, name: &Name) -> PathBuf {
        self.networks().join(format!("{name}.json"))
    }

    pub(super) fn namespaces(&self) -> PathBuf {
        self.root.join("netns")
    }

    pub(super) fn namespace(&self, group: &Name) -> PathBuf {
        self.namespaces().join(group)
    }

    pub(super) fn groups(&self) -> PathBuf {
        self.root.join("groups")
    }

    pub(super) fn group(&self, name: &Name) -> PathBuf {
        self.groups().join(name)
    }

    pub(super) fn group_record(&self, name: &Name) -> PathBuf {
        self.group(name).join("group.json")
    }

    pub(super) fn resolv_conf(&self, group: &Name) -> PathBuf {
        self.group(group).join("resolv.conf")
    }

    pub(super) fn files(&self, group: &Name) -> PathBuf {
        self.group(group).join("files")
    }

    pub(super) fn units(&self, group: &Name) -> PathBuf {
        self.group(group).join("units")
    }

    pub(super) fn unit(&self, group: &Name, unit: &Name) -> PathBuf {
        self.units(group).join(unit)
    }

    /// Waits for the lock and holds it until the answer is dropped.
    pub(super) fn lock(&self) -> Result<Lock, RuntimeError> {
        let path = self.root.join("lock");
        let failed =
            |error: io::Error| RuntimeError::system(format!("lock `{}`", path.display()), error);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| failed(error.into()))?;
        Ok(Lock { _file: file })
    }

    /// The names of the entries of a directory, sorted; none when it is not there.
    pub(super) fn entries(directory: &Path) -> Result<Vec<Name>, RuntimeError> {
        let failed = |error: io::Error| {
            RuntimeError::system(format!("read `{}`", directory.display()), error)
        };
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            // Anything else is not ours: our temporary files begin with a dot.
            if let Ok(name) = name.strip_suffix(".json").unwrap_or(&name).parse() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Reads a record; `None` when it is not there.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RuntimeError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            let action = format!("read `{}`", path.display());
            return Err(RuntimeError::system(action, error));
        }
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| RuntimeError::Record {
            path: path.to_path_buf(),
            source,
        })
}

/// Writes a record: whoever reads it finds the old one or the new one, also after a crash.
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), RuntimeError> {
    let text = serde_json::to_vec_pretty(record).map_err(|source| RuntimeError::Record {
        path: path.to_path_buf(),
        source,
    })?;
    write_file(path, &text, 0o600)
}

/// Writes a file beside its place and moves it there, with its mode from the beginning.
pub(crate) fn write_file(path: &Path, contents: &[u8], mode: u32) -> Result<(), RuntimeError> {
    let failed =
        |error: io::Error| RuntimeError::system(format!("write `{}`", path.display()), error);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    let written = (|| {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(contents)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))?;
        fs::rename(&temporary, path)
    })();
    written.map_err(failed)
}

/// Makes a directory that users may pass through but not list.
pub(crate) fn make_directory(path: &Path) -> Result<(), RuntimeError> {
    let failed =
        |error: io::Error| RuntimeError::system(format!("make `{}`", path.display()), error);
    fs::create_dir_all(path).map_err(failed)?;
    let mode = rustix::fs::Mode::from_raw_mode(0o711);
    rustix::fs::chmod(path, mode).map_err(|error| failed(error.into()))
}
