//! What `mesh up` was asked for, kept in the mesh's directory, so that a call without flags is the
//! same install.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use mesh_runtime::Name;
use serde::{Deserialize, Serialize};

use super::Args;
use crate::engine::{Kind, Record};
use crate::exit::Failure;
use crate::image::Programs;

/// What was asked for. What was not is absent, and stays what this program does by itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Install {
    /// The engine that it is for: another one begins anew.
    pub(super) engine: Kind,
    /// Whether the roles are processes of their own.
    pub(super) separate: bool,
    pub(super) api_port: Option<u16>,
    pub(super) subnet: Option<Ipv4Net>,
    pub(super) subnet6: Option<Ipv6Net>,
    /// Life of workload certificates, in seconds.
    pub(super) certificate_ttl: Option<u64>,
    /// Whether plaintext is let in.
    pub(super) permissive: bool,
    /// The Compose file, as a full path.
    pub(super) file: Option<PathBuf>,
    /// The Envoy of the image.
    pub(super) envoy: Option<PathBuf>,
    /// The etcd of the image.
    pub(super) etcd: Option<PathBuf>,
    /// Networks that were made for the Compose file.
    pub(super) networks: BTreeSet<Name>,
}

/// The record's name in the mesh's directory.
const FILE: &str = "install.json";

// === impl Install ===

impl Install {
    /// What is asked for now, and of before what is not asked for differently.
    ///
    /// # Errors
    ///
    /// When what was kept cannot be read.
    pub(super) fn decide(args: &Args, record: &Record, home: &Path) -> Result<Self, Failure> {
        let before = Self::read(home)?.filter(|it| it.engine == record.engine);
        before.unwrap_or_default().over(args, record.engine)
    }

    fn over(self, args: &Args, engine: Kind) -> Result<Self, Failure> {
        let full = |path: &Option<PathBuf>| {
            let full = path.as_deref().map(std::path::absolute).transpose();
            full.map_err(|error| Failure::doing("looking where we are", &error))
        };
        let file = if args.no_file {
            None
        } else {
            full(&args.file)?.or(self.file)
        };
        Ok(Self {
            engine,
            separate: args.separate.unwrap_or(self.separate),
            api_port: args.api_port.or(self.api_port),
            subnet: args.subnet.or(self.subnet),
            subnet6: args.subnet6.or(self.subnet6),
            certificate_ttl: args.certificate_ttl.or(self.certificate_ttl),
            permissive: args.permissive.unwrap_or(self.permissive),
            file,
            envoy: full(&args.programs.envoy)?.or(self.envoy),
            etcd: full(&args.programs.etcd)?.or(self.etcd),
            networks: self.networks,
        })
    }

    /// The programs that images are made from.
    pub(super) fn programs(&self) -> Programs {
        Programs {
            envoy: self.envoy.clone(),
            etcd: self.etcd.clone(),
        }
    }

    fn read(home: &Path) -> Result<Option<Self>, Failure> {
        let file = home.join(FILE);
        let failed = |error: &dyn std::error::Error| {
            Failure::doing(format!("reading {}", file.display()), error)
                .with_hint("it says what `mesh up` was asked for: remove it, and say it again")
        };
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| failed(&error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Keeps it, in one step.
    pub(super) fn write(&self, home: &Path) -> Result<(), Failure> {
        let file = home.join(FILE);
        let new = home.join(format!("{FILE}.new"));
        let failed = |error: &dyn std::error::Error| {
            Failure::doing(format!("writing {}", file.display()), error)
        };
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(&error))?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &file))
            .map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        Command::parse_from([&["up", "--envoy", "/e"], words].concat()).args
    }

    #[test]
    fn without_flags_it_is_what_it_was() {
        let home = tempfile::tempdir().unwrap();
        let asked = args(&[
            "--file",
            "/f.yaml",
            "--permissive",
            "--api-port",
            "7443",
            "--subnet",
            "10.9.0.0/16",
        ]);
        let record = Record {
            engine: Kind::Docker,
            ..Record::default()
        };
        let install = Install::decide(&asked, &record, home.path()).unwrap();
        assert_eq!(install.file.as_deref(), Some(Path::new("/f.yaml")));
        install.write(home.path()).unwrap();
        let again = Install::decide(&args(&[]), &record, home.path()).unwrap();
        assert_eq!(again, install);
        let other = args(&["--no-file", "--permissive=false"]);
        let other = Install::decide(&other, &record, home.path()).unwrap();
        assert_eq!((other.file, other.permissive), (None, false));
        assert_eq!(other.api_port, Some(7443));
    }

    #[test]
    fn another_engine_begins_anew() {
        let home = tempfile::tempdir().unwrap();
        let install = Install {
            engine: Kind::Docker,
            file: Some("/f.yaml".into()),
            ..Install::default()
        };
        install.write(home.path()).unwrap();
        let anew = Install::decide(&args(&[]), &Record::default(), home.path()).unwrap();
        assert_eq!((anew.engine, anew.file), (Kind::Process, None));
    }
}
