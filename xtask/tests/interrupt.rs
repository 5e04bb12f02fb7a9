//! What `cargo xtask e2e` does when it cannot run, may not run, or is told to end.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "interrupt/run.rs"]
mod run;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use run::{End, XTASK, end};

/// Held by every test: a run with other features builds the program anew under the others' feet.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run says that ends by itself, and must end badly.
fn refusal(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    said
}

#[test]
fn interrupted_it_takes_everything_down_and_a_second_run_waits_for_its_turn() {
    let _alone = alone();
    end("process", End::Terminal, || {
        let second = refusal(Command::new(XTASK).arg("e2e"));
        assert!(
            second.contains("another `cargo xtask e2e` is running on this machine"),
            "{second}"
        );
    });
}

#[test]
fn told_to_end_alone_it_takes_everything_down_too() {
    let _alone = alone();
    end("process", End::Kill, || {});
}

#[test]
fn what_is_missing_is_said_in_one_sentence() {
    let _alone = alone();
    let said = refusal(Command::new(XTASK).arg("e2e").env("ENVOY_BIN", "/nowhere"));
    assert!(
        said.contains("no `envoy`: ENVOY_BIN names `/nowhere`, which is no file"),
        "{said}"
    );
    assert!(
        said.contains("set ENVOY_BIN to the binary of an Envoy 1.40"),
        "{said}"
    );

    // A capability less than a container usually has.
    let said = refusal(
        Command::new("setpriv")
            .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"])
            .args([XTASK, "e2e"]),
    );
    assert!(said.contains("gives no network namespaces"), "{said}");
    assert!(
        said.contains("use a VM, or a privileged container"),
        "{said}"
    );

    // Everything but kubectl, and nothing to install it with.
    let dir = tempfile::tempdir().unwrap();
    for program in ["cargo", "rustc", "cc", "sh", "env", "unshare", "ip", "nft"] {
        link(program, dir.path());
    }
    let said = refusal(Command::new(XTASK).arg("e2e").env("PATH", dir.path()));
    assert!(
        said.contains("no `kubectl`: install its Debian package"),
        "{said}"
    );
    assert!(said.contains("(package kubernetes-client)"), "{said}");
}

#[test]
fn who_is_not_root_is_told_so() {
    let _alone = alone();
    // The program itself: another user may not enter the directory that it was built in.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("xtask");
    fs::copy(XTASK, &program).unwrap();
    rustix::fs::chmod(dir.path(), 0o755.into()).unwrap();
    let said = refusal(
        Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .args(["e2e"])
            .current_dir("/"),
    );
    assert!(said.contains("must be root: run it with sudo"), "{said}");
}

/// Makes a program of this machine findable in `dir`.
fn link(program: &str, dir: &Path) {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    if let Some(found) = found {
        symlink(found, dir.join(program)).unwrap();
    }
}
