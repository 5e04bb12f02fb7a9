//! What the daemon tells of a container, as the state of a unit: pure.

use bollard::models::{ContainerState, ContainerStateStatusEnum as Status};

use crate::{Exit, RestartPolicy, UnitState};

/// What is known beside the container itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    /// Whether the run that is over was stopped by the engine.
    pub(super) stopped: bool,
    /// When the namespace of its group began, if it is there.
    pub(super) namespace_since: Option<u64>,
    pub(super) restart: RestartPolicy,
}

/// The state of a unit.
pub(super) fn of(container: &ContainerState, context: Context) -> UnitState {
    let code = container.exit_code.unwrap_or_default();
    let reason = container.error.clone().filter(|error| !error.is_empty());
    let started = millis(container.started_at.as_deref());
    match container.status.unwrap_or(Status::EMPTY) {
        Status::RUNNING | Status::PAUSED | Status::STOPPING => {
            let pid = container.pid.and_then(|pid| u32::try_from(pid).ok());
            pid.filter(|pid| *pid > 0)
                .map_or(UnitState::Starting, |pid| UnitState::Running { pid })
        }
        Status::RESTARTING => UnitState::Waiting { exit: exit(code) },
        _ if context.stopped => UnitState::Stopped,
        _ if started.is_none() => match reason {
            Some(reason) => UnitState::Failed { reason },
            None => UnitState::Created,
        },
        // It ended with its namespace, or with the daemon: nobody asked for that.
        _ if is_lost(started, code, context) => UnitState::Lost {
            left_behind: Vec::new(),
        },
        _ => UnitState::Finished { exit: exit(code) },
    }
}

/// Whether a run that is over should still be on: its namespace went with it.
fn is_lost(started: Option<u64>, code: i64, context: Context) -> bool {
    let namespace_is_its_own = context
        .namespace_since
        .is_some_and(|since| Some(since) <= started);
    let done = code == 0 && context.restart != RestartPolicy::Always;
    !namespace_is_its_own && !done
}

/// The daemon tells signals as shells do, 128 and the number of the signal.
pub(super) fn exit(code: i64) -> Exit {
    let code = i32::try_from(code).unwrap_or(i32::MAX);
    match code {
        129..=192 => Exit::Signal(code - 128),
        code => Exit::Code(code),
    }
}

/// A time that the daemon tells, in milliseconds since 1970; the year 1 stands for never.
pub(super) fn millis(time: Option<&str>) -> Option<u64> {
    let time: jiff::Timestamp = time?.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(status: Status, code: i64, error: &str, started: &str) -> ContainerState {
        ContainerState {
            status: Some(status),
            exit_code: Some(code),
            error: Some(error.to_owned()),
            started_at: Some(started.to_owned()),
            pid: Some(7),
            ..ContainerState::default()
        }
    }

    const NEVER: &str = "0001-01-01T00:00:00Z";
    const AT: &str = "2026-01-02T03:04:05.678901234Z";
    const HERE: Context = Context {
        stopped: false,
        namespace_since: Some(0),
        restart: RestartPolicy::Never,
    };

    #[test]
    fn what_never_started_is_made_or_failed() {
        let made = container(Status::CREATED, 0, "", NEVER);
        assert_eq!(of(&made, HERE), UnitState::Created);
        let failed = container(Status::CREATED, 127, "no such file", NEVER);
        let reason = "no such file".to_owned();
        assert_eq!(of(&failed, HERE), UnitState::Failed { reason });
    }

    #[test]
    fn an_end_is_told_with_its_code_or_signal() {
        let ended = |code| of(&container(Status::EXITED, code, "", AT), HERE);
        let finished = |exit| UnitState::Finished { exit };
        assert_eq!(ended(3), finished(Exit::Code(3)));
        assert_eq!(ended(137), finished(Exit::Signal(9)));
    }

    #[test]
    fn what_was_stopped_is_not_lost() {
        let ended = container(Status::EXITED, 143, "", AT);
        let context = Context {
            stopped: true,
            ..HERE
        };
        assert_eq!(of(&ended, context), UnitState::Stopped);
    }

    #[test]
    fn what_ended_with_its_namespace_is_lost_unless_it_was_done() {
        let lost = UnitState::Lost {
            left_behind: vec![],
        };
        let gone = Context {
            namespace_since: None,
            ..HERE
        };
        let newer = Context {
            namespace_since: Some(u64::MAX),
            ..HERE
        };
        for context in [gone, newer] {
            assert_eq!(of(&container(Status::EXITED, 137, "", AT), context), lost);
            let done = of(&container(Status::EXITED, 0, "", AT), context);
            assert_eq!(
                done,
                UnitState::Finished {
                    exit: Exit::Code(0)
                }
            );
        }
        let always = Context {
            restart: RestartPolicy::Always,
            ..gone
        };
        assert_eq!(of(&container(Status::EXITED, 0, "", AT), always), lost);
    }

    #[test]
    fn times_have_milliseconds_and_the_year_one_is_never() {
        assert_eq!(millis(Some(AT)), Some(1_767_323_045_678));
        assert_eq!(millis(Some(NEVER)), None);
        assert_eq!(millis(Some("soon")), None);
    }
}
