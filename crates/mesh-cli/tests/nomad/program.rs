//! The `mesh` binary and kubectl, run in the network of the test's thread.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::lab::{ADDRESS, Lab};

/// The binary under test.
pub(crate) const MESH: &str = env!("CARGO_BIN_EXE_mesh");

/// A command line of `mesh nomad` against a lab.
pub(crate) struct Mesh<'a> {
    pub(crate) lab: &'a Lab,
    /// A token, where access control is on.
    pub(crate) token: Option<String>,
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Mesh<'_> {
    /// Runs `mesh nomad` with these words.
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        self.verb(&[&["nomad"], words].concat())
    }

    /// Runs `mesh` with these words.
    pub(crate) fn verb(&self, words: &[&str]) -> Said {
        Said::from(self.command(words).output().unwrap())
    }

    /// The command `mesh` with these words.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(MESH);
        command
            .args(words)
            .env("NOMAD_ADDR", ADDRESS)
            .env("MESH_HOME", self.lab.directory().join("home"))
            .env_remove("NOMAD_TOKEN");
        if let Some(token) = &self.token {
            command.env("NOMAD_TOKEN", token);
        }
        command
    }

    /// The same; it must succeed.
    pub(crate) fn must(&self, words: &[&str]) -> Said {
        let said = self.run(words);
        assert_eq!(said.code, Some(0), "mesh nomad {words:?}: {said:#?}");
        said
    }

    /// What kubectl prints with the admin's kubeconfig.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Said {
        kubectl(&self.lab.directory().join("home/kubeconfig"), words)
    }
}

/// What kubectl prints with a kubeconfig.
pub(crate) fn kubectl(kubeconfig: &Path, words: &[&str]) -> Said {
    let output = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("the nomad ring needs kubectl: {error}"));
    Said::from(output)
}

impl Said {
    /// Its standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}
