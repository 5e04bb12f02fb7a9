//! Whether nodes can get the programs: asked before anything depends on them.

use mesh_nomad::client::Stop;
use mesh_nomad::install::{Member, Runner, Settings, node_check};

use super::cluster::Cluster;
use super::failed;
use crate::exit::Failure;

/// Has every node fetch the programs and run them.
pub(super) async fn check(
    cluster: &Cluster,
    settings: &Settings,
    members: &[Member],
) -> Result<(), Failure> {
    let job = node_check(settings, members);
    let id = job.id.text();
    // One that an interrupted run left behind would count as this one.
    cluster.end(id).await?;
    let result = cluster.bring(&job).await;
    let purge = Stop {
        purge: true,
        ..Stop::default()
    };
    let ended = cluster.client.stop_job(&cluster.namespace, id, purge).await;
    result.map_err(|failure| {
        failure.with_hint(match settings.delivery.runner {
            Runner::Docker => "every node must reach the registry of the images, or have them already: `mesh image build --output DIR` makes archives for `docker load`; no job was installed yet",
            _ => "every node must reach the URLs, and the checksums must be right; no job was installed yet",
        })
    })?;
    ended.map_err(|error| failed(format!("removing job {id}"), &error))?;
    Ok(())
}
