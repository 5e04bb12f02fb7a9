//! `mesh nomad`: the control plane as jobs of a Nomad cluster.
//!
//! What is to be there is decided in `mesh_nomad::install`; these files ask the cluster, carry the
//! steps out, and say what happens.

mod admin;
mod check;
mod choice;
mod cluster;
mod ending;
mod install;
mod node;
mod programs;
mod render;
mod restore;
mod rollout;
mod secret;
mod status;
mod trouble;
mod uninstall;

use mesh_nomad::client::{Client, Config, Error};

use crate::exit::{Failure, Outcome};

/// The mesh on Nomad: its control plane as jobs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Install(Box<install::Args>),
    Upgrade(Box<install::UpgradeArgs>),
    Status(status::Args),
    Check(check::Args),
    Uninstall(uninstall::Args),
    Render(Box<render::Args>),
    #[command(hide = true, subcommand)]
    Node(node::Command),
}

pub(crate) async fn run(command: Command) -> Outcome {
    match command {
        Command::Install(args) => install::run(&args).await,
        Command::Upgrade(args) => install::upgrade(&args).await,
        Command::Status(args) => status::run(&args).await,
        Command::Check(args) => check::run(args).await,
        Command::Uninstall(args) => uninstall::run(&args).await,
        Command::Render(args) => render::run(&args).await,
        Command::Node(command) => node::run(&command).await,
    }
}

/// A failed request to Nomad, with what to do about it.
fn failed(what: impl std::fmt::Display, error: &Error) -> Failure {
    Failure::doing(what, error).with_hint_of(error.hint())
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
fn answered<T>(what: &str, answer: Result<T, Error>) -> Result<T, Failure> {
    answer.map_err(|error| failed(what, &error))
}
