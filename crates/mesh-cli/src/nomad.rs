//! This program as a task of Nomad's: how it asks Nomad, and the files that it is given.

use std::path::Path;
use std::time::Duration;

use mesh_control::server::SYSTEM_NAMESPACE;
use mesh_nomad::client::{Client, Config};
use mesh_nomad::files::{Brought, VariableFiles};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::exit::Failure;

/// A client of the Nomad that the environment names, or of the one whose task this is.
///
/// # Errors
///
/// When what the environment says cannot be used.
pub(crate) fn client() -> Result<Client, Failure> {
    let config = Config::from_task_variables(|name| std::env::var(name).ok())
        .map_err(|problems| Failure::usage(problems.to_string()))?;
    Client::new(config).map_err(|error| Failure::doing("making a client of Nomad", &error))
}

/// Nomad's namespace of this program: the task's own, or that of the control plane.
pub(crate) fn namespace(client: &Client) -> &str {
    let own = client.config().namespace.as_deref();
    own.unwrap_or(SYSTEM_NAMESPACE)
}

/// Writes the items of a variable below `home`; waits for Nomad if there are none from earlier.
/// False when it is time to stop before that.
///
/// # Errors
///
/// What waiting would not mend.
pub(crate) async fn bring_files(
    client: &Client,
    path: &str,
    home: &Path,
    stop: &CancellationToken,
) -> Result<bool, Failure> {
    let variable = VariableFiles::new(client.clone(), namespace(client), path, home);
    loop {
        let brought = tokio::select! {
            brought = variable.bring() => brought,
            () = stop.cancelled() => return Ok(false),
        };
        match brought {
            Ok(Brought::Written { files }) => {
                info!(path, files, "the files of Nomad's variable are written");
                return Ok(true);
            }
            Ok(Brought::Kept { files, why }) => {
                let error: &dyn std::error::Error = &why;
                warn!(path, files, error, "the files of an earlier start serve");
                return Ok(true);
            }
            Ok(_) => return Ok(true),
            Err(error) if error.is_transient() => {
                let error: &dyn std::error::Error = &error;
                warn!(path, error, retry_in = ?PAUSE, "waiting for the files of Nomad's variable");
            }
            Err(error) => {
                return Err(Failure::of(&error).with_hint_of(error.hint()));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return Ok(false),
        }
    }
}

/// How long to wait before Nomad is asked again.
const PAUSE: Duration = Duration::from_secs(2);
