//! The API server as a role.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::health::RoleState;
use super::patience::patiently;
use super::{Context, Role, ServerError};
use crate::api::{ApiConfig, ApiHandle, ApiServer};
use crate::store::{self, Store, StoreError};

/// Starts the API; what comes back serves it until it is time to stop.
///
/// A store that does not answer is waited for, as long as nobody says that it is time to stop: a
/// cluster may come up later than its clients.
pub(super) async fn start_api(
    context: &Context,
) -> Result<impl Future<Output = Result<(), ServerError>> + use<>, ServerError> {
    let config = &context.config;
    context
        .health
        .set(Role::Api, RoleState::Starting("opening the store"));
    let store = store::open(&config.store).await?;
    context
        .health
        .set(Role::Api, RoleState::Starting("waiting for the store"));
    let handle = if await_store(&*store, &context.stop).await? {
        Some(serve(context, store).await?)
    } else {
        None
    };
    Ok(async move {
        if let Some(handle) = handle {
            handle.stopped().await;
        }
        Ok(())
    })
}

async fn serve(context: &Context, store: Arc<dyn Store>) -> Result<ApiHandle, ServerError> {
    let config = &context.config;
    context
        .health
        .set(Role::Api, RoleState::Starting("reading the store"));
    let api = ApiConfig {
        listen: config.listen.api.clone(),
        home: context.home().to_owned(),
        advertise: config.advertise.clone(),
        names: config.api_names.clone(),
        store,
        history: crate::api::DEFAULT_HISTORY,
    };
    let handle = ApiServer::start(api, context.stop.clone())
        .await
        .map_err(|error| ServerError::Api {
            source: error.into(),
        })?;
    context.health.set(Role::Api, RoleState::Ready);
    Ok(handle)
}

/// Waits until the store answers, whatever it says; `false` when it is time to stop before that.
async fn await_store(store: &dyn Store, stop: &CancellationToken) -> Result<bool, StoreError> {
    let answered = patiently("asking the store", stop, || async {
        match store.get(PROBE).await {
            Err(error @ StoreError::Unavailable { .. }) => Err(error),
            answered => Ok(answered),
        }
    });
    match answered.await {
        Some(answer) => answer.map(|_| true),
        None => Ok(false),
    }
}

/// A key that nothing has: no answer needs less.
const PROBE: &str = "/probe";
