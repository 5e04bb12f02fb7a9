//! `mesh vm status`: whether this machine is in the mesh, and how its parts are.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use mesh_model::SidecarConfig;
use mesh_model::sidecar::READINESS_PORT;
use serde_json::json;

use super::files::Root;
use super::plan::{AGENT_UNIT, CONFIG, REDIRECT_UNIT};
use super::record::{Init, Record, State};
use super::{rules, system};
use crate::exit::{FAILURE, Failure, OK, Outcome};
use crate::ground;
use crate::output::{Format, print_json};

/// Tell whether this machine is in the mesh; exit code 1 if its sidecar is not ready.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    format: Format,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    ground::check()?;
    let root = Root::new(Path::new("/"));
    let Some(record) = Record::load(&root)? else {
        if args.format.json {
            print_json(&json!({ "joined": false }))?;
        } else {
            println!("this machine has not joined");
        }
        return Ok(OK.into());
    };
    let text = fs::read_to_string(root.at(Path::new(CONFIG)))
        .map_err(|error| Failure::doing(format!("reading {CONFIG}"), &error))?;
    let config: SidecarConfig = serde_json::from_str(&text)
        .map_err(|error| Failure::doing(format!("reading {CONFIG}"), &error))?;
    let workload = &config.workload;
    let state = match &record.state {
        State::Confirmed => "joined".to_owned(),
        State::Unconfirmed { deadline, .. } => match deadline {
            Some(deadline) => match deadline.left()? {
                Some(left) => format!("unconfirmed, {} s left", left.div_ceil(1000)),
                None => "unconfirmed, and the time is up".to_owned(),
            },
            None => "written, not begun".to_owned(),
        },
    };
    let rules = match rules::status()? {
        None => "missing",
        Some(status) if status.unconfirmed.is_some_and(|left| left.is_zero()) => "undone",
        Some(status) if !status.is_intact => "changed by somebody",
        Some(status) if status.unconfirmed.is_some() => "in force for a time",
        Some(_) => "in force",
    };
    let agent = SocketAddr::from(([127, 0, 0, 1], READINESS_PORT));
    let ready = mesh_agent::wait_ready(agent, LOOK).await;
    let units: Vec<(&str, String)> = match record.init {
        Init::Systemd => [REDIRECT_UNIT, AGENT_UNIT]
            .map(|unit| (unit, system::state(unit)))
            .into(),
        Init::None => Vec::new(),
    };
    let sidecar = match &ready {
        Ok(()) => "ready".to_owned(),
        Err(error) => error.to_string(),
    };
    if args.format.json {
        let units: serde_json::Map<_, _> = units
            .into_iter()
            .map(|(unit, state)| (unit.to_owned(), state.into()))
            .collect();
        print_json(&json!({
            "joined": true, "state": state, "confirmed": record.state == State::Confirmed,
            "workload": workload, "identity": workload.identity(&config.trust_domain).to_string(),
            "rules": rules, "ready": ready.is_ok(), "sidecar": sidecar, "units": units,
        }))?;
    } else {
        println!("state: {state}");
        println!("workload: {}", workload.id);
        println!("identity: {}", workload.identity(&config.trust_domain));
        let addresses: Vec<String> = workload.addresses.iter().map(ToString::to_string).collect();
        println!("addresses: {}", addresses.join(", "));
        println!("rules: {rules}");
        println!("sidecar: {sidecar}");
        for (unit, state) in units {
            println!("{unit}: {state}");
        }
    }
    Ok(if ready.is_ok() { OK } else { FAILURE }.into())
}

/// The agent answers at once, if it does.
const LOOK: Duration = Duration::from_secs(2);
