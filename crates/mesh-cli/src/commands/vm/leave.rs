//! `mesh vm leave`: takes back what joining did, and nothing else.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use mesh_model::sidecar::READINESS_PORT;
use mesh_netfilter::Removed;

use super::files::{Change, Root};
use super::plan::{AGENT_UNIT, READY_UNIT, REDIRECT_UNIT, UNCONFIRMED_UNIT, VERDICT};
use super::record::{Init, Lock, RECORD, Record};
use super::{rules, system};
use crate::commands::redirect::duration;
use crate::exit::{Failure, OK, Outcome};
use crate::ground;

/// Take this machine out of the mesh.
///
/// Others stop calling it through the mesh first; connections that are open go on until they end or
/// the time is up, when they are closed with the sidecar. Then rules and files go, and files that were
/// there before are again what they were. Connections past the sidecar, as ssh, notice nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long connections through the sidecar may go on.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    drain: Duration,
    /// The directory below which the machine's files are.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// How a machine parts with the mesh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Parting {
    /// Somebody asked for it: nobody shall notice.
    Asked {
        /// How long connections may go on.
        drain: Duration,
    },
    /// A join comes to nothing.
    Undone,
    /// The same, and the unit that waits for the confirmation says so.
    TimeIsUp,
}

/// How long the sidecar's health takes to be lost, and Pilot to tell others.
const GOODBYE: Duration = Duration::from_secs(3);
/// The watcher of the rules looks every second.
const WATCHED: Duration = Duration::from_secs(3);

#[expect(clippy::unused_async, reason = "every verb is one")]
pub(crate) async fn run(args: &Args) -> Outcome {
    ground::check()?;
    let root = Root::new(&args.root);
    let _lock = Lock::take(&root)?;
    let Some(record) = Record::load(&root)? else {
        println!("this machine has not joined");
        return Ok(OK.into());
    };
    if record.init == Init::None && root.is_machine() && is_running(&root) {
        return Err(
            Failure::new("the sidecar or the watcher of its rules still runs").with_hint(
                "end `mesh redirect watch` and `mesh agent` first: nobody else started them",
            ),
        );
    }
    take_back(&root, &record, Parting::Asked { drain: args.drain })?;
    println!("this machine has left the mesh");
    Ok(OK.into())
}

/// Stops what runs, removes the rules, and undoes what was changed. What fails is told and the rest
/// is done all the same; the record stays then, for another try.
pub(super) fn take_back(root: &Root, record: &Record, parting: Parting) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let mut note = |done: Result<(), Failure>| {
        if let Err(failure) = done {
            problems.push(failure.to_string());
        }
    };
    let has_units = record.init == Init::Systemd;
    if has_units {
        note(system::stop(REDIRECT_UNIT));
        // The unit itself must live to see the end of it.
        if parting != Parting::TimeIsUp {
            note(system::stop(UNCONFIRMED_UNIT));
        }
    }
    if root.is_machine() {
        let drain = match parting {
            Parting::Asked { drain } => {
                note(say_goodbye(root));
                drain
            }
            Parting::Undone | Parting::TimeIsUp => Duration::ZERO,
        };
        // What fails here is tried again below, and told then.
        let end_sidecar = || {
            if has_units {
                drop(system::stop(AGENT_UNIT));
            }
        };
        note(
            rules::remove(drain, end_sidecar).map(|removed| match removed {
                Removed::Drained { cut } if cut > 0 => {
                    eprintln!("connections through the sidecar that had not ended in time: {cut}");
                }
                _ => {}
            }),
        );
    }
    if has_units {
        note(system::stop(READY_UNIT));
        note(system::stop(AGENT_UNIT));
    }
    note(forget_verdict(root));
    if problems.is_empty() {
        problems = undo(root, record);
    }
    if has_units && let Err(failure) = system::reload() {
        problems.push(failure.to_string());
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "not everything was taken back: {}",
        problems.join("; ")
    ))
    .with_hint("run `mesh vm leave` again"))
}

/// Undoes what was changed; the record goes with the last of it. What could not be undone is given
/// back.
pub(super) fn undo(root: &Root, record: &Record) -> Vec<String> {
    let is_shared = |change: &&Change| matches!(change, Change::Directory { own: false, .. });
    let (directories, rest): (Vec<&Change>, Vec<&Change>) =
        record.changes.iter().rev().partition(is_shared);
    let undo = |change: &&Change| Some(root.undo(change).err()?.to_string());
    let mut problems: Vec<String> = rest.iter().filter_map(undo).collect();
    if !problems.is_empty() {
        return problems;
    }
    let own = root.forget(Path::new(RECORD));
    problems.extend(own.err().map(|error| error.to_string()));
    problems.extend(directories.iter().filter_map(undo));
    problems
}

/// Without a verdict the sidecar is not ready, and Pilot tells others not to call here any more.
fn say_goodbye(root: &Root) -> Result<(), Failure> {
    forget_verdict(root)?;
    if answers() {
        sleep(GOODBYE);
    }
    Ok(())
}

/// The unit's own directory goes with the unit; what `--init none` left is removed here.
fn forget_verdict(root: &Root) -> Result<(), Failure> {
    let verdict = Path::new(VERDICT);
    root.forget(verdict).map_err(|error| Failure::of(&error))?;
    let directory = verdict.parent().unwrap_or(verdict);
    match fs::remove_dir(root.at(directory)) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(Failure::doing(
                format!("removing {}", directory.display()),
                &error,
            ))
        }
        _ => Ok(()),
    }
}

/// Whether somebody listens where the agent tells of its readiness.
fn answers() -> bool {
    let agent = SocketAddr::from(([127, 0, 0, 1], READINESS_PORT));
    std::net::TcpStream::connect_timeout(&agent, Duration::from_secs(1)).is_ok()
}

fn is_running(root: &Root) -> bool {
    let written = fs::metadata(root.at(Path::new(VERDICT))).and_then(|found| found.modified());
    let age = written
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age < WATCHED) || answers()
}
