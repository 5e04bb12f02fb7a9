//! How do I run a command in a network namespace of its own, and look at it?
//!
//! Needs root. In a namespace that plays the host, so that nothing of the machine is touched:
//!
//! ```text
//! cargo build -p mesh-runtime --examples --bins
//! sudo unshare --net --mount target/debug/examples/group target/debug/mesh-supervise ip address
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::time::Instant;

use futures_util::TryStreamExt as _;
use mesh_runtime::{
    Attachment, GroupSpec, LogOptions, Name, NetworkSpec, ProcessEngine, Runtime as _, UnitSpec,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let supervisor = arguments.next().ok_or("usage: group SUPERVISOR COMMAND…")?;
    let supervisor = std::fs::canonicalize(supervisor)?;
    let directory = tempfile::tempdir()?;
    let engine = ProcessEngine::open(directory.path().join("engine"), [supervisor])?;

    let network = NetworkSpec::mesh();
    engine.create_network(&network).await?;
    let group = GroupSpec::new(name("shop.web")?, Attachment::Network(network.name));
    let began = Instant::now();
    let (_, made) = engine.create_group(&group).await?;
    println!("group after {:?}: {:?}", began.elapsed(), made.addresses);

    let unit = UnitSpec::new(name("app")?, arguments);
    engine.create_unit(&group.name, &unit).await?;
    let began = Instant::now();
    engine.start_unit(&group.name, &unit.name).await?;
    println!("command after {:?}", began.elapsed());
    let status = engine.wait_ended(&group.name, &unit.name).await?;
    let log = engine
        .logs(&group.name, &unit.name, LogOptions::default())
        .await?;
    let log: Vec<u8> = log.try_concat().await?;
    println!("{}it {}", String::from_utf8_lossy(&log), status.state);

    let began = Instant::now();
    engine.remove_all().await?;
    println!("nothing left after {:?}", began.elapsed());
    Ok(())
}

fn name(text: &str) -> Result<Name, String> {
    text.parse()
        .map_err(|problem: mesh_model::Problem| problem.to_string())
}
