//! `mesh redirect`: the rules that send the traffic of a network namespace through its sidecar.
//!
//! It runs before an application starts, so it starts fast: the words are handed over before the
//! rest of the command line tool exists, only the verb that is asked for is built, and there is
//! no runtime, no log and no cryptography.

mod alone;
mod apply;
mod change;
mod check;
mod explain;
mod host;
mod option;
mod place;
mod plan;
mod policy;
mod probe;
mod remove;
mod status;
mod watch;

use std::ffi::{OsStr, OsString};
use std::path::Path;

pub(in crate::commands) use self::place::duration;
pub(in crate::commands) use self::watch::{judge, now, write as write_verdict};
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use mesh_netfilter::EngineError;

use crate::exit::{Failure, Outcome, REFUSED, UNSUPPORTED};

/// Set, check and remove the rules that send traffic through a sidecar.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Words {
    /// A verb and its options; `mesh redirect --help` lists them.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "VERB"
    )]
    pub(crate) words: Vec<OsString>,
}

/// A verb: how it is described, built and run.
struct Verb {
    name: &'static str,
    about: &'static str,
    build: fn(Command) -> Command,
    run: fn(&ArgMatches, &[OsString]) -> Outcome,
}

const VERBS: &[Verb] = &[
    verb::<plan::Args>("plan", "Print the rules of a policy; nothing is touched"),
    verb::<apply::Args>(
        "apply",
        "Make the rules those of a policy, in one transaction",
    ),
    verb::<apply::ConfirmArgs>("confirm", "Keep rules that were set with --confirm-within"),
    verb::<check::VerifyArgs>(
        "verify",
        "Compare the rules that are there with those of a policy; exit code 3 if they differ",
    ),
    verb::<check::DiffArgs>(
        "diff",
        "Print what applying a policy would change; exit code 3 if anything",
    ),
    verb::<remove::Args>("remove", "Remove the rules, whatever policy they are of"),
    verb::<status::Args>(
        "status",
        "Print the rules that are there, with their counters",
    ),
    verb::<probe::Args>(
        "probe",
        "Prove the rules with real packets; exit code 6 if they fail",
    ),
    verb::<explain::Args>(
        "explain",
        "Tell what becomes of a packet, and because of which rule",
    ),
    verb::<watch::Args>(
        "watch",
        "Verify all the time, repair, and write what was found to a file",
    ),
];

const ABOUT: &str = "Set, check and remove the rules that send traffic through a sidecar";

const AFTER_HELP: &str = "\
A policy is the sidecar's (inbound but 15020, 15021 and 15090 to 15006, outbound to 15001, DNS to
15053, user and group 1337 being the proxy) or that of --policy FILE; variables change it, and
options change it further. The variable of an option has its name: MESH_REDIRECT_PROXY_UID is
--proxy-uid.

The flags of istio-iptables and of prepare_proxy.sh are options under their own names and letters.
With --compat their defaults hold too: prepare_proxy sends both directions to the port of -p, and so
does a call of this program as `prepare_proxy.sh`.

Exit codes: 0 ok, 1 failure, 2 usage, 3 drift, 4 unsupported here, 5 refused, 6 probe failed.";

/// The name under which the program is the script of Istio 0.4.
const SCRIPT: &str = "prepare_proxy.sh";

/// What a verb does with its arguments.
trait Run: Args + FromArgMatches {
    /// Does it. `words` are those behind `mesh redirect`, for advice on what to say instead.
    fn run(self, words: &[OsString]) -> Outcome;
}

/// The words behind `mesh redirect`, if that is what a whole command line means.
pub(crate) fn words(line: &[OsString]) -> Option<Vec<OsString>> {
    let (program, rest) = line.split_first()?;
    if Path::new(program).file_name() == Some(OsStr::new(SCRIPT)) {
        let words = ["apply", "--compat", "prepare_proxy"].map(OsString::from);
        return Some(words.into_iter().chain(rest.iter().cloned()).collect());
    }
    let (first, rest) = rest.split_first()?;
    (first == "redirect").then(|| rest.to_vec())
}

/// Runs the words behind `mesh redirect`.
pub(crate) fn run(words: &[OsString]) -> Outcome {
    let named = words.first().and_then(|word| {
        let verb = VERBS.iter().find(|verb| word == verb.name)?;
        Some((verb, words.get(1..)?))
    });
    let matches = match named {
        Some((verb, rest)) => command(verb)
            .try_get_matches_from(std::iter::once(&OsString::new()).chain(rest))
            .map(|matches| (verb, matches)),
        None => general(words),
    };
    match matches {
        Ok((verb, matches)) => (verb.run)(&matches, words),
        Err(error) => {
            // Help is an "error" too, with exit code 0.
            let code = u8::try_from(error.exit_code()).unwrap_or(crate::exit::USAGE);
            error
                .print()
                .map_err(|error| Failure::doing("printing", &error))?;
            Ok(code.into())
        }
    }
}

/// All the verbs with all their options.
pub(crate) fn whole() -> Command {
    Command::new("redirect")
        .about(ABOUT)
        .after_help(AFTER_HELP)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(
            VERBS
                .iter()
                .map(|verb| described(verb, Command::new(verb.name))),
        )
}

/// What to do with words that do not begin with a verb: help, or an error that names them.
fn general(words: &[OsString]) -> Result<(&'static Verb, ArgMatches), clap::Error> {
    let mut command = whole().bin_name("mesh redirect");
    let program = OsString::new();
    let line = std::iter::once(&program).chain(words);
    let matches = command.try_get_matches_from_mut(line)?;
    let found = matches.subcommand().and_then(|(name, matches)| {
        let verb = VERBS.iter().find(|verb| verb.name == name)?;
        Some((verb, matches.clone()))
    });
    found.ok_or_else(|| command.error(ErrorKind::MissingSubcommand, "a verb is needed"))
}

/// One verb, without the others.
fn command(verb: &Verb) -> Command {
    let command = Command::new(verb.name).bin_name(format!("mesh redirect {}", verb.name));
    described(verb, command)
}

/// The verb with its options. Flattened options bring descriptions of their own, so that of the
/// verb comes last.
fn described(verb: &Verb, command: Command) -> Command {
    (verb.build)(command)
        .about(verb.about)
        .long_about(None)
        .after_help(AFTER_HELP)
}

const fn verb<A: Run>(name: &'static str, about: &'static str) -> Verb {
    Verb {
        name,
        about,
        build: A::augment_args,
        run: |matches, words| {
            let args =
                A::from_arg_matches(matches).map_err(|error| Failure::usage(error.to_string()))?;
            args.run(words)
        },
    }
}

/// The exit code and the advice for an error of the engine.
pub(in crate::commands) fn failure(error: &EngineError) -> Failure {
    let failure = match error {
        EngineError::HostNetwork { .. } | EngineError::HostUnknown { .. } => {
            return Failure::of(error)
                .with_code(REFUSED)
                .with_hint("name the workload's with --netns");
        }
        EngineError::HostIdentities { .. } => Failure::of(error).with_code(REFUSED),
        EngineError::Unconfirmable { .. } | EngineError::Unusable { .. } => {
            Failure::of(error).with_code(UNSUPPORTED)
        }
        error if error.is_unsupported() => Failure::of(error).with_code(UNSUPPORTED),
        error => Failure::of(error),
    };
    failure.with_hint_of(error.hint())
}

#[cfg(test)]
mod tests;
