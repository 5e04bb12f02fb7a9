//! `mesh validate`: checks files without an API server.

use std::process::ExitCode;

use mesh_model::istio::{self, IstioKind};
use serde::Serialize;

use super::documents::{Document, Files};
use crate::exit::{OK, Outcome, USAGE};
use crate::output::{Format, print_json};

/// Check YAML or JSON files of Istio's kinds, as the API server would.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Take unknown fields as errors too.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    format: Format,
}

/// What was found in one document.
#[derive(Debug, Serialize)]
struct Verdict {
    document: String,
    problems: Vec<String>,
    warnings: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let verdicts: Vec<_> = args
        .files
        .read()?
        .iter()
        .map(|document| judge(document, args.strict))
        .collect();
    if args.format.json {
        print_json(&verdicts)?;
    } else {
        for Verdict {
            document,
            problems,
            warnings,
        } in &verdicts
        {
            let state = if problems.is_empty() {
                "valid"
            } else {
                "invalid"
            };
            println!("{document}: {state}");
            for problem in problems {
                println!("  error: {problem}");
            }
            for warning in warnings {
                println!("  warning: {warning}");
            }
        }
    }
    let bad = verdicts.iter().any(|verdict| !verdict.problems.is_empty());
    Ok(ExitCode::from(if bad { USAGE } else { OK }))
}

fn judge(document: &Document, strict: bool) -> Verdict {
    let mut verdict = Verdict {
        document: document.origin.clone(),
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let kind = match document.place("default") {
        Ok(place) => place.kind,
        Err(failure) => {
            verdict.problems.push(failure.to_string());
            return verdict;
        }
    };
    // The other kinds are Kubernetes' own; only the API server checks those.
    let Some(kind) = IstioKind::of(kind) else {
        return verdict;
    };
    let checked = istio::check(kind, &document.object);
    verdict
        .problems
        .extend(checked.problems.iter().map(ToString::to_string));
    verdict.warnings.extend(checked.warnings);
    let unknown = checked
        .unknown_fields
        .iter()
        .map(|field| format!("{field}: unknown field"));
    if strict {
        verdict.problems.extend(unknown);
    } else {
        verdict.warnings.extend(unknown);
    }
    verdict
}
