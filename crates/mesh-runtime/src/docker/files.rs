//! Files of units: those below the group's directory are on the host and mounted, so that units
//! share them; all others are put into the unit's own container.

use std::io;
use std::path::Path;

use bollard::query_parameters::UploadToContainerOptions;
use bytes::Bytes;

use super::{Engine, blocking};
use crate::process::files::Home;
use crate::process::record;
use crate::{Name, RuntimeError, UnitSpec};

impl Engine {
    /// Writes what belongs below the directory of the group.
    pub(super) async fn write_shared(
        &self,
        directory: &Path,
        spec: &UnitSpec,
    ) -> Result<(), RuntimeError> {
        let (home, spec) = (directory.to_path_buf(), spec.clone());
        blocking(move || {
            record::make_directory(&home)?;
            let opened = Home::open(&home)?;
            for directory in spec
                .directories
                .iter()
                .filter(|it| it.path.starts_with(&home))
            {
                opened.make_directory(directory)?;
            }
            for file in spec.files.iter().filter(|it| it.path.starts_with(&home)) {
                opened.write(file)?;
            }
            Ok(())
        })
        .await
    }

    /// Puts all else into the container.
    pub(super) async fn upload(
        &self,
        container: &str,
        unit: &Name,
        directory: &Path,
        spec: &UnitSpec,
    ) -> Result<(), RuntimeError> {
        let archive = archive(spec, directory).map_err(|error| {
            RuntimeError::system(format!("pack the files of unit `{unit}`"), error)
        })?;
        let Some(archive) = archive else {
            return Ok(());
        };
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..UploadToContainerOptions::default()
        };
        let body = bollard::body_full(Bytes::from(archive));
        self.daemon
            .api
            .upload_to_container(container, Some(options), body)
            .await
            .map_err(|error| {
                self.daemon
                    .failed(format!("write the files of unit `{unit}`"), error)
            })
    }
}

/// Whether a unit has anything below the directory of its group.
pub(super) fn shares(spec: &UnitSpec, directory: &Path) -> bool {
    let directories = spec.directories.iter().map(|it| &it.path);
    let mut paths = directories.chain(spec.files.iter().map(|it| &it.path));
    paths.any(|path| path.starts_with(directory))
}

/// What is not below the directory of the group, as a tar archive from `/` on; none if that is
/// nothing.
fn archive(spec: &UnitSpec, except: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut any = false;
    let own = |path: &Path| !path.starts_with(except);
    for directory in spec.directories.iter().filter(|it| own(&it.path)) {
        let mut header = header(directory.mode, directory.uid, directory.gid);
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, relative(&directory.path), io::empty())?;
        any = true;
    }
    for file in spec.files.iter().filter(|it| own(&it.path)) {
        let contents = &file.contents.0;
        let mut header = header(file.mode, file.uid, file.gid);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(u64::try_from(contents.len()).map_err(io::Error::other)?);
        archive.append_data(&mut header, relative(&file.path), contents.as_slice())?;
        any = true;
    }
    let packed = archive.into_inner()?;
    Ok(any.then_some(packed))
}

fn header(mode: u32, uid: u32, gid: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(mode);
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    header
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Contents, FileSpec};

    #[test]
    fn only_what_is_outside_the_groups_directory_is_packed() {
        let mut unit = UnitSpec::new("app".parse().unwrap(), ["true"]);
        let file = |path: &str| FileSpec {
            path: path.into(),
            contents: Contents(b"x".to_vec()),
            mode: 0o640,
            uid: 7,
            gid: 8,
        };
        let shared = Path::new("/var/lib/mesh/g/files");
        unit.files = vec![file("/var/lib/mesh/g/files/a")];
        assert!(shares(&unit, shared));
        assert_eq!(archive(&unit, shared).unwrap(), None);
        unit.files.push(file("/etc/app.conf"));
        let packed = archive(&unit, shared).unwrap().unwrap();
        let mut archive = tar::Archive::new(packed.as_slice());
        let entries: Vec<_> = archive.entries().unwrap().map(Result::unwrap).collect();
        assert_eq!(entries.len(), 1);
        let header = entries[0].header();
        assert_eq!(entries[0].path().unwrap(), Path::new("etc/app.conf"));
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        assert_eq!((header.mode().unwrap(), owner), (0o640, (7, 8)));
    }
}
