//! YAML and JSON files as objects of the API: read, named, located.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use mesh_model::Kind;
use serde_json::Value;

use crate::exit::Failure;

/// Files of objects, as several verbs take them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Files {
    /// YAML or JSON file, a directory of them, or `-` for standard input; may be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// One object, and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// `routes.yaml, document 2`.
    pub(crate) origin: String,
    /// The object.
    pub(crate) object: Value,
}

/// The place of an object in the API.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Its kind.
    pub(crate) kind: &'static Kind,
    /// The version of its group that it is written in.
    pub(crate) version: &'a str,
    /// Its namespace; the caller's where it names none.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
}

// === impl Files ===

impl Files {
    /// Every document of every file, in order.
    pub(crate) fn read(&self) -> Result<Vec<Document>, Failure> {
        let mut documents = Vec::new();
        for file in &self.files {
            if file.is_dir() {
                for entry in entries(file)? {
                    read_file(&entry, &mut documents)?;
                }
            } else {
                read_file(file, &mut documents)?;
            }
        }
        if documents.is_empty() {
            return Err(Failure::usage("the files hold no object"));
        }
        Ok(documents)
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let doing = |error| Failure::doing(format!("reading {}", dir.display()), &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(doing)? {
        let path = entry.map_err(doing)?.path();
        if path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(file: &Path, documents: &mut Vec<Document>) -> Result<(), Failure> {
    let doing = |error| Failure::doing(format!("reading {}", file.display()), &error);
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(doing)?;
    } else {
        text = std::fs::read_to_string(file).map_err(doing)?;
    }
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    for (index, object) in objects.into_iter().enumerate() {
        let origin = format!("{}, document {}", file.display(), index + 1);
        match object {
            // What follows the last `---` of a file.
            Value::Null => {}
            Value::Object(map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
                let items = map
                    .get("items")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                documents.extend(
                    items
                        .into_iter()
                        .enumerate()
                        .map(|(item, object)| Document {
                            origin: format!("{origin}, item {}", item + 1),
                            object,
                        }),
                );
            }
            object => documents.push(Document { origin, object }),
        }
    }
    Ok(())
}

// === impl Document ===

impl Document {
    /// Where the object belongs; `namespace` for those that name none.
    pub(crate) fn place<'a>(&'a self, namespace: &'a str) -> Result<Place<'a>, Failure> {
        let text = |pointer: &str| self.object.pointer(pointer).and_then(Value::as_str);
        let missing = |field: &str| {
            Failure::usage(format!("{}: `{field}` is missing or no text", self.origin))
        };
        let api_version = text("/apiVersion").ok_or_else(|| missing("apiVersion"))?;
        let kind = text("/kind").ok_or_else(|| missing("kind"))?;
        let name = text("/metadata/name").ok_or_else(|| missing("metadata.name"))?;
        let version = api_version
            .rsplit_once('/')
            .map_or(api_version, |(_, version)| version);
        let kind = Kind::of_object(api_version, kind).ok_or_else(|| {
            let origin = &self.origin;
            Failure::usage(format!(
                "{origin}: `{kind}` of `{api_version}` is no kind that the mesh serves"
            ))
        })?;
        let namespace = text("/metadata/namespace").unwrap_or(namespace);
        Ok(Place {
            kind,
            version,
            namespace,
            name,
        })
    }
}

// === impl Place ===

impl Place<'_> {
    /// The path of the objects of this kind, in this namespace.
    pub(crate) fn collection(&self) -> String {
        collection(self.kind, self.version, Some(self.namespace))
    }

    /// The path of the object.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    /// `virtualservice.networking.istio.io/reviews`, as kubectl prints it.
    pub(crate) fn label(&self) -> String {
        let Kind {
            singular, group, ..
        } = self.kind;
        let dot = if group.is_empty() { "" } else { "." };
        format!("{singular}{dot}{group}/{}", self.name)
    }
}

/// The path of the objects of a kind: of one namespace, or of all.
pub(crate) fn collection(kind: &Kind, version: &str, namespace: Option<&str>) -> String {
    let root = match kind.group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    match namespace.filter(|_| kind.namespaced) {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{}", kind.plural),
        None => format!("{root}/{}", kind.plural),
    }
}
