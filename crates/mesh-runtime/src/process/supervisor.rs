//! One small process per unit that outlives whoever asked for it: it keeps the command running,
//! writes its log, and says in a file how things are.
//!
//! It enters the namespaces of the group first and starts the command from there. It stays outside
//! the cgroup of the command, so that ending that cgroup never ends the supervisor.

mod children;
pub(super) mod log;
pub(crate) mod readiness;
mod restart;

use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use self::children::Children;
use self::log::RotatingLog;
use self::restart::Backoff;
use super::identity::ProcessId;
use super::record::{self, StatusRecord, UnitRecord};
use super::{cgroup, family, launch, mountns, netns, now_millis};
use crate::{Exit, RuntimeError, UnitState};

/// Supervises the unit whose directory this is, until its command has ended for good or the
/// calling process is sent TERM.
///
/// Says on stdout, in one line, whether the command started; the engine waits for that line.
/// Works on a thread of its own, so it may be called from anywhere, but the process should have
/// nothing else to do.
///
/// # Errors
///
/// [`RuntimeError::System`] and [`RuntimeError::Record`] when it could not begin.
pub fn run(directory: &Path) -> Result<(), RuntimeError> {
    let failed = |error| RuntimeError::system("start the thread of the supervisor", error);
    let done = netns::within(None, || Supervisor::begin(directory)?.run()).map_err(failed)?;
    if let Err(error) = &done {
        say(&error_chain(error));
    }
    done
}

struct Supervisor {
    directory: PathBuf,
    record: Arc<UnitRecord>,
    status: StatusRecord,
    /// Held as long as this process lives: there is one supervisor per unit.
    _lock: File,
}

/// Everything that lives while commands come and go.
struct Run {
    output: PipeWriter,
    children: Children,
    terminate: SignalStream,
}

/// Why a run of the command is over.
enum Ending {
    ByItself(Exit),
    OnRequest,
}

// === impl Supervisor ===

