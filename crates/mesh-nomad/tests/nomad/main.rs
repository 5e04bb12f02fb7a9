//! A real Nomad: it reads what injection writes, and answers the client. The binary of `NOMAD_BIN`, else `nomad` of PATH.
//!
//! `MESH_NOMAD_JOBS=DIR NOMAD_BIN=FILE cargo test -p mesh-nomad --test nomad`
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "so is a panic, with a better message")]
#![expect(
    clippy::indexing_slicing,
    reason = "a missing element is a failed test"
)]
#![expect(clippy::print_stderr, reason = "the log of an agent whose test failed")]

mod catalogue;
mod client;
#[expect(dead_code, reason = "the tests of mesh-cli ask for more")]
mod lab;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use mesh_nomad::hcl::{self, HclError};
use mesh_nomad::inject::{ModeChoice, Options, inject};
use mesh_nomad::model::JobDocument;
use mesh_nomad::sidecar::Mode;
use serde_json::Value;

/// What Nomad's parser makes of a file.
fn parse(file: &Path) -> Result<JobDocument, String> {
    let nomad = std::env::var_os("NOMAD_BIN").unwrap_or_else(|| OsString::from("nomad"));
    let output = Command::new(&nomad)
        .args(["job", "run", "-output"])
        .arg(file)
        .output()
        .unwrap_or_else(|error| {
            panic!("the nomad ring needs `nomad` in NOMAD_BIN or PATH: {error}")
        });
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Job files: our own, and Nomad's.
fn files() -> Vec<PathBuf> {
    let jobs = std::env::var_os("MESH_NOMAD_JOBS").unwrap_or_else(|| {
        panic!("the nomad ring needs the directory of job files in MESH_NOMAD_JOBS")
    });
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hcl");
    let mut files: Vec<PathBuf> = [ours, PathBuf::from(jobs)]
        .iter()
        .flat_map(|directory| std::fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".nomad.hcl"))
        .collect();
    files.sort();
    files
}

fn options(mode: Mode) -> Options {
    Options {
        mode: ModeChoice::Mode(mode),
        image: Some("mesh/sidecar:1".into()),
        ..Options::default()
    }
}

/// Without what Nomad takes for not said.
fn said(value: Value) -> Option<Value> {
    match value {
        Value::Null | Value::Bool(false) => None,
        Value::Number(number) if number.as_i64() == Some(0) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(items) => Some(items.into_iter().filter_map(said).collect::<Vec<_>>())
            .filter(|items| !items.is_empty())
            .map(Value::from),
        Value::Object(map) => Some(
            map.into_iter()
                // The parser of HCL alone has this default.
                .filter(|(key, _)| key != "Splay")
                .filter_map(|(key, value)| Some((key, said(value)?)))
                .collect::<serde_json::Map<_, _>>(),
        )
        .filter(|map| !map.is_empty())
        .map(Value::Object),
        value => Some(value),
    }
}

#[test]
fn injected_hcl_is_the_injected_json_of_the_original() {
    let directory = tempfile::tempdir().unwrap();
    let mut same = 0;
    for file in files() {
        let name = file.display();
        let text = std::fs::read_to_string(&file).unwrap();
        let original = match parse(&file) {
            Ok(document) => document.into_job(),
            Err(error) => panic!("{name}: {error}"),
        };
        for mode in Mode::ALL {
            let json = inject(&original, &options(mode));
            let injected = match (hcl::inject(&text, &options(mode)), &json) {
                (Ok(injected), Ok(_)) => injected,
                (Err(HclError::Dynamic { places }), _) => {
                    assert!(!places.is_empty(), "{name}");
                    continue;
                }
                (Err(_), Err(_)) => continue,
                (hcl, json) => panic!("{name} in mode {mode}: {hcl:?} but {json:?}"),
            };
            let edited = directory.path().join("edited.nomad.hcl");
            std::fs::write(&edited, &injected.text).unwrap();
            let parsed = parse(&edited).unwrap_or_else(|error| {
                panic!("{name} in mode {mode}: {error}\n{}", injected.text)
            });
            let injection = json.as_ref().unwrap();
            assert_eq!(injected.report, injection.report, "{name} in mode {mode}");
            let found = said(serde_json::to_value(parsed.job()).unwrap()).unwrap();
            let expected = said(serde_json::to_value(&injection.job).unwrap()).unwrap();
            if found != expected {
                let (found, expected) = (pretty(&found), pretty(&expected));
                let difference = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
                panic!("{name} in mode {mode}: {difference:?}");
            }
            same += 1;
        }
    }
    assert!(same >= 15, "only {same} files in a mode were injected");
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}
