//! `mesh status`: what runs on this machine, and whether it is as it should be.

mod view;

use std::collections::BTreeMap;
use std::process::ExitCode;

use crate::commands::redirect::now;
use crate::connect::Home;
use crate::engine;
use crate::exit::{DRIFT, Failure, OK, Outcome};
use crate::output::{Format, print_json, print_table};
use view::{Status, look};

/// Show the control plane and the workloads of this machine.
///
/// Exits with 3 when something is not as it should be.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    engine: engine::Choice,
    #[command(flatten)]
    home: Home,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let home = &args.home.home;
    if !home.exists() {
        return Err(Failure::new(format!(
            "nothing is there: {} does not exist",
            home.display()
        ))
        .with_hint("`mesh up` starts the control plane on this machine"));
    }
    let engine = engine::open(&args.engine, home).await?;
    let groups = engine
        .list(&BTreeMap::new())
        .await
        .map_err(|error| Failure::of(&error))?;
    let mut status = Status::default();
    for group in &groups {
        status.groups.push(look(group));
    }
    let wrong = status.wrong();
    if args.format.json {
        print_json(&status)?;
        return Ok(OK.into());
    }
    print_groups(&status);
    for line in status.repaired(now()).iter().chain(&wrong) {
        println!("{line}");
    }
    Ok(ExitCode::from(if wrong.is_empty() { OK } else { DRIFT }))
}

fn print_groups(status: &Status) {
    let rows = status.groups.iter().flat_map(|group| {
        group.units.iter().map(|unit| {
            let rules = group
                .rules
                .as_ref()
                .map_or("-", |rules| rules.state.as_str());
            let addresses: Vec<_> = group.addresses.iter().map(ToString::to_string).collect();
            vec![
                group.name.clone(),
                unit.name.clone(),
                unit.state.clone(),
                if unit.ready { "yes" } else { "no" }.to_owned(),
                unit.restarts.to_string(),
                rules.to_owned(),
                addresses.join(","),
            ]
        })
    });
    print_table(
        &[
            "GROUP",
            "UNIT",
            "STATE",
            "READY",
            "RESTARTS",
            "RULES",
            "ADDRESSES",
        ],
        rows,
    );
}
