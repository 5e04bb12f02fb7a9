//! `mesh with-files`: a program of somebody else's as a task of Nomad's, started in place of this
//! one once the files that it needs are there.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_util::sync::CancellationToken;

use crate::exit::{Failure, OK, Outcome};
use crate::nomad;

/// Write the items of a variable of Nomad's as files, then become a command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The variable, in the task's own namespace.
    #[arg(long, value_name = "PATH")]
    nomad_files: String,
    /// The directory of the files.
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let Some((program, rest)) = args.command.split_first() else {
        return Err(Failure::usage("there is no command"));
    };
    // Its threads end before this process becomes another.
    super::wait(async {
        let client = nomad::client()?;
        // Until the command runs, a signal ends this program as it ends any.
        nomad::bring_files(
            &client,
            &args.nomad_files,
            &args.home,
            &CancellationToken::new(),
        )
        .await?;
        Ok(OK.into())
    })?;
    make_executable(Path::new(program));
    let error = Command::new(program).args(rest).exec();
    let program = program.to_string_lossy();
    Err(Failure::doing(format!("starting `{program}`"), &error))
}

/// Makes a file executable that nobody may run: a single file that Nomad has downloaded is no
/// program yet. Of a task's own command Nomad itself sees to that.
fn make_executable(program: &Path) {
    let Ok(found) = fs::metadata(program) else {
        return;
    };
    let mode = found.permissions().mode();
    if found.is_file() && mode & 0o111 == 0 {
        // Whether it worked shows when it is started.
        drop(fs::set_permissions(
            program,
            fs::Permissions::from_mode(mode | 0o755),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downloaded_program_can_be_run_and_others_stay_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        for (before, after) in [(0o644, 0o755), (0o700, 0o700)] {
            let file = directory.path().join(format!("{before:o}"));
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(before)).unwrap();
            make_executable(&file);
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, after);
        }
        make_executable(&directory.path().join("none"));
    }
}
