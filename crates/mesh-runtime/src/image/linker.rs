//! The machine as the dynamic linker sees it: its files, and the directories of `ld.so.conf`.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::ImageError;
use super::elf::{self, Linked};

/// What must be known of a machine to find the libraries of its programs.
pub trait Machine: fmt::Debug {
    /// What a file tells the dynamic linker; nothing if it is no program or library of 64 bits,
    /// little endian.
    ///
    /// # Errors
    ///
    /// [`ImageError::Read`], and [`ImageError::Damaged`].
    fn linked(&self, path: &Path) -> Result<Option<Linked>, ImageError>;

    /// The directories in which the linker looks for all programs, in this order.
    ///
    /// # Errors
    ///
    /// [`ImageError::Read`].
    fn search(&self) -> Result<Vec<PathBuf>, ImageError>;
}

/// The machine that this program runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisMachine;

/// A line of `ld.so.conf`.
#[derive(Debug, Eq, PartialEq)]
enum Line {
    Directory(PathBuf),
    /// Other files of the same form; the last part of the path may be a pattern.
    Include(PathBuf),
}

impl Machine for ThisMachine {
    fn linked(&self, path: &Path) -> Result<Option<Linked>, ImageError> {
        let failed = |source| ImageError::Read {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Ok(None);
        }
        // By parts: a program may be hundreds of megabytes.
        let mut read = |offset, size| {
            let mut bytes = vec![0; size];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes)
        };
        elf::read(&mut read).map_err(|source| ImageError::Damaged {
            path: path.to_path_buf(),
            source,
        })
    }

    /// What `ld.so.cache` is made of: it is only faster, so it is not read.
    fn search(&self) -> Result<Vec<PathBuf>, ImageError> {
        let mut directories = Vec::new();
        configured(Path::new(CONFIGURATION), &mut directories, 0)?;
        directories.extend(TRUSTED.iter().map(PathBuf::from));
        Ok(directories)
    }
}

fn configured(file: &Path, directories: &mut Vec<PathBuf>, depth: usize) -> Result<(), ImageError> {
    let failed = |source| ImageError::Read {
        path: file.to_path_buf(),
        source,
    };
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        // Not every C library has one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for line in lines(&text, file.parent().unwrap_or_else(|| Path::new("/"))) {
        match line {
            Line::Directory(directory) => directories.push(directory),
            // A file that includes itself is not read for ever.
            Line::Include(_) if depth >= MOST_INCLUDES => {}
            Line::Include(pattern) => {
                for included in matching(&pattern).map_err(failed)? {
                    configured(&included, directories, depth + 1)?;
                }
            }
        }
    }
    Ok(())
}

/// The lines of a file in this directory. Source: `ldconfig(8)`.
fn lines(text: &str, directory: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let words = |text: &str| -> Vec<String> {
            let separators = |it: char| it.is_whitespace() || it == ',' || it == ':';
            let words = text.split(separators).filter(|it| !it.is_empty());
            words.map(str::to_owned).collect()
        };
        match line.split_once(char::is_whitespace) {
            Some(("include", patterns)) => lines.extend(
                patterns
                    .split_whitespace()
                    .map(|pattern| Line::Include(directory.join(pattern))),
            ),
            // Of other capabilities of the processor, which the linker asks for by itself.
            Some(("hwcap", _)) => {}
            _ => lines.extend(
                words(line)
                    .into_iter()
                    .filter(|it| it.starts_with('/'))
                    .map(|it| Line::Directory(it.into())),
            ),
        }
    }
    lines
}

/// The files that a pattern in the last part of a path stands for, sorted.
fn matching(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name()) else {
        return Ok(Vec::new());
    };
    let name = name.to_string_lossy();
    if !name.contains('*') {
        return Ok(vec![pattern.to_path_buf()]);
    }
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if is_like(&entry.file_name().to_string_lossy(), &name) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name is as a pattern has it, in which `*` is any text.
fn is_like(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter()
                .any(|at| rest.get(at..).is_some_and(|rest| is_like(rest, after)))
        }),
    }
}

/// Where the linker is told more directories.
const CONFIGURATION: &str = "/etc/ld.so.conf";
/// How deep files may include others.
const MOST_INCLUDES: usize = 8;
/// Where every linker looks in the end. Source: `ld.so(8)`.
const TRUSTED: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_further_files_are_read_in_order() {
        let text = "# first\ninclude ld.so.conf.d/*.conf\n/opt/a/lib, /opt/b # why\n\nhwcap 1 x\n";
        assert_eq!(
            lines(text, Path::new("/etc")),
            [
                Line::Include("/etc/ld.so.conf.d/*.conf".into()),
                Line::Directory("/opt/a/lib".into()),
                Line::Directory("/opt/b".into()),
            ]
        );
    }

    #[test]
    fn a_file_that_includes_itself_ends() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("self.conf");
        fs::write(&file, "include *.conf\n/opt/lib\n").unwrap();
        let mut directories = Vec::new();
        configured(&file, &mut directories, 0).unwrap();
        assert!(directories.iter().all(|it| it == Path::new("/opt/lib")));
        assert!(!directories.is_empty());
    }

    #[test]
    fn a_star_is_any_text() {
        for (name, pattern, like) in [
            ("a.conf", "*.conf", true),
            ("a.conf.old", "*.conf", false),
            ("ab", "a*b", true),
            ("abab", "a*ab", true),
            ("a", "b", false),
        ] {
            assert_eq!(is_like(name, pattern), like, "{name} {pattern}");
        }
    }
}
