//! `mesh redirect verify` and `diff`: the rules that are there against those of a policy.

use std::ffi::OsString;
use std::process::ExitCode;

use mesh_netfilter::{Plan, Report, RuleState};
use serde_json::json;

use super::option::PolicyArgs;
use super::place::Place;
use super::policy::{environment, tell};
use super::{Run, failure};
use crate::exit::{DRIFT, OK, Outcome};
use crate::output::{Format, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    format: Format,
}

impl Run for VerifyArgs {
    fn run(self, _: &[OsString]) -> Outcome {
        let wanted = self.policy.wanted(&environment())?;
        tell(&wanted.remarks);
        let place = self.place.or_as(&wanted)?;
        let engine = place.engine()?;
        let plan = Place::plan(&engine, wanted.policy()?)?;
        let report = engine.verify(&plan).map_err(|error| failure(&error))?;
        if self.format.json {
            let words: Vec<String> = report.drifts.iter().map(ToString::to_string).collect();
            let hazards: Vec<String> = report.hazards.iter().map(ToString::to_string).collect();
            let notes: Vec<String> = report.notes.iter().map(ToString::to_string).collect();
            print_json(&json!({
                "instance": plan.instance(),
                "backend": engine.backend(),
                "state": report.state,
                "drifts": words,
                "hazards": hazards,
                "notes": notes,
                "report": report,
            }))?;
        } else {
            print_report(&plan, &report);
        }
        Ok(match report.state {
            RuleState::Intact => OK.into(),
            _ => ExitCode::from(DRIFT),
        })
    }
}

fn print_report(plan: &Plan, report: &Report) {
    println!("{}: {}", plan.instance(), report.state.as_str());
    for drift in &report.drifts {
        println!("  {drift}");
    }
    for hazard in &report.hazards {
        println!("  mind: {hazard}");
    }
    for note in &report.notes {
        println!("  note: {note}");
    }
}

impl Run for DiffArgs {
    fn run(self, _: &[OsString]) -> Outcome {
        let wanted = self.policy.wanted(&environment())?;
        tell(&wanted.remarks);
        let place = self.place.or_as(&wanted)?;
        let engine = place.engine()?;
        let plan = Place::plan(&engine, wanted.policy()?)?;
        let diff = engine.diff(&plan).map_err(|error| failure(&error))?;
        if self.format.json {
            print_json(&diff)?;
        } else {
            super::plan::print(&diff.to_string())?;
        }
        Ok(if diff.changes.is_empty() {
            OK.into()
        } else {
            ExitCode::from(DRIFT)
        })
    }
}
