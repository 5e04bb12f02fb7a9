//! Which engine this machine's workloads run on: chosen by `mesh up`, recorded in the mesh's
//! directory, followed by every other verb.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{Failure, REFUSED, UNSUPPORTED};

/// Which engine, as flags and environment say it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Choice {
    /// What workloads run on; as `mesh up` chose unless given, `process` where it chose nothing.
    #[arg(long, value_enum)]
    pub(crate) engine: Option<Kind>,
    /// Socket of the container daemon, as a path or a `unix://` address; as `mesh up` chose unless
    /// given.
    // Text, since whoever uses processes may have `DOCKER_HOST` set to anything.
    #[arg(long, env = "DOCKER_HOST", value_name = "SOCKET")]
    pub(crate) docker_socket: Option<String>,
}

/// The engines there are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Processes in network namespaces; no daemon is needed.
    #[default]
    Process,
    /// Containers of a Docker daemon on this machine.
    Docker,
}

/// What the API server keeps objects in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    /// A file in the mesh's directory.
    File,
    /// An etcd, which runs beside the API server.
    Etcd,
}

/// The choice, as it is kept in the mesh's directory.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// The engine.
    pub(crate) engine: Kind,
    /// Socket of the container daemon, of which only the Docker engine makes use.
    pub(crate) socket: PathBuf,
    /// What the API server keeps objects in.
    pub(crate) store: Store,
    /// Whether the engine may run something: from `mesh up` to `mesh down`.
    pub(crate) up: bool,
}

/// The record's name in the mesh's directory.
const FILE: &str = "engine.json";

/// Where the file store is in the mesh's directory, by `mesh server`.
const STORE_FILE: &str = "store.redb";

/// Where Docker listens unless told otherwise.
const SOCKET: &str = "/var/run/docker.sock";

// === impl Choice ===

impl Choice {
    /// What `mesh up` chose for the mesh of this directory.
    ///
    /// # Errors
    ///
    /// When a flag says otherwise, when the daemon is not on this machine, and when the record
    /// cannot be read.
    pub(crate) fn decide(&self, home: &Path) -> Result<Record, Failure> {
        self.over(Record::read(home)?, false)
    }

    /// What `mesh up` is to use. After `mesh down` it may be another engine than before.
    ///
    /// # Errors
    ///
    /// As of [`Choice::decide`].
    pub(crate) fn decide_anew(&self, home: &Path, store: Option<Store>) -> Result<Record, Failure> {
        let before = Record::read(home)?;
        // Objects stay where they are, also when the engine changes.
        let kept = match &before {
            Some(before) => Some(before.store),
            None if home.join(STORE_FILE).exists() => Some(Store::File),
            None => None,
        };
        let free = before.as_ref().is_none_or(|record| !record.up);
        let record = self.over(before, free)?;
        let store = which_store(record.engine, kept, store)?;
        Ok(Record { store, ..record })
    }

    /// The record that holds, given the one that is there.
    fn over(&self, before: Option<Record>, free: bool) -> Result<Record, Failure> {
        let fixed = before.is_some() && !free;
        let before = before.unwrap_or_default();
        let engine = self.engine.unwrap_or(before.engine);
        if fixed && engine != before.engine {
            return Err(Failure::usage(format!(
                "the mesh of this directory runs on the engine `{}`, not `{engine}`",
                before.engine
            ))
            .with_code(REFUSED)
            .with_hint(
                "leave --engine away, name another --home, or take it down first: `mesh down`",
            ));
        }
        let mut record = Record { engine, ..before };
        if engine == Kind::Docker
            && let Some(socket) = &self.docker_socket
        {
            let socket = unix_socket(socket)?;
            if fixed && !same_file(&socket, &record.socket) {
                return Err(Failure::usage(format!(
                    "the mesh of this directory is with the daemon at `{}`, not at `{}`",
                    record.socket.display(),
                    socket.display()
                ))
                .with_code(REFUSED)
                .with_hint("leave --docker-socket and DOCKER_HOST away, or `mesh down` first"));
            }
            record.socket = socket;
        }
        Ok(record)
    }
}

/// The daemon of images: the one that `mesh up` chose, or another one that is named.
pub(crate) fn daemon(socket: Option<&str>, home: &Path) -> Result<Record, Failure> {
    let choice = Choice {
        engine: Some(Kind::Docker),
        docker_socket: socket.map(str::to_owned),
    };
    choice.over(Record::read(home)?, true)
}

/// Which store the API server has: the one that was asked for, unless the objects are in another.
fn which_store(engine: Kind, kept: Option<Store>, asked: Option<Store>) -> Result<Store, Failure> {
    let usual = match engine {
        Kind::Process => Store::File,
        Kind::Docker => Store::Etcd,
    };
    let store = asked.or(kept).unwrap_or(usual);
    if let Some(kept) = kept.filter(|kept| *kept != store) {
        let (kept, store) = (kept.words(), store.words());
        return Err(Failure::usage(format!(
            "the objects of this mesh are in {kept}, and {store} has none of them"
        ))
        .with_code(REFUSED)
        .with_hint("`mesh down --purge` removes them; `mesh get` shows what is worth keeping"));
    }
    if engine == Kind::Process && store == Store::Etcd {
        return Err(
            Failure::usage("the process engine runs no etcd, and the store would be one")
                .with_code(UNSUPPORTED)
                .with_hint(
                    "use --engine docker, or `mesh server --store etcd --etcd-endpoints …` with \
                     an etcd that is there",
                ),
        );
    }
    Ok(store)
}

