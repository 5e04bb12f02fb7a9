//! `mesh up`: the control plane on this machine, as units of the process engine.

mod plan;

use std::fs;
use std::time::Duration;

use http::Request;
use kube::Client;
use mesh_runtime::{Creation, NetworkSpec, Runtime as _, start_group};
use serde_json::{Value, json};

use crate::connect::{self, Home};
use crate::exit::{Failure, OK, Outcome};
use crate::{engine, ground};
use plan::Plan;

/// How long a unit of the control plane may take to become ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Start the control plane on this machine.
///
/// A second call starts what does not run and changes nothing else.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run API server, CA, Pilot and Mixer as four processes instead of one.
    #[arg(long)]
    separate: bool,
    /// IPv4 subnet of the workloads, 10.213.0.0/16 unless given; its first address is this machine's.
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
    #[command(flatten)]
    home: Home,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    ground::check()?;
    let home = &args.home.home;
    fs::create_dir_all(home)
        .map_err(|error| Failure::doing(format!("making {}", home.display()), &error))?;
    let engine = engine::open(home)?;
    let of = |error: mesh_runtime::RuntimeError| Failure::of(&error);

    let mut network = NetworkSpec::mesh();
    network.v4 = args.subnet.unwrap_or(network.v4);
    network.v6 = args.subnet6.unwrap_or(network.v6);
    engine.create_network(&network).await.map_err(of)?;
    let plan = Plan {
        program: engine::program()?,
        home: home.clone(),
        gateway: network.gateways().0,
        separate: args.separate,
        certificate_ttl: args.certificate_ttl,
    };
    let group = Plan::group()?;
    engine.create_group(&group).await.map_err(of)?;
    let units = plan.units()?;
    for unit in &units {
        let state = match engine.create_unit(&group.name, unit).await.map_err(of)? {
            Creation::Created => "created",
            Creation::Exists => "is there",
        };
        eprintln!("{}: {state}", unit.name);
    }
    let hint = format!("see `mesh logs {}`", group.name);
    let late = |error: mesh_runtime::RuntimeError| Failure::of(&error).with_hint(&hint);
    start_group(&engine, &group.name, PATIENCE)
        .await
        .map_err(late)?;
    for unit in &units {
        engine
            .wait_ready(&group.name, &unit.name, PATIENCE)
            .await
            .map_err(late)?;
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
