//! What is mounted into a service, in both notations of a file.

use std::path::{Component, Path, PathBuf};

use serde::{Serialize, Serializer};

use super::problem::Located;
use super::reader::{Field, Reader};

/// Something that is mounted into a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Where: an absolute path without `..`.
    pub target: PathBuf,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// What is mounted into a service.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MountSource {
    /// A file or directory of the host; a relative path is one from the directory of the file.
    Bind(PathBuf),
    /// A volume of the file.
    Named(String),
    /// A volume of the service alone.
    Anonymous,
}

impl Mount {
    /// `[SOURCE:]TARGET[:ro]`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<_> = text.split(':').collect();
        let (source, target, mode) = match parts.as_slice() {
            [target] => (None, *target, "rw"),
            [source, target] => (Some(*source), *target, "rw"),
            [source, target, mode] => (Some(*source), *target, *mode),
            _ => return None,
        };
        let source = match source {
            None => MountSource::Anonymous,
            Some(source) if source.starts_with(['.', '/', '~']) => {
                MountSource::Bind(bind_source(source)?)
            }
            Some(source) => MountSource::Named(is_name(source).then(|| source.to_owned())?),
        };
        let read_only = match mode {
            "rw" => false,
            "ro" => true,
            _ => return None,
        };
        Some(Self {
            source,
            target: absolute(target)?,
            read_only,
        })
    }
}

/// A path of the host. `~` would be the home of whoever reads the file: that is refused.
fn bind_source(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.starts_with('~')).then(|| PathBuf::from(text))
}

pub(super) fn absolute(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let climbs = path.components().any(|it| it == Component::ParentDir);
    (path.is_absolute() && !climbs).then(|| path.to_owned())
}

/// A name of a service, a network or a volume.
pub(super) fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(is_part)
}

/// An item of `volumes`.
pub(super) fn read<'a>(reader: &mut Reader<'a>, field: &Field<'a>) -> Option<Located<Mount>> {
    const EXPECTED: &str =
        "a mount (`[SOURCE:]/TARGET[:ro]`, a source that begins with `.` or `/` is of the host)";
    if !field.is_map() {
        return reader.parsed(field, EXPECTED, Mount::parse);
    }
    let (mut kind, mut source, mut target) = (None, None, None);
    let mut read_only = false;
    let before = reader.problems.len();
    for (key, value) in reader.entries(field) {
        const KIND: &str = "`bind` or `volume`";
        match key.value.as_str() {
            "type" => {
                let parse = |it: &str| matches!(it, "bind" | "volume").then(|| it == "bind");
                kind = reader.parsed(&value, KIND, parse);
            }
            "source" => source = reader.text(&value),
            "target" => {
                target = reader.parsed(&value, "an absolute path without `..`", absolute);
            }
            "read_only" => read_only = reader.flag(&value),
            _ => reader.unsupported(&key, &value, "a mount"),
        }
    }
    if reader.problems.len() > before {
        return None;
    }
    let (Some(kind), Some(target)) = (kind, target) else {
        reader.problem(field, "a mount needs `type` and `target`");
        return None;
    };
    let source = match (kind.value, source.map(|it| it.value)) {
        (true, Some(path)) => bind_source(&path).map(MountSource::Bind),
        (false, Some(name)) => is_name(&name).then_some(MountSource::Named(name)),
        (true, None) => None,
        (false, None) => Some(MountSource::Anonymous),
    };
    let Some(source) = source else {
        reader.problem(
            field,
            "`source` is not a path of the host (`bind`) or a name (`volume`)",
        );
        return None;
    };
    Some(field.located(Mount {
        source,
        target: target.value,
        read_only,
    }))
}

/// The long notation.
impl Serialize for Mount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, source) = match &self.source {
            MountSource::Bind(path) => ("bind", Some(path.display().to_string())),
            MountSource::Named(name) => ("volume", Some(name.clone())),
            MountSource::Anonymous => ("volume", None),
        };
        let mut long = serde_json::json!({
            "type": kind,
            "target": self.target.display().to_string(),
            "read_only": self.read_only,
        });
        if let (Some(map), Some(source)) = (long.as_object_mut(), source) {
            map.insert("source".to_owned(), source.into());
        }
        long.serialize(serializer)
    }
}
