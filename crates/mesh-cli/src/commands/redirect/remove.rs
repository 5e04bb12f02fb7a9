//! `mesh redirect remove`: takes the rules away; their policy need not be known.

use std::ffi::OsString;
use std::time::Duration;

use mesh_netfilter::{Drain, Engine, InstanceName, Removed};
use serde_json::json;

use super::alone;
use super::place::{Place, duration};
use super::{Run, failure};
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Format, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// The name of the set of rules.
    #[arg(long, default_value_t, env = "MESH_REDIRECT_INSTANCE")]
    instance: InstanceName,
    /// Keep open connections alive until they end, at most for this time (such as `30s`).
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "60s", value_parser = duration)]
    drain: Option<Duration>,
    /// Leave the rules to a watcher of the host's own ones (`watch --allow-host-network`), if one
    /// runs.
    #[arg(long)]
    unless_watched: bool,
    #[command(flatten)]
    format: Format,
}

impl Run for Args {
    fn run(self, _: &[OsString]) -> Outcome {
        let is_watched = || {
            alone::is_watched(&self.instance)
                .map_err(|error| Failure::doing("looking for a watcher", &error))
        };
        if self.unless_watched && is_watched()? {
            eprintln!("{}: left to the watcher that runs", self.instance);
            return Ok(OK.into());
        }
        let drain = self.drain.map_or(Drain::Off, Drain::AtMost);
        remove(&self.place.engine()?, &self.instance, drain, self.format)?;
        Ok(OK.into())
    }
}

/// Removes the rules and says so.
pub(super) fn remove(
    engine: &Engine,
    instance: &InstanceName,
    drain: Drain,
    format: Format,
) -> Result<(), Failure> {
    let removed = engine.remove(instance, drain);
    let removed = removed.map_err(|error| failure(&error))?;
    if format.json {
        return print_json(&json!({ "instance": instance, "removed": removed }));
    }
    let words = match removed {
        Removed::Removed => "the rules are removed".to_owned(),
        Removed::Absent => "there were no rules".to_owned(),
        Removed::Drained { cut: 0 } => {
            "the rules are removed, and every connection has ended".to_owned()
        }
        Removed::Drained { cut } => {
            format!("the rules are removed; {cut} connections had not ended in time")
        }
        _ => "done".to_owned(),
    };
    println!("{instance}: {words}");
    Ok(())
}
