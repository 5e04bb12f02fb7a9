//! Which crate of ours may use which: the table, compared with what cargo resolved.

use std::path::Path;

use serde_json::Value;

use crate::Failure;
use crate::cmd::Cmd;

/// Crate, and what it may use of ours. Arrows point down, never sideways.
const TABLE: &[(&str, &[&str])] = &[
    // Leaves.
    ("mesh-model", &[]),
    ("mesh-netfilter", &[]),
    ("mesh-proto", &[]),
    // Adapters.
    ("mesh-identity", &["mesh-model", "mesh-proto"]),
    ("mesh-runtime", &["mesh-model", "mesh-netfilter"]),
    ("mesh-nomad", &["mesh-model", "mesh-netfilter"]),
    // Programs.
    (
        "mesh-control",
        &[
            "mesh-identity",
            "mesh-model",
            "mesh-nomad",
            "mesh-proto",
            "mesh-runtime",
        ],
    ),
    (
        "mesh-agent",
        &[
            "mesh-identity",
            "mesh-model",
            "mesh-netfilter",
            "mesh-proto",
        ],
    ),
    // The shell.
    (
        "mesh-cli",
        &[
            "mesh-agent",
            "mesh-control",
            "mesh-identity",
            "mesh-model",
            "mesh-netfilter",
            "mesh-nomad",
            "mesh-proto",
            "mesh-runtime",
        ],
    ),
    // Tools: what they may use of ours is for measuring and for the scenario.
    ("mesh-tests", &["mesh-model"]),
    (
        "xtask",
        &[
            "mesh-control",
            "mesh-identity",
            "mesh-model",
            "mesh-netfilter",
            "mesh-proto",
            "mesh-runtime",
            "mesh-tests",
        ],
    ),
];

/// Compares; gives the number of crates looked at.
pub(crate) fn check(root: &Path, wrong: &mut Vec<String>) -> Result<u64, Failure> {
    let text = Cmd::cargo(root)
        .args(["metadata", "--format-version=1", "--no-deps"])
        .read()?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .ok_or("no packages")?;
    let name = |value: &Value| {
        value
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    for package in packages {
        let crate_name = name(package);
        let Some((_, allowed)) = TABLE.iter().find(|(known, _)| *known == crate_name) else {
            wrong.push(format!(
                "crate `{crate_name}` is not in the table of directions"
            ));
            continue;
        };
        let dependencies = package.get("dependencies").and_then(Value::as_array);
        for dependency in dependencies.into_iter().flatten() {
            let used = name(dependency);
            // Tests may look at anything: what they use is built for them alone.
            let for_tests = dependency.get("kind").and_then(Value::as_str) == Some("dev");
            let ours = TABLE.iter().any(|(known, _)| *known == used);
            if ours && !for_tests && !allowed.contains(&used.as_str()) {
                wrong.push(format!("`{crate_name}` may not use `{used}`"));
            }
        }
    }
    Ok(packages.len() as u64)
}
