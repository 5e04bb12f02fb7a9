//! A supervisor by itself, for programs that use the process engine without the `mesh` binary:
//! `mesh-supervise DIRECTORY`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        return ExitCode::from(2);
    };
    match mesh_runtime::supervisor::run(directory.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        // It told the engine why.
        Err(_error) => ExitCode::FAILURE,
    }
}
