//! How do I get an API server to try things on?
//!
//! `cargo run -p mesh-control --example api -- /tmp/mesh-home 127.0.0.1:6443`, then
//! `kubectl --kubeconfig /tmp/mesh-home/kubeconfig get namespaces`. Ends with ctrl-c.

use std::error::Error;

use mesh_control::api::{ApiConfig, ApiServer};
use mesh_control::store::{StoreConfig, open};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let home = arguments
        .next()
        .ok_or("first argument: the home directory")?;
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());

    let home = std::path::PathBuf::from(home);
    let store = open(&StoreConfig::file(home.join("store.redb"))).await?;
    let shutdown = CancellationToken::new();
    let config = ApiConfig::new(listen.parse()?, home.clone(), store);
    let handle = ApiServer::start(config, shutdown.clone()).await?;
    #[expect(clippy::print_stdout, reason = "an example speaks to its user")]
    {
        println!("{} {}", handle.url, home.join("kubeconfig").display());
    }
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    handle.stopped().await;
    Ok(())
}
