//! The host's own network namespace: what it takes to set rules there, and what to say instead.

use std::ffi::{OsStr, OsString};

use mesh_netfilter::{Engine, EngineError, IdentitySelect, Policy, SshAccess};

use super::failure;
use crate::exit::{Failure, REFUSED};

/// Whether the engine refused because the namespace is the host's own, or may be.
pub(super) fn is_host(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::HostNetwork { .. } | EngineError::HostUnknown { .. }
    )
}

/// The refusal, with the whole line to use instead.
pub(super) fn refused(error: &EngineError, policy: &Policy, words: &[OsString]) -> Failure {
    let instead = instead(policy, words);
    failure(error).with_hint(format!(
        "name the workload's with --netns; if the host's own connections are meant:\n  \
         {instead}\n  mesh redirect confirm"
    ))
}

/// The policy with what the host's own namespace asks for.
pub(super) fn for_host(engine: &Engine, policy: &Policy) -> Result<Policy, Failure> {
    let ports = engine.ssh_ports().map_err(|error| failure(&error))?;
    let connection = std::env::var("SSH_CONNECTION").ok();
    let mut access = connection
        .and_then(|connection| SshAccess::from_connection(&connection).ok())
        .unwrap_or_default();
    access.ports.extend(ports);
    policy.for_host(&access).map_err(|problems| {
        Failure::new(format!(
            "not a policy for the host's own namespace: {problems}"
        ))
        .with_code(REFUSED)
        .with_hint("say whose connections are captured: --include-uids or --include-gids")
    })
}

/// The whole command line to use instead in the host's own namespace.
fn instead(policy: &Policy, words: &[OsString]) -> String {
    let mut line = vec!["mesh redirect".to_owned()];
    line.extend(words.iter().map(|word| quoted(word)));
    let mut add = |flag: &str, value: Option<&str>| {
        let long = format!("{flag}=");
        let is_there = |word: &OsString| word == flag || word.to_string_lossy().starts_with(&long);
        if !words.iter().any(is_there) {
            line.push(flag.to_owned());
            line.extend(value.map(ToOwned::to_owned));
        }
    };
    add("--allow-host-network", None);
    if !matches!(policy.identities(), IdentitySelect::Only(_)) {
        add("--include-uids", Some("UID,UID"));
    }
    add("--confirm-within", Some("60s"));
    line.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=./,:@%+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> String {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        instead(&Policy::sidecar(), &words)
    }

    #[test]
    fn what_to_say_instead_is_the_whole_line() {
        assert_eq!(
            line(&[
                "apply",
                "--compat",
                "prepare_proxy",
                "-p",
                "15001",
                "-u",
                "1337"
            ]),
            "mesh redirect apply --compat prepare_proxy -p 15001 -u 1337 --allow-host-network \
             --include-uids UID,UID --confirm-within 60s"
        );
        assert_eq!(
            line(&[
                "apply",
                "-i",
                "*",
                "--confirm-within=5s",
                "--allow-host-network"
            ]),
            "mesh redirect apply -i '*' --confirm-within=5s --allow-host-network --include-uids \
             UID,UID"
        );
    }

    #[test]
    fn words_are_quoted_so_that_a_shell_leaves_them_alone() {
        assert_eq!(
            quoted("a;rm -rf '$HOME'".as_ref()),
            r"'a;rm -rf '\''$HOME'\'''"
        );
        assert_eq!(quoted("".as_ref()), "''");
    }
}
