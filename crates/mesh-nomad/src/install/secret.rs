//! Which files each job gets out of its variable: keys, certificates, kubeconfigs.
//!
//! A variable `nomad/jobs/<job>` can be read by the tasks of that job and by nobody else without a
//! token that says so; so no secret is in a job, on a command line or in a log.

use super::job::Component;
use super::settings::{Settings, Shape};
use crate::files::SEPARATOR;

/// The variable with the settings of the install and the CA of etcd, which no task can read.
pub const RECORD: &str = "mesh/install";

/// A variable and the files that it holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VariableFiles {
    /// The job that reads it.
    pub component: Component,
    /// Its path.
    pub path: String,
    /// Paths of files below the directory of the job's task.
    pub files: Vec<&'static str>,
}

/// The variables that the jobs of these settings read.
pub fn variables(settings: &Settings) -> Vec<VariableFiles> {
    let components: &[Component] = match settings.shape {
        Shape::Dev => &[Component::Dev],
        Shape::Cluster(_) => &Component::CLUSTER,
    };
    components
        .iter()
        .map(|component| VariableFiles {
            component: *component,
            path: variable_path(*component),
            files: files(*component).to_vec(),
        })
        .collect()
}

/// The path of a job's variable.
pub fn variable_path(component: Component) -> String {
    format!("nomad/jobs/{}", component.job_id())
}

/// The item of a variable that holds a file.
pub fn item_of(file: &str) -> String {
    file.replace('/', &SEPARATOR.to_string())
}

fn files(component: Component) -> &'static [&'static str] {
    match component {
        Component::Etcd => &["ca.crt", "member.crt", "member.key"],
        Component::Api => &[
            "pki/api-ca.crt",
            "pki/api-ca.key",
            "etcd/ca.crt",
            "etcd/client.crt",
            "etcd/client.key",
        ],
        Component::Ca => &["ca.kubeconfig"],
        Component::Pilot => &["pilot.kubeconfig"],
        Component::Mixer => &["mixer.kubeconfig"],
        Component::Dev => &["pki/api-ca.crt", "pki/api-ca.key"],
        Component::Node | Component::Ingress => &[],
    }
}
