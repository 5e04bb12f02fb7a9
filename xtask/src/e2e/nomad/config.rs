//! What Nomad's agents, its container daemon and its CNI plugins are told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::NODE;

/// The second address of the node, at which the client listens. Not one of the link, for Nomad gives
/// static ports once for each of those.
pub(super) const CLIENT: &str = "10.20.9.2";
/// The cgroup of Nomad's tasks, in every hierarchy.
pub(crate) const CGROUP: &str = "mesh-e2e-nomad";
/// The image of the container that holds a group's network.
pub(crate) const PAUSE: &str = "mesh-pause:1";

/// Where an install puts its plugin and its network, below the run's directory.
pub(crate) const PLUGINS: &str = "cni/bin";
pub(crate) const NETWORKS: &str = "cni/config";

/// Writes every file into `home`.
pub(crate) fn write(home: &Path) -> std::io::Result<()> {
    for directory in [PLUGINS, NETWORKS] {
        fs::create_dir_all(home.join(directory))?;
    }
    fs::write(home.join("server.json"), server(home).to_string())?;
    fs::write(home.join("client.json"), client(home).to_string())?;
    // Nomad would close it to the users of processes.
    fs::create_dir_all(home.join("nomad"))?;
    fs::set_permissions(home.join("nomad"), fs::Permissions::from_mode(0o711))?;
    // What becomes of the machine's own files in this run, reboots included.
    for of in ["etc", "lib"] {
        for layer in ["changed", "work"] {
            fs::create_dir_all(home.join("machine").join(of).join(layer))?;
        }
    }
    // Nobody answers there, and says so at once.
    let names = home.join("machine/etc/changed/resolv.conf");
    fs::write(names, format!("nameserver {NODE}\n"))
}

/// The server, which is killed and comes back on the same data.
fn server(home: &Path) -> Value {
    json!({
        "name": "lab-server",
        "data_dir": home.join("nomad-server"),
        "bind_addr": NODE,
        "disable_update_check": true,
        "log_level": "INFO",
        "server": { "enabled": true, "bootstrap_expect": 1, "heartbeat_grace": "30s" },
    })
}

/// The client; a process of its own, so that it can be restarted alone.
fn client(home: &Path) -> Value {
    let plugins = format!("{}:/usr/lib/cni", home.join(PLUGINS).display());
    let capabilities = [
        "audit_write",
        "chown",
        "dac_override",
        "fowner",
        "fsetid",
        "kill",
        "mknod",
        "net_bind_service",
        "setfcap",
        "setgid",
        "setpcap",
        "setuid",
        "sys_chroot",
        "net_admin",
        "net_raw",
    ];
    json!({
        "name": "lab-client",
        // Short: sockets of sidecars are below it.
        "data_dir": home.join("nomad"),
        "bind_addr": CLIENT,
        "disable_update_check": true,
        "log_level": "INFO",
        "client": {
            "enabled": true,
            "servers": [format!("{NODE}:4647")],
            "network_interface": "lab0",
            "cni_path": plugins,
            "cni_config_dir": home.join(NETWORKS),
            "cgroup_parent": CGROUP,
            "options": {
                "fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean",
                "driver.denylist": "java,qemu",
            },
        },
        "plugin": [
            { "raw_exec": { "config": { "enabled": true } } },
            { "docker": { "config": {
                "endpoint": format!("unix://{}", crate::e2e::daemon::socket(home).display()),
                "infra_image": PAUSE,
                "allow_caps": capabilities,
                "volumes": { "enabled": true },
                "gc": { "image": false },
            } } },
        ],
    })
}
