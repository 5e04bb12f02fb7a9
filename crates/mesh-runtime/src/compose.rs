//! Compose files: read with line and column of everything that is wrong, and turned into networks,
//! groups and units. It reads a documented subset and names what is beyond it; it never guesses.
//!
//! The format is the [Compose specification](https://github.com/compose-spec/compose-spec), and of
//! the older numbered versions what is the same there. The table of what is supported is in the
//! README.
//!
//! ```
//! use std::collections::BTreeMap;
//! use mesh_runtime::compose::{Compose, PlanOptions, Reading};
//!
//! let file = "
//! services:
//!   web:
//!     image: shop/web:${TAG:-1}
//!     command: serve --greeting 'good morning'
//!     ports: ['8080:80']
//!     depends_on: [db]
//!   db:
//!     image: shop/db:1
//! ";
//! let variables = BTreeMap::from([("TAG".to_owned(), "2".to_owned())]);
//! let compose = Compose::read(file.as_bytes(), &Reading::new("compose.yaml", &variables))?;
//! let plan = compose.plan(&PlanOptions::new("compose.yaml", "/srv/shop"))?;
//! let order: Vec<_> = plan.steps.iter().map(|step| step.unit.as_str()).collect();
//! assert_eq!(order, ["db", "web"]);
//!
//! let wrong = Compose::read(b"services:\n  web: {image: a, privileged: 1}", &Reading::new("c.yaml", &variables));
//! assert_eq!(
//!     wrong.unwrap_err().to_string(),
//!     "c.yaml:2:31: services.web.privileged: `1` is not `true` or `false`",
//! );
//! # Ok::<(), mesh_runtime::compose::FileProblems>(())
//! ```

mod apply;
mod duration;
mod health;
mod interpolate;
mod mount;
mod network;
mod node;
mod plan;
mod port;
mod problem;
mod reader;
mod service;
mod words;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

pub use apply::{Progress, apply};
pub use health::HealthCheck;
pub use mount::{Mount, MountSource};
pub use network::{Network, NetworkUse, Volume};
pub use plan::{GroupPlan, Plan, PlanOptions, Step, StepDependency};
pub use port::{Port, PortRange};
pub use problem::{FileProblem, FileProblems, Located, Position};
pub use service::{CapabilityChoice, NetworkMode, Restart, Service, User};

use reader::{Field, Reader};

/// A Compose file, read and checked.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Compose {
    /// The name of the project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its services, by their keys.
    pub services: BTreeMap<String, Located<Service>>,
    /// Its networks, by their keys, also those that [`Reading::networks`] brought in.
    pub networks: BTreeMap<String, Located<Network>>,
    /// Its volumes, by their keys.
    pub volumes: BTreeMap<String, Located<Volume>>,
    /// What the reader of the file should know, though nothing is wrong.
    #[serde(skip)]
    pub notes: Vec<FileProblem>,
}

/// How a file is read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reading<'a> {
    /// The name of the file, for messages.
    pub file: &'a str,
    /// What replaces variables, and is the value of environment variables without one.
    pub variables: &'a BTreeMap<String, String>,
    /// Networks that services of the file may use without the file defining them.
    pub networks: BTreeMap<String, Network>,
}

impl<'a> Reading<'a> {
    /// Reads as the specification says: the file defines all its networks but `default`.
    pub fn new(file: &'a str, variables: &'a BTreeMap<String, String>) -> Self {
        Self {
            file,
            variables,
            networks: BTreeMap::new(),
        }
    }
}

impl Compose {
    /// The longest file that is read, in bytes: who has one from elsewhere needs not load more than
    /// one more.
    pub const MAX_BYTES: usize = node::MAX_BYTES;

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it or not supported, with line and column. Where it is not
    /// YAML, only the first thing.
    pub fn read(source: &[u8], reading: &Reading<'_>) -> Result<Self, FileProblems> {
        let failed = |problems| FileProblems::new(reading.file, problems);
        let root = node::Node::read(source).map_err(|problem| failed(vec![problem]))?;
        let mut reader = Reader::new(reading.variables);
        let root = Field::root(&root);
        let mut compose = Self::default();
        if reader.is_given(&root, "a map with `services`") {
            read_root(&mut reader, &root, &mut compose);
        }
        compose.resolve(&mut reader, reading);
        compose.notes = reader.notes;
        if reader.problems.is_empty() {
            Ok(compose)
        } else {
            Err(failed(reader.problems))
        }
    }

