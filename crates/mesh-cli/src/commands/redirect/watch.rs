//! `mesh redirect watch`: looks at the rules again and again, and says what it saw in a file.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_netfilter::{Engine, EngineError, Plan, Report, RuleState, Verdict};

use super::Place;
use super::policy::PolicyArgs;
use crate::exit::{Failure, Outcome, chain};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    /// The file that tells what was seen last, as JSON; replaced as a whole each time.
    #[arg(long, value_name = "FILE")]
    verdict: PathBuf,
    /// The time from one look to the next, such as `1s` or `500ms`.
    #[arg(long, default_value = "1s", value_parser = duration)]
    interval: Duration,
}

/// Looks until it is ended by a signal. A verdict that cannot be written ends it too: nobody may
/// believe an old one for long, and its age tells.
pub(super) fn run(args: &Args) -> Outcome {
    let plan = args.policy.plan()?;
    let engine = args.place.engine()?;
    let mut previous: Option<Verdict> = None;
    loop {
        let verdict = judge(engine.verify(&plan), previous.as_ref(), now());
        if previous.as_ref().map(|previous| previous.state) != Some(verdict.state) {
            tell(&plan, &engine, &verdict);
        }
        write(&args.verdict, &verdict).map_err(|error| {
            Failure::doing(format!("writing `{}`", args.verdict.display()), &error)
        })?;
        previous = Some(verdict);
        std::thread::sleep(args.interval);
    }
}

/// What a look makes of what was known before.
fn judge(look: Result<Report, EngineError>, previous: Option<&Verdict>, now: u64) -> Verdict {
    match look {
        Ok(report) => report.verdict(previous, now),
        Err(error) => Verdict::unreadable(previous, &chain(&error), now),
    }
}

/// A change of state is worth a record, the same state each second is not.
fn tell(plan: &Plan, engine: &Engine, verdict: &Verdict) {
    let instance = plan.instance();
    let state = verdict.state.as_str();
    if verdict.state != RuleState::Intact {
        let drifts = verdict.drifts.join("; ");
        tracing::warn!(%instance, state, drifts, "redirect rules are not as planned");
        return;
    }
    tracing::info!(%instance, state, "redirect rules are as planned");
    if let Ok(report) = engine.verify(plan) {
        for hazard in report.hazards {
            tracing::warn!(%instance, %hazard, "redirect rules are at risk");
        }
    }
}

/// Replaces the file as a whole: a reader sees the old verdict or the new one.
fn write(path: &Path, verdict: &Verdict) -> io::Result<()> {
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
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A duration such as `1s`, `500ms` or `2m`; never nothing.
fn duration(text: &str) -> Result<Duration, String> {
    let (unit, millis) = [("ms", 1), ("s", 1000), ("m", 60_000)]
        .into_iter()
        .find(|(unit, _)| text.ends_with(unit))
        .ok_or_else(|| format!("`{text}` has no unit (ms, s or m)"))?;
    let number = text.strip_suffix(unit).unwrap_or(text);
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(millis))
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a duration such as `1s` or `500ms`"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "1", "0s", "s", "-1s", "1h", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_that_cannot_be_read_are_not_intact() {
        let verdict = judge(Err(EngineError::Busy), None, 7);
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
