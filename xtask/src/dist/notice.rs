//! The licences of everything that is linked into the program, with their notices.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::PACKAGE;
use crate::Failure;

/// How names of files begin that hold a licence or a notice.
const NAMES: &[&str] = &["licen", "copying", "copyright", "notice", "unlicense"];

/// What is linked besides the crates.
const RUNTIME: &str = "\
The standard library of Rust: MIT OR Apache-2.0, (c) The Rust Project contributors.

The GNU C library, in programs that are linked statically: LGPL-2.1-or-later, (c) the Free Software
Foundation and others; on Debian systems the text is in /usr/share/common-licenses/LGPL-2.1. The
sources of this program are those of its version; `cargo xtask dist` links it anew, with another C
library if there is another.
";

/// The text: every crate with its licence, then every notice once with the crates that it is of.
pub(super) fn text(metadata: &Value) -> Result<String, Failure> {
    let mut crates = String::new();
    let mut notices: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in linked(metadata)? {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let name = format!("{} {}", field("name"), field("version"));
        let licence = package["license"].as_str().unwrap_or("see below");
        writeln!(crates, "{name}: {licence}")?;
        let Some(directory) = Path::new(field("manifest_path")).parent() else {
            continue;
        };
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().to_lowercase();
            if NAMES.iter().any(|begin| file.starts_with(begin)) && entry.file_type()?.is_file() {
                let notice = fs::read(entry.path())?;
                let notice = String::from_utf8_lossy(&notice).replace('\r', "");
                notices.entry(notice).or_default().insert(name.clone());
            }
        }
    }
    let mut text = format!("What others wrote of this program.\n\n{RUNTIME}\n{crates}");
    let mut notices: Vec<_> = notices.into_iter().collect();
    notices.sort_by(|(_, one), (_, other)| one.cmp(other));
    for (notice, names) in notices {
        let names: Vec<_> = names.into_iter().collect();
        let line = "-".repeat(80);
        write!(text, "\n{line}\n{}\n{line}\n\n{notice}", names.join(", "))?;
    }
    Ok(text)
}

/// The packages of others that the program is linked with, in the order of their names.
fn linked(metadata: &Value) -> Result<Vec<&Value>, Failure> {
    let by_id = |list: &'static [&'static str]| -> BTreeMap<&str, &Value> {
        let values = list
            .iter()
            .try_fold(metadata, |value, key| value.get(key))
            .and_then(Value::as_array);
        values
            .into_iter()
            .flatten()
            .filter_map(|value| Some((value["id"].as_str()?, value)))
            .collect()
    };
    let packages = by_id(&["packages"]);
    let nodes = by_id(&["resolve", "nodes"]);
    let start = packages
        .iter()
        .find(|(_, package)| package["name"] == PACKAGE)
        .map(|(id, _)| *id)
        .ok_or("cargo does not know the program's package")?;
    let mut seen = BTreeSet::from([start]);
    let mut waiting = vec![start];
    while let Some(id) = waiting.pop() {
        let uses = nodes.get(id).and_then(|node| node["deps"].as_array());
        for dependency in uses.into_iter().flatten() {
            // Those of tests and build scripts have a kind.
            let kinds = dependency["dep_kinds"].as_array();
            let is_linked = kinds.into_iter().flatten().any(|k| k["kind"].is_null());
            if let Some(id) = dependency["pkg"].as_str()
                && is_linked
                && seen.insert(id)
            {
                waiting.push(id);
            }
        }
    }
    let mut linked: Vec<&Value> = seen
        .iter()
        .filter_map(|id| packages.get(id).copied())
        .filter(|package| !package["source"].is_null())
        .collect();
    linked.sort_by_key(|package| {
        let field = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
        (field("name"), field("version"))
    });
    Ok(linked)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_tests_and_build_scripts_use_is_not_linked() {
        let foreign = |name: &str, directory: &Path| {
            let source = "registry";
            let manifest = directory.join("Cargo.toml");
            json!({ "id": name, "name": name, "version": "1.0.0", "source": source,
                    "license": "MIT", "manifest_path": manifest })
        };
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("LICENSE-MIT"), "as you like\r\n").unwrap();
        let uses =
            |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                { "id": "own", "name": PACKAGE, "version": "0.1.0", "source": null },
                foreign("near", folder.path()),
                foreign("far", folder.path()),
                foreign("script", folder.path()),
                foreign("test", folder.path()),
            ],
            "resolve": { "nodes": [
                { "id": "own", "deps": [
                    uses("near", Value::Null), uses("script", json!("build")),
                    uses("test", json!("dev")),
                ] },
                { "id": "near", "deps": [uses("far", Value::Null)] },
            ] },
        });
        let text = text(&metadata).unwrap();
        assert!(text.contains("far 1.0.0: MIT\nnear 1.0.0: MIT\n"), "{text}");
        assert!(
            !text.contains("script") && !text.contains("test 1"),
            "{text}"
        );
        assert_eq!(text.matches("as you like\n").count(), 1, "{text}");
        assert!(text.contains("\nfar 1.0.0, near 1.0.0\n"), "{text}");
    }
}
