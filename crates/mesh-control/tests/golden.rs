//! What is made of each case is what was looked at and written down.
//!
//! `UPDATE_GOLDEN=1 cargo test -p mesh-control --test golden` writes it anew; read the difference.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]

#[path = "golden/allocation.rs"]
mod allocation;
#[path = "golden/case.rs"]
mod case;

use std::collections::{BTreeMap, BTreeSet};
use std::{env, fs};

use case::Case;
use mesh_model::virtual_address::BUCKETS;
use serde_json::{Value, json};

#[test]
fn every_case_is_as_written_down() {
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for case in Case::all() {
        let mut files = BTreeMap::from([("warnings.txt".to_owned(), warnings(&case))]);
        for (name, layer) in case.layers() {
            let content = abridged(case::json(&layer));
            let mut text = serde_json::to_string_pretty(&content).unwrap();
            text.push('\n');
            files.insert(format!("{name}.json"), text);
        }
        for (name, text) in &files {
            let path = case.dir.join(name);
            if update {
                fs::write(&path, text).unwrap();
                continue;
            }
            let written = fs::read_to_string(&path).unwrap_or_default();
            if let Some(line) = difference(&written, text) {
                wrong.push(format!("{}: {line}", path.display()));
            }
        }
        let known: BTreeSet<_> = files
            .keys()
            .map(String::as_str)
            .chain(["mesh.yaml"])
            .collect();
        for entry in fs::read_dir(&case.dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !known.contains(name.as_str()) {
                wrong.push(format!("{}/{name} is of no use", case.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn buckets_differ_in_nothing_but_their_addresses_and_routes() {
    let case = Case::named("http");
    let mut listeners = 0;
    for (_, layer) in case.layers() {
        for (name, listener) in &case::json(&layer)["listeners"] {
            let chains = buckets(listener);
            if chains.is_empty() {
                continue;
            }
            listeners += 1;
            assert_eq!(chains.len(), usize::from(BUCKETS), "{name}");
            let plain: BTreeSet<_> = chains.iter().map(blurred).collect();
            assert_eq!(plain.len(), 1, "{name}");
            let exact: BTreeSet<_> = chains.iter().map(ToString::to_string).collect();
            assert_eq!(exact.len(), usize::from(BUCKETS), "{name}");
        }
    }
    assert!(listeners > 0);
}

fn warnings(case: &Case) -> String {
    let lines = case
        .mesh
        .warnings
        .iter()
        .map(|warning| format!("{warning}\n"));
    lines.collect()
}

/// Leaves out what is the same 64 times over: all chains of buckets but the first, and buckets
/// without a virtual host.
fn abridged(mut types: BTreeMap<&'static str, BTreeMap<String, Value>>) -> Value {
    for listener in types.get_mut("listeners").unwrap().values_mut() {
        let buckets = buckets(listener).len();
        if buckets == 0 {
            continue;
        }
        let chains = listener["filter_chains"].as_array_mut().unwrap();
        chains.splice(1..buckets, [json!(format!("and {} more", buckets - 1))]);
    }
    // Only gateways have any.
    types.retain(|kind, all| *kind != "secrets" || !all.is_empty());
    let routes = types.get_mut("routes").unwrap();
    routes.retain(|_, route| route["virtual_hosts"].is_array());
    let mut value = json!(types);
    refer(&mut value, "", &mut BTreeMap::new());
    value
}

/// Replaces long values that stand in a file already by the place where they do.
fn refer(value: &mut Value, place: &str, seen: &mut BTreeMap<String, String>) {
    const LONG: usize = 160;
    let text = value.to_string();
    if text.len() > LONG {
        if let Some(first) = seen.get(&text) {
            *value = json!(format!("as {first}"));
            return;
        }
        seen.insert(text, place.to_owned());
    }
    match value {
        Value::Object(object) => {
            for (key, inner) in object {
                refer(inner, &format!("{place}/{key}"), seen);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter_mut().enumerate() {
                refer(inner, &format!("{place}/{index}"), seen);
            }
        }
        _ => {}
    }
}

/// The chains of a listener that are buckets, which stand first.
fn buckets(listener: &Value) -> &[Value] {
    let chains = listener["filter_chains"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let is_bucket = |chain: &&Value| chain["filter_chain_match"]["prefix_ranges"].is_array();
    let count = chains.iter().take_while(is_bucket).count();
    &chains[..count]
}

/// A chain without what makes it a certain bucket.
fn blurred(chain: &Value) -> String {
    let mut chain = chain.clone();
    let name = chain["name"].take();
    chain["filter_chain_match"].take();
    chain.to_string().replace(name.as_str().unwrap(), "?")
}

/// The first line that is different.
fn difference(written: &str, made: &str) -> Option<String> {
    let mut lines = (1..).zip(written.lines().zip(made.lines()));
    if let Some((number, (old, new))) = lines.find(|(_, (old, new))| old != new) {
        return Some(format!(
            "line {number}: `{}` became `{}`",
            old.trim(),
            new.trim()
        ));
    }
    let (old, new) = (written.lines().count(), made.lines().count());
    (old != new).then(|| format!("{old} lines became {new}"))
}
