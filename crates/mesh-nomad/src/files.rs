//! Files from a variable of Nomad's: each item is a file, its name the path.
//!
//! Keys and kubeconfigs of the control plane reach its tasks so, without templates, which end
//! tasks while Nomad's servers are away. `~` in the name of an item stands for `/`:
//! `pki~api-ca.key` is the file `pki/api-ca.key`.

#[cfg(feature = "client")]
mod bring;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use mesh_model::{Problem, Problems};

#[cfg(feature = "client")]
pub use self::bring::{Brought, FilesError, VariableFiles};

/// What stands for `/` in the name of an item.
pub const SEPARATOR: char = '~';

/// What is to be done to a directory so that it holds the items of a variable.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use]
#[non_exhaustive]
pub struct Plan {
    /// What to write, by path below the directory.
    pub writes: BTreeMap<PathBuf, Content>,
    /// What an earlier plan wrote and this one does not.
    pub removals: BTreeSet<PathBuf>,
}

/// What a file is to hold: a secret, which `Debug` does not show.
#[derive(Clone, Eq, PartialEq)]
pub struct Content(String);

/// Decides what is to be done: items by their names, and the paths that an earlier plan wrote.
///
/// ```
/// use std::collections::{BTreeMap, BTreeSet};
/// use mesh_nomad::files::plan;
///
/// let items = BTreeMap::from([("pki~api-ca.key".to_owned(), "…".to_owned())]);
/// let plan = plan(&items, &BTreeSet::new())?;
/// assert!(plan.writes.contains_key("pki/api-ca.key".as_ref() as &std::path::Path));
/// # Ok::<(), mesh_model::Problems>(())
/// ```
///
/// # Errors
///
/// Every item whose name is no path below the directory: a part that is empty or begins with `.`,
/// other characters than letters, digits, `.`, `_`, `-` and `~`, or one that is the directory of
/// another.
pub fn plan(
    items: &BTreeMap<String, String>,
    earlier: &BTreeSet<PathBuf>,
) -> Result<Plan, Problems> {
    let mut problems = Problems::default();
    let mut plan = Plan::default();
    for (name, text) in items {
        match path(name) {
            Ok(path) => {
                plan.writes.insert(path, Content(text.clone()));
            }
            Err(problem) => problems.push(problem),
        }
    }
    for name in items.keys().filter(|name| path(name).is_ok()) {
        let prefix = format!("{name}{SEPARATOR}");
        if let Some(inner) = items.keys().find(|other| other.starts_with(&prefix)) {
            problems.add(
                format!("Items[{name}]"),
                name,
                format!("a file: item `{inner}` makes it a directory"),
            );
        }
    }
    plan.removals = earlier
        .iter()
        .filter(|path| !plan.writes.contains_key(*path))
        // What stands in a file of ours may be tampered with; nothing outside is removed for it.
        .filter(|path| item(path).is_some())
        .cloned()
        .collect();
    problems.into_result(plan)
}

/// The path of an item.
///
/// # Errors
///
/// When the name is none that a file below the directory can have.
pub fn path(name: &str) -> Result<PathBuf, Problem> {
    let is_part = |part: &str| {
        // What begins with a dot is ours (the list, what is being written) or leads out.
        !part.is_empty()
            && !part.starts_with('.')
            && part.len() <= MAX_PART
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if name.split(SEPARATOR).all(is_part) && name.len() <= MAX_NAME {
        Ok(name.split(SEPARATOR).collect())
    } else {
        Err(Problem::new(
            format!("Items[{name}]"),
            name,
            "the path of a file, with `~` for `/`: letters, digits, `.` but not first, `_` and `-`",
        ))
    }
}

/// The name of the item that a path is of, if it can be of one.
pub fn item(path: &std::path::Path) -> Option<String> {
    let text = path.to_str()?;
    let name = text.replace('/', "~");
    let again = self::path(&name).ok()?;
    (!text.contains(SEPARATOR) && again == path).then_some(name)
}

impl Content {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content(..)")
    }
}

/// The longest name of a file, less what is added while it is written.
const MAX_PART: usize = 200;

/// Longer than any path that is meant.
const MAX_NAME: usize = 1024;

#[cfg(test)]
mod tests;
