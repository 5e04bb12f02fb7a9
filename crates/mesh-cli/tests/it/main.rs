//! The binary as its caller sees it: what it writes, and how it ends.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod backup;

use std::io::Read as _;
use std::process::{Command, Output, Stdio};

/// Documents of a file that is read four times: what is said of them is far more than a pipe
/// holds, so that writing goes on after the reader has left.
const DOCUMENTS: usize = 1_000;

fn mesh(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
    command
        .args(arguments)
        .env_remove("MESH_HOME")
        .env_remove("KUBECONFIG");
    command
}

/// How a verb ends whose reader leaves after the first bytes.
fn run_to_a_closed_pipe(arguments: &[&str]) -> Output {
    let mut child = mesh(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 16]).unwrap();
    drop(stdout);
    child.wait_with_output().unwrap()
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("many.yaml");
    let document = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
        metadata: {name: a, namespace: b}\nspec: {}\n---\n";
    std::fs::write(&file, document.repeat(DOCUMENTS)).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [
        ["validate", "-f", file].as_slice(),
        &["validate", "--json", "-f", file],
    ] {
        let again = [["-f", file]; 3].concat();
        let output = run_to_a_closed_pipe(&[arguments, &again].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("one.yaml");
    let document = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
        metadata: {name: a, namespace: b}\nspec: {}\n";
    std::fs::write(&file, document).unwrap();
    let output = mesh(&["validate", "--json", "-f", file.to_str().unwrap()])
        .stdout(full.unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: "), "{said}");
}

#[test]
fn the_control_plane_is_not_removed_as_a_workload() {
    let output = mesh(&["rm", "control-plane"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("mesh down"), "{said}");
}