    /// The file in one fixed notation, with all variables replaced. Read again, it is the same.
    pub fn to_yaml(&self) -> String {
        let tree = serde_json::to_value(self).map(escaped);
        // Maps with texts as keys can always be written.
        tree.ok()
            .and_then(|tree| serde_saphyr::to_string(&tree).ok())
            .unwrap_or_default()
    }

    /// Looks at what one part of the file says about another.
    fn resolve(&mut self, reader: &mut Reader<'_>, reading: &Reading<'_>) {
        let mut used = BTreeMap::new();
        for (name, service) in &self.services {
            let path = format!("services.{name}");
            let mut missing = |at, path: String, other: &str, kind: &str| {
                let problem = FileProblem::wrong(at, &path, other, kind);
                reader.problems.push(problem);
            };
            for (network, using) in &service.value.networks {
                used.entry(network.clone()).or_insert(using.at);
                let known = self.networks.contains_key(network)
                    || reading.networks.contains_key(network)
                    || network == DEFAULT;
                if !known {
                    let path = format!("{path}.networks");
                    missing(using.at, path, network, "a network that the file defines");
                }
            }
            if service.value.networks.is_empty() && service.value.network_mode.is_none() {
                used.entry(DEFAULT.to_owned()).or_insert(service.at);
            }
            for (other, condition) in &service.value.depends_on {
                if !self.services.contains_key(other) {
                    let path = format!("{path}.depends_on");
                    missing(condition.at, path, other, "a service of the file");
                }
            }
            if let Some(mode) = &service.value.network_mode
                && let NetworkMode::Service(other) = &mode.value
                && !self.services.contains_key(other)
            {
                let path = format!("{path}.network_mode");
                missing(mode.at, path, other, "a service of the file");
            }
            for mount in &service.value.volumes {
                if let MountSource::Named(volume) = &mount.value.source
                    && !self.volumes.contains_key(volume)
                {
                    let path = format!("{path}.volumes");
                    missing(mount.at, path, volume, "a volume that the file defines");
                }
            }
        }
        for (network, at) in used {
            let brought = reading.networks.get(&network).cloned();
            let value = brought.unwrap_or_default();
            self.networks
                .entry(network)
                .or_insert(Located { value, at });
        }
    }
}

/// The network of services that name none.
const DEFAULT: &str = "default";

fn read_root<'a>(reader: &mut Reader<'a>, root: &Field<'a>, compose: &mut Compose) {
    let before = reader.problems.len();
    let mut has_services = false;
    for (key, value) in reader.entries(root) {
        match key.value.as_str() {
            "version" => version(reader, &value),
            "name" => compose.name = reader.text(&value).map(|it| it.value),
            "services" => {
                has_services = true;
                compose.services = named(reader, &value, service::read);
            }
            "networks" | "volumes" if value.is_null() => {}
            "networks" => compose.networks = named(reader, &value, network::read),
            "volumes" => compose.volumes = named(reader, &value, network::read_volume),
            _ => reader.unsupported(&key, &value, "a Compose file"),
        }
    }
    if !has_services && reader.problems.len() == before {
        reader.problem(root, "found no `services`");
    }
}

/// Said by older files. It decides nothing any more; version 1 had another shape.
fn version<'a>(reader: &mut Reader<'a>, field: &Field<'a>) {
    let parse = |text: &str| matches!(text.split('.').next(), Some("2" | "3")).then_some(());
    reader.parsed(field, "a version that is read here (2 or 3)", parse);
}

/// The entries of a map whose keys are names.
fn named<'a, T>(
    reader: &mut Reader<'a>,
    field: &Field<'a>,
    read: fn(&mut Reader<'a>, &Field<'a>) -> T,
) -> BTreeMap<String, Located<T>> {
    let mut found = BTreeMap::new();
    for (key, value) in reader.entries(field) {
        if !mount::is_name(&key.value) {
            let expected = "a name (letters, digits, `-`, `_`, `.`; at most 128)";
            let problem = FileProblem::wrong(key.at, &value.path, &key.value, expected);
            reader.problems.push(problem);
        }
        let entry = Located {
            value: read(reader, &value),
            at: key.at,
        };
        found.insert(key.value, entry);
    }
    found
}

/// Every text with its dollars doubled, since they would be variables else.
fn escaped(tree: Value) -> Value {
    match tree {
        Value::String(text) => Value::String(text.replace('$', "$$")),
        Value::Array(items) => items.into_iter().map(escaped).collect(),
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| (key, escaped(value)))
            .collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests;
