//! `mesh vm rollback`: sits beside a join that nobody has confirmed yet.
//!
//! The kernel puts the rules to sleep by itself when the time is up. This takes back the rest, also
//! when whoever joined was killed or the machine started anew; until then it tells the sidecar how
//! the rules are, and repairs none, since a repair would be a confirmation.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use mesh_netfilter::{HostNetwork, Policy, Repair, Verdict, WatchOptions};

use super::files::Root;
use super::leave::{self, Parting};
use super::plan::{POLICY, VERDICT};
use super::record::{Deadline, Lock, Record, State};
use super::rules;
use crate::commands::redirect::{failure, judge, now, write_verdict};
use crate::exit::{Failure, OK, Outcome};
use crate::ground;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Looks are so far apart at most: the kernel's timer is exact, this one need not be.
const INTERVAL: Duration = Duration::from_millis(500);

#[expect(clippy::unused_async, reason = "every verb is one")]
pub(crate) async fn run(_: &Args) -> Outcome {
    ground::check()?;
    let root = Root::new(Path::new("/"));
    let Some(deadline) = begin(&root)? else {
        return Ok(OK.into());
    };
    // If looking fails there is still the deadline to wait for.
    if let Err(failure) = watch(&root, &deadline) {
        eprintln!("warning: {failure}");
    }
    while waits(&root)? && deadline.left()?.is_some() {
        std::thread::sleep(INTERVAL);
    }
    let _lock = Lock::take(&root)?;
    match Record::load(&root)? {
        Some(record) if record.state != State::Confirmed => {
            eprintln!("nobody confirmed that this machine joined the mesh: it is taken back");
            leave::take_back(&root, &record, Parting::TimeIsUp)?;
        }
        _ => {}
    }
    Ok(OK.into())
}

/// When the time is up; none if nothing waits for a confirmation.
fn begin(root: &Root) -> Result<Option<Deadline>, Failure> {
    let _lock = Lock::take(root)?;
    let Some(mut record) = Record::load(root)? else {
        return Ok(None);
    };
    match record.state {
        State::Confirmed => Ok(None),
        State::Unconfirmed {
            deadline: Some(deadline),
            ..
        } => Ok(Some(deadline)),
        State::Unconfirmed {
            within_ms,
            deadline: None,
        } => {
            let deadline = Deadline::after(within_ms)?;
            record.state = State::Unconfirmed {
                within_ms,
                deadline: Some(deadline.clone()),
            };
            record.save(root)?;
            Ok(Some(deadline))
        }
    }
}

/// Whether there still is a join that nobody has confirmed.
fn waits(root: &Root) -> Result<bool, Failure> {
    Ok(Record::load(root)?.is_some_and(|record| record.state != State::Confirmed))
}

/// Writes verdicts until the time is up or somebody has confirmed.
fn watch(root: &Root, deadline: &Deadline) -> Result<(), Failure> {
    let doing = |error: &dyn std::error::Error| Failure::doing(format!("reading {POLICY}"), error);
    let text = std::fs::read_to_string(root.at(Path::new(POLICY))).map_err(|e| doing(&e))?;
    let policy: Policy = serde_json::from_str(&text).map_err(|error| doing(&error))?;
    let file = root.at(Path::new(VERDICT));
    let directory = file.parent().unwrap_or(&file);
    std::fs::create_dir_all(directory)
        .map_err(|error| Failure::doing(format!("making {}", directory.display()), &error))?;
    let engine = rules::engine()?;
    let plan = rules::plan(&engine, &policy)?;
    let options = WatchOptions {
        interval: INTERVAL,
        repair: Repair::Off,
        host: HostNetwork::Refuse,
    };
    let mut previous: Option<Verdict> = None;
    let mut ended = Ok(());
    let watched = engine.watch(&plan, &options, |look| {
        let is_over = || Ok::<_, Failure>(!waits(root)? || deadline.left()?.is_none());
        match is_over() {
            Ok(false) => {}
            Ok(true) => return ControlFlow::Break(()),
            Err(failure) => {
                ended = Err(failure);
                return ControlFlow::Break(());
            }
        }
        let verdict = judge(look, previous.as_ref(), now());
        if let Err(error) = write_verdict(&file, &verdict) {
            ended = Err(Failure::doing(
                format!("writing {}", file.display()),
                &error,
            ));
            return ControlFlow::Break(());
        }
        previous = Some(verdict);
        ControlFlow::Continue(())
    });
    watched.map_err(|error| failure(&error))?;
    ended
}
