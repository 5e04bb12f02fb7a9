//! Which store, as verbs that open one are told.

use std::path::{Path, PathBuf};

use mesh_control::store::{EtcdTls, StoreConfig};

/// Which store the API keeps objects in.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// What the API keeps objects in: a file in `--home`, or an etcd cluster.
    #[arg(long, env = "MESH_SERVER_STORE", value_enum, default_value_t)]
    store: Store,
    /// The members of the etcd cluster, as in `https://10.0.0.1:2379`, joined by commas.
    #[arg(
        long,
        env = "MESH_SERVER_ETCD_ENDPOINTS",
        value_delimiter = ',',
        required_if_eq("store", "etcd")
    )]
    etcd_endpoints: Vec<String>,
    /// Certificates of the CA of the etcd members, PEM; needed with `https`.
    #[arg(long, env = "MESH_SERVER_ETCD_CAFILE", value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// The certificate that etcd asks of its clients, PEM.
    #[arg(long, env = "MESH_SERVER_ETCD_CERTFILE", value_name = "FILE")]
    etcd_certfile: Option<PathBuf>,
    /// The private key of that certificate, PEM.
    #[arg(long, env = "MESH_SERVER_ETCD_KEYFILE", value_name = "FILE")]
    etcd_keyfile: Option<PathBuf>,
}

/// What the API keeps objects in.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Store {
    /// One file, for one API server.
    #[default]
    Redb,
    /// An etcd cluster, version 3.4 or later.
    Etcd,
}

/// The store's file in the home.
const STORE_FILE: &str = "store.redb";

// === impl StoreArgs ===

impl StoreArgs {
    /// The store, whose file is in the home if it is one.
    pub(crate) fn config(&self, home: &Path) -> StoreConfig {
        match self.store {
            Store::Redb => StoreConfig::file(home.join(STORE_FILE)),
            Store::Etcd => StoreConfig::etcd(
                self.etcd_endpoints.clone(),
                EtcdTls {
                    authorities: self.etcd_cafile.clone(),
                    certificate: self.etcd_certfile.clone(),
                    key: self.etcd_keyfile.clone(),
                },
            ),
        }
    }
}
