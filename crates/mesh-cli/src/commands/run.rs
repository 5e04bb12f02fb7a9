//! `mesh run`: an application with its sidecar.

mod application;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mesh_runtime::{JoinToken, LogOptions, MeshFacts, NetworkSpec, Runtime as _, enrol, inject};

use crate::connect::Connection;
use crate::exit::{Failure, OK, Outcome};
use crate::{engine, join};
use application::Description;

/// How long rules, sidecar and application may take to become ready, each.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the join token holds: the sidecar uses it at once.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// Start an application with its sidecar on this machine.
///
/// It gets a network namespace of its own, redirect rules, a sidecar, and only then is started.
/// Namespace and service account are made in the API where they are missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    description: Description,
    /// Return when it is ready, instead of showing its log.
    #[arg(short, long)]
    detach: bool,
    /// The Envoy binary; from PATH unless given.
    #[arg(long, env = "ENVOY_BIN", value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// Life to ask for its certificates, in seconds.
    #[arg(long, value_name = "SECONDS")]
    certificate_ttl: Option<u64>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let application = args.description.application()?;
    let client = args.connection.client().await?;
    let (namespace, account) = (&application.namespace, &application.service_account);
    if join::ensure_account(&client, namespace, account).await? {
        eprintln!("made service account {account} in namespace {namespace}");
    }
    let mesh = join::facts(&client).await?;
    let token = join::token(&client, namespace, account, TOKEN_LIFE).await?;

    let network = NetworkSpec::mesh();
    let gateway = network.gateways();
    let facts = MeshFacts {
        trust_domain: mesh.trust_domain,
        pilots: mesh.pilots,
        cas: mesh.cas,
        root_hashes: mesh.root_hashes,
        mesh: engine::program()?,
        envoy: envoy(args)?,
        network: network.name,
        name_servers: vec![gateway.0.into(), gateway.1.into()],
        upstream_dns: upstream_dns()?,
        certificate_ttl_seconds: args.certificate_ttl,
    };
    let injected =
        inject(&application, &facts).map_err(|problems| Failure::usage(problems.to_string()))?;
    let engine = engine::open(&args.connection.home.home)?;
    let enrolled = enrol(&engine, &injected, &JoinToken::new(token), PATIENCE)
        .await
        .map_err(|error| Failure::of(&error))?;
    let group = enrolled.group.spec.name;
    let addresses = enrolled
        .group
        .addresses
        .map(|addresses| addresses.both().map(|a| a.to_string()));
    eprintln!(
        "{group} is ready at {}",
        addresses.unwrap_or_default().join(" and ")
    );
    if args.detach {
        return Ok(OK.into());
    }
    show(&engine, &group).await
}

/// Envoy as an absolute path: the sidecar has another PATH and another user.
fn envoy(args: &Args) -> Result<Option<PathBuf>, Failure> {
    let found = args.envoy.clone().or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join("envoy"))
            .find(|file| file.is_file())
    });
    match found {
        Some(file) => std::path::absolute(&file)
            .map(Some)
            .map_err(|error| Failure::doing(format!("looking for {}", file.display()), &error)),
        None => Err(Failure::new("there is no `envoy` in PATH")
            .with_hint("install Envoy 1.40, or name its binary with --envoy or ENVOY_BIN")),
    }
}

/// Name servers of this machine, which the sidecar asks for names outside the mesh.
fn upstream_dns() -> Result<Vec<SocketAddr>, Failure> {
    let file = "/etc/resolv.conf";
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        // A machine without resolver knows no names outside the mesh.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::doing(format!("reading {file}"), &error)),
    };
    let servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    // A resolver on this machine's loopback cannot be reached from a namespace of its own.
    Ok(servers
        .filter(|address| !address.is_loopback())
        .map(|address| (address, 53).into())
        .collect())
}

/// Shows the application's log until it ends or the terminal interrupts; it goes on either way.
async fn show(engine: &mesh_runtime::ProcessEngine, group: &mesh_runtime::Name) -> Outcome {
    use std::io::Write as _;

    use futures_util::TryStreamExt as _;

    let options = LogOptions {
        tail: None,
        follow: true,
    };
    let log = engine.logs(group, &engine::name("app")?, options).await;
    let mut log = log.map_err(|error| Failure::of(&error))?;
    while let Some(bytes) = log.try_next().await.map_err(|error| Failure::of(&error))? {
        std::io::stdout()
            .write_all(&bytes)
            .map_err(|error| Failure::doing("writing the log", &error))?;
    }
    Ok(OK.into())
}
