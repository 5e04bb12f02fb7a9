//! The API server as a role.

use super::health::RoleState;
use super::{Context, Role, ServerError};
use crate::api::{ApiConfig, ApiServer};
use crate::store;

/// Starts the API; what comes back serves it until it is time to stop.
pub(super) async fn start_api(
    context: &Context,
) -> Result<impl Future<Output = Result<(), ServerError>> + use<>, ServerError> {
    let config = &context.config;
    context
        .health
        .set(Role::Api, RoleState::Starting("opening the store"));
    let store = store::open(&config.store).await?;
    let api = ApiConfig {
        listen: config.listen.api.clone(),
        home: context.home().to_owned(),
        advertise: config.advertise.clone(),
        names: Vec::new(),
        store,
        history: crate::api::DEFAULT_HISTORY,
    };
    let handle = ApiServer::start(api, context.stop.clone())
        .await
        .map_err(|error| ServerError::Api {
            source: error.into(),
        })?;
    context.health.set(Role::Api, RoleState::Ready);
    Ok(async move {
        handle.stopped().await;
        Ok(())
    })
}
