//! The files of first trust: read whole, and written whole or not at all.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::BootstrapError;

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, BootstrapError> {
    fs::read_to_string(path).map_err(|source| BootstrapError::File {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file whole or not at all, readable by nobody else before its mode is set.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), BootstrapError> {
    let failed = |source| BootstrapError::File {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
        if parent.file_name().is_some_and(|name| name == "pki") {
            fs::set_permissions(parent, Permissions::from_mode(0o700)).map_err(failed)?;
        }
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}
