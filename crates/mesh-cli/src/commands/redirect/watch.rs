//! `mesh redirect watch`: looks at the rules whenever they change, repairs them, and says in a file
//! what it saw.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_netfilter::{
    EngineError, HostNetwork, InstanceName, Look, Maker, Mended, Repair, Report, RuleState,
    Verdict, WatchOptions,
};

use super::alone;
use super::host::for_host;
use super::option::PolicyArgs;
use super::place::{Place, duration};
use super::policy::{environment, tell};
use super::{Run, failure};
use crate::exit::{Failure, OK, Outcome, chain};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    /// The file that tells what was seen last, as JSON; replaced as a whole each time.
    #[arg(long, value_name = "FILE")]
    verdict: Option<PathBuf>,
    /// The longest time from one look to the next, such as `1s` or `500ms`.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Tell what is wrong and leave it at that.
    #[arg(long)]
    no_repair: bool,
    /// Repair even if the network namespace is the host's own.
    #[arg(long)]
    allow_host_network: bool,
    /// Repair: the network namespace is not the host's own, although process 1 is in it, as in a
    /// container with process ids of its own.
    #[arg(long, conflicts_with = "allow_host_network")]
    not_host_network: bool,
}

impl Run for Args {
    /// Looks until it is ended by a signal. A verdict that cannot be written ends it too: nobody
    /// may believe an old one for long, and its age tells.
    fn run(self, _: &[OsString]) -> Outcome {
        crate::output::start_logs(true);
        let wanted = self.policy.wanted(&environment())?;
        tell(&wanted.remarks);
        let place = self.place.or_as(&wanted)?;
        let engine = place.engine()?;
        let mut policy = wanted.policy()?.clone();
        // As `apply` does, else the repair would take the exception of ssh away.
        if self.allow_host_network && engine.is_host().map_err(|error| failure(&error))? {
            policy = for_host(&engine, &policy)?;
            let stood = alone::stand(policy.instance());
            stood.map_err(|error| Failure::doing("waiting for other watchers", &error))?;
        }
        let plan = Place::plan(&engine, &policy)?;
        let options = WatchOptions {
            interval: self.interval,
            repair: if self.no_repair {
                Repair::Off
            } else {
                Repair::On
            },
            host: match (self.allow_host_network, self.not_host_network) {
                (true, _) => HostNetwork::DangerouslyAllow,
                (false, true) => HostNetwork::IsNot,
                (false, false) => HostNetwork::Refuse,
            },
        };
        let mut previous: Option<Verdict> = None;
        let mut unwritten = None;
        let watched = engine.watch(&plan, &options, |look| {
            let verdict = judge(look, previous.as_ref(), now());
            log(plan.instance(), look, previous.as_ref(), &verdict);
            if let Some(path) = &self.verdict
                && let Err(error) = write(path, &verdict)
            {
                let doing = format!("writing `{}`", path.display());
                unwritten = Some(Failure::doing(doing, &error));
                return ControlFlow::Break(());
            }
            previous = Some(verdict);
            ControlFlow::Continue(())
        });
        watched.map_err(|error| failure(&error))?;
        unwritten.map_or_else(|| Ok(OK.into()), Err)
    }
}

/// What a look makes of what was known before.
pub(in crate::commands) fn judge(look: &Look, previous: Option<&Verdict>, now: u64) -> Verdict {
    let verdict = found(&look.report, previous, now);
    match look.repair {
        Some(Mended::Repaired) => verdict.and_repaired(names(&look.makers)),
        _ => verdict,
    }
}

fn found(report: &Result<Report, EngineError>, previous: Option<&Verdict>, now: u64) -> Verdict {
    match report {
        Ok(report) => report.verdict(previous, now),
        Err(error) => Verdict::unreadable(previous, &chain(error), now),
    }
}

/// A change of state is worth a record, the same state each second is not.
fn log(instance: &InstanceName, look: &Look, previous: Option<&Verdict>, verdict: &Verdict) {
    let state = verdict.state.as_str();
    if previous.map(|previous| previous.state) != Some(verdict.state) {
        if verdict.state == RuleState::Intact {
            tracing::info!(%instance, state, "redirect rules are as planned");
            let hazards = look.report.iter().flat_map(|report| &report.hazards);
            for hazard in hazards {
                tracing::warn!(%instance, %hazard, "redirect rules are at risk");
            }
        } else {
            let drifts = verdict.drifts.join("; ");
            let by = makers(&look.makers);
            tracing::warn!(%instance, state, drifts, by, "redirect rules are not as planned");
        }
    }
    match &look.repair {
        None => {}
        Some(Mended::Repaired) => {
            let by = makers(&look.makers);
            tracing::warn!(%instance, by, "redirect rules were repaired");
        }
        Some(Mended::Postponed { remaining }) => {
            let millis = remaining.as_millis();
            tracing::warn!(%instance, millis, "repair waits, somebody keeps undoing it");
        }
        Some(Mended::Failed(error)) => {
            let error = chain(error);
            tracing::warn!(%instance, error, "redirect rules could not be repaired");
        }
        Some(_) => tracing::warn!(%instance, "redirect rules were not as planned"),
    }
}

/// Who made the change, in a word or more.
fn makers(makers: &[Maker]) -> String {
    if makers.is_empty() {
        "unknown".to_owned()
    } else {
        names(makers).join(", ")
    }
}

/// Who made the change, as far as it is known.
fn names(makers: &[Maker]) -> Vec<String> {
    let name = |maker: &Maker| format!("{} ({})", maker.name, maker.pid);
    makers.iter().map(name).collect()
}

/// Replaces the file as a whole: a reader sees the old verdict or the new one.
pub(in crate::commands) fn write(path: &Path, verdict: &Verdict) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = (|| {
        let mut file = File::create(&new)?;
        // Whatever the umask: the sidecar, another user, reads it.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(&serde_json::to_vec(verdict)?)?;
        std::fs::rename(&new, path)
    })();
    if written.is_err() {
        // The first error is the one to tell; a leftover is overwritten next time.
        drop(std::fs::remove_file(&new));
    }
    written
}

/// Seconds since the Unix epoch; a clock before that reads as 0.
pub(in crate::commands) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn rules_that_cannot_be_read_are_not_intact() {
        let verdict = found(&Err(EngineError::Busy), None, 7);
        assert_eq!(verdict.state, RuleState::Drifted);
        assert!(
            verdict.drifts[0].contains("could not be read"),
            "{verdict:?}"
        );
    }

    #[test]
    fn the_file_is_replaced_whole_and_readable_by_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdict.json");
        for at in [1, 2] {
            let verdict = Verdict::next(None, RuleState::Intact, Vec::new(), at);
            write(&path, &verdict).unwrap();
            let read: Verdict = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(read, verdict);
        }
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
