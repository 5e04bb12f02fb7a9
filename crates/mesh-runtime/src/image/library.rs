//! Which libraries programs need, and where they are: as `ld.so(8)` looks for them; pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use super::elf::Linked;
use super::{ImageError, Machine};

/// A file whose needs are not looked at yet.
struct Waiting {
    /// Where it is on the machine.
    path: PathBuf,
    linked: Linked,
    /// Directories that those who need it want to be looked at: their `rpath`.
    inherited: Vec<PathBuf>,
}

/// The dynamic linkers and libraries of programs, as paths in an image with those on the machine.
pub(super) fn needed<'a>(
    programs: impl Iterator<Item = &'a Path>,
    machine: &dyn Machine,
) -> Result<BTreeMap<PathBuf, PathBuf>, ImageError> {
    let mut found = BTreeMap::<PathBuf, PathBuf>::new();
    let mut libraries = BTreeMap::<String, PathBuf>::new();
    let mut linkers = BTreeSet::new();
    let mut waiting = VecDeque::new();
    for path in programs {
        let linked = machine.linked(path)?.ok_or_else(|| ImageError::NoProgram {
            path: path.to_path_buf(),
        })?;
        if let Some(interpreter) = &linked.interpreter {
            linkers.extend(interpreter.file_name().map(ToOwned::to_owned));
            found.insert(interpreter.clone(), interpreter.clone());
        }
        waiting.push_back(Waiting {
            path: path.to_path_buf(),
            linked,
            inherited: Vec::new(),
        });
    }
    let search = machine.search()?;
    while let Some(file) = waiting.pop_front() {
        let own = directories(&file);
        let mut wanted: Vec<_> = file.linked.needed.iter().map(|it| (it, true)).collect();
        // What the C library opens by itself when it is asked for a name, or ends a thread.
        let extras: Vec<_> = EXTRAS.iter().map(|it| (*it).to_owned()).collect();
        if file.linked.needed.iter().any(|it| it == C_LIBRARY) {
            wanted.extend(extras.iter().map(|it| (it, false)));
        }
        for (name, must) in wanted {
            let is_linker = linkers.iter().any(|it| it.as_os_str() == name.as_str());
            if is_linker || libraries.contains_key(name) {
                continue;
            }
            match look(name, &file, &own, &search, machine)? {
                Some((path, linked)) => {
                    libraries.insert(name.clone(), path.clone());
                    waiting.push_back(Waiting {
                        path,
                        linked,
                        inherited: own.rpath.clone(),
                    });
                }
                None if must => {
                    return Err(ImageError::NoLibrary {
                        library: name.clone(),
                        by: file.path,
                    });
                }
                None => {}
            }
        }
    }
    let directory = libraries
        .iter()
        .find(|(name, _)| name.starts_with("libc."))
        .and_then(|(_, path)| path.parent())
        .unwrap_or_else(|| Path::new("/lib"));
    for (name, path) in &libraries {
        let file = Path::new(name).file_name().unwrap_or_default();
        let place = directory.join(file);
        if let Some(other) = found.insert(place.clone(), path.clone())
            && other != *path
        {
            return Err(ImageError::Twice { path: place });
        }
    }
    Ok(found)
}

/// Where a file itself wants to be looked first.
struct Own {
    /// For it and for what it needs.
    rpath: Vec<PathBuf>,
    /// For it alone.
    runpath: Vec<PathBuf>,
}

fn directories(file: &Waiting) -> Own {
    let origin = file.path.parent().unwrap_or_else(|| Path::new("/"));
    let expand = |paths: &[String]| -> Vec<PathBuf> {
        let origin = origin.display().to_string();
        let paths = paths.iter().map(|path| {
            path.replace("${ORIGIN}", &origin)
                .replace("$ORIGIN", &origin)
        });
        // What is left depends on the processor, and the linker has such names for itself.
        paths
            .filter(|path| !path.contains('$'))
            .map(PathBuf::from)
            .collect()
    };
    let runpath = expand(&file.linked.runpath);
    let mut rpath = Vec::new();
    if runpath.is_empty() {
        rpath = expand(&file.linked.rpath);
        rpath.extend(file.inherited.iter().cloned());
    }
    Own { rpath, runpath }
}

fn look(
    name: &str,
    by: &Waiting,
    own: &Own,
    search: &[PathBuf],
    machine: &dyn Machine,
) -> Result<Option<(PathBuf, Linked)>, ImageError> {
    let directories = own.rpath.iter().chain(&own.runpath).chain(search);
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![name.into()]
    } else {
        directories.map(|directory| directory.join(name)).collect()
    };
    for path in candidates {
        let linked = match machine.linked(&path) {
            Err(ImageError::Read { source, .. })
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            linked => linked?,
        };
        // One for another processor is passed over, as by the linker.
        if let Some(linked) = linked.filter(|it| it.machine == by.linked.machine) {
            return Ok(Some((path, linked)));
        }
    }
    Ok(None)
}

const C_LIBRARY: &str = "libc.so.6";

/// Libraries that the GNU C library opens while it runs: name lookups before version 2.34, and
/// the end of a thread.
const EXTRAS: [&str; 3] = ["libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1"];
