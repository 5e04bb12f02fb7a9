//! Files of units, written by root into directories that others may own.
//!
//! Whoever owns a directory can put a symbolic link into it at any time. So nothing here follows
//! one: every path is opened from the group's own directory downwards, part by part, by the kernel.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, fchmod, fchown, mkdirat, openat, openat2, renameat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::{Capability, DirectorySpec, FileSpec, RuntimeError, UnitSpec};

/// The directory of a group's files, held open.
#[derive(Debug)]
pub(crate) struct Home<'a> {
    path: &'a Path,
    directory: OwnedFd,
}

// === impl Home ===

impl<'a> Home<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self, RuntimeError> {
        let directory = openat(CWD, path, DIRECTORY, Mode::empty())
            .map_err(|error| RuntimeError::system(format!("open `{}`", path.display()), error))?;
        Ok(Self { path, directory })
    }

    /// Makes a directory, or gives one that is there its mode and owner.
    pub(crate) fn make_directory(&self, spec: &DirectorySpec) -> Result<(), RuntimeError> {
        let below = self.below(&spec.path)?;
        self.pass_through(below)
            .and_then(|directory| settle(&directory, spec.mode, spec.uid, spec.gid))
            .map_err(|error| RuntimeError::system(format!("make `{}`", spec.path.display()), error))
    }

    /// Writes a file beside its place and moves it there, with mode and owner from the beginning.
    pub(crate) fn write(&self, spec: &FileSpec) -> Result<(), RuntimeError> {
        let below = self.below(&spec.path)?;
        let failed = |error: io::Error| {
            RuntimeError::system(format!("write `{}`", spec.path.display()), error)
        };
        let name = below
            .file_name()
            .ok_or_else(|| failed(Errno::INVAL.into()))?;
        let temporary = PathBuf::from(format!(".{}.new", name.to_string_lossy()));
        let written = (|| {
            let parent = self.pass_through(below.parent().unwrap_or_else(|| Path::new("")))?;
            match unlinkat(&parent, &temporary, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            // Exclusive: what is there in the meantime, a link too, is an error.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(&parent, &temporary, flags, Mode::from_raw_mode(0o600))?;
            settle(&file, spec.mode, spec.uid, spec.gid)?;
            File::from(file).write_all(&spec.contents.0)?;
            Ok(renameat(&parent, &temporary, &parent, Path::new(name))?)
        })();
        written.map_err(failed)
    }

    /// The part of a path below this directory.
    fn below<'b>(&self, path: &'b Path) -> Result<&'b Path, RuntimeError> {
        match path.strip_prefix(self.path) {
            Ok(below) if below != Path::new("") => Ok(below),
            _ => Err(RuntimeError::Outside {
                path: path.to_path_buf(),
                directory: self.path.to_path_buf(),
            }),
        }
    }

    /// Opens a directory below, and makes those on the way that are not there.
    fn pass_through(&self, below: &Path) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let mut directory = self.directory.try_clone()?;
        for part in below.components() {
            let part = Path::new(part.as_os_str());
            // Passed through by everybody, listed by root alone.
            match mkdirat(&directory, part, Mode::from_raw_mode(0o711)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            directory = openat2(&directory, part, DIRECTORY, Mode::empty(), resolve)?;
        }
        Ok(directory)
    }
}

/// Whether the user of a unit can get at its files and at its program.
pub(super) fn check_reach(home: &Path, unit: &UnitSpec) -> Result<(), RuntimeError> {
    let passes_everywhere = [Capability::DacOverride, Capability::DacReadSearch]
        .iter()
        .any(|it| unit.capabilities.contains(it));
    if passes_everywhere {
        return Ok(());
    }
    if !unit.files.is_empty() || !unit.directories.is_empty() {
        pass(home.ancestors(), unit)?;
    }
    match unit.command.first().map(Path::new) {
        // Whether the program is there is for the supervisor to say.
        Some(program) if program.is_absolute() => pass(program.ancestors().skip(1), unit),
        _ => Ok(()),
    }
}

fn pass<'a>(
    directories: impl Iterator<Item = &'a Path>,
    unit: &UnitSpec,
) -> Result<(), RuntimeError> {
    for directory in directories {
        let metadata = match std::fs::metadata(directory) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                let action = format!("look at `{}`", directory.display());
                return Err(RuntimeError::system(action, error));
            }
        };
        let bit = if metadata.uid() == unit.uid {
            0o100
        } else if metadata.gid() == unit.gid {
            0o010
        } else {
            0o001
        };
        if metadata.mode() & bit == 0 {
            return Err(RuntimeError::Unreachable {
                uid: unit.uid,
                directory: directory.to_path_buf(),
                mode: metadata.mode() & 0o7777,
            });
        }
    }
    Ok(())
}

fn settle(file: &OwnedFd, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(fchmod(file, Mode::from_raw_mode(mode))?)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
