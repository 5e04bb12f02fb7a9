//! `mesh nomad`: the mesh on a Nomad cluster.

mod check;

use clap::Subcommand;
use mesh_nomad::client::{Client, Config};

use crate::exit::{Failure, Outcome};

/// The mesh on a Nomad cluster, which is found by Nomad's own variables, `NOMAD_ADDR`,
/// `NOMAD_TOKEN` and others.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Check(check::Args),
}

pub(crate) async fn run(command: Command) -> Outcome {
    match command {
        Command::Check(args) => check::run(args).await,
    }
}

/// How to reach the cluster, as Nomad's own variables say.
fn config() -> Result<Config, Failure> {
    Config::from_variables(|name| std::env::var(name).ok())
        .map_err(|problems| Failure::usage(problems.to_string()))
}

/// A client of an agent.
fn client(config: Config) -> Result<Client, Failure> {
    Client::new(config).map_err(|error| Failure::doing("making a client of Nomad", &error))
}

/// An answer of Nomad, or what was asked and why there is none.
fn answered<T>(what: &str, answer: Result<T, mesh_nomad::client::Error>) -> Result<T, Failure> {
    answer.map_err(|error| {
        let failure = Failure::doing(what, &error);
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    })
}
