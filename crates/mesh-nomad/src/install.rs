//! The control plane as jobs of Nomad: from settings and what a cluster has to the steps that make
//! it what it should be.
//!
//! Everything here is a value: nothing asks a server. Who carries the steps out registers jobs,
//! makes secrets and waits.
//!
//! ```
//! use mesh_nomad::install::{Delivery, Facts, Settings, Shape, Step, plan};
//!
//! let settings = Settings {
//!     shape: Shape::Dev,
//!     delivery: Delivery::program("/usr/local/bin/mesh"),
//!     ..Settings::default()
//! };
//! let plan = plan(&settings, &Facts::default())?;
//! let titles: Vec<_> = plan.steps.iter().map(Step::title).collect();
//! assert_eq!(titles[0], "namespace mesh-system");
//! assert!(titles.contains(&"job mesh".to_owned()));
//! # Ok::<(), mesh_nomad::install::Refusals>(())
//! ```

pub mod node;
pub mod render;

mod facts;
mod job;
mod plan;
mod secret;
mod settings;

pub use self::facts::Facts;
pub use self::job::{
    Component, INGRESS_ACCOUNT, Member, etcd_directory, etcd_endpoints, node_check, node_removal,
    restore_command, restore_job, root_tags, roots_of, with_root_tags,
};
pub use self::plan::{Plan, Step, is_our_namespace, is_our_policy, plan};
pub use self::secret::{RECORD, VariableFiles, item_of, variable_path, variables};
pub use self::settings::{CniNetwork, Counts, Delivery, Ingress, Runner, Settings, Shape};
pub use crate::refusal::{Refusal, Refusals};

use crate::model::Job;

/// The key in the meta of a namespace and of a job that says whose it is. Its value never changes,
/// for a change of a job's meta restarts its allocations.
pub const OWNER_KEY: &str = "mesh.owner";
/// What stands there.
pub const OWNER: &str = "mesh nomad install";
/// The name by which clients check the API's certificate.
pub const API_NAME: &str = "mesh-api";

/// Whether a job was made by an install.
pub fn is_ours(job: &Job) -> bool {
    let meta = job.meta.get();
    meta.and_then(|meta| meta.get(OWNER_KEY))
        .map(String::as_str)
        == Some(OWNER)
}
