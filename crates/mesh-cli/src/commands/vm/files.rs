//! Files below a root: written as a whole or not at all, and taken back to what they were.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, symlink,
};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::plan::{Directory, File, Link};

/// The directory below which a machine's files are; `/` but for images and tests.
#[derive(Clone, Debug)]
pub(super) struct Root(PathBuf);

/// One thing that was changed, with what it takes to undo it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    /// A directory was made. With `own`, whatever is in it goes with it.
    Directory {
        /// Its path on the machine.
        path: PathBuf,
        /// Whether nobody else keeps anything in it.
        own: bool,
    },
    /// A file or a link was made where nothing was.
    Made {
        /// Its path on the machine.
        path: PathBuf,
    },
    /// A file was exchanged for another.
    Replaced {
        /// Its path on the machine.
        path: PathBuf,
        /// Permissions that it had.
        mode: u32,
        /// User that it had.
        uid: u32,
        /// Group that it had.
        gid: u32,
        /// What was in it, base64.
        contents: String,
    },
}

/// A file that could not be read, written or taken back.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub(super) struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

// === impl Root ===

impl Root {
    /// The root at `path`.
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// Whether it is this machine's.
    pub(super) fn is_machine(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a path of the machine is.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What making the directory changes; nothing if it is there.
    pub(super) fn directory_change(&self, directory: &Directory) -> Option<Change> {
        (!self.at(&directory.path).is_dir()).then(|| Change::Directory {
            path: directory.path.clone(),
            own: directory.is_own,
        })
    }

    /// What putting something at `path` changes.
    ///
    /// # Errors
    ///
    /// If what is there is not to be read, or no ordinary file.
    pub(super) fn change(&self, path: &Path) -> Result<Change, FileError> {
        let at = self.at(path);
        let failed = |source| FileError {
            action: "read",
            path: at.clone(),
            source,
        };
        let made = Change::Made {
            path: path.to_path_buf(),
        };
        let found = match fs::symlink_metadata(&at) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(made),
            Err(error) => return Err(failed(error)),
        };
        if !found.is_file() {
            return Err(failed(io::Error::other("it is not an ordinary file")));
        }
        let contents = fs::read(&at).map_err(failed)?;
        Ok(Change::Replaced {
            path: path.to_path_buf(),
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            contents: BASE64.encode(contents),
        })
    }

    /// Makes a directory unless it is there.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn make(&self, directory: &Directory) -> Result<(), FileError> {
        let at = self.at(&directory.path);
        if at.is_dir() {
            return Ok(());
        }
        let made = (|| {
            fs::DirBuilder::new().mode(directory.mode).create(&at)?;
            let handle = fs::File::open(&at)?;
            fchown(&handle, Some(directory.owner), Some(directory.owner))?;
            // Whatever the umask.
            handle.set_permissions(Permissions::from_mode(directory.mode))
        })();
        made.map_err(|source| FileError {
            action: "make",
            path: at,
            source,
        })
    }

    /// Writes a file: a reader sees the old one or the new one.
    ///
    /// # Errors
    ///
    /// What the system says; then the old one is there.
    pub(super) fn write(&self, file: &File) -> Result<(), FileError> {
        let owner = (file.owner, file.owner);
        self.put(&file.path, file.contents.bytes(), file.mode, owner)
    }

    fn put(
        &self,
        path: &Path,
        contents: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<(), FileError> {
        let at = self.at(path);
        let mut name = at.file_name().unwrap_or_default().to_owned();
        name.push(".mesh-new");
        let new = at.with_file_name(name);
        let written = (|| {
            remove(&new)?;
            // Never through a link that somebody left there.
            let mut handle = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            handle.write_all(contents)?;
            fchown(&handle, Some(uid), Some(gid))?;
            handle.set_permissions(Permissions::from_mode(mode))?;
            handle.sync_all()?;
            fs::rename(&new, &at)
        })();
        written.map_err(|source| {
            // The first error is the one to tell; a leftover is removed next time.
            drop(fs::remove_file(&new));
            FileError {
                action: "write",
                path: at,
                source,
            }
        })
    }

    /// Makes a symbolic link, unless it is there and leads to the same place.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn link(&self, link: &Link) -> Result<(), FileError> {
        let at = self.at(&link.path);
        if fs::read_link(&at).is_ok_and(|target| target == link.target) {
            return Ok(());
        }
        symlink(&link.target, &at).map_err(|source| FileError {
            action: "link",
            path: at,
            source,
        })
    }

    /// Whether a symbolic link, or anything else, is at `path`.
    pub(super) fn has(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    /// Removes a file or a link, if it is there.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn forget(&self, path: &Path) -> Result<(), FileError> {
        let at = self.at(path);
        remove(&at).map_err(|source| FileError {
            action: "remove",
            path: at,
            source,
        })
    }

    /// Takes a change back. Twice is once.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn undo(&self, change: &Change) -> Result<(), FileError> {
        let (path, undone) = match change {
            Change::Made { path } => (path, remove(&self.at(path))),
            Change::Directory { path, own: true } => {
                (path, absent_is_fine(fs::remove_dir_all(self.at(path))))
            }
            Change::Directory { path, own: false } => {
                let gone = match fs::remove_dir(self.at(path)) {
                    // Somebody keeps something there since.
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                    other => absent_is_fine(other),
                };
                (path, gone)
            }
            Change::Replaced {
                path,
                mode,
                uid,
                gid,
                contents,
            } => {
                let contents = BASE64.decode(contents).map_err(|error| FileError {
                    action: "restore",
                    path: path.clone(),
                    source: io::Error::other(error),
                })?;
                return self.put(path, &contents, *mode, (*uid, *gid));
            }
        };
        undone.map_err(|source| FileError {
            action: "remove",
            path: self.at(path),
            source,
        })
    }
}

