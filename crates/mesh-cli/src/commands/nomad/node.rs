//! `mesh nomad node`: what the job `mesh-node` does on each node, as root.
//!
//! What it made is in a record, so that its removal takes back exactly that.

mod files;
mod reload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_nomad::install::CniNetwork;
use mesh_nomad::install::node::{closed_directory, conflist};
use tokio::signal::unix::{SignalKind, signal};

use self::files::{Node, Outlook};
use crate::exit::{Failure, OK, Outcome};

/// Prepare the node that this runs on for injected groups.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Put plugin, network and user there, and tell the Nomad client.
    Prepare(PrepareArgs),
    /// Take back what was put there.
    Remove(RemoveArgs),
    /// Do nothing until told to end: where commands are to be run beside the store.
    Wait,
    /// Print the network's file, for who prepares nodes by hand.
    Conflist(NetworkArgs),
}

/// The network of injected groups.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NetworkArgs {
    /// Its name.
    #[arg(long, default_value = "mesh")]
    network: String,
    /// The bridge.
    #[arg(long, default_value = "mesh0")]
    bridge: String,
    /// Addresses of groups.
    #[arg(long, default_value = "172.27.64.0/20")]
    subnet: ipnet::Ipv4Net,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PrepareArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Where plugins are, joined by `:`; as the Nomad client says unless given.
    #[arg(long, value_name = "PATHS")]
    cni_path: Option<String>,
    /// Where networks are; as the Nomad client says unless given.
    #[arg(long, value_name = "DIR")]
    cni_config_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// The network of injected groups.
    #[arg(long)]
    network: Option<String>,
    /// Remove this directory too, with everything in it.
    #[arg(long, value_name = "DIR")]
    purge_data: Option<PathBuf>,
    /// How long to wait for groups in the network, whose part of it this takes down.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = crate::commands::agent::duration)]
    wait: Duration,
    /// Also while groups are in the network: what it gave them stays behind.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(command: &Command) -> Outcome {
    match command {
        Command::Prepare(args) => prepare(args).await,
        Command::Remove(args) => remove(args).await,
        Command::Wait => wait().await,
        Command::Conflist(args) => {
            print!("{}", conflist(&args.network()));
            Ok(OK.into())
        }
    }
}

impl NetworkArgs {
    fn network(&self) -> CniNetwork {
        CniNetwork {
            name: self.network.clone(),
            bridge: self.bridge.clone(),
            subnet: self.subnet.to_string(),
        }
    }
}

async fn wait() -> Outcome {
    let mut end = signal(SignalKind::terminate())
        .map_err(|error| Failure::doing("waiting for signals", &error))?;
    end.recv().await;
    Ok(OK.into())
}

async fn prepare(args: &PrepareArgs) -> Outcome {
    let Places {
        path,
        directory,
        allocations,
    } = places(args).await;
    let network = args.network.network();
    let program = std::env::current_exe()
        .map_err(|error| Failure::doing("looking for this program", &error))?;
    let node = Node::new(
        Path::new("/"),
        path.split(':').map(PathBuf::from).collect(),
        directory,
    );
    let Outlook { changes, lacks } = node
        .prepare(&program, &network)
        .map_err(|error| Failure::doing("preparing the node", &error))?;
    for change in &changes {
        println!("{change}");
    }
    for lack in &lacks {
        eprintln!("{lack}");
    }
    if let Some((closed, mode)) = allocations.as_deref().and_then(files::closed_to_proxy) {
        eprintln!("{}", closed_directory(&closed, mode));
    }
    if changes.is_empty() {
        println!("nothing was to be done");
    } else {
        tell_client()?;
    }
    Ok(OK.into())
}

/// Has the Nomad client look at its plugins and networks again, if this is a task of its.
fn tell_client() -> Result<(), Failure> {
    if reload::client()? {
        println!("the Nomad client was told to look again");
    } else {
        eprintln!("this is no task of Nomad's: send SIGHUP to the Nomad client");
    }
    Ok(())
}

async fn remove(args: &RemoveArgs) -> Outcome {
    if let (Some(network), false) = (&args.network, args.force) {
        // A chain without its plugin cannot be taken down, and what it had made would stay.
        let held = files::given_back(network, own_allocations().as_deref(), args.wait).await;
        if !held.is_empty() {
            return Err(Failure::new(format!(
                "groups are in the network `{network}`: {}",
                held.join(", ")
            ))
            .with_hint("stop them and wait until they have ended, or add --force"));
        }
    }
    let removed = files::remove(Path::new("/"), args.purge_data.as_deref())
        .map_err(|error| Failure::doing("cleaning the node", &error))?;
    for line in &removed {
        println!("{line}");
    }
    if removed.iter().any(|line| line.ends_with("conflist")) {
        tell_client()?;
    }
    if let Some(network) = &args.network {
        // The bridge of a network without groups is nobody's.
        files::forget_network(network);
    }
    Ok(OK.into())
}

/// Where the node has its allocations, which a task knows by its own.
fn own_allocations() -> Option<PathBuf> {
    let own = std::env::var_os("NOMAD_ALLOC_DIR").map(PathBuf::from)?;
    own.ancestors().nth(2).map(Path::to_path_buf)
}

/// Where the node's client looks for plugins and networks, and where it has the files of tasks.
struct Places {
    path: String,
    directory: PathBuf,
    allocations: Option<PathBuf>,
}

/// Told, asked, or Nomad's own defaults.
async fn places(args: &PrepareArgs) -> Places {
    let mut allocations = None;
    let mut path = args.cni_path.clone();
    let mut directory = args.cni_config_dir.clone();
    if let Ok(client) = crate::nomad::client() {
        match client.agent().await {
            Ok(agent) => {
                let of = |key: &str| {
                    let value = agent.config.get()?.pointer(&format!("/Client/{key}"))?;
                    value
                        .as_str()
                        .filter(|text| !text.is_empty())
                        .map(str::to_owned)
                };
                path = path.or_else(|| of("CNIPath"));
                directory = directory.or_else(|| of("CNIConfigDir").map(PathBuf::from));
                allocations = of("AllocDir").map(PathBuf::from);
            }
            Err(error) => eprintln!("the Nomad client does not tell its directories: {error}"),
        }
    }
    Places {
        path: path.unwrap_or_else(|| "/opt/cni/bin".to_owned()),
        directory: directory.unwrap_or_else(|| PathBuf::from("/opt/cni/config")),
        allocations: own_allocations().or(allocations),
    }
}
