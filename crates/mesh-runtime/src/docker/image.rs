//! Images of the Docker engine: pulled, or imported from a root file system; and that of the pause
//! program.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use bollard::query_parameters::{CreateImageOptions, ListImagesOptions, RemoveImageOptions};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;

use super::daemon::{found, status};
use super::{Engine, pause};
use crate::RuntimeError;

/// How far a pull or an import has come.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// The layer that it is about, if it is about one.
    pub layer: Option<String>,
    /// What is done with it, in words.
    pub step: String,
    /// How many bytes are done, where that is known.
    pub done: Option<u64>,
    /// Of how many, where that is known.
    pub total: Option<u64>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layer) = &self.layer {
            write!(f, "{layer}: ")?;
        }
        f.write_str(&self.step)?;
        match (self.done, self.total) {
            (Some(done), Some(total)) => write!(f, ", {done} of {total} bytes"),
            (Some(done), None) => write!(f, ", {done} bytes"),
            _ => Ok(()),
        }
    }
}

/// What an image says of the containers that run in it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ImageFacts {
    /// Its user, as in `1000:1000` or `www-data`; root when empty.
    pub user: String,
    /// Where its command starts.
    pub working_directory: PathBuf,
    /// Its entry point with the arguments that it gets by default.
    pub command: Vec<String>,
}

// === impl Engine ===

impl Engine {
    pub(super) async fn pull(
        &self,
        image: &str,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), RuntimeError> {
        let options = CreateImageOptions {
            from_image: Some(tagged(image)),
            ..CreateImageOptions::default()
        };
        let steps = self.daemon.api.create_image(Some(options), None, None);
        self.follow(steps, format!("pull image `{image}`"), progress)
            .await
    }

