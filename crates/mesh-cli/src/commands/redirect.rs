//! `mesh redirect`: the rules that send the traffic of a network namespace through its sidecar.

mod policy;
mod watch;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use mesh_netfilter::{
    Applied, Engine, EngineError, HostNetwork, InstanceName, Netns, Plan, Removed, Report,
    RuleState,
};
use serde_json::json;

use self::policy::PolicyArgs;
use crate::exit::{DRIFT, Failure, OK, Outcome, REFUSED, UNSUPPORTED};
use crate::output::{Format, print_json};

/// Set, check and remove the rules that send traffic through a sidecar.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print the rules of a policy; nothing is touched.
    Plan(PlanArgs),
    /// Make the rules those of a policy, in one transaction.
    Apply(ApplyArgs),
    /// Compare the rules that are there with those of a policy; exit code 3 if they differ.
    Verify(VerifyArgs),
    /// Remove the rules, whatever policy they are of.
    Remove(RemoveArgs),
    /// Verify all the time, and write what was found to a file.
    Watch(watch::Args),
}

#[derive(Debug, clap::Args)]
struct PlanArgs {
    #[command(flatten)]
    policy: PolicyArgs,
    /// In which form; `--json` is short for `--as json`.
    #[arg(long = "as", value_name = "FORM", default_value = "nft", value_parser = ["nft", "json"])]
    form: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct ApplyArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Set the rules even if the network namespace is the host's own. They take its connections,
    /// ssh among them.
    #[arg(long)]
    allow_host_network: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    #[command(flatten)]
    place: Place,
    /// The name of the set of rules.
    #[arg(long, default_value_t)]
    instance: InstanceName,
    #[command(flatten)]
    format: Format,
}

/// Where the rules are.
#[derive(Debug, clap::Args)]
struct Place {
    /// The network namespace: a name of `ip netns`, a path, or `pid:N`; the current one without.
    #[arg(long, value_name = "NAME|PATH|pid:N")]
    netns: Option<Netns>,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Outcome {
    match &args.verb {
        Verb::Plan(args) => plan(args),
        Verb::Apply(args) => apply(args),
        Verb::Verify(args) => verify(args),
        Verb::Remove(args) => remove(args),
        Verb::Watch(args) => watch::run(args),
    }
}

fn plan(args: &PlanArgs) -> Outcome {
    let plan = args.policy.plan()?;
    if args.format.json || args.form == "json" {
        print_json(&plan)?;
    } else {
        // Rules are long, and whoever pages them may have seen enough.
        let written = std::io::stdout().write_all(plan.to_nft().as_bytes());
        if let Err(error) = written
            && error.kind() != ErrorKind::BrokenPipe
        {
            return Err(Failure::doing("printing the rules", &error));
        }
    }
    Ok(OK.into())
}

fn apply(args: &ApplyArgs) -> Outcome {
    let plan = args.policy.plan()?;
    let host = if args.allow_host_network {
        HostNetwork::DangerouslyAllow
    } else {
        HostNetwork::Refuse
    };
    let applied = args.place.engine()?.apply(&plan, host);
    let applied = applied.map_err(|error| failure(&error))?;
    if args.format.json {
        print_json(&json!({
            "instance": plan.instance(),
            "applied": applied,
            "fingerprint": plan.fingerprint(),
        }))?;
    } else {
        let words = match applied {
            Applied::Unchanged => "the rules were there already",
            Applied::Created => "the rules are set",
            Applied::Replaced => "other rules were replaced",
            _ => "done",
        };
        println!("{}: {words} (plan {})", plan.instance(), plan.fingerprint());
    }
    Ok(OK.into())
}

fn verify(args: &VerifyArgs) -> Outcome {
    let plan = args.policy.plan()?;
    let report = args.place.engine()?.verify(&plan);
    let report = report.map_err(|error| failure(&error))?;
    if args.format.json {
        let words: Vec<String> = report.drifts.iter().map(ToString::to_string).collect();
        let hazards: Vec<String> = report.hazards.iter().map(ToString::to_string).collect();
        print_json(&json!({
            "instance": plan.instance(),
            "state": report.state,
            "drifts": words,
            "hazards": hazards,
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

fn print_report(plan: &Plan, report: &Report) {
    println!("{}: {}", plan.instance(), report.state.as_str());
    for drift in &report.drifts {
        println!("  {drift}");
    }
    for hazard in &report.hazards {
        println!("  mind: {hazard}");
    }
}

fn remove(args: &RemoveArgs) -> Outcome {
    let removed = args.place.engine()?.remove(&args.instance);
    let removed = removed.map_err(|error| failure(&error))?;
    if args.format.json {
        print_json(&json!({ "instance": args.instance, "removed": removed }))?;
    } else {
        let words = match removed {
            Removed::Removed => "the rules are removed",
            Removed::Absent => "there were no rules",
            _ => "done",
        };
        println!("{}: {words}", args.instance);
    }
    Ok(OK.into())
}

impl Place {
    fn engine(&self) -> Result<Engine, Failure> {
        let netns = self.netns.as_ref().unwrap_or(&Netns::Current);
        Engine::netlink(netns).map_err(|error| failure(&error))
    }
}

/// The exit code and the advice for an error of the engine.
fn failure(error: &EngineError) -> Failure {
    let failure = match error {
        EngineError::HostNetwork { .. } | EngineError::HostUnknown { .. } => {
            return Failure::of(error)
                .with_code(REFUSED)
                .with_hint("name the workload's with --netns, or pass --allow-host-network");
        }
        error if error.is_unsupported() => Failure::of(error).with_code(UNSUPPORTED),
        error => Failure::of(error),
    };
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
