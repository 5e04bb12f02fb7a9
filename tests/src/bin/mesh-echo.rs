//! `mesh-echo`: one instance of the sample application.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use clap::Parser;
use mesh_tests::call::{self, Call};
use mesh_tests::echo::Instance;
use mesh_tests::{control, echo};
use tokio::net::TcpListener;

/// An instance of the sample application: says who called it and how.
#[derive(Debug, Parser)]
struct Arguments {
    /// Name of its service.
    #[arg(long)]
    name: String,
    /// Its version.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Where to listen.
    #[arg(long, default_value = "[::]:9080")]
    listen: SocketAddr,
    /// What to call for each request; may be repeated.
    #[arg(long)]
    call: Vec<String>,
    /// What to call before anything else, even before listening.
    #[arg(long)]
    first_call: Option<String>,
    /// Make the first call again and again until it is answered, before anything else.
    #[arg(long, requires = "first_call")]
    insist: bool,
    /// Socket on which it takes commands.
    #[arg(long)]
    control: Option<PathBuf>,
    /// Sent with each answer.
    #[arg(long, default_value = "none")]
    marker: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let first = match &arguments.first_call {
        Some(url) if arguments.insist => serde_json::to_value(call::insist(Call::get(url)).await)?,
        Some(url) => serde_json::to_value(call::once(Call::get(url)).await)?,
        None => serde_json::Value::Null,
    };
    let listener = TcpListener::bind(arguments.listen).await?;
    let instance = Instance {
        name: arguments.name,
        version: arguments.version,
        calls: arguments.call,
        marker: arguments.marker,
        seen: Mutex::default(),
    };
    match arguments.control {
        None => echo::serve(listener, instance).await?,
        Some(socket) => {
            tokio::try_join!(
                echo::serve(listener, instance),
                control::serve(&socket, first)
            )?;
        }
    }
    Ok(())
}
