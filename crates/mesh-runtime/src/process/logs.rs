//! Reading the log of a unit: its end, and what is added to it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream;

use super::Engine;
use super::supervisor::log::{CURRENT, OLDER};
use super::watch::{DirectoryWatch, ProcessWatch};
use crate::{LogOptions, LogStream, Name, RuntimeError};

/// The log of a unit that exists.
pub(super) fn stream(
    engine: &Arc<Engine>,
    group: &Name,
    unit: &Name,
    options: LogOptions,
) -> Result<LogStream, RuntimeError> {
    let directory = engine.layout.unit(group, unit);
    let failed = |error| RuntimeError::system(format!("read the log of unit `{unit}`"), error);
    // From here on nothing is missed that is written while the end is being looked for.
    let watch = options
        .follow
        .then(|| DirectoryWatch::of_logs(&directory))
        .transpose()
        .map_err(failed)?;
    let files = open(&directory, options.tail).map_err(failed)?;
    let reader = Reader {
        engine: Arc::clone(engine),
        group: group.clone(),
        unit: unit.clone(),
        directory,
        files,
        watch,
    };
    Ok(Box::pin(stream::try_unfold(reader, |mut reader| async {
        let piece = reader.next().await?;
        Ok(piece.map(|piece| (piece, reader)))
    })))
}

#[derive(Debug)]
struct Reader {
    engine: Arc<Engine>,
    group: Name,
    unit: Name,
    directory: PathBuf,
    /// What is still to be read; the last one may grow.
    files: VecDeque<File>,
    watch: Option<DirectoryWatch>,
}

// === impl Reader ===

impl Reader {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, RuntimeError> {
        let (unit, mut last_look) = (self.unit.clone(), false);
        let failed = |error| RuntimeError::system(format!("read the log of unit `{unit}`"), error);
        loop {
            if let Some(piece) = self.piece().map_err(failed)? {
                return Ok(Some(piece));
            }
            let Some(watch) = &mut self.watch else {
                return Ok(None);
            };
            if last_look {
                return Ok(None);
            }
            let status = self.engine.status_record(&self.group, &self.unit)?;
            match status.filter(|status| status.supervisor.is_alive()) {
                Some(status) => {
                    let supervisor = ProcessWatch::new(&status.supervisor).map_err(failed)?;
                    tokio::select! {
                        changed = watch.changed() => changed.map_err(failed)?,
                        ended = supervisor.ended() => ended.map_err(failed)?,
                    }
                }
                // Nobody writes any more, but somebody may have since we read.
                None => last_look = true,
            }
        }
    }

    /// The next bytes that are there, across the files.
    fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let current = self.current()?;
            let Some(file) = self.files.front_mut() else {
                let Some(current) = current else {
                    return Ok(None);
                };
                self.files.push_back(current);
                continue;
            };
            let mut piece = vec![0; 64 * 1024];
            let count = file.read(&mut piece)?;
            if count > 0 {
                piece.truncate(count);
                return Ok(Some(piece));
            }
            // At the end of an older file, there is a newer one; it was there before this read.
            let ended = match (&current, self.files.len()) {
                (_, 2..) => true,
                (Some(current), _) => inode(current)? != inode(file_of(&self.files)?)?,
                (None, _) => false,
            };
            if !ended {
                return Ok(None);
            }
            self.files.pop_front();
        }
    }

    fn current(&self) -> io::Result<Option<File>> {
        if self.files.len() > 1 {
            return Ok(None);
        }
        open_if_there(&self.directory.join(CURRENT))
    }
}

fn file_of(files: &VecDeque<File>) -> io::Result<&File> {
    let gone = || io::Error::other("no file of the log is open");
    files.front().ok_or_else(gone)
}

fn inode(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.ino())
}

/// The files of a log, each at the place from which it is to be read.
fn open(directory: &Path, tail: Option<usize>) -> io::Result<VecDeque<File>> {
    let mut files = VecDeque::new();
    let mut wanted = tail;
    for name in [CURRENT, OLDER] {
        if wanted == Some(0) && name == OLDER {
            break;
        }
        let Some(mut file) = open_if_there(&directory.join(name))? else {
            continue;
        };
        if let Some(lines) = &mut wanted {
            let (offset, found) = last_lines(&file, *lines)?;
            file.seek(SeekFrom::Start(offset))?;
            *lines -= found;
        }
        files.push_front(file);
    }
    Ok(files)
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the last lines of a file begin, and how many those are: at most so many.
///
/// A last line without its end counts as one.
fn last_lines(file: &File, lines: usize) -> io::Result<(u64, usize)> {
    let length = file.metadata()?.len();
    if lines == 0 || length == 0 {
        return Ok((length, 0));
    }
    let mut found = 0;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(64 * 1024);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or_default()];
        file.read_exact_at(&mut block, start)?;
        for (after, byte) in (start + 1..)
            .zip(&block)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            // The end of the last line is not the beginning of one more.
            if *byte == b'\n' && after < length {
                found += 1;
                if found == lines {
                    return Ok((after, found));
                }
            }
        }
        end = start;
    }
    Ok((0, found + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(files: VecDeque<File>) -> String {
        let mut text = String::new();
        for mut file in files {
            file.read_to_string(&mut text).unwrap();
        }
        text
    }

    #[test]
    fn the_tail_reaches_into_the_older_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::write(path.join(OLDER), "1\n2\n3\n").unwrap();
        std::fs::write(path.join(CURRENT), "4\n5").unwrap();
        assert_eq!(read(open(path, Some(3)).unwrap()), "3\n4\n5");
        assert_eq!(read(open(path, Some(2)).unwrap()), "4\n5");
        assert_eq!(read(open(path, Some(0)).unwrap()), "");
        assert_eq!(read(open(path, Some(9)).unwrap()), "1\n2\n3\n4\n5");
        assert_eq!(read(open(path, None).unwrap()), "1\n2\n3\n4\n5");
    }

    proptest! {
        #[test]
        fn the_tail_is_the_last_lines(text in "[a\n]{0,40}", lines in 0_usize..8) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path();
            std::fs::write(path.join(CURRENT), &text).unwrap();
            let all: Vec<&str> = text.split_inclusive('\n').collect();
            let last = all.get(all.len().saturating_sub(lines)..).unwrap().concat();
            prop_assert_eq!(read(open(path, Some(lines)).unwrap()), last);
        }
    }
}