    pub(super) async fn import(
        &self,
        image: &str,
        directory: PathBuf,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), RuntimeError> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let packing = tokio::task::spawn_blocking(move || {
            let mut archive = tar::Builder::new(Pieces { sender });
            archive.follow_symlinks(false);
            archive.append_dir_all(".", &directory)?;
            archive.into_inner()?.flush()
        });
        let pieces = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        let changes = self.changes("image");
        let imported = self.import_archive(image, pieces, changes, progress).await;
        // It ends by itself: with its last piece, or when nobody takes them.
        let packed = packing.await.map_err(io::Error::other).and_then(|it| it);
        match (imported, packed) {
            // The daemon stopped taking, and says why; or it took an archive without its end.
            (Err(error), Err(broken)) if broken.kind() == io::ErrorKind::BrokenPipe => Err(error),
            (_, Err(error)) => {
                self.forget_image(image).await?;
                let action = format!("pack the root file system of image `{image}`");
                Err(RuntimeError::system(action, error))
            }
            (imported, Ok(())) => imported,
        }
    }

    /// By its labels an image is found again.
    pub(super) fn changes(&self, kind: &str) -> Vec<String> {
        let labels = self.names.labels(kind);
        let labels = labels.iter();
        labels
            .map(|(key, value)| format!("LABEL {key}={value}"))
            .collect()
    }

    pub(super) async fn import_archive(
        &self,
        image: &str,
        pieces: impl Stream<Item = Bytes> + Send + 'static,
        changes: Vec<String>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), RuntimeError> {
        let (repository, tag) = split(image);
        // Podman 4 does not look at the tag when it imports.
        let (repository, tag) = if self.daemon.is_podman {
            (format!("{repository}:{tag}"), None)
        } else {
            (repository.to_owned(), Some(tag.to_owned()))
        };
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(repository),
            tag,
            changes,
            ..CreateImageOptions::default()
        };
        let body = bollard::body_stream(pieces);
        let steps = self
            .daemon
            .api
            .create_image(Some(options), Some(body), None);
        self.follow(steps, format!("import image `{image}`"), progress)
            .await
    }

    async fn follow(
        &self,
        steps: impl Stream<Item = Result<bollard::models::CreateImageInfo, bollard::errors::Error>>,
        action: String,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), RuntimeError> {
        let mut steps = Box::pin(steps);
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| self.daemon.failed(action.clone(), error))?;
            if let Some(error) = step.error_detail.and_then(|detail| detail.message) {
                let error = bollard::errors::Error::DockerStreamError { error };
                return Err(self.daemon.failed(action, error));
            }
            let bytes = step.progress_detail.unwrap_or_default();
            let known = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok());
            progress(Progress {
                layer: step.id,
                step: step.status.unwrap_or_default(),
                done: known(bytes.current),
                total: known(bytes.total),
            });
        }
        Ok(())
    }

    /// What an image says; none if it is not there.
    pub(super) async fn image(&self, image: &str) -> Result<Option<ImageFacts>, RuntimeError> {
        let looked = self.daemon.api.inspect_image(image).await;
        let there = found(looked).map_err(|error| {
            self.daemon
                .failed(format!("look at image `{image}`"), error)
        })?;
        Ok(there.map(|there| {
            let config = there.config.unwrap_or_default();
            let directory = config.working_dir.filter(|it| !it.is_empty());
            let mut command = config.entrypoint.unwrap_or_default();
            command.extend(config.cmd.unwrap_or_default());
            ImageFacts {
                user: config.user.unwrap_or_default(),
                working_directory: directory.unwrap_or_else(|| "/".to_owned()).into(),
                command,
            }
        }))
    }

    /// Makes the image of pause containers, unless it is there.
    pub(super) async fn ensure_pause_image(&self) -> Result<(), RuntimeError> {
        let image = self.names.pause_image();
        let looked = self.daemon.api.inspect_image(&image).await;
        let there = found(looked).map_err(|error| {
            self.daemon
                .failed(format!("look at image `{image}`"), error)
        })?;
        if there.is_some() {
            return Ok(());
        }
        let architecture = &self.daemon.architecture;
        let program = pause::program(architecture).ok_or_else(|| RuntimeError::Unsupported {
            engine: "Docker",
            what: format!("pause program for processors `{architecture}`"),
        })?;
        let packed = pause_archive(&program)
            .map_err(|error| RuntimeError::system("pack the pause program", error))?;
        let pieces = stream::iter([Bytes::from(packed)]);
        let changes = self.changes("image");
        self.import_archive(&image, pieces, changes, &mut |_| {})
            .await
    }

    /// Removes all images that the engine imported.
    pub(super) async fn remove_images(&self) -> Result<(), RuntimeError> {
        if self.daemon.is_podman {
            // What podman imports is not found by its labels, and this one has the owner's name.
            self.forget_image(&self.names.pause_image()).await?;
        }
        let options = ListImagesOptions {
            all: true,
            filters: Some(self.names.filter("image")),
            ..ListImagesOptions::default()
        };
        let listed = self.daemon.api.list_images(Some(options)).await;
        let listed = listed.map_err(|error| self.daemon.failed("list images", error))?;
        for image in listed {
            self.forget_image(&image.id).await?;
        }
        Ok(())
    }

    pub(super) async fn forget_image(&self, image: &str) -> Result<(), RuntimeError> {
        let options = RemoveImageOptions {
            force: true,
            ..RemoveImageOptions::default()
        };
        let removed = self
            .daemon
            .api
            .remove_image(image, Some(options), None)
            .await;
        match removed {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(self.daemon.failed(format!("remove image `{image}`"), error)),
        }
    }
}

/// The root file system of a pause container.
fn pause_archive(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o755);
    header.set_size(u64::try_from(program.len()).map_err(io::Error::other)?);
    archive.append_data(&mut header, PAUSE, program)?;
    archive.into_inner()
}

/// The pause program in its image.
pub(super) const PAUSE: &str = "pause";

/// Hands an archive over in pieces, while it is made.
pub(super) struct Pieces {
    pub(super) sender: mpsc::Sender<Bytes>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        match self.sender.blocking_send(piece) {
            Ok(()) => Ok(bytes.len()),
            Err(_nobody_takes_it) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How many pieces of an archive wait for the daemon.
pub(super) const PIECES: usize = 64;

/// An image with a tag or a digest. Without one, the daemon would pull all there are.
fn tagged(image: &str) -> String {
    if image.contains('@') {
        return image.to_owned();
    }
    let (repository, tag) = split(image);
    format!("{repository}:{tag}")
}

/// Repository and tag. A `:` before the last `/` belongs to the port of a registry.
pub(super) fn split(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_pulled_with_one_tag() {
        for (image, expected) in [
            ("nginx", "nginx:latest"),
            ("nginx:1.28", "nginx:1.28"),
            ("localhost:5000/web", "localhost:5000/web:latest"),
            ("localhost:5000/web:1", "localhost:5000/web:1"),
            ("web@sha256:00", "web@sha256:00"),
        ] {
            assert_eq!(tagged(image), expected);
        }
    }
}
