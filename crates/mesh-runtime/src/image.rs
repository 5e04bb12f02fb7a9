//! Images of one layer, put together from programs of this machine: no registry, no build file.
//!
//! What is in an image is decided first, as a [`RootFs`] that can be looked at; then it is packed,
//! always into the same bytes, and handed to a daemon
//! ([`DockerEngine::build`](crate::DockerEngine::build)).
//!
//! ```
//! use std::path::Path;
//! use mesh_runtime::image::{RootFs, Source, ThisMachine};
//!
//! let mut root = RootFs::default();
//! root.file("/etc/hostname", Source::Bytes(b"mesh\n".to_vec()), 0o644)?;
//! let program = std::env::current_exe().unwrap();
//! root.programs(&[("/usr/bin/app", program.as_path())], &ThisMachine)?;
//! assert!(root.entries().count() > 1);
//! # Ok::<(), mesh_runtime::image::ImageError>(())
//! ```

mod archive;
mod elf;
mod library;
mod linker;

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

pub(crate) use self::archive::{digest, fingerprint, pack};
pub use self::elf::{ElfError, Linked};
pub use self::linker::{Machine, ThisMachine};

/// An image that can be made: its files, and what it runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImageSpec {
    /// Repository and tag, as in `mesh:0.1.0`.
    pub name: String,
    /// What its containers run unless told otherwise.
    pub entry_point: Vec<String>,
    /// Its files.
    pub root: RootFs,
}

/// A root file system as it is to be: every file belongs to root and is as old as any other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RootFs {
    entries: BTreeMap<PathBuf, Entry>,
}

/// Something with a path in a root file system.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Entry {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Where its contents are from.
        source: Source,
        /// Permission bits.
        mode: u32,
    },
}

/// Where the contents of a file are from.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// A file of this machine; links are followed.
    Machine(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// Why an image cannot be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file claims to be a program, and is damaged.
    #[error("`{}` is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ElfError,
    },
    /// A file that is to be a program is none that can be looked into.
    #[error("`{}` is not a program of 64 bits, little endian, in the ELF format", path.display())]
    NoProgram {
        /// The file.
        path: PathBuf,
    },
    /// A program needs a library that is in no directory that the linker looks into.
    #[error("library `{library}` is not there, which `{}` needs", by.display())]
    NoLibrary {
        /// The library.
        library: String,
        /// Who needs it.
        by: PathBuf,
    },
    /// Two different files would have one path.
    #[error("`{}` would be two different files", path.display())]
    Twice {
        /// The path in the image.
        path: PathBuf,
    },
    /// A path of an image is not from the root on.
    #[error("`{}` is not an absolute path without `..`", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
}

impl ImageError {
    /// What the operator can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoProgram { .. } => Some("name the program itself, not a script that starts it"),
            Self::NoLibrary { .. } => {
                Some("install it where `ldconfig` looks, or use a static program")
            }
            _ => None,
        }
    }
}

// === impl RootFs ===

impl RootFs {
    /// Everything in it but the directories that only lead to others, by path.
    pub fn entries(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.as_path(), entry))
    }

    /// Adds a directory. Those that lead to it need not be added: they have mode 0755.
    ///
    /// # Errors
    ///
    /// [`ImageError::Path`], and [`ImageError::Twice`] where something else is there.
    pub fn directory(&mut self, path: impl Into<PathBuf>, mode: u32) -> Result<(), ImageError> {
        self.add(path.into(), Entry::Directory { mode })
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// [`ImageError::Path`], and [`ImageError::Twice`] where something else is there.
    pub fn file(
        &mut self,
        path: impl Into<PathBuf>,
        source: Source,
        mode: u32,
    ) -> Result<(), ImageError> {
        self.add(path.into(), Entry::File { source, mode })
    }

    /// Adds programs of a machine, each as its path in the image and its path on the machine, with
    /// the dynamic linker and the libraries that they need; a static program needs none.
    ///
    /// Wherever a library was found, in the image it is in the directory of the C library: there
    /// every linker looks without being told.
    ///
    /// # Errors
    ///
    /// [`ImageError`], by the first file that will not do.
    pub fn programs(
        &mut self,
        programs: &[(&str, &Path)],
        machine: &dyn Machine,
    ) -> Result<(), ImageError> {
        for (path, source) in programs {
            self.file(*path, Source::Machine(source.to_path_buf()), 0o755)?;
        }
        let sources = programs.iter().map(|(_, source)| *source);
        for (path, source) in library::needed(sources, machine)? {
            self.file(path, Source::Machine(source), 0o755)?;
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, entry: Entry) -> Result<(), ImageError> {
        let mut parts = path.components();
        let rooted = parts.next() == Some(Component::RootDir);
        if !rooted || !parts.all(|part| matches!(part, Component::Normal(_))) {
            return Err(ImageError::Path { path });
        }
        match self.entries.get(&path) {
            Some(there) if *there != entry => Err(ImageError::Twice { path }),
            _ => {
                self.entries.insert(path, entry);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
