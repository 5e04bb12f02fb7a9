//! Whether nodes can get the programs: asked before anything depends on them.

use mesh_nomad::client::Stop;
use mesh_nomad::install::{Settings, node_check};

use super::cluster::Cluster;
use super::failed;
use crate::exit::Failure;

/// Has every node fetch the programs and run one of them.
pub(super) async fn check(cluster: &Cluster, settings: &Settings) -> Result<(), Failure> {
    let job = node_check(settings);
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
        let hint = "every node must reach the image or the URLs, and the checksums must be right; nothing was installed yet";
        failure.with_hint(hint)
    })?;
    ended.map_err(|error| failed(format!("removing job {id}"), &error))?;
    Ok(())
}
