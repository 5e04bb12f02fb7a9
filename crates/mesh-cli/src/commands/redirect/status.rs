//! `mesh redirect status`: what is there, without knowing what was planned.

use std::ffi::OsString;

use mesh_netfilter::{InstanceName, Status};
use serde_json::json;

use super::place::Place;
use super::{Run, failure};
use crate::exit::{OK, Outcome};
use crate::output::{Format, print_json, print_table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// One set of rules by its name; all of them without.
    #[arg(long, env = "MESH_REDIRECT_INSTANCE")]
    instance: Option<InstanceName>,
    #[command(flatten)]
    format: Format,
}

impl Run for Args {
    fn run(self, _: &[OsString]) -> Outcome {
        let engine = self.place.engine()?;
        let instances = match self.instance {
            Some(instance) => vec![instance],
            None => engine.list().map_err(|error| failure(&error))?,
        };
        let mut found = Vec::new();
        for instance in &instances {
            let status = engine.status(instance).map_err(|error| failure(&error))?;
            found.extend(status);
        }
        if self.format.json {
            print_json(&json!({
                "backend": engine.backend(),
                "reason": engine.reason().to_string(),
                "instances": found,
            }))?;
            return Ok(OK.into());
        }
        println!("backend: {} ({})", engine.backend(), engine.reason());
        if found.is_empty() {
            println!("there are no rules");
        }
        for status in &found {
            print_status(status);
        }
        Ok(OK.into())
    }
}

fn print_status(status: &Status) {
    let state = if status.is_intact {
        "as they were set"
    } else {
        "not as they were set"
    };
    println!("\n{}: {state} (rules {})", status.instance, status.found);
    if let Some(left) = status.unconfirmed {
        println!("  unconfirmed: undone in {} s", left.as_secs());
    }
    print_table(
        &["CHAIN", "PACKETS", "BYTES", "RULE", "WHY"],
        status.rules.iter().map(|rule| {
            let (packets, bytes) = match &rule.counter {
                Some(counter) => (counter.packets.to_string(), counter.bytes.to_string()),
                None => ("-".to_owned(), "-".to_owned()),
            };
            [
                format!("{} {}", rule.place.table, rule.place.chain),
                packets,
                bytes,
                rule.text.clone(),
                rule.why.clone().unwrap_or_default(),
            ]
        }),
    );
    for entry in &status.local {
        println!("  {entry}");
    }
    for hazard in &status.hazards {
        println!("  mind: {hazard}");
    }
}
