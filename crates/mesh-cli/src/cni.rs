//! `mesh-cni`: the binary under this name is the last plugin of a CNI chain.
//!
//! It runs once for each start of an allocation, while nothing else of it can start, so it comes
//! before the command line tool: no runtime, no log, no cryptography, and nothing that it would
//! have to find. Rules go to the kernel over netlink.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use mesh_netfilter::{Engine, HostNetwork, Netns, Plan, Policy};
use mesh_nomad::cni::{Call, CniError, Code, Command, version};

use crate::exit::chain;

/// Whether a command line is a call of the plugin.
pub(crate) fn is_called(line: &[OsString]) -> bool {
    let program = line.first().map(Path::new);
    program.and_then(Path::file_name) == Some(OsStr::new("mesh-cni"))
}

/// Answers the call that the environment and standard input tell.
pub(crate) fn run() -> ExitCode {
    let call = Call::read(
        |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()),
        || {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            Ok(text)
        },
    );
    let (version, answer) = match call {
        Ok(None) => {
            // Nomad takes the first word that is a version for the plugin's: there is one only.
            println!("mesh-cni v{}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Some(call)) => (call.version.clone(), answer(&call)),
        Err(error) => (String::new(), Err(error)),
    };
    match answer {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(value)) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", error.to_json(&version));
            ExitCode::FAILURE
        }
    }
}

/// Does what a call asks for; gives back what is to be printed.
fn answer(call: &Call) -> Result<Option<String>, CniError> {
    match call.command {
        Command::Add => {
            if let Some(policy) = call.policy()? {
                apply(call, &policy)?;
            }
            Ok(call.result().map(str::to_owned))
        }
        Command::Check => {
            // Nomad kills an allocation whose check fails, so what can be repaired is.
            if let Some(policy) = call.policy()? {
                check(call, &policy)?;
            }
            Ok(None)
        }
        Command::Version => Ok(Some(version().to_string())),
        Command::Status => {
            let engine = Engine::netlink(&Netns::Current);
            let looked = engine.and_then(|engine| engine.installed(Policy::sidecar().instance()));
            looked.map(|_| None).map_err(|error| {
                CniError::new(
                    Code::Unavailable,
                    "nftables cannot be used here",
                    chain(&error),
                )
            })
        }
        // The rules go with their namespace.
        Command::Del | Command::Gc => Ok(None),
        _ => Err(CniError::new(
            Code::InvalidEnvironment,
            "the command is not known",
            "",
        )),
    }
}

/// Makes the rules of the namespace those of the policy, whatever was there.
fn apply(call: &Call, policy: &Policy) -> Result<(), CniError> {
    let (engine, plan) = engine(call, policy)?;
    engine
        .apply(&plan, HostNetwork::Refuse)
        .map_err(|error| failed(&error))?;
    Ok(())
}

/// Compares, and applies only where something differs: a check of what is right touches nothing.
fn check(call: &Call, policy: &Policy) -> Result<(), CniError> {
    let (engine, plan) = engine(call, policy)?;
    let is_right = engine
        .verify(&plan)
        .is_ok_and(|report| report.verdict(None, 0).state == mesh_netfilter::RuleState::Intact);
    if is_right {
        return Ok(());
    }
    engine
        .apply(&plan, HostNetwork::Refuse)
        .map_err(|error| failed(&error))?;
    Ok(())
}

fn engine(call: &Call, policy: &Policy) -> Result<(Engine, Plan), CniError> {
    let netns = Netns::Path(call.netns.clone().into());
    let engine = Engine::netlink(&netns).and_then(Engine::move_in);
    let engine = engine.map_err(|error| {
        let message = format!("the network namespace `{}` cannot be entered", call.netns);
        CniError::new(Code::UnknownContainer, message, chain(&error))
    })?;
    let facts = engine.facts().map_err(|error| failed(&error))?;
    let plan = Plan::compile(policy, &facts);
    Ok((engine, plan))
}

fn failed(error: &mesh_netfilter::EngineError) -> CniError {
    CniError::new(
        Code::Rules,
        "the redirect rules could not be set",
        chain(error),
    )
}
