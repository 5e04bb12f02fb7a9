//! Prints what a Compose file means here, or everything that is wrong with it:
//! `cargo run -p mesh-runtime --features compose --example compose -- compose.yaml`.

#![expect(clippy::print_stdout, reason = "printing is what this example does")]

use std::error::Error;
use std::path::Path;

use mesh_runtime::compose::{Compose, PlanOptions, Reading};

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args()
        .nth(1)
        .ok_or("the name of a file is missing")?;
    let directory = Path::new(&file).parent().ok_or("that is no file")?;
    let variables = std::env::vars().collect();
    let source = std::fs::read(&file)?;
    let compose = Compose::read(&source, &Reading::new(&file, &variables))?;
    println!("{}", compose.to_yaml());
    let plan = compose.plan(&PlanOptions::new(&file, directory))?;
    for step in &plan.steps {
        println!(
            "{}: unit `{}` of group `{}`",
            step.service, step.unit, step.group
        );
    }
    Ok(())
}
