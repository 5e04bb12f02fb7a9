//! `cargo xtask tidy`: the rules of the repository that a program can check.

mod direction;
mod files;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use crate::Failure;
use crate::cmd::Cmd;
use crate::test::ring;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Leave out clippy, which has to compile everything.
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let checks = repository(root)?;
    eprintln!("{checks} checks of the repository hold");
    Cmd::cargo(root).args(["fmt", "--all", "--check"]).run()?;
    if arguments.quick {
        return Ok(());
    }
    clippy(root, ["--all-targets"])?;
    // That passes over the test targets which plain `cargo test` leaves out.
    let rings: BTreeSet<String> = ring::targets(root)?
        .into_iter()
        .map(|target| format!("--test={}", target.name))
        .collect();
    clippy(root, rings)
}

/// Clippy over these targets of the workspace; each warning is an error.
fn clippy(
    root: &Path,
    targets: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<(), Failure> {
    Cmd::cargo(root)
        .args(["clippy", "--workspace", "--features", FEATURES])
        .args(targets)
        .args(["--", "--deny", "warnings"])
        .run()
}

/// The features that nothing in the workspace turns on by default: the second is what measurements
/// use. Always the same ones, since others would compile everything again.
pub(crate) const FEATURES: &str = "mesh-runtime/compose,mesh-runtime/docker,mesh-control/test-util";

/// The checks that need no compiler; how many were made.
pub(crate) fn repository(root: &Path) -> Result<u64, Failure> {
    let mut wrong = Vec::new();
    let checks = direction::check(root, &mut wrong)? + files::check(root, &mut wrong)?;
    if wrong.is_empty() {
        Ok(checks)
    } else {
        Err(wrong.join("\n").into())
    }
}
