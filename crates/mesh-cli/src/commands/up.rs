//! `mesh up`: the control plane on this machine, as processes or in containers.

mod docker;
mod process;

use std::fs;
use std::path::PathBuf;

use http::Request;
use kube::Client;
use mesh_model::sidecar::API_PORT;
use serde_json::{Value, json};

use crate::connect::{self, Home};
use crate::engine::{self, Engine, Store};
use crate::exit::{Failure, OK, Outcome};
use crate::{ground, image};

/// Start the control plane on this machine.
///
/// A second call starts what does not run and changes nothing else. On Docker the images are made
/// first, where they are missing or not up to date.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run API server, CA, Pilot and Mixer as four processes instead of one; on Docker they always
    /// are four containers.
    #[arg(long)]
    separate: bool,
    /// What the API server keeps objects in; on Docker `etcd` unless given, else `file`.
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// Port of this machine's loopback at which the API server is reached, on Docker.
    #[arg(long, value_name = "PORT", default_value_t = API_PORT)]
    api_port: u16,
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
    #[arg(long)]
    permissive: bool,
    /// A Compose file, on Docker: its etcd and API server (images `etcd` and `kube-apiserver`) are
    /// the mesh's own with the flags of the file, its other services are started after them.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
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
    let doing = |error: std::io::Error| {
        Failure::doing(format!("making {}", args.home.home.display()), &error)
    };
    fs::create_dir_all(&args.home.home).map_err(doing)?;
    // Others get it as a path: units, supervisors, a daemon.
    let home = &fs::canonicalize(&args.home.home).map_err(doing)?;
    if args.file.is_some() && record.engine != engine::Kind::Docker {
        let message = format!(
            "--file needs containers, and the engine is `{}`",
            record.engine
        );
        return Err(Failure::usage(message).with_hint("add --engine docker"));
    }
    let engine = engine::open_recorded(&record, home).await?;
    let record = engine::Record { up: true, ..record };
    record.write(home)?;
    match &engine {
        Engine::Process(engine) => process::bring_up(engine, args, home).await?,
        Engine::Docker(engine) => docker::bring_up(engine, args, record.store, home).await?,
    }

    let file = home.join("kubeconfig");
    let client = connect::client(&file).await?;
    if !args.permissive && store_strict(&client).await? {
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

/// Stores the mesh-wide policy that refuses plaintext, visible and changeable as any object.
///
/// What is there is left alone: somebody may have decided otherwise.
async fn store_strict(client: &Client) -> Result<bool, Failure> {
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
