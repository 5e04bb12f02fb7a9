//! Reads the variable and writes the files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_model::Problems;
use tokio::time::timeout;

use super::{Plan, plan};
use crate::client::{Client, Error};
use crate::keep;

/// A variable whose items are files.
#[derive(Clone, Debug)]
pub struct VariableFiles {
    client: Client,
    namespace: String,
    path: String,
    directory: PathBuf,
}

/// What became of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Brought {
    /// The directory holds the variable's items.
    Written {
        /// How many.
        files: usize,
    },
    /// Nomad gave none; the directory holds what an earlier call wrote.
    Kept {
        /// How many files that are.
        files: usize,
        /// Why.
        why: FilesError,
    },
}

/// Why there are no files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The variable cannot be read.
    #[error("Nomad's variable `{path}` cannot be read")]
    Nomad {
        /// Its path.
        path: String,
        /// What the client says.
        source: Error,
    },
    /// Nomad took too long.
    #[error("Nomad does not answer about the variable `{path}` in time")]
    Timeout {
        /// Its path.
        path: String,
    },
    /// There is no such variable.
    #[error("Nomad has no variable `{path}` in namespace `{namespace}`")]
    Missing {
        /// Its namespace.
        namespace: String,
        /// Its path.
        path: String,
    },
    /// Items that are no files.
    #[error("Nomad's variable `{path}`: {problems}")]
    Items {
        /// Its path.
        path: String,
        /// What is wrong with them.
        problems: Problems,
    },
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// "read", "write" or "remove".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The list of what was written, in the directory.
const LIST: &str = ".nomad-files.json";

/// Longer than an election of the servers' leader takes; whoever waits for files serves nobody.
const PATIENCE: Duration = Duration::from_secs(15);

impl VariableFiles {
    /// The variable at `path` of a namespace, for a directory.
    pub fn new(client: Client, namespace: &str, path: &str, directory: &Path) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            path: path.to_owned(),
            directory: directory.to_owned(),
        }
    }

    /// Writes each item as a file of its owner alone. When Nomad gives no variable, what an
    /// earlier call wrote serves.
    ///
    /// # Errors
    ///
    /// [`FilesError`] if there is nothing from earlier either, or the directory cannot be written.
    pub async fn bring(&self) -> Result<Brought, FilesError> {
        let list = self.directory.join(LIST);
        let earlier = read_list(&list)?;
        match self.read().await {
            Ok(items) => {
                let known = earlier.unwrap_or_default();
                let plan = plan(&items, &known).map_err(|problems| FilesError::Items {
                    path: self.path.clone(),
                    problems,
                })?;
                let files = plan.writes.len();
                let directory = self.directory.clone();
                let done =
                    tokio::task::spawn_blocking(move || carry_out(&plan, &directory, &known));
                done.await.map_err(|error| FilesError::File {
                    action: "write",
                    path: self.directory.clone(),
                    source: io::Error::other(error),
                })??;
                Ok(Brought::Written { files })
            }
            Err(why) => match earlier {
                Some(earlier) => Ok(Brought::Kept {
                    files: earlier.len(),
                    why,
                }),
                None => Err(why),
            },
        }
    }

    async fn read(&self) -> Result<BTreeMap<String, String>, FilesError> {
        let path = || self.path.clone();
        let asked = timeout(PATIENCE, self.client.variable(&self.namespace, &self.path)).await;
        let found = asked
            .map_err(|_elapsed| FilesError::Timeout { path: path() })?
            .map_err(|source| FilesError::Nomad {
                path: path(),
                source,
            })?;
        let found = found.ok_or_else(|| FilesError::Missing {
            namespace: self.namespace.clone(),
            path: path(),
        })?;
        let items = found.items.into_option();
        Ok(items.map(|items| items.0).unwrap_or_default())
    }
}

impl FilesError {
    /// Whether the same call may succeed later, nothing else changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Nomad { source, .. } => source.is_transient(),
            Self::Timeout { .. } => true,
            _ => false,
        }
    }

    /// What the operator can do about it, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Nomad { source, .. } if source.is_denied() => Some(
                "a task may read the variables `nomad/jobs/<job>` and below of its own job; for others its policy has to allow it",
            ),
            Self::Nomad { source, .. } => source.hint(),
            Self::Missing { .. } => Some("`mesh nomad install` writes it"),
            _ => None,
        }
    }
}

/// What an earlier call wrote, if there was one.
fn read_list(path: &Path) -> Result<Option<BTreeSet<PathBuf>>, FilesError> {
    keep::read(path).map_err(|source| FilesError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// The list first grows, then the files are written, then what is gone is removed: whenever this
/// is cut off, the list names all that is there.
fn carry_out(plan: &Plan, directory: &Path, known: &BTreeSet<PathBuf>) -> Result<(), FilesError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| FilesError::File {
            action,
            path,
            source,
        }
    };
    let list = directory.join(LIST);
    let write_list = |paths: &BTreeSet<&PathBuf>| {
        let text = serde_json::to_vec(paths).map_err(io::Error::from);
        text.and_then(|text| keep::write(&list, &text))
            .map_err(failed("write", &list))
    };
    let written: BTreeSet<&PathBuf> = plan.writes.keys().collect();
    if !known.is_empty() {
        write_list(&written.iter().copied().chain(known).collect())?;
    }
    for (path, content) in &plan.writes {
        let path = directory.join(path);
        keep::write(&path, content.reveal().as_bytes()).map_err(failed("write", &path))?;
    }
    for path in &plan.removals {
        let path = directory.join(path);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
    }
    // At first it comes last: a start that was cut off must not take half of the files for all.
    write_list(&written)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::client::Config;

    fn bring(items: &[(&str, &str)], directory: &Path) {
        let items = items
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let known = read_list(&directory.join(LIST))
            .unwrap()
            .unwrap_or_default();
        let plan = plan(&items.collect(), &known).unwrap();
        carry_out(&plan, directory, &known).unwrap();
    }

    #[test]
    fn files_are_their_owners_alone_and_follow_the_variable() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().join("home");
        bring(&[("pki~a.key", "one"), ("old", "x")], &home);
        bring(&[("pki~a.key", "two")], &home);
        let key = home.join("pki/a.key");
        assert_eq!(std::fs::read_to_string(&key).unwrap(), "two");
        assert!(!home.join("old").exists());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&key), 0o600);
        assert_eq!(mode(&home.join("pki")), 0o700);
    }

    #[tokio::test]
    async fn files_of_an_earlier_start_serve_while_nomad_is_away() {
        let home = tempfile::tempdir().unwrap();
        let nowhere = format!("unix://{}/none.sock", home.path().display());
        let client = Client::new(Config {
            retry: crate::client::Retry::NEVER,
            ..Config::new(nowhere.parse().unwrap())
        });
        let files = VariableFiles::new(client.unwrap(), "default", "a", home.path());
        let error = files.bring().await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        bring(&[("a", "x")], home.path());
        let brought = files.bring().await.unwrap();
        assert!(
            matches!(brought, Brought::Kept { files: 1, .. }),
            "{brought:?}"
        );
    }
}
