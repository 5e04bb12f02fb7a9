//! How do I see the rules of a policy?
//!
//! `cargo run --example print_rules --features serde -- policy.json`; without a file, the
//! sidecar's.

use std::error::Error;

use mesh_netfilter::{Facts, Plan, Policy};

fn main() -> Result<(), Box<dyn Error>> {
    let policy = match std::env::args().nth(1) {
        Some(path) => serde_json::from_str(&std::fs::read_to_string(path)?)?,
        None => Policy::sidecar(),
    };
    let plan = Plan::compile(&policy, &Facts::default());
    #[expect(clippy::print_stdout, reason = "printing is what this example shows")]
    {
        print!("{plan}");
    }
    Ok(())
}
