//! How verbs reach the API server: a kubeconfig, as kubectl has it.

use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::exit::Failure;

/// Which API server, as whom.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Connection {
    /// Kubeconfig of the API server; the admin's in `MESH_HOME` unless given.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) home: Home,
}

/// Where the mesh keeps its state on this machine.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Home {
    /// Directory of the mesh's state.
    #[arg(
        long,
        env = "MESH_HOME",
        default_value = "/var/lib/mesh",
        value_name = "DIR"
    )]
    pub(crate) home: PathBuf,
}

impl Connection {
    /// The kubeconfig's path.
    pub(crate) fn file(&self) -> PathBuf {
        self.kubeconfig
            .clone()
            .unwrap_or_else(|| self.home.home.join("kubeconfig"))
    }

    /// A client of the API server.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        client(&self.file()).await
    }
}

/// A client with the credentials of a kubeconfig.
pub(crate) async fn client(file: &Path) -> Result<Client, Failure> {
    let config = config(file).await?;
    Client::try_from(config).map_err(|error| Failure::doing("making a client of the API", &error))
}

/// The connection that a kubeconfig describes.
pub(crate) async fn config(file: &Path) -> Result<Config, Failure> {
    let hint = "`mesh up` writes an admin's kubeconfig; name another with --kubeconfig";
    let doing = |error: &dyn std::error::Error| {
        Failure::doing(format!("reading kubeconfig {}", file.display()), error).with_hint(hint)
    };
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| doing(&error))?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| doing(&error))
}
