//! `mesh vm join`: makes this machine a workload of the mesh, and keeps it so only if that works.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_model::sidecar::READINESS_PORT;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use super::files::Root;
use super::leave::{self, Parting};
use super::plan::{
    AGENT_UNIT, CONFIG, Contents, POLICY, Plan, UNCONFIRMED_UNIT, VERDICT, plan, unconfirmed_link,
    unconfirmed_unit,
};
use super::record::{Deadline, Init, Lock, Record, State};
use super::request::{Description, packaged};
use super::{confirm, rehearsal, rules, system};
use crate::commands::redirect::duration;
use crate::exit::{Failure, OK, Outcome, REFUSED};
use crate::output::{Format, print_json};
use crate::{engine, ground};

/// Make this machine a workload of the mesh.
///
/// Writes the units, the configuration and the token, sets the redirect rules for a time, and starts
/// the sidecar. Once the sidecar is ready and the control plane can still be reached, it stays;
/// otherwise everything is taken back. What can be known before is asked first: whether the CA takes
/// the invitation, and whether the sidecar's ports are free. Connections of the users that are named go through the
/// sidecar, and so do those to the ports that are declared; nothing else of the machine changes,
/// ssh least of all.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    description: Description,
    /// How long the sidecar has to become ready, and everything to be confirmed.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    confirm_within: Duration,
    /// Leave the confirmation to `mesh vm confirm`.
    #[arg(long)]
    no_confirm: bool,
    /// Who starts the units. With `none` files are written, and what to run is printed.
    #[arg(long, value_enum, default_value = "systemd")]
    init: Init,
    /// The directory below which the machine's files are; other than `/`, only with `--init none`.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Print what would be written and run, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    format: Format,
}

/// Left of the time for the way from "ready" to "confirmed".
const RESERVE: Duration = Duration::from_secs(1);
/// For one connection to the control plane.
const REACH_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: &Args) -> Outcome {
    let root = Root::new(&args.root);
    if args.init == Init::Systemd && !root.is_machine() {
        let wrong = "--root other than / writes files only: say --init none too";
        return Err(Failure::usage(wrong));
    }
    let request = args.description.request(&root)?;
    let plan = plan(&request).map_err(|problems| Failure::usage(problems.to_string()))?;
    if args.dry_run {
        show(&plan, args)?;
        return Ok(OK.into());
    }
    ground::check()?;
    if args.init == Init::Systemd {
        system::check()?;
    }
    if let Some(record) = Record::load(&root)? {
        return again(&root, &plan, &record);
    }
    if root.is_machine() {
        system::check_ports()?;
        rehearsal::check(&request).await?;
    }
    write(&root, &plan, args)?;
    if args.init == Init::None {
        println!("the files are written; to join, run as root, in this order:");
        for line in by_hand(&plan, args)? {
            println!("  {line}");
        }
        return Ok(OK.into());
    }
    let id = &plan.config.workload.id;
    let joined = tokio::select! {
        joined = start(&plan, args.confirm_within) => joined,
        ended = told_to_end() => Err(ended),
    };
    let joined = joined.and_then(|()| {
        if args.no_confirm {
            return Ok(());
        }
        confirm::confirm(&root)
    });
    if let Err(failure) = joined {
        take_back(&root)?;
        return Err(failure);
    }
    let words = if args.no_confirm {
        "is in the mesh until the time is up, unless you run: mesh vm confirm"
    } else {
        "is in the mesh"
    };
    println!("{id} {words}");
    Ok(OK.into())
}

/// A machine that has joined already takes a new token, and nothing else.
fn again(root: &Root, plan: &Plan, record: &Record) -> Outcome {
    let _lock = Lock::take(root)?;
    let is_there = |path: &Path, text: &str| {
        std::fs::read_to_string(root.at(path)).is_ok_and(|found| found == text)
    };
    let differs = plan.files.iter().find(|file| {
        let is_ours = file.path != unconfirmed_unit();
        let shown = file.contents.plain();
        is_ours && shown.is_some_and(|text| !is_there(&file.path, text))
    });
    if let Some(file) = differs {
        let path = file.path.display();
        return Err(Failure::new(format!(
            "this machine has joined already, and {path} is not what these options make"
        ))
        .with_code(REFUSED)
        .with_hint("run `mesh vm leave` first, or give the options of the first time"));
    }
    for file in &plan.files {
        if matches!(file.contents, Contents::Secret(_)) {
            root.write(file).map_err(|error| Failure::of(&error))?;
        }
    }
    let id = &plan.config.workload.id;
    match record.state {
        State::Confirmed => println!("{id} is in the mesh already; its token is the new one"),
        State::Unconfirmed { .. } => {
            println!("{id} has joined already and waits for: mesh vm confirm");
        }
    }
    Ok(OK.into())
}

/// Remembers what is about to change, then changes it.
fn write(root: &Root, plan: &Plan, args: &Args) -> Result<(), Failure> {
    let of = |error: super::files::FileError| Failure::of(&error);
    let mut changes: Vec<_> = plan
        .directories
        .iter()
        .filter_map(|directory| root.directory_change(directory))
        .collect();
    for file in &plan.files {
        changes.push(root.change(&file.path).map_err(of)?);
    }
    let milliseconds = u64::try_from(args.confirm_within.as_millis()).unwrap_or(u64::MAX);
    let state = State::Unconfirmed {
        within_ms: milliseconds,
        deadline: match args.init {
            Init::Systemd => Some(Deadline::after(milliseconds)?),
            // It begins when somebody begins.
            Init::None => None,
        },
    };
    let link = unconfirmed_link(&packaged(root));
    if args.init == Init::Systemd {
        changes.push(root.change(&link.path).map_err(of)?);
    }
    let record = Record::new(state, args.init, changes);
    let written = (|| {
        for directory in &plan.directories {
            root.make(directory).map_err(of)?;
        }
        let _lock = Lock::take(root)?;
        record.save(root)?;
        for file in &plan.files {
            root.write(file).map_err(of)?;
        }
        if args.init == Init::Systemd {
            // From here on a reboot takes everything back.
            root.link(&link).map_err(of)?;
        }
        Ok(())
    })();
    if written.is_err() {
        for problem in leave::undo(root, &record) {
            eprintln!("warning: {problem}");
        }
    }
    written
}

