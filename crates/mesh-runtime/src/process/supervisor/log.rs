//! The log of a unit: one file that is written, one older one, both of limited size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

/// A log that begins anew when it has grown to its limit.
#[derive(Debug)]
pub(super) struct RotatingLog {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
}

/// The file that is written, in the directory of the unit.
pub(crate) const CURRENT: &str = "log";

/// The file that was written before.
pub(crate) const OLDER: &str = "log.1";

/// At this size a log begins anew: enough for a day of a busy service, and twice this is kept.
pub(super) const LIMIT: u64 = 10 * 1024 * 1024;

// === impl RotatingLog ===

impl RotatingLog {
    pub(super) fn open(directory: &Path, limit: u64) -> io::Result<Self> {
        let path = directory.join(CURRENT);
        let file = append_to(&path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            path,
            file,
            length,
            limit,
        })
    }

    /// Writes what a command wrote. Begins anew only at the start of a piece, so that the command
    /// may write lines of any length.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let added = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.length > 0 && self.length.saturating_add(added) > self.limit {
            fs::rename(&self.path, self.path.with_file_name(OLDER))?;
            self.file = append_to(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(bytes)?;
        self.length = self.length.saturating_add(added);
        Ok(())
    }
}

/// Copies until nobody holds the other end. A full disk costs lines, never the command.
pub(super) async fn copy(mut output: pipe::Receiver, mut log: RotatingLog) {
    let mut buffer = vec![0; 64 * 1024];
    let mut failing = false;
    loop {
        let count = match output.read(&mut buffer).await {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) => {
                tracing::error!(%error, "reading the output failed");
                return;
            }
        };
        let written = log.write(buffer.get(..count).unwrap_or_default());
        if let (Err(error), false) = (&written, failing) {
            tracing::error!(%error, "writing the log failed, output is lost");
        }
        failing = written.is_err();
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_begins_anew_at_its_limit_and_keeps_one_older() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = RotatingLog::open(directory.path(), 10).unwrap();
        for piece in ["first\n", "second\n", "third\n"] {
            log.write(piece.as_bytes()).unwrap();
        }
        let read = |name| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read(CURRENT), "third\n");
        assert_eq!(read(OLDER), "second\n");
    }

    #[test]
    fn a_piece_beyond_the_limit_stays_whole_and_opening_again_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        RotatingLog::open(directory.path(), 4)
            .unwrap()
            .write(b"longer")
            .unwrap();
        RotatingLog::open(directory.path(), 64)
            .unwrap()
            .write(b" and more")
            .unwrap();
        let text = fs::read_to_string(directory.path().join(CURRENT)).unwrap();
        assert_eq!(text, "longer and more");
    }
}
