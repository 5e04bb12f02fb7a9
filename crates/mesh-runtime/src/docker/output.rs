//! What units of the Docker engine write: logs, and the output of commands beside them.

use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use bollard::query_parameters::LogsOptions;
use futures_util::StreamExt as _;

use super::Engine;
use super::daemon::{message, status};
use super::unit::Container;
use crate::{ExecOutput, LogOptions, LogStream, Name, RuntimeError};

impl Engine {
    pub(super) async fn exec(
        &self,
        group: &Name,
        unit: &Name,
        command: &[String],
    ) -> Result<ExecOutput, RuntimeError> {
        let container = self.container_of(group, unit).await?;
        match self.run_in(&container, command).await {
            Ok(output) => Ok(output),
            // It does not run, or ended meanwhile.
            Err(error) if matches!(status(&error), Some(404 | 409)) || is_improper(&error) => {
                Err(self.ended(group, unit).await)
            }
            Err(error) => {
                let action = format!("run a command in `{unit}`");
                Err(self.daemon.failed(action, error))
            }
        }
    }

    /// Runs a command in a container, as the unit's user and in its directory.
    pub(super) async fn run_in(
        &self,
        container: &Container,
        command: &[String],
    ) -> Result<ExecOutput, bollard::errors::Error> {
        let api = &self.daemon.api;
        let spec = &container.spec;
        let config = ExecConfig {
            cmd: Some(command.to_vec()),
            user: Some(format!("{}:{}", spec.uid, spec.gid)),
            working_dir: Some(spec.working_directory.display().to_string()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let made = api.create_exec(&container.id, config).await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let StartExecResults::Attached { mut output, .. } =
            api.start_exec(&made.id, None).await?
        {
            while let Some(piece) = output.next().await {
                match piece? {
                    LogOutput::StdErr { message } => stderr.extend(message),
                    other => stdout.extend(other.into_bytes()),
                }
            }
        }
        let ended = api.inspect_exec(&made.id).await?;
        // Without a code it did not come to run.
        let exit = super::state::exit(ended.exit_code.unwrap_or(NOT_RUN));
        Ok(ExecOutput {
            exit,
            stdout,
            stderr,
        })
    }

    pub(super) async fn logs(
        &self,
        group: &Name,
        unit: &Name,
        options: LogOptions,
    ) -> Result<LogStream, RuntimeError> {
        let container = self.container_of(group, unit).await?;
        let asked = LogsOptions {
            follow: options.follow,
            stdout: true,
            stderr: true,
            tail: options
                .tail
                .map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
            ..LogsOptions::default()
        };
        let daemon = self.daemon.clone();
        let action = format!("read the log of unit `{unit}`");
        let stream = self.daemon.api.logs(&container.id, Some(asked));
        Ok(Box::pin(stream.map(move |piece| match piece {
            Ok(piece) => Ok(piece.into_bytes().to_vec()),
            Err(error) => Err(daemon.failed(action.clone(), error)),
        })))
    }
}

/// Podman's word for a container that does not run.
fn is_improper(error: &bollard::errors::Error) -> bool {
    message(error).is_some_and(|it| it.contains("container state improper"))
}

/// What a shell answers for a command that cannot be run.
const NOT_RUN: i64 = 126;