/// Sets the rules for a time and starts the sidecar; done when it is ready.
async fn start(plan: &Plan, within: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + within;
    system::reload()?;
    system::start(UNCONFIRMED_UNIT)?;
    rules::apply(&plan.policy, within)?;
    system::start(AGENT_UNIT)?;
    let left = deadline
        .saturating_duration_since(Instant::now())
        .saturating_sub(RESERVE);
    let readiness = ([127, 0, 0, 1], READINESS_PORT).into();
    mesh_agent::wait_ready(readiness, left)
        .await
        .map_err(|error| {
            Failure::of(&error).with_hint(format!("`journalctl -u {AGENT_UNIT}` has what it said"))
        })?;
    reach(plan, deadline).await
}

/// Whether the control plane can be reached with the rules in force, at any of its addresses.
async fn reach(plan: &Plan, deadline: Instant) -> Result<(), Failure> {
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for &pilot in &plan.config.pilots {
        let patience = deadline.min(Instant::now() + REACH_PATIENCE);
        match timeout_at(patience, TcpStream::connect(pilot)).await {
            Ok(Ok(_stream)) => return Ok(()),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => {}
        }
    }
    let doing = "reaching Pilot with the rules in force";
    Err(Failure::doing(doing, &last))
}

/// Somebody who presses Ctrl-C, or whose terminal goes away, has not confirmed.
async fn told_to_end() -> Failure {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let mut signals = Vec::new();
    for kind in kinds {
        match signal(kind) {
            Ok(signal) => signals.push(signal),
            Err(error) => return Failure::doing("waiting for signals", &error),
        }
    }
    let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(received).await;
    Failure::new("told to end before the sidecar was ready")
}

fn take_back(root: &Root) -> Result<(), Failure> {
    eprintln!("taking everything back");
    let _lock = Lock::take(root)?;
    let Some(record) = Record::load(root)? else {
        return Ok(());
    };
    leave::take_back(root, &record, Parting::Undone)
}

/// What to run where nobody starts units.
fn by_hand(plan: &Plan, args: &Args) -> Result<Vec<String>, Failure> {
    let mesh = engine::program()?;
    let mesh = mesh.display();
    let within = args.confirm_within.as_secs_f64().ceil();
    let host = format!("--allow-host-network --policy {POLICY}");
    let mut lines = vec![
        format!("{mesh} vm rollback &"),
        format!("{mesh} redirect apply {host} --confirm-within {within}s"),
        format!(
            "setpriv --reuid 1337 --regid 1337 --clear-groups --no-new-privs \
             {mesh} --verbose agent --config {CONFIG} &"
        ),
        format!("{mesh} agent wait --timeout {within}s"),
        format!("{mesh} vm confirm"),
        format!("{mesh} redirect watch {host} --verdict {VERDICT} &"),
    ];
    if plan.config.workload.services.is_empty() {
        return Ok(lines);
    }
    lines.push("# and then what serves the declared ports".to_owned());
    Ok(lines)
}

/// The plan, for people or for programs; the token is not shown.
fn show(plan: &Plan, args: &Args) -> Result<(), Failure> {
    let shown = |contents: &Contents| contents.plain().unwrap_or("(not shown)").to_owned();
    let commands = match args.init {
        Init::Systemd => vec![
            "systemctl daemon-reload".to_owned(),
            format!("systemctl start {UNCONFIRMED_UNIT}"),
            format!(
                "mesh redirect apply --allow-host-network --policy {POLICY} --confirm-within {}s",
                args.confirm_within.as_secs_f64()
            ),
            format!("systemctl start {AGENT_UNIT}"),
            "mesh agent wait".to_owned(),
            "mesh vm confirm".to_owned(),
        ],
        Init::None => by_hand(plan, args)?,
    };
    if args.format.json {
        let files = plan.files.iter().map(|file| {
            json!({
                "path": file.path, "mode": format!("{:04o}", file.mode), "owner": file.owner,
                "contents": shown(&file.contents),
            })
        });
        let directories = plan.directories.iter().map(|directory| {
            json!({
                "path": directory.path, "mode": format!("{:04o}", directory.mode),
                "owner": directory.owner,
            })
        });
        let links = plan
            .links
            .iter()
            .map(|link| json!({ "path": link.path, "target": link.target }));
        return print_json(&json!({
            "directories": directories.collect::<Vec<_>>(),
            "files": files.collect::<Vec<_>>(),
            "links": links.collect::<Vec<_>>(),
            "commands": commands,
            "policy": plan.policy,
        }));
    }
    for directory in &plan.directories {
        let (path, mode, owner) = (directory.path.display(), directory.mode, directory.owner);
        println!("# directory {path}, mode {mode:04o}, user {owner}, unless it is there");
    }
    for file in &plan.files {
        let (path, mode, owner) = (file.path.display(), file.mode, file.owner);
        println!("# file {path}, mode {mode:04o}, user {owner}");
        println!("{}", shown(&file.contents).trim_end());
    }
    println!("# commands");
    for command in &commands {
        println!("{command}");
    }
    for link in &plan.links {
        let (path, target) = (link.path.display(), link.target.display());
        println!("# once confirmed: link {path} to {target}");
    }
    Ok(())
}
