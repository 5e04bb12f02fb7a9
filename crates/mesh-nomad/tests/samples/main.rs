//! Nomad's own jobs, as a real server parsed and stored them: the files of `MESH_NOMAD_JOBS` and
//! the recordings of `MESH_NOMAD_RECORDINGS`.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::panic, reason = "so is a panic, with a better message")]

mod replies;

use std::path::{Path, PathBuf};

use mesh_nomad::inject::{ModeChoice, Options, inject, uninject};
use mesh_nomad::model::{Job, JobDocument};
use mesh_nomad::sidecar::Mode;
use serde_json::Value;

/// The files with this ending below the directory that `variable` names; sorted.
fn files(variable: &str, ending: &str) -> Vec<PathBuf> {
    let directory = std::env::var_os(variable).unwrap_or_else(|| {
        panic!("the samples ring needs the directory of Nomad's files in {variable}")
    });
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(directory)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(
        !found.is_empty(),
        "{variable} names a directory without *{ending}"
    );
    found
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Every object below `value` that is a whole job.
fn jobs(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(map) => {
            if map.contains_key("TaskGroups")
                && map.contains_key("ID")
                && map.contains_key("Type")
                && map["TaskGroups"].is_array()
            {
                found.push(value.clone());
            }
            map.values().for_each(|value| jobs(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| jobs(value, found)),
        _ => {}
    }
}

#[test]
fn every_job_file_comes_out_as_it_went_in() {
    for path in files("MESH_NOMAD_JOBS", ".json") {
        let value = read(&path);
        let document: JobDocument = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(
            serde_json::to_value(&document).unwrap(),
            value,
            "{}",
            path.display()
        );
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            value,
            "{}",
            path.display()
        );
        assert!(!document.job().id.text().is_empty(), "{}", path.display());
    }
}

#[test]
fn every_recorded_job_comes_out_as_it_went_in() {
    let mut count = 0;
    for path in files("MESH_NOMAD_RECORDINGS", ".json") {
        let mut found = Vec::new();
        let recording = read(&path);
        jobs(&recording, &mut found);
        // The server refused these bodies too.
        let is_malformed = recording["status"] == 400;
        for value in found {
            match serde_json::from_value::<Job>(value.clone()) {
                Ok(job) => {
                    let again = serde_json::to_value(&job).unwrap();
                    assert_eq!(again, value, "{}", path.display());
                    count += 1;
                }
                Err(_) if is_malformed => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
    assert!(count > 20, "only {count} jobs in the recordings");
}

#[test]
fn injection_of_every_job_file_is_one_and_has_a_way_back() {
    let mut injected = std::collections::BTreeMap::new();
    for path in files("MESH_NOMAD_JOBS", ".json") {
        let job = serde_json::from_value::<JobDocument>(read(&path))
            .unwrap()
            .into_job();
        for mode in Mode::ALL {
            let options = Options {
                mode: ModeChoice::Mode(mode),
                image: Some("mesh:1".into()),
                ..Options::default()
            };
            let once = match inject(&job, &options) {
                Ok(once) => once,
                Err(refusals) => {
                    let hints = refusals.0.iter().filter(|refusal| !refusal.hint.is_empty());
                    assert!(
                        !refusals.0.is_empty() && hints.count() > 0,
                        "{}",
                        path.display()
                    );
                    continue;
                }
            };
            *injected.entry(mode).or_insert(0) += 1;
            assert_eq!(
                inject(&once.job, &options).unwrap(),
                once,
                "{} {mode}",
                path.display()
            );
            assert_eq!(
                uninject(&once.job).unwrap(),
                job,
                "{} {mode}",
                path.display()
            );
        }
    }
    for mode in [Mode::Cni, Mode::Guard, Mode::Explicit] {
        let count = injected.get(&mode).copied().unwrap_or(0);
        assert!(
            count >= 2,
            "only {count} of the files can be injected in mode {mode}"
        );
    }
}
