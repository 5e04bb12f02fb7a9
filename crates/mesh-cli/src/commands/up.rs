//! `mesh up`: the control plane on this machine, as processes or in containers.

mod docker;
mod install;
mod process;

use std::fs;
use std::path::{Path, PathBuf};

use http::Request;
use kube::Client;
use serde_json::{Value, json};

use self::install::Install;
use crate::connect::{self, Home};
use crate::engine::{self, Engine, Store};
use crate::exit::{Failure, OK, Outcome, UNSUPPORTED};
use crate::{ground, image};

/// Start the control plane on this machine.
///
/// What is asked for is kept: a second call without flags is the same install, which starts what
/// does not run and changes nothing else. On Docker the images are made first, where they are
/// missing or not up to date.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run API server, CA, Pilot and Mixer as four processes instead of one; on Docker they always
    /// are four containers.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    separate: Option<bool>,
    /// What the API server keeps objects in; on Docker `etcd` unless given, else `file`.
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// Port of this machine's loopback at which the API server is reached, on Docker; 6443 unless
    /// given.
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
    /// IPv4 subnet of the workloads, 10.213.0.0/16 unless given, on Docker 172.28.0.0/16; its first
    /// address is this machine's.
    #[arg(long, value_name = "CIDR")]
    subnet: Option<ipnet::Ipv4Net>,
    /// IPv6 subnet of the workloads.
    #[arg(long, value_name = "CIDR")]
    subnet6: Option<ipnet::Ipv6Net>,
    /// Life of workload certificates, in seconds; the CA's default unless given.
    #[arg(long, value_name = "SECONDS")]
    certificate_ttl: Option<u64>,
    /// Do not store the mesh-wide policy that refuses plaintext.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    permissive: Option<bool>,
    /// A Compose file, on Docker: its etcd and API server (images `etcd` and `kube-apiserver`) are
    /// the mesh's own with the flags of the file, its other services are started after them. A
    /// service that is changed in the file is made again, one that is left out is removed.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The control plane without the Compose file of before; its other services are removed.
    #[arg(long, conflicts_with = "file")]
    no_file: bool,
    #[command(flatten)]
    programs: image::Programs,
    #[command(flatten)]
    engine: engine::Choice,
    #[command(flatten)]
    home: Home,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    ground::check()?;
    let record = args.engine.decide_anew(&args.home.home, args.store)?;
    // Others get it as a path: units, supervisors, a daemon.
    let home = &full_path(&args.home.home)?;
    let install = Install::decide(args, &record, home)?;
    if args.file.is_some() && record.engine != engine::Kind::Docker {
        let message = format!(
            "--file needs containers, and the engine is `{}`",
            record.engine
        );
        return Err(Failure::usage(message).with_hint("add --engine docker"));
    }
    // What is wrong with it is told before anything is made or kept.
    let planned = match record.engine {
        engine::Kind::Process => None,
        engine::Kind::Docker => Some(docker::plan(args.store, &install, record.store, home)?),
    };
    fs::create_dir_all(home)
        .map_err(|error| Failure::doing(format!("making {}", home.display()), &error))?;
    let engine = engine::open_recorded(&record, home).await?;
    if let Engine::Docker(engine) = &engine {
        engine
            .can_build()
            .map_err(|error| engine::failed(&error).with_code(UNSUPPORTED))?;
    }
    let record = engine::Record { up: true, ..record };
    record.write(home)?;
    install.write(home)?;
    match (&engine, planned) {
        (Engine::Docker(engine), Some(planned)) => {
            docker::bring_up(engine, planned, install.clone(), home).await?;
        }
        (Engine::Process(engine), _) => process::bring_up(engine, &install, home).await?,
        (Engine::Docker(_), None) => {}
    }

    let file = home.join("kubeconfig");
    let client = connect::client(&file).await?;
    if !install.permissive && store_strict(&client).await? {
        println!(
            "stored PeerAuthentication default in istio-system: mutual TLS is STRICT in the whole mesh"
        );
    }
    println!(
        "the control plane is ready; kubeconfig of the admin: {}",
        file.display()
    );
    Ok(OK.into())
}

/// A path without links that is the same once its last directories are made.
fn full_path(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error| Failure::doing(format!("looking for {}", path.display()), &error);
    let absolute = std::path::absolute(path).map_err(failed)?;
    let there = absolute.ancestors().find(|it| it.exists());
    let there = there.unwrap_or_else(|| Path::new("/"));
    let rest = absolute
        .strip_prefix(there)
        .unwrap_or_else(|_| Path::new(""));
    // Joined with nothing, a path gets a slash at its end.
    let full = fs::canonicalize(there).map_err(failed)?;
    Ok(if rest == Path::new("") {
        full
    } else {
        full.join(rest)
    })
}

/// Stores the mesh-wide policy that refuses plaintext, visible and changeable as any object.
///
/// What is there is left alone: somebody may have decided otherwise.
pub(super) async fn store_strict(client: &Client) -> Result<bool, Failure> {
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": { "name": "default", "namespace": "istio-system" },
        "spec": { "mtls": { "mode": "STRICT" } },
    });
    let request =
        Request::post("/apis/security.istio.io/v1/namespaces/istio-system/peerauthentications")
            .header("content-type", "application/json")
            .body(policy.to_string().into_bytes())
            .map_err(|error| Failure::of(&error))?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
        Err(error) => Err(Failure::doing(
            "storing the mesh-wide PeerAuthentication",
            &error,
        )),
    }
}
