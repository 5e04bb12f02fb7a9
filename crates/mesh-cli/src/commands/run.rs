//! `mesh run`: an application with its sidecar on this machine.

mod application;
mod replace;

use std::env;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_runtime::inject::APP_UNIT;
use mesh_runtime::{
    Application, Creation, EnrolError, Exit, JoinToken, LogOptions, MeshFacts, Name, NetworkSpec,
    ProcessEngine, Runtime as _, RuntimeError, UnitState, enrol, inject,
};

use self::application::Description;
use crate::connect::Connection;
use crate::exit::{FAILURE, Failure, OK, Outcome, REFUSED, UNSUPPORTED, USAGE};
use crate::{engine, ground, join};

/// Run an application with its sidecar.
///
/// Its traffic goes through the sidecar from its first instruction on. Without --detach its output
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
    /// The Envoy binary; the one in PATH unless given.
    #[arg(long, env = "ENVOY_BIN", value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// How long sidecar and application may each take to become ready, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let directory =
        env::current_dir().map_err(|error| Failure::doing("looking where we are", &error))?;
    let application = args.description.application(&directory, args.detach)?;
    ground::check()?;
    let envoy = envoy(args.envoy.as_deref())?;
    let engine = engine::open(&args.connection.home.home)?;
    let network = network(&engine).await?;
    replace::make_room(&engine, &application, args.replace).await?;
    let (facts, token) = join_mesh(args, &application, &network, envoy).await?;
    let injected = inject(&application, &facts)
        .map_err(|problems| Failure::new(problems.to_string()).with_code(USAGE))?;
    let limit = Duration::from_secs(args.timeout);
    let enrolled = enrol(&engine, &injected, &token, limit)
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
        return Ok(OK.into());
    }
    let outcome = attend(&engine, &group).await;
    engine
        .remove_group(&group)
        .await
        .map_err(|error| Failure::of(&error))?;
    outcome
}

async fn network(engine: &ProcessEngine) -> Result<NetworkSpec, Failure> {
    engine
        .network(&NetworkSpec::mesh().name)
        .await
        .map_err(|error| {
            Failure::of(&error).with_hint("`mesh up` makes the network of the workloads")
        })
}

/// Where the mesh is, and a token for the application's account, which is made where it is missing.
async fn join_mesh(
    args: &Args,
    application: &Application,
    network: &NetworkSpec,
    envoy: PathBuf,
) -> Result<(MeshFacts, JoinToken), Failure> {
    let client = args.connection.client().await?;
    let found = join::facts(&client).await?;
    let (namespace, account) = (&application.namespace, &application.service_account);
    join::ensure_account(&client, namespace, account).await?;
    let token = join::token(&client, namespace, account, TOKEN_TTL).await?;
    let gateways = network.gateways();
    let facts = MeshFacts {
        trust_domain: found.trust_domain,
        pilots: found.pilots,
        cas: found.cas,
        root_hashes: found.root_hashes,
        mesh: engine::program()?,
        envoy: Some(envoy),
        network: network.name.clone(),
        name_servers: vec![gateways.0.into(), gateways.1.into()],
        upstream_dns: application::name_servers(
            &std::fs::read_to_string(RESOLV_CONF).unwrap_or_default(),
        ),
        // The CA decides.
        certificate_ttl_seconds: None,
    };
    Ok((facts, JoinToken::new(token)))
}

/// Shows what the application writes until it ends or somebody presses Ctrl-C.
async fn attend(engine: &ProcessEngine, group: &Name) -> Outcome {
    let app = engine::name(APP_UNIT)?;
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

/// The binary as a full path: units have another PATH.
fn envoy(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let found = match given {
        Some(path) => Some(path.to_path_buf()),
        None => env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .map(|directory| directory.join("envoy"))
            .find(|path| path.is_file()),
    };
    let found = found.ok_or_else(|| {
        Failure::new("there is no `envoy` in PATH")
            .with_code(UNSUPPORTED)
            .with_hint("install Envoy, or name its binary with --envoy")
    })?;
    std::fs::canonicalize(&found)
        .map_err(|error| Failure::doing(format!("looking for {}", found.display()), &error))
}

/// With the last words of the unit that failed: its log is gone with the group.
fn not_enrolled(error: &EnrolError) -> Failure {
    let failure = Failure::of(error);
    let EnrolError::Runtime { source, log, .. } = error else {
        return failure;
    };
    if !log.is_empty() {
        eprintln!("its last words:\n{}", log.trim_end());
    }
    match source {
        RuntimeError::Differs { .. } => failure.with_code(REFUSED).with_hint(replace::HINT),
        source => match source.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        },
    }
}

/// The token is used once, within seconds; the least that the API server gives.
const TOKEN_TTL: Duration = Duration::from_secs(600);

/// The exit code of a command that Ctrl-C ended, as shells have it.
const INTERRUPTED: u8 = 130;

/// Where the machine's own name servers are.
const RESOLV_CONF: &str = "/etc/resolv.conf";
