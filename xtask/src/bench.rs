//! `cargo xtask bench [NAME]`: runs the crates' own benchmarks and gathers what they measured.
//!
//! A benchmark is a program of the crate that it measures (`benches/<name>.rs`, `harness = false`),
//! built in the release profile. It prints one JSON object per measure and line on standard output
//! ([`measure::Line`]); whatever else it prints is progress. One that sees something wrong while it
//! measures exits with a failure, and so does this verb.

mod measure;

use std::path::Path;

use clap::builder::PossibleValuesParser;

use crate::Failure;
use crate::cmd::Cmd;
use crate::provision::{self, Tools};
use crate::release;
use crate::test::ring::Need;
use measure::{Line, Report};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Which benchmarks to run; all of them without a name.
    #[arg(value_parser = PossibleValuesParser::new(BENCHES.iter().map(|bench| bench.name)))]
    names: Vec<String>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// One benchmark.
#[derive(Debug)]
struct Bench {
    /// Its name, and that of its target.
    name: &'static str,
    /// The crate that it measures.
    package: &'static str,
    /// Features of the crate; the same for all of its benchmarks, so that it is built once.
    features: &'static str,
    /// What the machine must have.
    needs: &'static [Need],
    /// Programs without which it leaves something out, and says so.
    may_need: &'static [&'static str],
    /// Whether it runs the `mesh` binary, which is built as it is released and named by `MESH_BIN`.
    runs_mesh: bool,
}

/// Every benchmark, the quickest first.
const BENCHES: &[Bench] = &[
    Bench {
        name: "netfilter",
        package: "mesh-netfilter",
        features: "iptables",
        needs: &[
            Need::Root,
            Need::Program("unshare"),
            Need::Program("nft"),
            Need::Program("iptables-restore"),
        ],
        may_need: &[],
        runs_mesh: false,
    },
    Bench {
        name: "nomad",
        package: "mesh-nomad",
        features: "hcl",
        needs: &[Need::Root, Need::Program("ip"), Need::Program("unshare")],
        may_need: &["nomad", "envoy"],
        runs_mesh: true,
    },
    Bench {
        name: "ca",
        package: "mesh-control",
        features: "test-util",
        needs: &[],
        may_need: &[],
        runs_mesh: false,
    },
    Bench {
        name: "api",
        package: "mesh-control",
        features: "test-util",
        needs: &[Need::Program("etcd")],
        may_need: &[],
        runs_mesh: false,
    },
    Bench {
        name: "ads",
        package: "mesh-control",
        features: "test-util",
        needs: &[],
        may_need: &[],
        runs_mesh: false,
    },
    Bench {
        name: "runtime",
        package: "mesh-runtime",
        features: "docker",
        needs: &[
            Need::Root,
            Need::Program("ip"),
            Need::Program("dockerd"),
            Need::Program("docker"),
            Need::Program("envoy"),
        ],
        may_need: &[],
        runs_mesh: true,
    },
];

pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let is_wanted = |bench: &&Bench| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| name == bench.name)
    };
    let benches: Vec<_> = BENCHES.iter().filter(is_wanted).collect();
    let mut tools = provision::programs(root);
    let needs = |bench: &&Bench| {
        let mut needed = bench.needs.iter().filter_map(Need::program);
        needed.any(|program| program == "envoy") || bench.may_need.contains(&"envoy")
    };
    if benches.iter().any(needs) {
        tools.get_envoy(root);
    }
    let mut report = Report::default();
    let mut wrong = Vec::new();
    for bench in benches {
        let measured = bench
            .run(root, &tools)
            .and_then(|lines| report.add(bench.name, &lines));
        if let Err(failure) = measured {
            wrong.push(format!("{}: {failure}", bench.name));
        }
    }
    // What was measured is worth showing, although something else went wrong.
    report.print(arguments.json)?;
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("; ").into())
    }
}

// === impl Bench ===

impl Bench {
    /// Builds and runs it; what it measured, in the order in which it did.
    fn run(&self, root: &Path, tools: &Tools) -> Result<Vec<Line>, Failure> {
        let unmet: Vec<_> = self.needs.iter().filter_map(|n| n.unmet(tools)).collect();
        if !unmet.is_empty() {
            return Err(format!("not run: {}", unmet.join("; ")).into());
        }
        let mut cmd = Cmd::cargo(root).args(["bench", "--package", self.package]);
        if !self.features.is_empty() {
            cmd = cmd.args(["--features", self.features]);
        }
        let variable = |program: &str| format!("{}_BIN", program.to_uppercase().replace('-', "_"));
        for program in self.needs.iter().filter_map(Need::program) {
            cmd = cmd.env(&variable(program), tools.need(program)?);
        }
        for program in self.may_need {
            if let Ok(found) = tools.need(program) {
                cmd = cmd.env(&variable(program), found);
            }
        }
        if self.runs_mesh {
            cmd = cmd.env("MESH_BIN", release::build(root)?);
        }
        let mut lines = Vec::new();
        cmd.args(["--bench", self.name]).results(|line| {
            match Line::parse(line)? {
                Some(measure) => {
                    eprintln!("  {measure}");
                    lines.push(measure);
                }
                None => eprintln!("{line}"),
            }
            Ok(())
        })?;
        if lines.is_empty() {
            return Err("it measured nothing".into());
        }
        Ok(lines)
    }
}
