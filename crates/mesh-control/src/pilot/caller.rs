//! Who is at the other end of a call, as its connection proved.

use mesh_identity::{Connection, Peer};
use mesh_model::SpiffeId;
use tonic::{Extensions, Status};

/// The workload that makes a call.
///
/// # Errors
///
/// `UNAUTHENTICATED` when no workload does.
pub(super) fn workload(extensions: &Extensions) -> Result<SpiffeId, Status> {
    match peer(extensions) {
        Peer::Workload(identity) => Ok(identity.clone()),
        Peer::User { name, .. } => Err(Status::unauthenticated(format!(
            "this call is for workloads, and the caller is the user `{name}`"
        ))),
        _ => Err(Status::unauthenticated(
            "this call needs a certificate of the mesh",
        )),
    }
}

/// The API user that makes a call, and its groups.
///
/// # Errors
///
/// `UNAUTHENTICATED` when none does.
pub(super) fn user(extensions: &Extensions) -> Result<(&str, &[String]), Status> {
    match peer(extensions) {
        Peer::User { name, groups } => Ok((name, groups)),
        Peer::Workload(identity) => Err(Status::unauthenticated(format!(
            "this call is for users of the API, and the caller is the workload `{identity}`"
        ))),
        _ => Err(Status::unauthenticated(
            "this call needs a client certificate of the API server, as in a kubeconfig",
        )),
    }
}

fn peer(extensions: &Extensions) -> &Peer {
    extensions
        .get::<Connection>()
        .map_or(&Peer::None, |connection| &connection.peer)
}
