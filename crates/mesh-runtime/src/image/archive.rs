//! A root file system as a tar archive: the same files make the same bytes, whenever and by
//! whomever it is packed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::{Entry, RootFs, Source};

/// Packs a root file system, and tells the digest of what was written.
pub(crate) fn pack<W: Write>(root: &RootFs, out: W) -> io::Result<(u128, W)> {
    let mut archive = tar::Builder::new(Digesting {
        out,
        digest: Xxh3::new(),
    });
    let mut there = BTreeSet::new();
    for (path, entry) in root.entries() {
        for parent in leading(path) {
            if there.insert(parent.clone()) {
                let mode = match root.entries.get(&parent) {
                    Some(Entry::Directory { mode }) => *mode,
                    _ => 0o755,
                };
                append_directory(&mut archive, &parent, mode)?;
            }
        }
        match entry {
            Entry::Directory { mode } => {
                if there.insert(path.to_path_buf()) {
                    append_directory(&mut archive, path, *mode)?;
                }
            }
            Entry::File { source, mode } => append_file(&mut archive, path, source, *mode)?,
        }
    }
    let mut written = archive.into_inner()?;
    written.flush()?;
    Ok((written.digest.digest128(), written.out))
}

/// The digest of a root file system as it is packed.
pub(crate) fn digest(root: &RootFs) -> io::Result<u128> {
    pack(root, io::sink()).map(|(digest, _)| digest)
}

/// What says without reading them that files are those of before: where each is from, and when it was
/// changed as the kernel tells it, which nobody can set back.
pub(crate) fn fingerprint(root: &RootFs) -> io::Result<u128> {
    let mut digest = Xxh3::new();
    let mut take = |part: &[u8]| {
        // With its length, so that no two lists of parts are one text.
        digest.update(&part.len().to_le_bytes());
        digest.update(part);
    };
    for (path, entry) in root.entries() {
        take(path.as_os_str().as_encoded_bytes());
        match entry {
            Entry::Directory { mode } => take(&mode.to_le_bytes()),
            Entry::File { source, mode } => {
                take(&mode.to_le_bytes());
                match source {
                    Source::Bytes(bytes) => take(bytes),
                    Source::Machine(from) => {
                        let it = std::fs::metadata(from)?;
                        take(from.as_os_str().as_encoded_bytes());
                        take(
                            &[it.dev(), it.ino(), it.size()]
                                .map(u64::to_le_bytes)
                                .concat(),
                        );
                        let changed = [it.ctime(), it.ctime_nsec(), it.mtime(), it.mtime_nsec()];
                        take(&changed.map(i64::to_le_bytes).concat());
                    }
                }
            }
        }
    }
    Ok(digest.digest128())
}

/// The directories that lead to a path, without the root.
fn leading(path: &Path) -> Vec<PathBuf> {
    let mut parents: Vec<_> = path.ancestors().skip(1).map(Path::to_path_buf).collect();
    parents.retain(|it| it != Path::new("/"));
    parents.reverse();
    parents
}

fn append_directory<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    mode: u32,
) -> io::Result<()> {
    let mut header = header(mode, 0);
    header.set_entry_type(tar::EntryType::Directory);
    archive.append_data(&mut header, relative(path), io::empty())
}

fn append_file<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    source: &Source,
    mode: u32,
) -> io::Result<()> {
    match source {
        Source::Bytes(bytes) => {
            let size = u64::try_from(bytes.len()).map_err(io::Error::other)?;
            archive.append_data(&mut header(mode, size), relative(path), bytes.as_slice())
        }
        Source::Machine(from) => {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", from.display()))
            };
            let file = File::open(from).map_err(named)?;
            let size = file.metadata().map_err(named)?.len();
            // One that grows meanwhile would write over the header of the next.
            let mut piece = file.take(size);
            archive.append_data(&mut header(mode, size), relative(path), &mut piece)?;
            if piece.limit() == 0 {
                Ok(())
            } else {
                let became = format!("{} became shorter while it was read", from.display());
                Err(io::Error::other(became))
            }
        }
    }
}

/// Nobody's time and root's ownership: both would differ from machine to machine.
fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Hands on what is written, and digests it.
///
/// The digest is to notice what changed, not who changed it: layers have the daemon's own.
struct Digesting<W> {
    out: W,
    digest: Xxh3,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
