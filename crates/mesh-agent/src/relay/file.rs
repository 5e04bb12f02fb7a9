//! The accepted configuration on disk: read once at the start, replaced whole when it changed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use tracing::{info, warn};

use super::accepted::Accepted;
use crate::file::write_private;

/// More than the configuration of a sidecar among ten thousand services.
const MAX_LENGTH: u64 = 64 << 20;

/// What was accepted before this start; nothing if there is no file or none that can be used.
pub(super) fn load(path: &Path, owner: &str) -> Accepted {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Accepted::default(),
        Err(error) => {
            warn!(path = %path.display(), %error, "the accepted configuration cannot be read");
            return Accepted::default();
        }
    };
    match Accepted::decode(owner, &bytes) {
        Ok(accepted) => {
            info!(bytes = bytes.len(), "the accepted configuration was found");
            accepted
        }
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            warn!(path = %path.display(), error, "the accepted configuration is not used");
            Accepted::default()
        }
    }
}

/// Replaces the file, so that a reader finds the old or the new one, whole.
pub(super) fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() as u64 > MAX_LENGTH {
        let what = format!("{} bytes are more than the {MAX_LENGTH} kept", bytes.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    write_private(path, bytes)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_LENGTH {
        let what = format!("it is longer than {MAX_LENGTH} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accepted.bin");
        assert_eq!(load(&path, "x"), Accepted::default());
        save(&path, &Accepted::default().encode("x")).unwrap();
        assert_eq!(load(&path, "x"), Accepted::default());
        save(&path, b"damaged").unwrap();
        assert_eq!(load(&path, "x"), Accepted::default());
    }
}
