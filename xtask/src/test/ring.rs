//! The rings as data: what each is called, needs, and where its tests are.

use std::env;
use std::path::Path;

use serde_json::Value;

use crate::Failure;
use crate::cmd::Cmd;
use crate::provision::{self, Tools};

/// A ring of tests: all that need the same ground to stand on.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Its name.
    pub(crate) name: &'static str,
    /// The name of its test targets; none for what plain `cargo test` runs.
    pub(crate) target: Option<&'static str>,
    /// What the machine must have.
    pub(crate) needs: &'static [Need],
}

/// Something that a ring needs of the machine.
#[derive(Debug)]
pub(crate) enum Need {
    /// To be root: network namespaces, users.
    Root,
    /// A program.
    Program(&'static str),
    /// A variable that names test data which is not part of the project.
    Data(&'static str),
}

/// A test target that plain `cargo test` leaves out.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
}

/// Every ring, the least demanding first.
pub(crate) const RINGS: &[Ring] = &[
    Ring {
        name: "tidy",
        target: None,
        needs: &[],
    },
    Ring {
        name: "unit",
        target: None,
        needs: &[],
    },
    Ring {
        name: "doc",
        target: None,
        needs: &[],
    },
    Ring {
        name: "golden",
        target: None,
        needs: &[],
    },
    Ring {
        name: "property",
        target: None,
        needs: &[],
    },
    Ring {
        name: "samples",
        target: Some("samples"),
        needs: &[
            Need::Data("MESH_ISTIO_SAMPLES"),
            Need::Data("MESH_ISTIO_CRDS"),
            Need::Data("MESH_NOMAD_JOBS"),
            Need::Data("MESH_NOMAD_RECORDINGS"),
        ],
    },
    Ring {
        name: "store",
        target: Some("store"),
        needs: &[Need::Program("etcd")],
    },
    Ring {
        name: "envoy",
        target: Some("envoy"),
        needs: &[Need::Root, Need::Program("envoy")],
    },
    Ring {
        name: "kubectl",
        target: Some("kubectl"),
        needs: &[Need::Program("kubectl"), Need::Data("MESH_ISTIO_SAMPLES")],
    },
    Ring {
        name: "netns",
        target: Some("netns"),
        needs: &[
            Need::Root,
            Need::Program("nft"),
            Need::Program("envoy"),
            Need::Program("host-local"),
        ],
    },
    Ring {
        name: "interrupt",
        target: Some("interrupt"),
        needs: &[Need::Root, Need::Program("envoy"), Need::Program("kubectl")],
    },
    Ring {
        name: "interrupt-nomad",
        target: Some("interrupt_nomad"),
        needs: &[
            Need::Root,
            Need::Program("envoy"),
            Need::Program("kubectl"),
            Need::Program("nomad"),
            Need::Program("dockerd"),
            Need::Program("host-local"),
            Need::Program("nft"),
        ],
    },
    Ring {
        name: "dist",
        target: Some("dist"),
        needs: &[
            Need::Root,
            Need::Program("curl"),
            Need::Program("dpkg-deb"),
            Need::Program("envoy"),
            Need::Program("etcd"),
            Need::Program("kubectl"),
            Need::Program("nft"),
            Need::Program("systemd-analyze"),
        ],
    },
    Ring {
        name: "docker",
        target: Some("docker"),
        needs: &[
            Need::Root,
            Need::Program("dockerd"),
            Need::Program("podman"),
            Need::Program("netavark"),
            Need::Program("aardvark-dns"),
            Need::Program("docker"),
            Need::Program("nft"),
            Need::Program("etcd"),
            Need::Program("etcdctl"),
            Need::Program("envoy"),
            Need::Program("kubectl"),
            Need::Program("curl"),
            Need::Data("MESH_SEED_COMPOSE"),
        ],
    },
    Ring {
        name: "nomad",
        target: Some("nomad"),
        needs: &[
            Need::Root,
            Need::Program("nomad"),
            Need::Program("nft"),
            Need::Program("dockerd"),
            Need::Program("docker"),
            Need::Program("etcd"),
            Need::Program("kubectl"),
            Need::Program("host-local"),
            Need::Data("MESH_NOMAD_JOBS"),
        ],
    },
    // Nomad asks plugins to CHECK where the standard ones are new enough; Debian's are not.
    Ring {
        name: "nomad-check",
        target: Some("nomad_check"),
        needs: &[
            Need::Root,
            Need::Program("nomad"),
            Need::Program("nft"),
            Need::Program("dockerd"),
            Need::Program("docker"),
            Need::Data("MESH_CNI_PLUGINS"),
        ],
    },
];

// === impl Need ===

impl Need {
    /// Why it is not met, in one sentence with what to do.
    pub(crate) fn unmet(&self, tools: &Tools) -> Option<String> {
        match self {
            Self::Root if provision::is_root() => None,
            Self::Root => Some("not root: run it with sudo".to_owned()),
            Self::Program(program) => tools.need(program).err(),
            Self::Data(variable) if env::var_os(variable).is_some() => None,
            Self::Data(variable) => Some(format!("{variable} names no test data")),
        }
    }

    /// The program that it names.
    pub(crate) fn program(&self) -> Option<&'static str> {
        match self {
            Self::Program(program) => Some(program),
            Self::Root | Self::Data(_) => None,
        }
    }
}

/// The ring's target that a target of tests belongs to: `envoy_mixer` to `envoy`, and
/// `interrupt_nomad` to the ring of that name and not to `interrupt`.
pub(crate) fn target_of(name: &str) -> Option<&'static str> {
    let targets = RINGS.iter().filter_map(|ring| ring.target);
    let fitting = targets.filter(|target| {
        let rest = name.strip_prefix(target);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    });
    fitting.max_by_key(|target| target.len())
}

/// Every test target of the workspace that plain `cargo test` leaves out.
pub(crate) fn targets(root: &Path) -> Result<Vec<Target>, Failure> {
    let text = Cmd::cargo(root)
        .args(["metadata", "--format-version=1", "--no-deps"])
        .read()?;
    let metadata: Value = serde_json::from_str(&text)?;
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned();
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut found = Vec::new();
    for package in list(&metadata, "packages").unwrap_or_default() {
        for target in list(&package, "targets").unwrap_or_default() {
            let is_test = list(&target, "kind")
                .unwrap_or_default()
                .iter()
                .any(|kind| kind == "test");
            if is_test && target.get("test") == Some(&Value::Bool(false)) {
                found.push(Target {
                    name: text(&target, "name"),
                });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_of_the_ring_that_has_most_of_its_name() {
        for (name, ring) in [
            ("envoy", Some("envoy")),
            ("envoy_mixer", Some("envoy")),
            ("interrupt", Some("interrupt")),
            ("interrupt_nomad", Some("interrupt_nomad")),
            ("nomad_check", Some("nomad_check")),
            ("envoys", None),
            ("it", None),
        ] {
            assert_eq!(target_of(name), ring, "{name}");
        }
    }
}
