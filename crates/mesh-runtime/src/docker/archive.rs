//! Images as files: what `docker load` takes, and every tool that reads the OCI image layout.
//!
//! Both forms are in one archive: the blobs by their digests, an `index.json` for the one and a
//! `manifest.json` for the other. The same programs make the same bytes and so the same image id,
//! whenever and wherever the archive is written; no daemon is asked.
//!
//! Sources: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>, and for
//! `manifest.json` the Docker image specification v1.2.

use std::collections::BTreeMap;
use std::io::{self, Write};

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::{Value, json};

use super::build::Content;
use super::label::Names;
use crate::image::{ImageSpec, pack};
use crate::{Name, RuntimeError};

/// An image that was written.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ArchivedImage {
    /// Its name with its content in the tag, as [`BuiltImage::name`](super::BuiltImage::name).
    pub name: String,
    /// The id that a daemon gives it which keeps images by the digest of their configuration.
    pub id: String,
    /// The size of its one layer in bytes.
    pub bytes: u64,
}

/// Writes an image of this machine's processor as an archive, with the labels by which an engine of
/// that owner takes it for its own.
///
/// Its files are read twice: the first time for their digest, by which the archive names them.
///
/// # Errors
///
/// [`RuntimeError::System`] when a file cannot be read or changes meanwhile, and when the archive
/// cannot be written.
pub fn archive(
    spec: &ImageSpec,
    owner: &Name,
    out: impl Write,
) -> Result<ArchivedImage, RuntimeError> {
    let failed =
        |error| RuntimeError::system(format!("write the archive of image `{}`", spec.name), error);
    let (digest, measured) = pack(&spec.root, Measure::of(io::sink())).map_err(failed)?;
    let layer = measured.blob();
    let content = Content::new(spec, digest);
    let names = Names {
        owner: owner.clone(),
    };
    let documents = Documents::new(spec, &content, &names, &layer);
    write(spec, &documents, &layer, out).map_err(failed)?;
    Ok(ArchivedImage {
        id: format!("sha256:{}", documents.config.sha256),
        name: content.name,
        bytes: layer.size,
    })
}

/// A piece of an image, as others refer to it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Blob {
    sha256: String,
    size: u64,
}

/// All that an archive has beside the layer.
#[derive(Debug)]
struct Documents {
    config: Blob,
    config_text: Vec<u8>,
    manifest: Blob,
    manifest_text: Vec<u8>,
    index: Vec<u8>,
    docker: Vec<u8>,
}

/// Hands on what is written, and measures it.
struct Measure<W> {
    out: W,
    digest: Context,
    size: u64,
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// No archive has a time: it would differ from run to run.
const EPOCH: &str = "1970-01-01T00:00:00Z";
/// A tar archive consists of blocks of so many bytes: tar(5).
const BLOCK: u64 = 512;

// === impl Documents ===

impl Documents {
    fn new(spec: &ImageSpec, content: &Content, names: &Names, layer: &Blob) -> Self {
        // Sorted, since the order is part of the bytes.
        let labels: BTreeMap<_, _> = content.labels(names).into_iter().collect();
        let config_text = text(&json!({
            "architecture": architecture(std::env::consts::ARCH),
            "os": "linux",
            "created": EPOCH,
            "config": {
                "Entrypoint": spec.entry_point,
                "Env": [super::build::ENVIRONMENT],
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
            "history": [{ "created": EPOCH, "comment": "mesh image build" }],
        }));
        let config = Blob::of(&config_text);
        let manifest_text = text(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, layer)],
        }));
        let manifest = Blob::of(&manifest_text);
        let mut entry = descriptor(MANIFEST, &manifest);
        if let Some(entry) = entry.as_object_mut() {
            let annotations = json!({ "org.opencontainers.image.ref.name": spec.name });
            entry.insert("annotations".to_owned(), annotations);
        }
        let index = text(&json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry],
        }));
        let docker = text(&json!([{
            "Config": path(&config),
            "RepoTags": [content.name, spec.name],
            "Layers": [path(layer)],
        }]));
        Self {
            config,
            config_text,
            manifest,
            manifest_text,
            index,
            docker,
        }
    }
}

// === impl Blob ===

impl Blob {
    fn of(bytes: &[u8]) -> Self {
        let mut measure = Measure::of(io::sink());
        measure.take(bytes);
        measure.blob()
    }
}

// === impl Measure ===

