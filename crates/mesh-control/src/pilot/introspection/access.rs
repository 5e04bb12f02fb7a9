//! May this user look? Asked of the API server, as every right is.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_model::Namespace;
use tonic::{Extensions, Status};
use tracing::{debug, warn};

use crate::pilot::caller;

/// Asks the API server for rights.
#[derive(Clone)]
pub(super) struct Access {
    client: Client,
}

/// The API group of what is looked at; there are no objects of it, only rights.
const GROUP: &str = "mesh.dev";
const RESOURCE: &str = "proxies";

impl Access {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Refuses who may not look into a namespace, or into all when there is none.
    pub(super) async fn require(
        &self,
        extensions: &Extensions,
        namespace: Option<&Namespace>,
    ) -> Result<(), Status> {
        let (user, groups) = caller::user(extensions)?;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.to_owned()),
                groups: Some(groups.to_vec()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    resource: Some(RESOURCE.to_owned()),
                    verb: Some("get".to_owned()),
                    namespace: namespace.map(Namespace::to_string),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await;
        let status = match answer {
            Ok(review) => review.status,
            Err(error) => {
                warn!(%error, "the API server does not say who may look inside");
                return Err(Status::unavailable(
                    "Pilot cannot ask the API server what you may see; try again",
                ));
            }
        };
        if status.is_some_and(|status| status.allowed && status.denied != Some(true)) {
            return Ok(());
        }
        let place = namespace.map_or_else(
            || "every namespace".to_owned(),
            |namespace| format!("namespace `{namespace}`"),
        );
        debug!(user, place, "looking inside refused");
        Err(Status::permission_denied(format!(
            "user `{user}` may not `get` `{RESOURCE}.{GROUP}` in {place}; \
             a role with that rule and a binding to the user allow it"
        )))
    }
}
