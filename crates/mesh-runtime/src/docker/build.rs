//! Images that are put together from this machine's files, and kept until they differ.

use std::collections::HashMap;
use std::io::{self, BufWriter};

use bollard::query_parameters::{ListImagesOptions, RemoveImageOptions, TagImageOptions};
use futures_util::stream;
use tokio::sync::mpsc;

use super::daemon::{found, status};
use super::image::{PIECES, Pieces, Progress, split};
use super::label::Names;
use super::{Engine, blocking, label};
use crate::image::{ImageSpec, digest, fingerprint, pack};
use crate::{Creation, RuntimeError};

/// An image that is there.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct BuiltImage {
    /// Its name with its content in the tag, as in `mesh:0.1.0-5f3a…`: always the same image.
    pub name: String,
    /// The daemon's id of it.
    pub id: String,
    /// Whether it had to be made.
    pub creation: Creation,
    /// The size of its files in bytes, as the daemon counts.
    pub bytes: u64,
}

/// What tells an image from every other: its files and what it runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Content {
    /// The name with the content in the tag.
    pub(super) name: String,
    /// The whole digest, which is a label.
    pub(super) mark: String,
}

// === impl Content ===

impl Content {
    /// That of an image whose files have this digest.
    pub(super) fn new(spec: &ImageSpec, files: u128) -> Self {
        let entry_point = serde_json::json!(spec.entry_point).to_string();
        let seed = u64::try_from(files & u128::from(u64::MAX)).unwrap_or_default();
        let all = xxhash_rust::xxh3::xxh3_128_with_seed(entry_point.as_bytes(), seed) ^ files;
        let (repository, tag) = split(&spec.name);
        Self {
            name: format!("{repository}:{tag}-{:012x}", all >> 80),
            mark: format!("{all:032x}"),
        }
    }

    /// By these an image is found again.
    pub(super) fn labels(&self, names: &Names) -> HashMap<String, String> {
        let mut labels = names.labels("built");
        labels.insert(label::CONTENT.to_owned(), self.mark.clone());
        labels
    }
}

// === impl Engine ===

impl Engine {
    pub(super) fn can_build(&self) -> Result<(), RuntimeError> {
        if !self.daemon.is_podman {
            return Ok(());
        }
        Err(RuntimeError::Unsupported {
            engine: "Docker",
            what: "images built on podman: what podman imports cannot carry its labels".to_owned(),
        })
    }