impl<W> Measure<W> {
    fn of(out: W) -> Self {
        Self {
            out,
            digest: Context::new(&SHA256),
            size: 0,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.size = self.size.saturating_add(more);
    }

    fn blob(self) -> Blob {
        let digest = self.digest.finish();
        let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Blob {
            sha256: hex.collect(),
            size: self.size,
        }
    }
}

impl<W: Write> Write for Measure<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.take(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write(
    spec: &ImageSpec,
    documents: &Documents,
    layer: &Blob,
    mut out: impl Write,
) -> io::Result<()> {
    for directory in ["blobs/", "blobs/sha256/"] {
        out.write_all(header(directory, 0, tar::EntryType::Directory)?.as_bytes())?;
    }
    for (name, bytes) in [
        (
            "oci-layout",
            text(&json!({ "imageLayoutVersion": "1.0.0" })),
        ),
        ("index.json", documents.index.clone()),
        ("manifest.json", documents.docker.clone()),
        (&*path(&documents.config), documents.config_text.clone()),
        (&*path(&documents.manifest), documents.manifest_text.clone()),
    ] {
        let size = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        out.write_all(header(name, size, tar::EntryType::Regular)?.as_bytes())?;
        out.write_all(&bytes)?;
        pad(&mut out, size)?;
    }
    out.write_all(header(&path(layer), layer.size, tar::EntryType::Regular)?.as_bytes())?;
    let (_, measured) = pack(&spec.root, Measure::of(&mut out))?;
    if measured.blob() != *layer {
        return Err(io::Error::other(
            "one of its files changed while it was read",
        ));
    }
    pad(&mut out, layer.size)?;
    // Two empty blocks are its end.
    io::copy(&mut io::Read::take(io::repeat(0), 2 * BLOCK), &mut out)?;
    out.flush()
}

/// Fills the last block of a file.
fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = size.next_multiple_of(BLOCK) - size;
    io::copy(&mut io::Read::take(io::repeat(0), rest), out).map(drop)
}

/// Nobody's time and root's ownership, as in the layer.
fn header(path: &str, size: u64, kind: tar::EntryType) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path(path)?;
    header.set_entry_type(kind);
    let is_directory = kind == tar::EntryType::Directory;
    header.set_mode(if is_directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

fn path(blob: &Blob) -> String {
    format!("blobs/sha256/{}", blob.sha256)
}

fn digest(blob: &Blob) -> String {
    format!("sha256:{}", blob.sha256)
}

fn descriptor(kind: &str, blob: &Blob) -> Value {
    json!({ "mediaType": kind, "digest": digest(blob), "size": blob.size })
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A processor as images name it, which is as Go does: `GOARCH` of <https://go.dev/doc/install/source>.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        same => same,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::image::{RootFs, Source};

    fn spec() -> ImageSpec {
        let mut root = RootFs::default();
        let text = Source::Bytes(b"mesh\n".to_vec());
        root.file("/etc/hostname", text, 0o644).unwrap();
        ImageSpec {
            name: "web:1".to_owned(),
            entry_point: vec!["/usr/bin/web".to_owned()],
            root,
        }
    }

    fn archived(spec: &ImageSpec) -> (ArchivedImage, Vec<u8>) {
        let mut bytes = Vec::new();
        let image = archive(spec, &Name::literal("mesh"), &mut bytes).unwrap();
        (image, bytes)
    }

    fn files(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(bytes);
        let files = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path, content)
        });
        files.collect()
    }

    fn json_of(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
        serde_json::from_slice(&files[path]).unwrap()
    }

    #[test]
    fn every_blob_has_the_digest_that_it_is_named_by() {
        let files = files(&archived(&spec()).1);
        let mut count = 0;
        for (path, content) in &files {
            let Some(name) = path.strip_prefix("blobs/sha256/") else {
                continue;
            };
            if !name.is_empty() {
                assert_eq!(Blob::of(content).sha256, name);
                count += 1;
            }
        }
        assert_eq!(count, 3);
    }

    #[test]
    fn both_forms_lead_to_the_same_configuration_and_layer() {
        let (image, bytes) = archived(&spec());
        let files = files(&bytes);
        let docker = json_of(&files, "manifest.json");
        let index = json_of(&files, "index.json");
        let at = |digest: &Value| {
            let digest = digest.as_str().unwrap();
            format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap())
        };
        let manifest = json_of(&files, &at(&index["manifests"][0]["digest"]));
        assert_eq!(docker[0]["Config"], at(&manifest["config"]["digest"]));
        assert_eq!(docker[0]["Layers"][0], at(&manifest["layers"][0]["digest"]));
        assert_eq!(docker[0]["RepoTags"], json!([image.name, "web:1"]));
        assert_eq!(manifest["config"]["digest"], image.id);
        let config = json_of(&files, docker[0]["Config"].as_str().unwrap());
        let layer = &manifest["layers"][0];
        assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
        assert_eq!(layer["size"], image.bytes);
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/web"]));
    }

    #[test]
    fn equal_images_are_equal_bytes_and_others_are_not() {
        let (first, bytes) = archived(&spec());
        assert_eq!(archived(&spec()), (first.clone(), bytes));
        let mut other = spec();
        other.entry_point.push("--verbose".to_owned());
        let (other, _) = archived(&other);
        assert_ne!(other.name, first.name);
        assert_ne!(other.id, first.id);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let mut spec = spec();
        let source = Source::Machine("/no/such/program".into());
        spec.root.file("/usr/bin/web", source, 0o755).unwrap();
        let error = archive(&spec, &Name::literal("mesh"), io::sink()).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("/no/such/program"), "{cause}");
    }
}
