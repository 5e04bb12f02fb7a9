//! A mesh that was lost comes back from its backup: with the same root and the same objects.

use std::fs;
use std::io::ErrorKind;

use serde_json::Value;

use crate::install::{NODE, traces};
use crate::lab::with_agent_of;
use crate::program::{MESH, Mesh};

const TRIAL: [&str; 4] = ["install", "--dev", "--program", MESH];

const CLUSTER: [&str; 13] = [
    "install",
    "--program",
    MESH,
    "--etcd",
    "1",
    "--api",
    "1",
    "--ca",
    "1",
    "--pilot",
    "1",
    "--mixer",
    "1",
];

/// The root that joining agents trust, and an object as it is.
fn seen(mesh: &Mesh<'_>) -> (Value, String) {
    let status = mesh.must(&["status", "--json"]).json();
    let roots = status["roots"]["catalogue"].clone();
    assert_eq!(roots.as_array().map(Vec::len), Some(1), "{status:#}");
    assert_eq!(roots, status["roots"]["published"], "{status:#}");
    let found = mesh
        .kubectl(&["get", "configmap", "kept", "-o", "json"])
        .json();
    let uid = found["metadata"]["uid"].as_str().unwrap().to_owned();
    (roots, uid)
}

fn lost_and_restored(install: &'static [&'static str]) {
    with_agent_of(NODE, move |lab| async move {
        let mesh = Mesh {
            lab: &lab,
            token: None,
        };
        let mut install = install.to_vec();
        install.push("--no-nodes");
        mesh.must(&[&install[..], &["--permissive"]].concat());
        let made = mesh.kubectl(&["create", "configmap", "kept"]);
        assert_eq!(made.code, Some(0), "{made:#?}");
        let before = seen(&mesh);
        let backup = lab.directory().join("mesh.backup");
        let backup = backup.to_str().unwrap();
        let said = mesh.verb(&["backup", backup]);
        assert_eq!(said.code, Some(0), "{said:#?}");
        let with_backup = [&install[..], &["--restore", backup]].concat();
        let home = lab.directory().join("home");

        // Beside a mesh that runs, and into a store that one has left.
        let refused = mesh.run(&with_backup);
        assert_eq!(refused.code, Some(5), "{refused:#?}");
        mesh.must(&["uninstall"]);
        fs::remove_dir_all(&home).unwrap();
        let refused = mesh.run(&with_backup);
        assert_eq!(refused.code, Some(5), "{refused:#?}");
        assert!(refused.err.contains("not empty"), "{refused:#?}");
        mesh.must(&["uninstall", "--purge-data"]);
        assert_eq!(traces(&lab.client).await, Vec::<String>::new());

        // An install that was refused need not have made it again.
        match fs::remove_dir_all(&home) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                panic!("{}: {error}", home.display())
            }
            _ => {}
        }
        let anew = mesh.must(&install);
        assert_ne!(
            mesh.must(&["status", "--json"]).json()["roots"]["catalogue"],
            before.0
        );
        assert!(anew.out.contains("STRICT"), "{anew:#?}");
        mesh.must(&["uninstall", "--purge-data"]);
        fs::remove_dir_all(&home).unwrap();

        let restored = mesh.must(&with_backup);
        assert!(restored.out.contains("store: "), "{restored:#?}");
        // What the old mesh refused is the backup's to say.
        assert!(!restored.out.contains("STRICT"), "{restored:#?}");
        assert_eq!(seen(&mesh), before);
        let left: Vec<_> = fs::read_dir(&home)
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        assert_eq!(left, ["kubeconfig"]);
    });
}

#[test]
fn readme_has_the_words_that_are_run_here() {
    let readme = include_str!("../../../../README.md");
    let restore = [&TRIAL[..], &["--restore", "mesh.backup"]].concat();
    let restore = restore.join(" ").replace(MESH, "/usr/local/bin/mesh");
    let restore = format!("mesh nomad {restore}");
    for command in [&restore[..], "mesh backup mesh.backup"] {
        assert!(readme.lines().any(|line| line == command), "{command}");
    }
}

#[test]
fn a_trial_comes_back_from_its_backup() {
    lost_and_restored(&TRIAL);
}

#[test]
fn a_cluster_comes_back_from_its_backup() {
    lost_and_restored(&CLUSTER);
}
