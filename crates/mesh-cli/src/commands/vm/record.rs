//! The record of a join: what it changed, and whether it was confirmed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::files::{Change, Root};
use super::plan::{CONFIG_DIRECTORY, Contents, File, Token, json};
use crate::exit::Failure;

/// What `mesh vm join` did on this machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Of this form.
    pub(super) version: u32,
    /// Whether it stays.
    pub(super) state: State,
    /// Who starts the units.
    pub(super) init: Init,
    /// What was changed, in that order.
    pub(super) changes: Vec<Change>,
}

/// Whether a join stays.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// It is taken back unless somebody confirms it in time.
    Unconfirmed {
        /// How much time there is.
        within_ms: u64,
        /// When it is up; none while nobody has begun.
        deadline: Option<Deadline>,
    },
    /// It stays until `mesh vm leave`.
    Confirmed,
}

/// A moment of this boot of the machine: no clock that somebody sets has a part in it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Deadline {
    /// The boot.
    boot: String,
    /// Milliseconds since then.
    uptime_ms: u64,
}

/// Who starts the units.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Init {
    /// systemd.
    Systemd,
    /// Nobody but the person who reads what to run.
    None,
}

/// Held by whoever changes the record; gone with its process.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "open as long as the lock is held")] fs::File);

/// The record's file; root's, since what it names is removed.
pub(super) const RECORD: &str = "/etc/mesh/vm/join.json";

const VERSION: u32 = 1;

// === impl Record ===

impl Record {
    /// A record of changes that are about to be made.
    pub(super) fn new(state: State, init: Init, changes: Vec<Change>) -> Self {
        Self {
            version: VERSION,
            state,
            init,
            changes,
        }
    }

    /// The machine's record; none if it never joined.
    pub(super) fn load(root: &Root) -> Result<Option<Self>, Failure> {
        let path = root.at(Path::new(RECORD));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::doing(
                    format!("reading {}", path.display()),
                    &error,
                ));
            }
        };
        let record: Self = serde_json::from_slice(&text)
            .map_err(|error| Failure::doing(format!("reading {}", path.display()), &error))?;
        if record.version != VERSION {
            let version = record.version;
            return Err(Failure::new(format!(
                "{} is of version `{version}`, not {VERSION}: another `mesh` wrote it",
                path.display()
            )));
        }
        Ok(Some(record))
    }

    /// Writes it, readable by root alone: it holds what was in files before.
    pub(super) fn save(&self, root: &Root) -> Result<(), Failure> {
        let file = File {
            path: RECORD.into(),
            mode: 0o600,
            owner: 0,
            contents: Contents::Secret(Token(json(self))),
        };
        root.write(&file).map_err(|error| Failure::of(&error))
    }
}

// === impl Deadline ===

impl Deadline {
    /// So many milliseconds from now.
    pub(super) fn after(milliseconds: u64) -> Result<Self, Failure> {
        Ok(Self {
            boot: boot()?,
            uptime_ms: uptime_ms()?.saturating_add(milliseconds),
        })
    }

    /// The milliseconds until then; none after it, and in another boot.
    pub(super) fn left(&self) -> Result<Option<u64>, Failure> {
        if boot()? != self.boot {
            return Ok(None);
        }
        let left = self.uptime_ms.checked_sub(uptime_ms()?);
        Ok(left.filter(|left| *left > 0))
    }
}

fn boot() -> Result<String, Failure> {
    let text = read("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

/// `proc_uptime(5)`: seconds with two decimals, time in suspend included.
fn uptime_ms() -> Result<u64, Failure> {
    let text = read("/proc/uptime")?;
    let parsed = text.split_ascii_whitespace().next().and_then(|seconds| {
        let (whole, hundredths) = seconds.split_once('.')?;
        let whole: u64 = whole.parse().ok()?;
        let hundredths: u64 = hundredths.parse().ok()?;
        Some(whole * 1000 + hundredths * 10)
    });
    parsed.ok_or_else(|| Failure::new(format!("/proc/uptime: `{}` is not a time", text.trim())))
}

fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::doing(format!("reading {path}"), &error))
}

// === impl Lock ===

impl Lock {
    /// Waits until nobody else changes the record. None where there is not even a directory for
    /// one.
    pub(super) fn take(root: &Root) -> Result<Option<Self>, Failure> {
        let path: PathBuf = root.at(Path::new(CONFIG_DIRECTORY));
        let failed =
            |error: io::Error| Failure::doing(format!("locking {}", path.display()), &error);
        let directory = match fs::File::open(&path) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        flock(&directory, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        Ok(Some(Self(directory)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_another_boot_is_over() {
        let deadline = Deadline::after(60_000).unwrap();
        let left = deadline.left().unwrap().unwrap();
        assert!(left <= 60_000 && left > 30_000, "{left}");
        assert_eq!(Deadline::after(0).unwrap().left().unwrap(), None);
        let other = Deadline {
            boot: "another".to_owned(),
            ..deadline
        };
        assert_eq!(other.left().unwrap(), None);
    }

    #[test]
    fn a_record_says_when_another_version_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        assert!(Record::load(&root).unwrap().is_none());
        fs::create_dir_all(folder.path().join("etc/mesh/vm")).unwrap();
        let record = Record {
            version: 2,
            ..Record::new(State::Confirmed, Init::None, Vec::new())
        };
        fs::write(folder.path().join("etc/mesh/vm/join.json"), json(&record)).unwrap();
        let error = Record::load(&root).unwrap_err();
        assert!(error.to_string().contains("version `2`"), "{error}");
    }
}