// === impl Store ===

impl Store {
    fn words(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Etcd => "an etcd",
        }
    }
}

// === impl Record ===

impl Default for Record {
    fn default() -> Self {
        Self {
            engine: Kind::Process,
            socket: SOCKET.into(),
            store: Store::File,
            up: false,
        }
    }
}

impl Record {
    /// The record of a directory; none where `mesh up` never was.
    fn read(home: &Path) -> Result<Option<Self>, Failure> {
        let file = home.join(FILE);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::doing(
                    format!("reading {}", file.display()),
                    &error,
                ));
            }
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Failure::doing(format!("reading {}", file.display()), &error)
                .with_hint("it says which engine runs the mesh: write it anew with `mesh up`")
        })
    }

    /// Keeps it, in one step, so that no other verb reads half of it.
    pub(crate) fn write(&self, home: &Path) -> Result<(), Failure> {
        let file = home.join(FILE);
        let new = home.join(format!("{FILE}.new"));
        let doing = |error: &dyn std::error::Error| {
            Failure::doing(format!("writing {}", file.display()), error)
        };
        let text = serde_json::to_vec(self).map_err(|error| doing(&error))?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &file))
            .map_err(|error| doing(&error))
    }
}

/// The path of a socket that is given as such or as Docker has it.
fn unix_socket(text: &str) -> Result<PathBuf, Failure> {
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(path.into()),
        None if text.starts_with('/') => Ok(text.into()),
        _ => Err(Failure::usage(format!(
            "the container daemon is at `{text}`, and only a unix socket of this machine will do"
        ))
        .with_code(UNSUPPORTED)
        .with_hint("name its socket: --docker-socket /var/run/docker.sock")),
    }
}

/// Whether two paths are of one file: `/var/run` is a link to `/run` on most machines.
fn same_file(one: &Path, other: &Path) -> bool {
    let full = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    one == other || full(one) == full(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(engine: Option<Kind>, socket: Option<&str>) -> Choice {
        Choice {
            engine,
            docker_socket: socket.map(str::to_owned),
        }
    }

    fn docker(socket: &str, up: bool) -> Record {
        Record {
            engine: Kind::Docker,
            socket: socket.into(),
            store: Store::Etcd,
            up,
        }
    }

    #[test]
    fn what_was_chosen_holds_without_a_flag_and_survives_on_disk() {
        let home = tempfile::tempdir().unwrap();
        let none = choice(None, None);
        assert_eq!(none.decide(home.path()).unwrap(), Record::default());
        let record = docker("/d.sock", true);
        record.write(home.path()).unwrap();
        assert_eq!(none.decide(home.path()).unwrap(), record);
        let same = choice(Some(Kind::Docker), Some("unix:///d.sock"));
        assert_eq!(same.decide(home.path()).unwrap(), record);
    }

    #[test]
    fn a_flag_that_contradicts_is_refused_until_the_mesh_is_down() {
        let home = tempfile::tempdir().unwrap();
        docker("/d.sock", true).write(home.path()).unwrap();
        let other = choice(Some(Kind::Process), None);
        let refused = other.decide_anew(home.path(), None).unwrap_err();
        assert!(refused.to_string().contains("`docker`, not `process`"));
        let socket = choice(None, Some("/other.sock"));
        let refused = socket.decide(home.path()).unwrap_err();
        assert!(refused.to_string().contains("/other.sock"), "{refused}");

        let file = Record {
            store: Store::File,
            ..docker("/d.sock", false)
        };
        file.write(home.path()).unwrap();
        let anew = other.decide_anew(home.path(), None).unwrap();
        assert_eq!(anew.engine, Kind::Process);
        // Only `mesh up` chooses.
        assert!(other.decide(home.path()).is_err());
    }

    #[test]
    fn objects_stay_in_the_store_that_they_are_in() {
        use Store::{Etcd, File};
        for (engine, kept, asked, store) in [
            (Kind::Process, None, None, Some(File)),
            (Kind::Docker, None, None, Some(Etcd)),
            (Kind::Docker, None, Some(File), Some(File)),
            (Kind::Docker, Some(File), None, Some(File)),
            (Kind::Docker, Some(Etcd), Some(File), None),
            (Kind::Process, Some(Etcd), None, None),
            (Kind::Process, None, Some(Etcd), None),
        ] {
            let which = which_store(engine, kept, asked);
            assert_eq!(which.ok(), store, "{engine} {kept:?} {asked:?}");
        }
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(STORE_FILE), "").unwrap();
        let docker = choice(Some(Kind::Docker), None);
        let record = docker.decide_anew(home.path(), None).unwrap();
        assert_eq!(record.store, File);
    }

    #[test]
    fn a_daemon_of_another_machine_matters_only_to_the_docker_engine() {
        for host in ["tcp://10.0.0.1:2375", "ssh://somebody@host", "docker.sock"] {
            let refused = choice(Some(Kind::Docker), Some(host)).over(None, true);
            assert!(refused.unwrap_err().to_string().contains(host));
            let process = choice(None, Some(host)).over(None, true);
            assert_eq!(process.unwrap(), Record::default());
        }
    }
}
