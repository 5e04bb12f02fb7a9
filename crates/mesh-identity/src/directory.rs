//! Credentials on disk: one file, so that key and certificate always belong together.

use std::fs::{DirBuilder, File, OpenOptions, rename};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::{CertificateError, Chain, Credentials, CredentialsError, Key, KeyError};

/// Key, chain and roots, one after the other in PEM.
const FILE: &str = "credentials.pem";
/// Larger files are not ours: a chain and a few roots take some KiB.
const MAX_LENGTH: u64 = 1 << 20;

/// A directory of its owner alone (0700) that keeps credentials over restarts and reboots.
#[derive(Clone, Debug)]
pub struct CredentialDirectory {
    path: PathBuf,
}

/// Why credentials were not kept or not found again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// "read", "write", …
        action: &'static str,
        /// What was to be read or written.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file has no key that can be used.
    #[error("`{}` has no private key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The file has no certificates that can be used.
    #[error("`{}` has no certificate chain with roots", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: CertificateError,
    },
    /// Key and certificates of the file do not belong together.
    #[error("`{}` holds no credentials", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: CredentialsError,
    },
}

impl CredentialDirectory {
    /// The directory at `path`; made at the first [`Self::save`].
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The credentials that were saved last, if any; whether they still hold is the caller's question.
    ///
    /// Blocks on the file system.
    ///
    /// # Errors
    ///
    /// Every variant of [`DirectoryError`]; a missing file is no error.
    pub fn load(&self) -> Result<Option<Credentials>, DirectoryError> {
        let path = self.path.join(FILE);
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| {
            file.take(MAX_LENGTH).read_to_string(&mut text)?;
            Ok(())
        });
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(DirectoryError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        }
        let key = Key::from_pem(&text).map_err(|source| DirectoryError::Key {
            path: path.clone(),
            source,
        })?;
        let (chain, bundle) =
            Chain::with_roots_from_pem(&text).map_err(|source| DirectoryError::Certificates {
                path: path.clone(),
                source,
            })?;
        Credentials::new(key, chain, bundle)
            .map(Some)
            .map_err(|source| DirectoryError::Credentials { path, source })
    }

    /// Saves `credentials` in place of what was there: after a crash it is the one or the other.
    ///
    /// Blocks on the file system.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Io`].
    pub fn save(&self, credentials: &Credentials) -> Result<(), DirectoryError> {
        let text = format!(
            "{}{}{}",
            credentials.key().to_pem(),
            credentials.chain().to_pem(),
            credentials.bundle().to_pem()
        );
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DirectoryError::Io {
                action,
                path,
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(failed("create", &self.path))?;
        let path = self.path.join(FILE);
        let new = self.path.join(".credentials.pem.new");
        write_and_sync(&new, &text).map_err(failed("write", &new))?;
        rename(&new, &path).map_err(failed("replace", &path))?;
        // The rename itself must survive a crash, not only the content.
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(failed("sync", &self.path))
    }
}

/// Writes a file of its owner alone; one that a crash left behind is replaced, not written into.
fn write_and_sync(path: &Path, text: &str) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::testing::Authority;

    fn credentials() -> Credentials {
        Authority::new().credentials("spiffe://cluster.local/ns/shop/sa/web")
    }

    #[test]
    fn saved_credentials_are_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let kept = CredentialDirectory::new(directory.path().join("state"));
        assert!(kept.load().unwrap().is_none());

        let (first, second) = (credentials(), credentials());
        kept.save(&first).unwrap();
        kept.save(&second).unwrap();

        let found = kept.load().unwrap().unwrap();
        assert_eq!(found.serial(), second.serial());
        assert_eq!(found.bundle(), second.bundle());
        assert_eq!(found.identity(), second.identity());
    }

    #[test]
    fn only_the_owner_may_read_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        CredentialDirectory::new(&path)
            .save(&credentials())
            .unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(FILE)), 0o600);
    }

    #[test]
    fn a_file_that_a_crash_left_half_written_does_not_matter() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".credentials.pem.new"), "half").unwrap();
        let kept = CredentialDirectory::new(directory.path());
        kept.save(&credentials()).unwrap();
        assert!(kept.load().unwrap().is_some());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (credentials(), credentials());
        let text = [
            one.key().to_pem(),
            two.chain().to_pem(),
            two.bundle().to_pem(),
        ];
        std::fs::write(directory.path().join(FILE), text.concat()).unwrap();
        assert!(matches!(
            CredentialDirectory::new(directory.path()).load(),
            Err(DirectoryError::Credentials { .. })
        ));
    }
}