impl Supervisor {
    /// Takes the unit.
    fn begin(directory: &Path) -> Result<Self, RuntimeError> {
        let failed = |action: &str, error: io::Error| RuntimeError::system(action, error);
        // Leads a process group already when a shell started it; then it stays in that session.
        if let Err(error) = rustix::process::setsid()
            && error != Errno::PERM
        {
            return Err(failed("begin a session", error.into()));
        }
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| failed("become the parent of orphans", error.into()))?;
        let lock = lock(directory).map_err(|error| failed("lock the unit", error))?;
        let path = directory.join(UNIT);
        let record: UnitRecord = record::read(&path)?.ok_or_else(|| RuntimeError::NotFound {
            kind: "unit",
            name: directory.display().to_string(),
        })?;
        let supervisor = ProcessId::of_this_process()
            .map_err(|error| failed("find this process in /proc", error))?;
        let this = Self {
            directory: directory.to_path_buf(),
            record: Arc::new(record),
            status: StatusRecord {
                supervisor,
                state: UnitState::Starting,
                ready: false,
                restarts: 0,
                started_at_millis: None,
                ready_at_millis: None,
            },
            _lock: lock,
        };
        this.tell()?;
        Ok(this)
    }

    fn run(mut self) -> Result<(), RuntimeError> {
        let ended = self
            .enter()
            .and_then(|runtime| runtime.block_on(self.supervise()));
        if let Err(error) = &ended {
            let reason = error_chain(error);
            self.change(UnitState::Failed { reason })?;
        }
        ended
    }

    /// Enters the namespaces of the unit, with the calling thread, and clears the ground.
    fn enter(&self) -> Result<tokio::runtime::Runtime, RuntimeError> {
        let failed = |action: &str, error: io::Error| RuntimeError::system(action, error);
        if let Some(namespace) = &self.record.namespace {
            netns::enter(namespace)
                .map_err(|error| failed("enter the network namespace", error))?;
        }
        mountns::make_private(self.record.resolv_conf.as_deref())
            .map_err(|error| failed("make the mounts private", error))?;
        // What a supervisor that was killed left behind.
        self.kill_all()
            .map_err(|error| failed("end what was left behind", error))?;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed("build the event loop", error))
    }

    async fn supervise(&mut self) -> Result<(), RuntimeError> {
        let failed = |error| RuntimeError::system("supervise the unit", error);
        let log = RotatingLog::open(&self.directory, log::LIMIT).map_err(failed)?;
        let (reader, output) = io::pipe().map_err(failed)?;
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(failed)?;
        let children = Children::default();
        let ends = signal(SignalKind::child()).map_err(failed)?;
        let mut run = Run {
            output,
            children: children.clone(),
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        };
        let mut reaping = JoinSet::new();
        reaping.spawn(children.reap(ends));
        let mut copying = JoinSet::new();
        copying.spawn(log::copy(reader, log));

        let done = self.keep_running(&mut run).await;

        // With our end gone and all processes ended, the copier finds the end of the output. Only
        // a process that no cgroup held can keep it open.
        drop(run);
        drop(timeout(DRAIN, copying.join_next()).await);
        let last = done?;
        self.change(last)
    }

    /// Starts the command as often as its policy says; returns the last state.
    async fn keep_running(&mut self, run: &mut Run) -> Result<UnitState, RuntimeError> {
        let mut backoff = Backoff::new(self.record.spec.restart);
        loop {
            let began = Instant::now();
            let exit = match self.start(run) {
                Ok((child, exit)) => {
                    self.status.started_at_millis = Some(now_millis());
                    self.status.ready_at_millis = None;
                    self.answered(self.record.spec.readiness.is_none());
                    self.change(UnitState::Running { pid: child })?;
                    if self.status.restarts == 0 {
                        say(STARTED);
                    }
                    let ending = self.watch(run, child, exit).await?;
                    self.kill_all()
                        .map_err(|error| RuntimeError::system("end the unit", error))?;
                    match ending {
                        Ending::OnRequest => return Ok(UnitState::Stopped),
                        Ending::ByItself(exit) => exit,
                    }
                }
                Err(error) if self.status.restarts == 0 => {
                    let program = self.record.spec.command.first();
                    let action = format!("start `{}`", program.map_or("", String::as_str));
                    return Err(RuntimeError::system(action, error));
                }
                // It started before: a program that is just being replaced, for one.
                Err(error) => {
                    tracing::warn!(%error, "the command did not start");
                    Exit::Code(NOT_FOUND)
                }
            };
            self.status.ready = false;
            let Some(wait) = backoff.after(exit, began.elapsed()) else {
                return Ok(UnitState::Finished { exit });
            };
            self.change(UnitState::Waiting { exit })?;
            tokio::select! {
                () = sleep(wait) => {}
                _ = run.terminate.recv() => return Ok(UnitState::Stopped),
            }
            self.status.restarts = self.status.restarts.saturating_add(1);
        }
    }

    fn start(&self, run: &Run) -> io::Result<(u32, oneshot::Receiver<Exit>)> {
        let spec = &self.record.spec;
        let mut command = launch::prepare(&spec.command, spec, self.record.cgroup.as_deref())?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::from(run.output.try_clone()?))
            .stderr(Stdio::from(run.output.try_clone()?));
        run.children.spawn(&mut command)
    }

    /// Watches one run of the command to its end.
    async fn watch(
        &mut self,
        run: &mut Run,
        child: u32,
        mut exit: oneshot::Receiver<Exit>,
    ) -> Result<Ending, RuntimeError> {
        let (sender, mut ready) = watch::channel(self.status.ready);
        // Dropped at the end of the run, and the questions end with it.
        let mut questions = JoinSet::new();
        if let Some(readiness) = self.record.spec.readiness.clone() {
            let record = Arc::clone(&self.record);
            questions.spawn(readiness::ask(
                readiness,
                record,
                run.children.clone(),
                sender,
            ));
        }
        let mut kill_at = None;
        loop {
            let asked = kill_at.is_some();
            tokio::select! {
                biased;
                ended = &mut exit => {
                    // The reaper drops no sender before it has sent.
                    let exit = ended.unwrap_or(Exit::Signal(0));
                    return Ok(if asked { Ending::OnRequest } else { Ending::ByItself(exit) });
                }
                _ = run.terminate.recv(), if !asked => {
                    run.children.terminate(child);
                    kill_at = Some(tokio::time::Instant::now() + self.record.spec.stop_grace);
                    self.status.ready = false;
                    self.tell()?;
                }
                () = until(kill_at), if asked => {
                    run.children.kill(child);
                    kill_at = Some(tokio::time::Instant::now() + DRAIN);
                }
                Ok(()) = ready.changed(), if !asked => {
                    let answer = *ready.borrow_and_update();
                    self.answered(answer);
                    self.tell()?;
                }
            }
        }
    }

    /// Ends whatever the command started and did not end.
    fn kill_all(&self) -> io::Result<()> {
        match &self.record.cgroup {
            Some(cgroup) => cgroup::kill(cgroup),
            None => family::kill_descendants(),
        }
    }

    fn answered(&mut self, ready: bool) {
        self.status.ready = ready;
        if ready && self.status.ready_at_millis.is_none() {
            self.status.ready_at_millis = Some(now_millis());
        }
    }

    fn change(&mut self, state: UnitState) -> Result<(), RuntimeError> {
        if !state.is_active() {
            self.status.ready = false;
        }
        self.status.state = state;
        self.tell()
    }

    fn tell(&self) -> Result<(), RuntimeError> {
        record::write(&self.directory.join(STATUS), &self.status)
    }
}

/// The orders, in the directory of the unit.
pub(super) const UNIT: &str = "unit.json";

/// The word of the supervisor.
pub(super) const STATUS: &str = "status.json";

/// What the supervisor says on stdout when the command started.
pub(super) const STARTED: &str = "started";

/// What it says when another supervisor has the unit.
pub(super) const TAKEN: &str = "another supervisor has the unit";

async fn until(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn lock(directory: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(directory.join(".supervisor.lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(io::Error::new(io::ErrorKind::ResourceBusy, TAKEN)),
        Err(error) => Err(error.into()),
    }
}

/// Tells the engine, which may have stopped listening.
fn say(line: &str) {
    let mut stdout = io::stdout();
    drop(writeln!(stdout, "{}", line.replace('\n', " ")).and_then(|()| stdout.flush()));
}

fn error_chain(error: &RuntimeError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// How long output is read on when something still holds it.
const DRAIN: Duration = Duration::from_secs(1);

/// What a shell answers for a command that is not there.
const NOT_FOUND: i32 = 127;
