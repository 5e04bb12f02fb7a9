//! `mesh redirect plan`: what would be done, in the syntax of a tool.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};

use mesh_netfilter::{Facts, Plan};

use super::Run;
use super::option::PolicyArgs;
use super::place::Place;
use super::policy::{environment, tell};
use crate::exit::{Failure, OK, Outcome, UNSUPPORTED};
use crate::output::{Format, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: PolicyArgs,
    /// In which form: of `nft -f`, of `iptables-restore` and `ip6tables-restore`, or JSON, for
    /// which `--json` is short.
    #[arg(long = "as", value_name = "FORM", default_value = "nft", value_parser = ["nft", "iptables", "json"])]
    form: String,
    /// Of which family the iptables form is; both of them, one after the other, without.
    #[arg(long, value_parser = ["4", "6"])]
    family: Option<String>,
    #[command(flatten)]
    format: Format,
}

impl Run for Args {
    fn run(self, _: &[OsString]) -> Outcome {
        let wanted = self.policy.wanted(&environment())?;
        tell(&wanted.remarks);
        let place = self.place.or_as(&wanted)?;
        let facts = if place.is_elsewhere() {
            Place::facts(&place.engine()?)?
        } else {
            own_facts()
        };
        let plan = Plan::compile(wanted.policy()?, &facts);
        if self.format.json || self.form == "json" {
            print_json(&plan)?;
        } else if self.form == "nft" {
            print(&plan.to_nft())?;
        } else {
            let family = self.family.as_deref();
            print(&iptables(&plan, family)?)?;
        }
        Ok(OK.into())
    }
}

/// What a plan depends on, seen from here.
pub(super) fn own_facts() -> Facts {
    let servers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    Facts::default().resolv_conf(&servers)
}

/// The rules of one family or of both, each with a line in front that tells which it is.
fn iptables(plan: &Plan, family: Option<&str>) -> Result<String, Failure> {
    let rules = plan
        .to_iptables()
        .map_err(|error| Failure::of(&error).with_code(UNSUPPORTED))?;
    Ok(match family {
        Some("4") => rules.v4,
        Some(_) => rules.v6,
        None => format!(
            "# iptables-restore --noflush\n{}# ip6tables-restore --noflush\n{}",
            rules.v4, rules.v6
        ),
    })
}

/// Rules are long, and whoever pages them may have seen enough.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::doing("printing the rules", &error))
        }
        _ => Ok(()),
    }
}
