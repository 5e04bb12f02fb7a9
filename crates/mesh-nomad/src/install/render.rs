//! The same install as files, for people who keep their jobs in git and register them themselves.

use serde_json::json;

use super::job::Component;
use super::plan::{Plan, Step};
use super::settings::Settings;
use crate::model::volume::HostVolume;

/// A file to write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RenderedFile {
    /// Its path below the directory.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// The files of a plan that was made for an empty cluster: jobs as `nomad job run -json` takes
/// them, volumes as `nomad volume create` does, policies as `nomad acl policy apply` does, and a
/// README with their order. No secret is in them.
pub fn files(settings: &Settings, plan: &Plan) -> Vec<RenderedFile> {
    let mut files = Vec::new();
    let mut before = Vec::new();
    let mut jobs = Vec::new();
    let mut ingress = String::new();
    for step in &plan.steps {
        match step {
            Step::Namespace(namespace) => {
                let text = format!(
                    "name        = {:?}\ndescription = {:?}\nmeta = {{ {:?} = {:?} }}\n",
                    namespace.name.text(),
                    namespace.description.text(),
                    super::OWNER_KEY,
                    super::OWNER
                );
                let path = if namespace.name.text() == settings.namespace {
                    "namespace.hcl".to_owned()
                } else {
                    format!("namespace-{}.hcl", namespace.name.text())
                };
                before.push(format!("nomad namespace apply {path}"));
                files.push(file(&path, text));
            }
            Step::Policy(policy) => {
                let name = policy.name.text();
                let path = format!("policies/{name}.hcl");
                let bound = policy.job_acl.get();
                let job = bound.map_or("", |bound| bound.job_id.text());
                before.push(format!(
                    "nomad acl policy apply -description {:?} -namespace {} -job {job} {name} {path}",
                    policy.description.text(),
                    settings.namespace
                ));
                files.push(file(&path, policy.rules.text().to_owned()));
            }
            Step::Volume(volume) => {
                let path = format!(
                    "volumes/{}-{}.hcl",
                    volume.name.text(),
                    volume.node_id.text()
                );
                before.push(format!("nomad volume create {path}"));
                files.push(file(&path, volume_file(volume)));
            }
            Step::Job(job) => {
                let path = format!("jobs/{}.nomad.json", job.id.text());
                let text = format!("{:#}\n", json!({ "Job": job }));
                if job.id.text() == Component::Ingress.job_id() {
                    ingress = format!(
                        " Gateways can begin once that is done; it registers `{path}` too.\n"
                    );
                } else {
                    jobs.push(format!("nomad job run -json {path}"));
                }
                files.push(file(&path, text));
            }
            // Secrets are made where the control plane is installed, and are in no file.
            Step::Variable { .. } | Step::End(_) => {}
        }
    }
    files.push(file(
        "README.md",
        readme(settings, &before, &jobs) + &ingress,
    ));
    files
}

fn readme(settings: &Settings, before: &[String], jobs: &[String]) -> String {
    let shape = match settings.shape {
        super::Shape::Dev => "--dev ",
        super::Shape::Cluster(_) => "",
    };
    format!(
        "# The mesh on Nomad, as files\n\n\
         Written by `mesh nomad render`; `mesh nomad install` does all of this by itself.\n\n\
         ## What is there before the jobs\n\n```console\n{}\n```\n\n\
         ## Secrets\n\n\
         Keys and kubeconfigs are made once and are kept in Nomad variables that only the job they are for can read; this writes them, and the admin's kubeconfig:\n\n\
         ```console\nmesh nomad install {shape}--namespace {} --only-secrets\n```\n\n\
         ## The jobs, each once the one before is healthy\n\n```console\n{}\n```\n\n\
         ## What is left\n\n\
         `mesh nomad install` with the same options as `render` stores the mesh-wide STRICT policy and puts the hashes of the roots into the tags of the service `mesh-ca`; it leaves jobs alone that are as it would make them.\n",
        before.join("\n"),
        settings.namespace,
        jobs.join("\n"),
    )
}

fn volume_file(volume: &HostVolume) -> String {
    let mut text = format!(
        "type      = \"host\"\nnamespace = {:?}\nname      = {:?}\nplugin_id = {:?}\nnode_id   = {:?}\n",
        volume.namespace.text(),
        volume.name.text(),
        volume.plugin_id.text(),
        volume.node_id.text(),
    );
    for capability in volume.capabilities.items() {
        let (access, attachment) = (
            capability.access_mode.text(),
            capability.attachment_mode.text(),
        );
        text.extend([
            "
capability {
",
            &format!(
                "  access_mode     = {access:?}
"
            ),
            &format!(
                "  attachment_mode = {attachment:?}
}}
"
            ),
        ]);
    }
    if let Some(parameters) = volume.parameters.get() {
        text.push_str("\nparameters {\n");
        for (key, value) in parameters {
            text.extend([format!("  {key} = {value:?}\n")]);
        }
        text.push_str("}\n");
    }
    text
}

fn file(path: &str, text: String) -> RenderedFile {
    RenderedFile {
        path: path.to_owned(),
        text,
    }
}
