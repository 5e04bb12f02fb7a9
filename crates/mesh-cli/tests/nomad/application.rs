//! Jobs whose only task calls somebody outside the mesh in its first instruction.

use serde_json::{Value, json};

use crate::node::{IMAGE, WITNESS};

/// What the task does: it connects, says what came of it, and waits.
fn script() -> String {
    let (address, port) = WITNESS;
    format!(
        "if (exec 3<>/dev/tcp/{address}/{port} && echo marker >&3) 2>/dev/null; \
         then echo connected; else echo refused; fi >> \"$NOMAD_ALLOC_DIR/data/attempts\"; \
         exec /bin/sleep 100000"
    )
}

/// A job of one group. The application does not wait for its proxy, so that its first instruction
/// comes while nothing of the mesh can be up.
pub(crate) fn job(id: &str, driver: &str, network: &Value) -> Value {
    let config = if driver == "docker" {
        json!({ "image": IMAGE, "command": "/bin/bash", "args": ["-c", script()] })
    } else {
        json!({ "command": "/bin/bash", "args": ["-c", script()] })
    };
    json!({ "Job": {
        "ID": id, "Name": id, "Type": "service", "Datacenters": ["*"],
        "TaskGroups": [{
            "Name": "app", "Count": 1,
            "Meta": { "mesh.hold_app": "false" },
            "Networks": [network],
            "Services": [{ "Name": id, "PortLabel": "http", "Provider": "nomad" }],
            "EphemeralDisk": { "SizeMB": 20 },
            "RestartPolicy": {
                "Attempts": 3, "Interval": 600_000_000_000_i64, "Delay": 200_000_000, "Mode": "fail",
            },
            "ReschedulePolicy": { "Attempts": 0, "Unlimited": false },
            "Tasks": [{
                "Name": "main", "Driver": driver, "User": user(driver),
                "KillTimeout": 200_000_000, "Config": config,
                "Resources": { "CPU": 20, "MemoryMB": 32 },
                "LogConfig": { "MaxFiles": 1, "MaxFileSizeMB": 1 },
            }],
        }],
    } })
}

/// A network of the group's own.
pub(crate) fn bridge() -> Value {
    json!({ "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }] })
}

/// The user of applications: known to the machine where its passwd is asked.
fn user(driver: &str) -> &'static str {
    if driver == "docker" {
        "65534"
    } else {
        "nobody"
    }
}
