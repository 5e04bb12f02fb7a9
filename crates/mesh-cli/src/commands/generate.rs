//! `mesh generate`: manual pages and completions out of the command line itself, for packages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Arguments, redirect};
use crate::exit::{Failure, OK, Outcome};

/// Write manual pages or completions.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a manual page for each verb.
    Man {
        /// Where to; made if it is absent.
        directory: PathBuf,
    },
    /// Write completions for bash, fish and zsh.
    Completions {
        /// Where to; made if it is absent.
        directory: PathBuf,
    },
}

/// The shells, each with the name of its file.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

pub(crate) fn run(command: &Command) -> Outcome {
    let (directory, write): (_, fn(&Path) -> io::Result<()>) = match command {
        Command::Man { directory } => (directory, man),
        Command::Completions { directory } => (directory, completions),
    };
    fs::create_dir_all(directory)
        .and_then(|()| write(directory))
        .map_err(|error| Failure::doing(format!("writing to {}", directory.display()), &error))?;
    Ok(OK.into())
}

fn man(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(whole(), directory)
}

fn completions(directory: &Path) -> io::Result<()> {
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut whole(), "mesh", directory)?;
    }
    Ok(())
}

/// The whole command line that is a user's: with the options that `mesh redirect` builds only when
/// it is called, without the verbs that only the mesh itself calls.
fn whole() -> clap::Command {
    let all = Arguments::command().mut_subcommand("redirect", |_| redirect::whole());
    let verbs = all.get_subcommands().filter(|verb| !verb.is_hide_set());
    clap::Command::new("mesh")
        .version(env!("CARGO_PKG_VERSION"))
        .about(all.get_about().cloned().unwrap_or_default())
        .args(all.get_arguments())
        .subcommands(verbs)
        .subcommand_required(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_has_a_page_and_those_of_redirect_have_theirs() {
        let folder = tempfile::tempdir().unwrap();
        man(folder.path()).unwrap();
        for verb in whole().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let page = folder.path().join(format!("mesh-{}.1", verb.get_name()));
            assert!(page.is_file(), "{}", page.display());
        }
        let apply = fs::read_to_string(folder.path().join("mesh-redirect-apply.1")).unwrap();
        assert!(apply.contains("proxy\\-uid"), "{apply}");
    }

    #[test]
    fn each_shell_completes_the_options_of_redirect_too() {
        let folder = tempfile::tempdir().unwrap();
        completions(folder.path()).unwrap();
        for file in ["mesh.bash", "mesh.fish", "_mesh"] {
            let text = fs::read_to_string(folder.path().join(file)).unwrap();
            assert!(text.contains("proxy-uid"), "{file}");
            assert!(
                !text.contains("supervise"),
                "{file} has what is not a user's"
            );
        }
    }
}
