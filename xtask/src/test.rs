//! `cargo xtask test`: every ring that this machine can run, and a table of what ran.

mod outcome;
pub(crate) mod ring;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use crate::cmd::Cmd;
use crate::provision::{self, Tools};
use crate::{Failure, tidy};
use outcome::{Report, Row};
use ring::{Need, RINGS, Ring};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Run only these rings; may be repeated.
    #[arg(long = "ring")]
    rings: Vec<String>,
    /// Fail if one of these rings did not run or ran no test; comma separated.
    #[arg(long, value_delimiter = ',')]
    require: Vec<String>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let start = Instant::now();
    let unknown = arguments
        .rings
        .iter()
        .chain(&arguments.require)
        .find(|name| !RINGS.iter().any(|ring| ring.name == **name));
    if let Some(name) = unknown {
        let names: Vec<_> = RINGS.iter().map(|ring| ring.name).collect();
        return Err(format!("`{name}` is no ring; the rings are {}", names.join(", ")).into());
    }
    let wanted =
        |ring: &&Ring| arguments.rings.is_empty() || arguments.rings.iter().any(|n| n == ring.name);

    let tools = provision::run(root);
    let targets = ring::targets(root)?;
    let mut rows = Vec::new();
    let plain: Vec<&Ring> = RINGS
        .iter()
        .filter(wanted)
        .filter(|r| r.target.is_none())
        .collect();
    if !plain.is_empty() {
        rows.extend(plain_rings(root, &plain)?);
    }
    for ring in RINGS.iter().filter(wanted) {
        if let Some(target) = ring.target {
            rows.push(target_ring(root, ring, target, &targets, &tools)?);
        }
    }
    let report = Report {
        rings: rows,
        seconds: start.elapsed().as_secs(),
    };
    report.print(arguments.json)?;
    report.verdict(&arguments.require)
}

/// The rings that plain `cargo test` runs, told apart by the names of their tests.
fn plain_rings(root: &Path, rings: &[&Ring]) -> Result<Vec<Row>, Failure> {
    let tidy = tidy::repository(root);
    // The package of scenarios is no default member; its unit tests need nothing.
    let finished = Cmd::cargo(root)
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(["--features", tidy::FEATURES])
        .watch()?;
    let counts = outcome::by_ring(&finished.output);
    Ok(rings
        .iter()
        .map(|ring| {
            if ring.name == "tidy" {
                return match &tidy {
                    Ok(checks) => Row::ran(ring.name, *checks, 0),
                    Err(failure) => Row::failed(ring.name, failure.to_string()),
                };
            }
            let (passed, failed) = counts.get(ring.name).copied().unwrap_or_default();
            match (finished.ok, passed + failed) {
                (false, 0) => {
                    Row::failed(ring.name, "`cargo test` did not build or run".to_owned())
                }
                (_, 0) => Row::not_run(ring.name, "there is no such test".to_owned()),
                _ => Row::ran(ring.name, passed, failed),
            }
        })
        .collect())
}

/// A ring whose tests are targets of their own, because they need more than a file system.
fn target_ring(
    root: &Path,
    ring: &Ring,
    target: &str,
    targets: &[ring::Target],
    tools: &Tools,
) -> Result<Row, Failure> {
    let unmet: Vec<String> = ring
        .needs
        .iter()
        .filter_map(|need| need.unmet(tools))
        .collect();
    if !unmet.is_empty() {
        return Ok(Row::not_run(ring.name, unmet.join("; ")));
    }
    let mine: BTreeSet<&str> = targets
        .iter()
        .map(|found| found.name.as_str())
        .filter(|name| ring::target_of(name) == Some(target))
        .collect();
    if mine.is_empty() {
        return Ok(Row::not_run(
            ring.name,
            "no crate has such tests yet".to_owned(),
        ));
    }
    // The whole workspace, as for the plain rings: other features would compile everything again.
    let mut cmd = Cmd::cargo(root)
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(["--features", tidy::FEATURES]);
    for name in mine {
        cmd = cmd.args(["--test", name]);
    }
    for program in ring.needs.iter().filter_map(Need::program) {
        if let Ok(path) = tools.need(program) {
            let variable = format!("{}_BIN", program.to_uppercase().replace('-', "_"));
            cmd = cmd.env(&variable, path);
        }
    }
    if let Some(kubectls) = tools.kubectls() {
        cmd = cmd.env("MESH_KUBECTLS", kubectls);
    }
    // Namespaces, ports and daemons are made per test; two cores do not gain from more at once.
    let finished = cmd.args(["--", "--test-threads=2"]).watch()?;
    let (passed, failed) = outcome::total(&finished.output);
    let ok = finished.ok;
    Ok(match (ok, passed + failed) {
        (false, _) if failed == 0 => Row::failed(ring.name, "did not build or run".to_owned()),
        (_, 0) => Row::not_run(ring.name, "its targets hold no test".to_owned()),
        _ => Row::ran(ring.name, passed, failed),
    })
}
