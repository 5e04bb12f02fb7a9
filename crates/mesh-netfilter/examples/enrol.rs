//! How do I send the traffic of a network namespace through a proxy?
//!
//! `cargo run --example enrol --features apply -- NAMESPACE`, as root; `ip netns` lists the names.
//! Run it twice: the second time nothing is touched. `nft list ruleset` inside shows the rules.

use std::error::Error;

use mesh_netfilter::{Engine, Facts, HostNetwork, Netns, Plan, Policy};

fn main() -> Result<(), Box<dyn Error>> {
    let netns: Netns = std::env::args()
        .nth(1)
        .ok_or("which network namespace?")?
        .parse()
        .map_err(|problem| format!("{problem}"))?;
    let plan = Plan::compile(&Policy::sidecar(), &Facts::default());
    let engine = Engine::netlink(&netns)?;
    let applied = engine.apply(&plan, HostNetwork::Refuse)?;
    let report = engine.verify(&plan)?;
    #[expect(clippy::print_stdout, reason = "printing is what this example shows")]
    {
        println!("{netns}: {applied:?}, now {:?}", report.state);
        for hazard in report.hazards {
            println!("mind: {hazard}");
        }
    }
    Ok(())
}
