//! A program to be killed: applies two policies in turn until then, and says so each time.
//!
//! `applier NAMESPACE BACKEND POLICY.json POLICY.json`, started by the ring `netns`.

use std::error::Error;
use std::io::Write as _;

use mesh_netfilter::{Engine, Facts, HostNetwork, Netns, Plan, Policy};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [netns, backend, policies @ ..] = arguments.as_slice() else {
        return Err("which namespace, backend and policies?".into());
    };
    let backend = backend.parse().map_err(|problem| format!("{problem}"))?;
    let engine = Engine::detect(&Netns::Name(netns.clone()), Some(backend))?;
    let mut plans = Vec::new();
    for file in policies {
        let policy: Policy = serde_json::from_str(&std::fs::read_to_string(file)?)?;
        plans.push(Plan::compile(&policy, &Facts::default()));
    }
    for plan in plans.iter().cycle() {
        engine.apply(plan, HostNetwork::Refuse)?;
        writeln!(std::io::stdout(), "{}", plan.fingerprint())?;
    }
    Ok(())
}
