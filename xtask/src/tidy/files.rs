//! Rules about single files: heads, sizes, forbidden words, modules that nobody compiles.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::cmd::Cmd;

/// Lines of a file without its tests; more wants a split.
const MOST_LINES: usize = 800;

/// What belongs neither into product nor into tests.
/// Written in halves, so that this file does not contain it.
const FORBIDDEN: &[(&str, &str)] = &[
    (
        concat!("#[", "ignore"),
        "a test runs, or its ring says why not",
    ),
    (concat!("should_", "panic"), "assert on the error instead"),
    (concat!("todo", "!("), "what is missing is an issue"),
    (
        concat!("unimpl", "emented!("),
        "what is missing is an issue",
    ),
    (concat!("FIX", "ME"), "what is missing is an issue"),
];

/// Looks at every Rust file that git knows; gives their number.
pub(crate) fn check(root: &Path, wrong: &mut Vec<String>) -> Result<u64, Failure> {
    let listing = Cmd::new("git", root).args(["ls-files", "*.rs"]).read()?;
    let files: Vec<PathBuf> = listing.lines().map(PathBuf::from).collect();
    for file in &files {
        if file.starts_with("crates/mesh-proto/src/generated") {
            continue;
        }
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            continue;
        };
        let name = file.display();
        if !text.starts_with("//!") {
            wrong.push(format!("{name}: does not open with `//!`"));
        }
        let product = text
            .split("\n#[cfg(test)]\nmod ")
            .next()
            .unwrap_or(&text)
            .lines()
            .count();
        if product > MOST_LINES {
            wrong.push(format!(
                "{name}: {product} lines without tests, more than {MOST_LINES}"
            ));
        }
        for (word, instead) in FORBIDDEN {
            if text.contains(word) {
                wrong.push(format!("{name}: `{word}`; {instead}"));
            }
        }
        if text.lines().any(|line| line.ends_with([' ', '\t'])) {
            wrong.push(format!("{name}: white space at the end of a line"));
        }
        if !is_reached(file, &files, root) {
            wrong.push(format!(
                "{name}: no `mod` reaches it, so nobody compiles it"
            ));
        }
    }
    Ok(files.len() as u64)
}

/// Whether cargo or a `mod` of another file brings a file in.
fn is_reached(file: &Path, files: &[PathBuf], root: &Path) -> bool {
    let (Some(stem), Some(dir)) = (file.file_stem().and_then(|s| s.to_str()), file.parent()) else {
        return true;
    };
    let is_root = matches!(stem, "lib" | "main" | "build")
        || ["tests", "examples", "benches", "bin"]
            .iter()
            .any(|kind| dir.ends_with(kind));
    if is_root {
        return true;
    }
    // `foo/bar.rs` is declared in `foo.rs`, or in `foo/lib.rs` and `foo/main.rs`.
    let parents = [
        dir.with_extension("rs"),
        dir.join("lib.rs"),
        dir.join("main.rs"),
    ];
    let declarations = [format!("mod {stem};"), format!("mod {stem} {{")];
    // A root in `tests/` brings in modules by a path of their own.
    let by_path = format!("{stem}.rs\"]");
    let is_reached_nearby = files
        .iter()
        .filter(|candidate| parents.contains(candidate) || candidate.starts_with(dir))
        .filter_map(|candidate| fs::read_to_string(root.join(candidate)).ok())
        .any(|text| declarations.iter().any(|d| text.contains(d)) || text.contains(&by_path));
    // Several roots may share a folder.
    let folder = dir.file_name().and_then(|name| name.to_str());
    let by_folder = format!("{}/{by_path}", folder.unwrap_or_default());
    is_reached_nearby
        || files
            .iter()
            .filter(|candidate| candidate.parent() == dir.parent())
            .filter_map(|candidate| fs::read_to_string(root.join(candidate)).ok())
            .any(|text| text.contains(&by_folder))
}