fn remove(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Contents, Token};
    use super::*;

    fn own(path: &str, text: &str) -> File {
        File {
            path: path.into(),
            mode: 0o640,
            // Whoever runs the tests may give files to nobody else.
            owner: rustix::process::geteuid().as_raw(),
            contents: Contents::Plain(text.to_owned()),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_written_is_taken_back_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let there = folder.path().join("there");
        fs::write(&there, "mine").unwrap();
        fs::set_permissions(&there, Permissions::from_mode(0o604)).unwrap();
        let directory = Directory {
            path: "/new".into(),
            mode: 0o700,
            owner: rustix::process::geteuid().as_raw(),
            is_own: true,
        };
        let files = [own("/there", "ours"), own("/new/file", "ours")];
        let mut changes = vec![root.directory_change(&directory).unwrap()];
        changes.extend(files.iter().map(|file| root.change(&file.path).unwrap()));
        root.make(&directory).unwrap();
        for file in &files {
            root.write(file).unwrap();
        }
        assert_eq!(fs::read(&there).unwrap(), b"ours");
        assert_eq!(there.metadata().unwrap().mode() & 0o777, 0o640);
        // What the sidecar has left there goes too.
        fs::write(folder.path().join("new/state"), "").unwrap();
        for _ in 0..2 {
            for change in changes.iter().rev() {
                root.undo(change).unwrap();
            }
            assert_eq!(names(folder.path()), ["there"]);
            assert_eq!(fs::read(&there).unwrap(), b"mine");
            assert_eq!(there.metadata().unwrap().mode() & 0o777, 0o604);
        }
    }

    #[test]
    fn a_directory_that_others_use_since_stays() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(folder.path().join("etc/theirs"), "").unwrap();
        let change = Change::Directory {
            path: "/etc".into(),
            own: false,
        };
        root.undo(&change).unwrap();
        assert_eq!(names(folder.path()), ["etc"]);
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let victim = folder.path().join("victim");
        fs::write(&victim, "theirs").unwrap();
        symlink(&victim, folder.path().join("token.mesh-new")).unwrap();
        let secret = File {
            contents: Contents::Secret(Token("secret".to_owned())),
            ..own("/token", "")
        };
        root.write(&secret).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"theirs");
        assert_eq!(fs::read(folder.path().join("token")).unwrap(), b"secret");
        assert!(root.change(Path::new("/")).is_err());
    }
}
