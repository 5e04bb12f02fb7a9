//! Build, check, generate, measure, end to end: `cargo xtask VERB`.
//!
//! The verbs that need many crates are features of this package; [`main`] builds itself again with the
//! feature when it is asked for such a verb, so that the others start in seconds.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: results on stdout, progress on stderr"
)]

mod bench;
mod cmd;
#[cfg(feature = "codegen")]
mod codegen;
mod dist;
#[cfg(feature = "e2e")]
mod e2e;
mod layout;
mod provision;
mod release;
mod test;
mod tidy;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cmd::Cmd;

/// What every verb fails with: a sentence for the person at the terminal.
type Failure = Box<dyn Error>;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run every ring of tests that this machine can run; as root it installs what they need.
    Test(test::Arguments),
    /// Install the whole mesh on this machine, prove each promise with real traffic, take it down.
    E2e(E2eArguments),
    /// Run the crates' benchmarks in the release profile; print what they measured.
    Bench(bench::Arguments),
    /// Build the Debian package: the program, units, manual pages, completions.
    Dist(dist::Arguments),
    /// Write anew which functions stand side by side in the released binary; needs root and valgrind.
    Layout,
    /// Check the rules of the repository: crate directions, file heads, sizes, formatting, lints.
    Tidy(tidy::Arguments),
    /// Write the generated wire types anew.
    Codegen {
        /// Compare only, and fail if something is stale.
        #[arg(long)]
        check: bool,
    },
}

/// Options of `e2e`; here, because they are read before the verb is built.
#[derive(clap::Args, Debug)]
struct E2eArguments {
    /// What the mesh is installed on.
    #[arg(value_enum, default_value_t)]
    ground: Ground,
    /// Print one JSON object on stdout.
    #[arg(long)]
    json: bool,
    /// Leave everything running after the last row; `--json` and the table say how to enter it.
    #[arg(long)]
    keep: bool,
    /// Set when the program has put itself into a network namespace that plays the host.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

/// What `e2e` installs the mesh on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
enum Ground {
    /// Processes in network namespaces, and a file as the store.
    #[default]
    Process,
    /// Containers of a Docker daemon that the run starts for itself, and etcd as the store.
    Docker,
    /// Jobs of a Nomad server and client that the run starts for itself; the binary is that of
    /// `NOMAD_BIN`, else `nomad` in PATH.
    Nomad,
    /// Jobs of a Nomad cluster that the run starts for itself: three servers and three clients.
    Cluster,
}

fn main() -> ExitCode {
    let root = root();
    let result = match Arguments::parse().verb {
        Verb::Test(arguments) => test::run(&root, &arguments),
        Verb::E2e(arguments) => e2e(&root, &arguments),
        Verb::Bench(arguments) => bench::run(&root, &arguments),
        Verb::Dist(arguments) => dist::run(&root, &arguments),
        Verb::Layout => layout::run(&root),
        Verb::Tidy(arguments) => tidy::run(&root, &arguments),
        Verb::Codegen { check } => codegen(&root, check),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

impl Ground {
    /// Its name on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Nomad => "nomad",
            Self::Cluster => "cluster",
        }
    }
}

/// The root of the workspace, wherever cargo was called from.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

#[cfg(feature = "e2e")]
fn e2e(root: &Path, arguments: &E2eArguments) -> Result<(), Failure> {
    e2e::run(root, arguments)
}

#[cfg(not(feature = "e2e"))]
fn e2e(root: &Path, arguments: &E2eArguments) -> Result<(), Failure> {
    // Said before minutes of building.
    provision::need_root()?;
    let mut again = vec!["e2e", arguments.ground.name()];
    again.extend(arguments.json.then_some("--json"));
    again.extend(arguments.keep.then_some("--keep"));
    again_with(root, "e2e", &again)
}

#[cfg(feature = "codegen")]
fn codegen(root: &Path, check: bool) -> Result<(), Failure> {
    codegen::run(root, check)
}

#[cfg(not(feature = "codegen"))]
fn codegen(root: &Path, check: bool) -> Result<(), Failure> {
    again_with(
        root,
        "codegen",
        if check {
            &["codegen", "--check"]
        } else {
            &["codegen"]
        },
    )
}

/// Builds this program with a feature and runs the verb there.
#[expect(
    clippy::allow_attributes,
    reason = "which features are on decides whether it is used"
)]
#[allow(dead_code, reason = "unused when every feature is on")]
fn again_with(root: &Path, feature: &str, arguments: &[&str]) -> Result<(), Failure> {
    Cmd::cargo(root)
        .args([
            "run",
            "--quiet",
            "--package",
            "xtask",
            "--features",
            feature,
            "--",
        ])
        .args(arguments.iter().copied())
        .hand_over()
}
