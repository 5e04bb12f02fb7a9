//! The verbs of `mesh`, one file each.

mod agent;
mod apply;
mod backup;
mod delete;
mod docker;
mod documents;
mod down;
mod exec;
mod generate;
mod get;
mod image;
mod inject;
mod introspection;
mod kubeconfig;
mod logs;
mod nomad;
mod proxy_config;
mod proxy_status;
pub(crate) mod redirect;
mod restore;
mod rm;
mod run;
mod server;
mod status;
mod supervise;
mod token;
mod uninject;
mod unit;
mod up;
mod validate;
mod vm;
mod why;
mod with_files;

use std::future::Future;

use clap::{Parser, Subcommand};

use crate::exit::{Failure, Outcome};

/// A service mesh for machines without Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, about)]
pub(crate) struct Arguments {
    /// Log what is being done; `MESH_LOG` sets a filter.
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Up(up::Args),
    Down(down::Args),
    Status(status::Args),
    Run(run::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Rm(rm::Args),
    /// Stop the units of a workload or of the control plane.
    Stop(unit::Args),
    /// Start the units of a workload or of the control plane.
    Start(unit::Args),
    Apply(apply::Args),
    Get(get::Args),
    Delete(delete::Args),
    Validate(validate::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Inject(inject::Args),
    Uninject(uninject::Args),
    #[command(subcommand)]
    Nomad(nomad::Command),
    #[command(subcommand)]
    Image(image::Command),
    #[command(subcommand)]
    Token(token::Command),
    Kubeconfig(kubeconfig::Args),
    ProxyStatus(proxy_status::Args),
    ProxyConfig(proxy_config::Args),
    Why(why::Args),
    #[command(subcommand)]
    Docker(docker::Command),
    #[command(subcommand)]
    Vm(vm::Command),
    Redirect(redirect::Words),
    Server(server::Args),
    Agent(agent::Args),
    #[command(hide = true, subcommand)]
    Generate(generate::Command),
    #[command(hide = true)]
    Supervise(supervise::Args),
    #[command(hide = true)]
    WithFiles(with_files::Args),
}

/// Runs a verb.
pub(crate) fn run(verb: Verb) -> Outcome {
    match verb {
        Verb::Up(args) => wait(up::run(&args)),
        Verb::Down(args) => wait(down::run(&args)),
        Verb::Status(args) => wait(status::run(&args)),
        Verb::Run(args) => wait(run::run(&args)),
        Verb::Logs(args) => wait(logs::run(&args)),
        Verb::Exec(args) => wait(exec::run(&args)),
        Verb::Rm(args) => wait(rm::run(&args)),
        Verb::Stop(args) => wait(unit::stop(&args)),
        Verb::Start(args) => wait(unit::start(&args)),
        Verb::Apply(args) => wait(apply::run(&args)),
        Verb::Get(args) => wait(get::run(&args)),
        Verb::Delete(args) => wait(delete::run(&args)),
        Verb::Validate(args) => validate::run(&args),
        Verb::Backup(args) => wait(backup::run(&args)),
        Verb::Restore(args) => wait(restore::run(&args)),
        Verb::Nomad(command) => wait(nomad::run(command)),
        Verb::Image(command) => wait(image::run(&command)),
        Verb::Inject(args) => inject::run(args),
        Verb::Uninject(args) => uninject::run(&args),
        Verb::Token(command) => wait(token::run(&command)),
        Verb::Kubeconfig(args) => kubeconfig::run(&args),
        Verb::ProxyStatus(args) => wait(proxy_status::run(&args)),
        Verb::ProxyConfig(args) => wait(proxy_config::run(&args)),
        Verb::Why(args) => wait(why::run(&args)),
        Verb::Docker(command) => wait(docker::run(&command)),
        Verb::Vm(command) => wait(vm::run(&command)),
        Verb::Redirect(args) => redirect::run(&args.words),
        Verb::Server(args) => wait(server::run(&args)),
        Verb::Agent(args) => agent::start(&args),
        Verb::Generate(command) => generate::run(&command),
        Verb::Supervise(args) => supervise::run(&args),
        Verb::WithFiles(args) => with_files::run(&args),
    }
}

/// Runs a verb that waits for others; those that enter a namespace have threads of their own.
fn wait(verb: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::doing("starting the runtime", &error))?
        .block_on(verb)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn no_flag_or_group_of_flags_is_there_twice() {
        Arguments::command().debug_assert();
    }
}
