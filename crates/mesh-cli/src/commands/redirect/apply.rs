//! `mesh redirect apply` and `confirm`: makes the rules those of a policy.

use std::ffi::OsString;
use std::time::Duration;

use mesh_netfilter::import::Task;
use mesh_netfilter::{
    Applied, Confirmed, Drain, Engine, HostNetwork, InstanceName, Plan, Policy, ProbeOptions,
};
use serde_json::json;

use super::host::{for_host, is_host, refused};
use super::option::PolicyArgs;
use super::place::{Place, duration};
use super::policy::{environment, tell};
use super::{Run, failure};
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Format, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Set the rules even if the network namespace is the host's own. Whose connections are
    /// captured must be said (--include-uids, --include-gids), those of ssh are left alone, and
    /// the rules are undone unless they are confirmed in time.
    #[arg(long)]
    allow_host_network: bool,
    /// Undo the rules after this time, such as `60s`, unless `mesh redirect confirm` comes before.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    confirm_within: Option<Duration>,
    /// Prove the rules with real packets afterwards, as `mesh redirect probe` does.
    #[arg(long)]
    probe: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct ConfirmArgs {
    #[command(flatten)]
    place: Place,
    /// The name of the set of rules.
    #[arg(long, default_value_t, env = "MESH_REDIRECT_INSTANCE")]
    instance: InstanceName,
    #[command(flatten)]
    format: Format,
}

/// How long rules of the host's own namespace stay without confirmation, unless it is said.
const CONFIRM_WITHIN: Duration = Duration::from_secs(60);

impl Run for Args {
    fn run(mut self, words: &[OsString]) -> Outcome {
        let policy = std::mem::take(&mut self.policy);
        let wanted = policy.wanted(&environment())?;
        tell(&wanted.remarks);
        self.place = self.place.or_as(&wanted)?;
        let policy = match &wanted.task {
            Task::Help(text) => {
                super::plan::print(text)?;
                return Ok(OK.into());
            }
            Task::Remove => {
                let engine = self.place.engine()?;
                let instance = InstanceName::default();
                super::remove::remove(&engine, &instance, Drain::Off, self.format)?;
                return Ok(OK.into());
            }
            Task::Print(policy) => {
                let facts = super::plan::own_facts();
                super::plan::print(&Plan::compile(policy, &facts).to_nft())?;
                return Ok(OK.into());
            }
            Task::ApplyAndProbe(_) | Task::Probe(_) => {
                self.probe = true;
                wanted.policy()?
            }
            _ => wanted.policy()?,
        };
        let engine = self.place.engine()?;
        let mut plan = Place::plan(&engine, policy)?;
        if !matches!(wanted.task, Task::Probe(_)) {
            plan = self.set(&engine, plan, policy, words)?;
        }
        if self.probe {
            let options = ProbeOptions::default();
            return super::probe::probe(&engine, &plan, &options, self.format);
        }
        Ok(OK.into())
    }
}

impl Args {
    /// Sets the rules and says so; gives back the plan that was set.
    fn set(
        &self,
        engine: &Engine,
        plan: Plan,
        policy: &Policy,
        words: &[OsString],
    ) -> Result<Plan, Failure> {
        let applied = match self.confirm_within {
            Some(within) => engine.apply_unconfirmed(&plan, HostNetwork::Refuse, within),
            None => engine.apply(&plan, HostNetwork::Refuse),
        };
        let (applied, plan, within) = match applied {
            Ok(applied) => (applied, plan, self.confirm_within),
            Err(error) if is_host(&error) => {
                if !self.allow_host_network {
                    return Err(refused(&error, policy, words));
                }
                let plan = Place::plan(engine, &for_host(engine, policy)?)?;
                let within = self.confirm_within.unwrap_or(CONFIRM_WITHIN);
                let allow = HostNetwork::DangerouslyAllow;
                let applied = engine.apply_unconfirmed(&plan, allow, within);
                let applied = applied.map_err(|error| failure(&error))?;
                (applied, plan, Some(within))
            }
            Err(error) => return Err(failure(&error)),
        };
        self.say(engine, &plan, applied, within)?;
        Ok(plan)
    }

    fn say(
        &self,
        engine: &Engine,
        plan: &Plan,
        applied: Applied,
        within: Option<Duration>,
    ) -> Result<(), Failure> {
        if self.format.json {
            return print_json(&json!({
                "instance": plan.instance(),
                "applied": applied,
                "fingerprint": plan.fingerprint(),
                "backend": engine.backend(),
                "reason": engine.reason().to_string(),
                "confirm_within_seconds": within.map(|within| within.as_secs_f64()),
            }));
        }
        let words = match applied {
            Applied::Unchanged => "the rules were there already",
            Applied::Created => "the rules are set",
            Applied::Updated => "lists of the rules were changed, and no rule was touched",
            Applied::Replaced => "other rules were replaced",
            _ => "done",
        };
        let (instance, fingerprint) = (plan.instance(), plan.fingerprint());
        println!(
            "{instance}: {words} ({}, plan {fingerprint})",
            engine.backend()
        );
        if let Some(within) = within {
            println!(
                "they are undone in {within:?} unless you confirm them: mesh redirect confirm \
                 --instance {instance}"
            );
        }
        Ok(())
    }
}

impl Run for ConfirmArgs {
    fn run(self, _: &[OsString]) -> Outcome {
        let engine = self.place.engine()?;
        let confirmed = engine.confirm(&self.instance);
        let confirmed = confirmed.map_err(|error| failure(&error))?;
        if self.format.json {
            print_json(&json!({ "instance": self.instance, "confirmed": confirmed }))?;
        }
        let words = match confirmed {
            Confirmed::Confirmed => "the rules stay",
            Confirmed::NothingToConfirm => "no rules wait for a confirmation",
            _ => return Err(Failure::new("too late: the rules were undone")),
        };
        if !self.format.json {
            println!("{}: {words}", self.instance);
        }
        Ok(OK.into())
    }
}
