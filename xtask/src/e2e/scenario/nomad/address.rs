//! An application that takes the address of what it calls from the catalogue itself.

use std::time::Duration;

use mesh_tests::call::{self, Call, Outcome};
use mesh_tests::control::Command;

use super::{insisted, text};
use crate::e2e::nomad::{Group, Job, NODE, Runs, Service, Task};
use crate::e2e::world::{Step, World, ensure, eventually};

/// The service that is called, under STRICT as the whole mesh is.
const CALLEE: &str = "details";
/// How long counts may take to arrive.
const SOON: Duration = Duration::from_secs(20);

pub(super) async fn rows(world: &World) {
    let result = called(world).await;
    world.record(
        "an address that a template took from the catalogue is called by mutual TLS, and counted as its service",
        result,
    );
}

/// A process that calls what its template says, again and again until it is answered if `insists`.
fn job(world: &World, id: &str, insists: bool) -> Job {
    let mut command = vec![
        world.bin("mesh-echo").display().to_string(),
        format!("--name={id}"),
        format!("--control={}", world.socket(id).display()),
        "--first-call=http://${CALLEE}/only".to_owned(),
    ];
    command.extend(insists.then(|| "--insist".to_owned()));
    let address = "{{ .Address }}:{{ .Port }}";
    Job {
        id: id.to_owned(),
        groups: vec![Group {
            name: id.to_owned(),
            count: 1,
            network: "bridge",
            meta: Vec::new(),
            service: Service {
                name: id.to_owned(),
                protocol: "http",
                port: 9080,
                tags: Vec::new(),
                check: Some("/only"),
            },
            task: Task {
                runs: Runs::RawExec,
                user: "nobody",
                command,
                env: Vec::new(),
                template: Some(format!(
                    "{{{{ range nomadService \"{CALLEE}\" }}}}CALLEE={address}{{{{ end }}}}"
                )),
            },
        }],
    }
}

async fn called(world: &World) -> Step<String> {
    const MESHED: &str = "reader";
    const BARE: &str = "bare-reader";
    world.run_job(&job(world, MESHED, true), "cni").await?;
    let first = insisted(world, MESHED).await?;
    let host = text(&first.outcome.body, "/headers/host").to_owned();
    ensure(host.starts_with(&format!("{NODE}:")), || {
        format!("it is no address of the node that {MESHED} called: {first:?}")
    })?;
    let caller = format!("URI=spiffe://cluster.local/ns/default/sa/{MESHED}");
    let xfcc = text(&first.outcome.body, "/headers/x-forwarded-client-cert");
    ensure(xfcc.contains(&caller), || {
        format!("{CALLEE} sees no verified caller: {first:?}")
    })?;

    // The control: the same without a sidecar, at the same address.
    let bare = world.job_file(&job(world, BARE, false))?;
    world.nomad(&["job", "run", &bare]).await?;
    let refused: Outcome = serde_json::from_value(world.tell(BARE, &Command::First).await?)
        .map_err(|error| format!("{BARE}: {error}"))?;
    ensure(refused.status == 0, || {
        format!("{CALLEE} answers a call in the clear: {refused:?}")
    })?;

    let (counts, _) = eventually(SOON, || counted(world, MESHED)).await?;
    for (caller, told) in [
        (MESHED, "under mutual TLS; it takes STRICT"),
        (BARE, "in plaintext, which is refused; it takes STRICT"),
    ] {
        let why = world
            .mesh(&["why", &format!("default/{caller}"), &host])
            .await?;
        ensure(why.contains(told), || {
            format!("`mesh why` of {caller} does not say `{told}`: {why}")
        })?;
    }
    for id in [MESHED, BARE] {
        world.nomad(&["job", "stop", "-purge", id]).await?;
    }
    Ok(format!(
        "{MESHED} → http://{host}: answered at attempt {}, as {MESHED}; {BARE}, without a sidecar: {}; `mesh why` says both; {counts}",
        first.refused + 1,
        refused.error.unwrap_or_default(),
    ))
}

/// What both sidecars counted between the caller and the service.
async fn counted(world: &World, account: &str) -> Step<String> {
    let metrics = world.outside().await?;
    let metrics = metrics.first().ok_or("the Mixer has no address")?;
    let outcome = call::once(Call::get(metrics)).await;
    let page = outcome.body.as_str().unwrap_or_default();
    let identity = |account: &str| format!("\"spiffe://cluster.local/ns/default/sa/{account}\"");
    let sum = |metric: &str, reporter: &str, service: &str| -> u64 {
        let wanted = [
            format!("reporter=\"{reporter}\""),
            format!("source_principal={}", identity(account)),
            format!("destination_principal={}", identity(CALLEE)),
            format!("destination_service=\"{service}\""),
        ];
        let lines = page
            .lines()
            .filter(|line| line.starts_with(metric))
            .filter(|line| wanted.iter().all(|label| line.contains(label)));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    };
    let service = format!("{CALLEE}.default.mesh");
    let opened = sum("istio_tcp_connections_opened_total{", "source", &service);
    let requests = sum("istio_requests_total{", "destination", &service);
    ensure(opened > 0 && requests > 0, || {
        let lines = page
            .lines()
            .filter(|line| line.contains(&identity(account)));
        format!(
            "{opened} connections by the caller, {requests} requests by {CALLEE}: {:?}",
            lines.collect::<Vec<_>>()
        )
    })?;
    Ok(format!(
        "{service}: {opened} connection by the caller's sidecar, {requests} request by its own"
    ))
}
