//! `mesh redirect probe`: real packets through the rules.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use mesh_netfilter::{Engine, Family, Outcome as Verdict, Owner, Plan, ProbeOptions};

use super::option::PolicyArgs;
use super::place::{Place, duration};
use super::policy::{environment, tell};
use super::{Run, failure};
use crate::exit::{OK, Outcome, PROBE};
use crate::output::{Format, print_json, print_table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    /// The user as whom the application's packets are sent; one that is captured without.
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// The group as which the application's packets are sent; that of the same number without.
    #[arg(long, value_name = "GID", requires = "uid")]
    gid: Option<u32>,
    /// How long to wait for a packet that does not come.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    patience: Duration,
    #[command(flatten)]
    format: Format,
}

impl Run for Args {
    fn run(self, _: &[OsString]) -> Outcome {
        let wanted = self.policy.wanted(&environment())?;
        tell(&wanted.remarks);
        let place = self.place.or_as(&wanted)?;
        let engine = place.engine()?;
        let plan = Place::plan(&engine, wanted.policy()?)?;
        let options = ProbeOptions {
            patience: self.patience,
            app: self.uid.map(|user| Owner {
                user,
                group: self.gid.unwrap_or(user),
            }),
        };
        probe(&engine, &plan, &options, self.format)
    }
}

/// Probes and says what was found.
pub(super) fn probe(
    engine: &Engine,
    plan: &Plan,
    options: &ProbeOptions,
    format: Format,
) -> Outcome {
    let report = engine.probe(plan, options);
    let report = report.map_err(|error| failure(&error))?;
    if format.json {
        print_json(&report)?;
    } else {
        print_table(
            &["CHECK", "FAMILY", "RESULT", "DETAIL"],
            report.checks.iter().map(|check| {
                let (result, detail) = match &check.outcome {
                    Verdict::Passed { how } => ("passed", how.clone()),
                    Verdict::Failed { expected, found } => {
                        ("FAILED", format!("expected {expected}, found {found}"))
                    }
                    Verdict::NotProbed { reason } => ("not probed", reason.clone()),
                    _ => ("unknown", String::new()),
                };
                [
                    check.name.clone(),
                    family(check.family).to_owned(),
                    result.to_owned(),
                    detail,
                ]
            }),
        );
    }
    if report.has_failed() {
        return Ok(ExitCode::from(PROBE));
    }
    Ok(OK.into())
}

fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
