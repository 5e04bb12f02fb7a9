//! The policy that a redirect verb works with: file, then environment, then flags.

use std::path::Path;

use mesh_netfilter::import::{self, Imported, Remark, Task};
use mesh_netfilter::{Backend, Policy, Problems};

use super::change::change;
use super::option::{Compat, Given, Kind, PolicyArgs};
use crate::exit::Failure;

/// What a command line asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// What is to be done, as far as options say it rather than the verb.
    pub(super) task: Task,
    /// The namespace, if an option of `istio-iptables` names it.
    pub(super) netns: Option<String>,
    /// The backend, if an option of `istio-iptables` names it.
    pub(super) backend: Option<Backend>,
    /// What another tool would do otherwise.
    pub(super) remarks: Vec<Remark>,
}

/// The environment, as far as it is asked.
pub(super) type Environment = Vec<(String, String)>;

/// The variables of this process; those that are no text are not ours.
pub(super) fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

// === impl PolicyArgs ===

impl PolicyArgs {
    /// What the options ask for, with the variables of `environment` beneath them.
    pub(super) fn wanted(self, environment: &Environment) -> Result<Wanted, Failure> {
        let args = self.with_environment(|name| {
            let found = environment.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.clone())
        });
        let base = match &args.file {
            Some(path) => read(path)?,
            None => Policy::sidecar(),
        };
        args.decide(&base, environment).map_err(|problems| {
            Failure::usage(format!("the options make no valid policy: {problems}"))
        })
    }

    fn decide(&self, base: &Policy, environment: &Environment) -> Result<Wanted, Problems> {
        let is_tool = |given: &&Given| given.option.kind == Kind::Tool;
        let (imported, rest) = match self.compat {
            None => {
                // The policy of this line is of no interest: it lets the importer speak about how
                // the tool works.
                let line = arguments(self.given.iter().filter(is_tool));
                let line: Vec<String> = [line, vec!["--istio-inbound-ports=*".to_owned()]].concat();
                let mut imported = import::istio_iptables(&line, Environment::new())?;
                imported.task = replaced(imported.task, base);
                (
                    imported,
                    self.given.iter().filter(|given| !is_tool(given)).collect(),
                )
            }
            Some(Compat::PrepareProxy) => self.prepare_proxy()?,
            Some(Compat::IstioIptables) => {
                let (line, rest): (Vec<&Given>, Vec<&Given>) = self
                    .given
                    .iter()
                    .partition(|given| !given.option.istio.is_empty());
                let line = arguments(line);
                let environment = environment.iter().cloned();
                (import::istio_iptables(&line, environment)?, rest)
            }
        };
        let task = match imported.policy() {
            Some(policy) => {
                let policy = change(policy, &rest)?;
                replaced(imported.task, &policy)
            }
            None => imported.task,
        };
        Ok(Wanted {
            task,
            netns: imported.netns,
            backend: imported.backend,
            remarks: imported.remarks,
        })
    }

    /// The script had four options; all others are ours.
    fn prepare_proxy(&self) -> Result<(Imported, Vec<&Given>), Problems> {
        let letter = |given: &Given| match given.option.kind {
            Kind::OutboundPort => Some("-p"),
            Kind::ProxyUids => Some("-u"),
            Kind::OutboundNetworks => Some("-i"),
            // It is the script's option for excluded networks.
            Kind::TunnelPort => Some("-e"),
            _ => None,
        };
        let mut line = Vec::new();
        let mut rest = Vec::new();
        for given in &self.given {
            match letter(given) {
                Some(letter) => line.extend([letter, given.last()]),
                // The script had nothing of the kind.
                None if given.option.kind == Kind::Tool => line.push(&given.origin),
                None => rest.push(given),
            }
        }
        Ok((import::prepare_proxy(&line)?, rest))
    }
}

// === impl Wanted ===

impl Wanted {
    /// The policy, for a verb that cannot do without.
    pub(super) fn policy(&self) -> Result<&Policy, Failure> {
        match &self.task {
            Task::Apply(policy)
            | Task::ApplyAndProbe(policy)
            | Task::Probe(policy)
            | Task::Print(policy) => Ok(policy),
            _ => Err(Failure::usage(
                "these options describe no policy (--cleanup-only removes)",
            )),
        }
    }
}

/// The same task with another policy.
fn replaced(task: Task, policy: &Policy) -> Task {
    let policy = policy.clone();
    match task {
        Task::Apply(_) => Task::Apply(policy),
        Task::ApplyAndProbe(_) => Task::ApplyAndProbe(policy),
        Task::Probe(_) => Task::Probe(policy),
        Task::Print(_) => Task::Print(policy),
        other => other,
    }
}

/// Options as words of a command line of `istio-iptables`.
fn arguments<'a>(given: impl IntoIterator<Item = &'a Given>) -> Vec<String> {
    given
        .into_iter()
        .map(|given| format!("--{}={}", given.option.istio, given.last()))
        .collect()
}

/// Says what another tool would do otherwise, where a person sees it and a program does not.
pub(super) fn tell(remarks: &[Remark]) {
    for remark in remarks {
        eprintln!("note: {remark}");
    }
}

fn read(path: &Path) -> Result<Policy, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("`{}` is no policy: {error}", path.display())))
}

#[cfg(test)]
mod tests;
