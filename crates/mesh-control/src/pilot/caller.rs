//! Who is at the other end of a call, as its connection proved.

use mesh_model::SpiffeId;
use tonic::{Extensions, Status};

/// Who calls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Caller {
    /// A workload, by a certificate of the mesh.
    Workload(SpiffeId),
    /// A user of the API, by a client certificate of the API's CA.
    User {
        /// The user.
        name: String,
        /// The groups that the certificate says it is in.
        groups: Vec<String>,
    },
}

impl Caller {
    /// The workload that makes a call.
    ///
    /// # Errors
    ///
    /// `UNAUTHENTICATED` when no workload does.
    #[expect(
        clippy::result_large_err,
        reason = "tonic's own type for a failed call"
    )]
    pub(super) fn workload(extensions: &Extensions) -> Result<SpiffeId, Status> {
        match extensions.get::<Self>() {
            Some(Self::Workload(identity)) => Ok(identity.clone()),
            Some(Self::User { name, .. }) => Err(Status::unauthenticated(format!(
                "this call is for workloads, and the caller is the user `{name}`"
            ))),
            None => Err(Status::unauthenticated(
                "this call needs a certificate of the mesh",
            )),
        }
    }
}
