//! `mesh run`: an application with its sidecar on this machine.

mod application;
mod image;
mod replace;

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_model::Mode;
use mesh_runtime::inject::{APP_UNIT, SIDECAR_UNIT};
use mesh_runtime::{
    Creation, EnrolError, Exit, LogOptions, Name, Runtime, RuntimeError, UnitState, enrol,
};

use self::application::Description;
pub(crate) use self::application::Part;
pub(in crate::commands) use self::application::{PortArgument, pair, unique};
use crate::connect::Connection;
use crate::exit::{FAILURE, Failure, OK, Outcome, REFUSED};
use crate::sidecar::SidecarArgs;
use crate::{engine, ground, join};

/// Run an application with its sidecar.
///
/// Its traffic goes through the sidecar from its first instruction on; in explicit mode, what the
/// application sends there does. Without --detach its output
/// is shown, its end is the end of this command, and Ctrl-C stops it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    description: Description,
    /// Leave it running, and start it again whenever it ends.
    #[arg(short, long)]
    detach: bool,
    /// Remove a workload of the same name first, if there is one.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    sidecar: SidecarArgs,
    /// How long sidecar and application may each take to become ready, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
    #[command(flatten)]
    engine: engine::Choice,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let directory =
        env::current_dir().map_err(|error| Failure::doing("looking where we are", &error))?;
    let mut application = args.description.application(&directory, args.detach)?;
    ground::check()?;
    let home = &args.connection.home.home;
    let record = args.engine.decide(home)?;
    let envoy = args.sidecar.envoy(record.engine)?;
    let engine = engine::open_recorded(&record, home).await?;
    image::settle(&engine, &mut application, args.description.has_user()).await?;
    let ground = args.sidecar.ground(&engine, envoy).await?;
    replace::make_room(&*engine, &application, args.replace).await?;
    let client = args.connection.client().await?;
    if application.mode == Mode::Gateway {
        let (namespace, account) = (&application.namespace, &application.service_account);
        join::ensure_gateway(&client, namespace, account).await?;
    }
    let (injected, token) = ground.inject(&client, &application).await?;
    let limit = Duration::from_secs(args.timeout);
    let enrolled = enrol(&*engine, &injected, &token, limit)
        .await
        .map_err(|error| not_enrolled(&error))?;

    let group = enrolled.group.spec.name;
    if args.detach {
        let words = match enrolled.creation {
            Creation::Created => "runs with its sidecar",
            Creation::Exists => "was running with its sidecar",
        };
        let addresses = enrolled.group.addresses.map(|addresses| addresses.both());
        let addresses = addresses.iter().flatten().map(ToString::to_string);
        println!(
            "{group} {words} at {}",
            addresses.collect::<Vec<_>>().join(", ")
        );
        for (target, port) in application.explicit().iter().flat_map(|it| &it.inbound) {
            println!("its port {target} on loopback is called at port {port} of the sidecar");
        }
        return Ok(OK.into());
    }
    let unit = match application.mode {
        Mode::Gateway => SIDECAR_UNIT,
        _ => APP_UNIT,
    };
    let outcome = attend(&*engine, &group, unit).await;
    engine
        .remove_group(&group)
        .await
        .map_err(|error| Failure::of(&error))?;
    outcome
}

/// Shows what the application writes until it ends or somebody presses Ctrl-C.
async fn attend(engine: &dyn Runtime, group: &Name, unit: &str) -> Outcome {
    let app = engine::name(unit)?;
    let options = LogOptions {
        tail: None,
        follow: true,
    };
    let log = engine.logs(group, &app, options).await;
    let mut log = log.map_err(|error| Failure::of(&error))?;
    let show = async {
        while let Some(piece) = log.next().await {
            let piece = piece.map_err(|error| Failure::of(&error))?;
            let mut stdout = io::stdout().lock();
            stdout
                .write_all(&piece)
                .and_then(|()| stdout.flush())
                .map_err(|error| Failure::doing("showing the output", &error))?;
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        shown = show => shown?,
        interrupted = tokio::signal::ctrl_c() => {
            return match interrupted {
                Ok(()) => Ok(ExitCode::from(INTERRUPTED)),
                Err(error) => Err(Failure::doing("waiting for Ctrl-C", &error)),
            };
        }
    }
    let status = engine
        .status(group, &app)
        .await
        .map_err(|error| Failure::of(&error))?;
    Ok(match status.state {
        UnitState::Finished {
            exit: Exit::Code(code),
        } => ExitCode::from(u8::try_from(code).unwrap_or(FAILURE)),
        // As a shell has it: 128 and the signal.
        UnitState::Finished {
            exit: Exit::Signal(signal),
        } => ExitCode::from(u8::try_from(128 + signal).unwrap_or(FAILURE)),
        _ => ExitCode::from(FAILURE),
    })
}

/// With the last words of the unit that failed: its log is gone with the group.
pub(crate) fn not_enrolled(error: &EnrolError) -> Failure {
    let failure = Failure::of(error);
    let EnrolError::Runtime { source, log, .. } = error else {
        return failure;
    };
    if !log.is_empty() {
        eprintln!("its last words:\n{}", log.trim_end());
    }
    match source {
        RuntimeError::Differs { .. } => failure.with_code(REFUSED).with_hint(replace::HINT),
        source => failure.with_hint_of(source.hint()),
    }
}

/// The exit code of a command that Ctrl-C ended, as shells have it.
const INTERRUPTED: u8 = 130;