    pub(super) async fn build(
        &self,
        spec: &ImageSpec,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<BuiltImage, RuntimeError> {
        self.can_build()?;
        let (repository, tag) = split(&spec.name);
        let content = self.content(spec, repository).await?;
        let Content { name, mark } = Content::new(spec, content);
        let there = self.find_built(&name, &mark).await?;
        let (id, bytes, creation) = if let Some((id, bytes)) = there {
            (id, bytes, Creation::Exists)
        } else {
            let mut changes = self.changes("built");
            changes.push(format!("LABEL {}={mark}", label::CONTENT));
            let entry_point = serde_json::json!(spec.entry_point);
            changes.push(format!("ENTRYPOINT {entry_point}"));
            changes.push(format!("ENV {ENVIRONMENT}"));
            self.import_root(&name, spec, content, changes, progress)
                .await?;
            let (id, bytes) = self.find_built(&name, &mark).await?.ok_or_else(|| {
                let gone = io::Error::other("it is gone again");
                RuntimeError::system(format!("make image `{name}`"), gone)
            })?;
            (id, bytes, Creation::Created)
        };
        self.tag(&name, repository, tag).await?;
        self.forget_older(repository, &id).await?;
        Ok(BuiltImage {
            name,
            id,
            creation,
            bytes,
        })
    }

    /// The digest of the files of an image, which are read only where they are not those of before.
    async fn content(&self, spec: &ImageSpec, repository: &str) -> Result<u128, RuntimeError> {
        let action = format!("pack the root file system of image `{}`", spec.name);
        let failed = move |error| RuntimeError::system(action.clone(), error);
        let (root, notes, repository) =
            (spec.root.clone(), self.notes.clone(), repository.to_owned());
        blocking(move || {
            let of = fingerprint(&root).map_err(&failed)?;
            if let Some(known) = notes.digest(&repository, of)? {
                return Ok(known);
            }
            let content = digest(&root).map_err(&failed)?;
            // What changed while it was read is not noted.
            if fingerprint(&root).map_err(&failed)? == of {
                notes.digested(&repository, of, content)?;
            }
            Ok(content)
        })
        .await
    }

    /// An image of that name that was built from that content.
    async fn find_built(
        &self,
        name: &str,
        mark: &str,
    ) -> Result<Option<(String, u64)>, RuntimeError> {
        let looked = found(self.daemon.api.inspect_image(name).await);
        let there =
            looked.map_err(|error| self.daemon.failed(format!("look at image `{name}`"), error))?;
        let Some(there) = there else {
            return Ok(None);
        };
        let labels = there.config.and_then(|config| config.labels);
        let content = labels.as_ref().and_then(|it| it.get(label::CONTENT));
        let same = content.is_some_and(|it| it == mark);
        if !self.names.own(labels.as_ref(), "built") || !same {
            return Err(RuntimeError::NameTaken {
                kind: "image",
                name: name.to_owned(),
            });
        }
        let bytes = there.size.and_then(|size| u64::try_from(size).ok());
        Ok(Some((
            there.id.unwrap_or_default(),
            bytes.unwrap_or_default(),
        )))
    }

    async fn import_root(
        &self,
        name: &str,
        spec: &ImageSpec,
        expected: u128,
        changes: Vec<String>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), RuntimeError> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let root = spec.root.clone();
        let packing = tokio::task::spawn_blocking(move || {
            let pieces = BufWriter::with_capacity(PIECE, Pieces { sender });
            pack(&root, pieces).map(|(digest, _)| digest)
        });
        let pieces = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        let imported = self.import_archive(name, pieces, changes, progress).await;
        let packed = packing.await.map_err(io::Error::other).and_then(|it| it);
        let failed = match (imported, packed) {
            // The daemon stopped taking, and says why.
            (Err(error), Err(broken)) if broken.kind() == io::ErrorKind::BrokenPipe => {
                return Err(error);
            }
            (_, Err(error)) => error,
            (Ok(()), Ok(digest)) if digest != expected => {
                io::Error::other("one of its files changed while it was read")
            }
            (imported, Ok(_)) => return imported,
        };
        self.forget_image(name).await?;
        self.notes.undigested(split(name).0)?;
        let action = format!("pack the root file system of image `{name}`");
        Err(RuntimeError::system(action, failed))
    }

    /// Gives an image the name that people use, which moves on with each content.
    async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<(), RuntimeError> {
        let options = TagImageOptions {
            repo: Some(repository.to_owned()),
            tag: Some(tag.to_owned()),
        };
        let tagged = self.daemon.api.tag_image(image, Some(options)).await;
        tagged.map_err(|error| self.daemon.failed(format!("tag image `{image}`"), error))
    }

    /// Removes what was built before under the name, unless a container still needs it.
    async fn forget_older(&self, repository: &str, newest: &str) -> Result<(), RuntimeError> {
        for image in self.built().await? {
            let mine = image
                .repo_tags
                .iter()
                .all(|tag| split(tag).0 == repository || tag == "<none>:<none>");
            if image.id == newest || !mine {
                continue;
            }
            // Without force: what is in use stays.
            let removed = self
                .daemon
                .api
                .remove_image(&image.id, None::<RemoveImageOptions>, None)
                .await;
            match removed {
                Ok(_) => {}
                Err(error) if matches!(status(&error), Some(404 | 409)) => {}
                Err(error) => {
                    let action = format!("remove image `{}`", image.id);
                    return Err(self.daemon.failed(action, error));
                }
            }
        }
        Ok(())
    }

    /// Removes every image that was built.
    pub(super) async fn remove_built(&self) -> Result<(), RuntimeError> {
        for image in self.built().await? {
            self.forget_image(&image.id).await?;
        }
        Ok(())
    }

    async fn built(&self) -> Result<Vec<bollard::models::ImageSummary>, RuntimeError> {
        let options = ListImagesOptions {
            all: true,
            filters: Some(self.names.filter("built")),
            ..ListImagesOptions::default()
        };
        let listed = self.daemon.api.list_images(Some(options)).await;
        listed.map_err(|error| self.daemon.failed("list images", error))
    }
}

/// Where containers look for programs.
pub(super) const ENVIRONMENT: &str = "PATH=/usr/bin";
/// How much is handed over at once.
const PIECE: usize = 256 << 10;
