//! The Debian package on machines of their own: installed by dpkg, run by systemd, upgraded, purged.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(
    clippy::panic,
    reason = "what keeps a machine from starting is worth a sentence"
)]

mod machine;
mod vm;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use machine::{Init, Machine};
use serde_json::{Value, json};

/// The package, and one that would follow it.
#[derive(Debug)]
struct Packages {
    now: PathBuf,
    next: PathBuf,
}

/// Where the machines find them.
const NOW: &str = "/root/mesh-now.deb";
const NEXT: &str = "/root/mesh-next.deb";
/// The most that each unit may be exposed, in tenths, as `systemd-analyze security` reckons. Those
/// that set rules are root with capabilities, and say in their texts why.
const EXPOSURE: [(&str, u32); 3] = [
    ("mesh-agent.service", 20),
    ("mesh-server.service", 20),
    ("mesh-server@.service", 20),
];

/// What a program of the host does, which must succeed.
fn host(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Packages the debug build once. The next package has a higher version and other settings: what a
/// user changed in them meets what we changed.
fn packages() -> &'static Packages {
    static BUILT: OnceLock<Packages> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dist");
        let output = folder.to_str().unwrap();
        let dist = || {
            let line = ["dist", "--debug", "--output", output];
            let said = host(env!("CARGO_BIN_EXE_xtask"), &line);
            let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
            (said, sums)
        };
        let (said, sums) = dist();
        assert_eq!(dist().1, sums, "other bytes of the same commit");
        // The package and the images are there and are what the sums say.
        let check = host(
            "sh",
            &["-c", "cd \"$0\" && sha256sum --check SHA256SUMS", output],
        );
        let names: Vec<&str> = said.lines().collect();
        assert_eq!((names.len(), check.lines().count()), (3, 3), "{check}");
        assert!(check.lines().all(|line| line.ends_with(": OK")), "{check}");
        let now = PathBuf::from(names.first().unwrap());

        let unpacked = folder.join("next");
        if unpacked.exists() {
            fs::remove_dir_all(&unpacked).unwrap();
        }
        host(
            "dpkg-deb",
            &["-R", now.to_str().unwrap(), unpacked.to_str().unwrap()],
        );
        let edit = |file: &str, with: &dyn Fn(String) -> String| {
            let path = unpacked.join(file);
            fs::write(&path, with(fs::read_to_string(&path).unwrap())).unwrap();
        };
        edit("DEBIAN/control", &|text| {
            text.replace("Version: ", "Version: 99.")
        });
        edit("etc/mesh/server.env", &|text| {
            text + "# Of the next version.\n"
        });
        edit("etc/mesh/agent.env", &|text| {
            text + "# Of the next version.\n"
        });
        let next = folder.join("next.deb");
        let (from, to) = (unpacked.to_str().unwrap(), next.to_str().unwrap());
        host(
            "dpkg-deb",
            &["-Zgzip", "-z1", "--root-owner-group", "-b", from, to],
        );
        Packages { now, next }
    })
}

/// A machine with both packages at hand, neither installed.
fn machine(init: Init) -> Machine {
    let packages = packages();
    let machine = Machine::boot(init);
    fs::copy(&packages.now, machine.path(NOW)).unwrap();
    fs::copy(&packages.next, machine.path(NEXT)).unwrap();
    machine
}

/// A program that the ring has found, by the variable that names it.
fn program(variable: &str) -> String {
    let found = env::var(variable);
    found.unwrap_or_else(|_| {
        panic!("{variable} names no program: run `cargo xtask test --ring dist`")
    })
}

/// What kubectl says to the admin.
fn kubectl(machine: &Machine, arguments: &[&str]) -> String {
    let program = program("KUBECTL_BIN");
    let line = [&program, "--kubeconfig", "/var/lib/mesh/kubeconfig"];
    machine.ok(&[&line, arguments].concat())
}

/// Waits until every role of the machine's control plane is ready.
fn ready(machine: &Machine, metrics: &[u16]) {
    for port in metrics {
        let request = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /ready HTTP/1.0\\r\\n\\r\\n' >&3; grep -q '200 OK' <&3"
        );
        machine.eventually(&["bash", "-c", &request]);
    }
}

fn server(machine: &Machine) {
    let settings = machine.read("/etc/mesh/server.env");
    machine.write(
        "/etc/mesh/server.env",
        &(settings + "MESH_SERVER_ADVERTISE=192.0.2.10\n"),
    );
    machine.ok(&["systemctl", "start", "mesh-server"]);
    ready(machine, &[15014]);
}

#[test]
fn the_units_are_well_formed_and_every_path_in_them_is_packaged() {
    let machine = machine(Init::Nothing);
    machine.ok(&["dpkg", "-i", NOW]);
    let units = machine.ok(&["sh", "-c", "ls /lib/systemd/system/mesh-*.service"]);
    assert!(units.lines().count() >= 4, "{units}");
    let mut checked = 0;
    for unit in units.lines() {
        let said = machine.ok(&["systemd-analyze", "verify", "--man=yes", unit]);
        assert!(!said.contains("mesh"), "{said}");
        // The exposure that systemd reckons, of 10: a unit without a sandbox has 9.6.
        let name = unit.rsplit('/').next().unwrap();
        if let Some((_, most)) = EXPOSURE.iter().find(|(unit, _)| *unit == name) {
            let most = format!("--threshold={most}");
            machine.ok(&["systemd-analyze", "security", "--offline=yes", &most, unit]);
            checked += 1;
        }
    }
    assert_eq!(checked, EXPOSURE.len());
    let fields = machine.ok(&["dpkg-query", "--show", "--showformat=${Depends}", "mesh"]);
    assert!(fields.contains("passwd"), "{fields}");
    for shell in [
        "bash-completion/completions/mesh",
        "fish/vendor_completions.d/mesh.fish",
        "zsh/vendor-completions/_mesh",
        "doc/mesh/copyright",
        "doc/mesh/THIRD-PARTY.gz",
        "man/man1/mesh-redirect-apply.1.gz",
    ] {
        assert!(machine.exists(&format!("/usr/share/{shell}")), "{shell}");
    }
}

#[test]
fn the_control_plane_runs_without_root_and_kubectl_works() {
    let machine = machine(Init::Systemd);
    machine.ok(&["dpkg", "-i", NOW]);
    let is_enabled = machine.run(&["systemctl", "is-enabled", "mesh-server"]);
    assert!(!is_enabled.status.success(), "nobody asked for it");
    server(&machine);
    assert_eq!(machine.user_of("mesh-server"), "mesh-server");
    kubectl(&machine, &["create", "namespace", "shop"]);
    assert!(kubectl(&machine, &["get", "namespaces"]).contains("shop"));
    // The proxies' user may not read the keys of the control plane.
    let read = ["setpriv", "--reuid=mesh", "--regid=mesh", "--clear-groups"];
    let read = [&read[..], &["cat", "/var/lib/mesh/kubeconfig"]].concat();
    assert!(!machine.run(&read).status.success());
    machine.ok(&["systemctl", "stop", "mesh-server"]);
    let result = [
        "systemctl",
        "show",
        "--value",
        "--property=Result",
        "mesh-server",
    ];
    assert_eq!(machine.ok(&result).trim(), "success");
}

#[test]
fn roles_apart_find_each_other_with_the_settings_of_the_package() {
    let machine = machine(Init::Systemd);
    machine.ok(&["dpkg", "-i", NOW]);
    let roles = ["api", "ca", "pilot", "mixer"].map(|role| format!("mesh-server@{role}"));
    let start = ["systemctl", "start"].into_iter();
    // All at once, as at boot: who comes before the API's first start is started again.
    machine.ok(&start
        .chain(roles.iter().map(String::as_str))
        .collect::<Vec<_>>());
    ready(&machine, &[15314, 15214, 15114, 15014]);
    for role in &roles {
        assert_eq!(machine.user_of(role), "mesh-server", "{role}");
    }
    let data = kubectl(
        &machine,
        &[
            "get",
            "configmap",
            "mesh",
            "-n",
            "mesh-system",
            "-o",
            "json",
        ],
    );
    let data: Value = serde_json::from_str(&data).unwrap();
    for role in ["ca", "pilot", "mixer"] {
        let address = &data["data"][format!("{role}.addresses")];
        assert!(address.is_string(), "{role} in {data}");
    }
    // One process with all of them takes their place.
    machine.ok(&["systemctl", "start", "mesh-server"]);
    let state = machine.run(&["systemctl", "is-active", "mesh-server@api"]);
    assert!(!state.status.success());
    ready(&machine, &[15014]);
}

#[test]
fn the_watch_of_containers_waits_for_a_daemon_and_ends_with_the_package() {
    let machine = machine(Init::Systemd);
    machine.ok(&["dpkg", "-i", NOW]);
    machine.write(
        "/etc/mesh/docker.env",
        "DOCKER_HOST=unix:///run/nobody.sock\nMESH_DOCKER_OPTIONS=--timeout 5\n",
    );
    machine.ok(&["systemctl", "start", "mesh-docker"]);
    let tried = "journalctl --unit=mesh-docker | grep --count /run/nobody.sock | grep -v '^[01]$'";
    machine.eventually(&["bash", "-c", tried]);
    let state = ["systemctl", "show", "--value", "--property=NRestarts"];
    let restarts = machine.ok(&[&state[..], &["mesh-docker"]].concat());
    assert_ne!(restarts.trim(), "0");
    machine.ok(&["dpkg", "-r", "mesh"]);
    let is_active = machine.run(&["systemctl", "is-active", "mesh-docker"]);
    assert!(!is_active.status.success(), "{is_active:?}");
}

#[test]
fn a_sidecar_is_ready_behind_its_rules_which_go_with_the_package() {
    let machine = machine(Init::Systemd);
    machine.ok(&["dpkg", "-i", NOW]);
    server(&machine);
    // Where no unit hides it, unlike this test's own folder.
    fs::copy(program("ENVOY_BIN"), machine.path("/usr/local/bin/envoy")).unwrap();
    kubectl(&machine, &["create", "serviceaccount", "vm"]);
    let token = ["mesh", "token", "create", "--namespace", "default"];
    let token = machine.ok(&[&token[..], &["--service-account", "vm", "--json"]].concat());
    let token: Value = serde_json::from_str(&token).unwrap();
    let config = json!({
        "workload": {
            "id": "default/vm", "namespace": "default", "service_account": "vm",
            "addresses": ["192.0.2.10"],
        },
        // The machine's own address is the workload's, where calls are inbound ones.
        "pilots": ["127.0.0.1:15012"],
        "cas": ["127.0.0.1:15012"],
        "root_hashes": token["mesh"]["root_hashes"],
        "token_file": "/etc/mesh/token",
        "state_dir": "/var/lib/mesh-agent/state",
        "rules_verdict": "/run/mesh-redirect/verdict.json",
    });
    machine.write("/etc/mesh/agent.json", &config.to_string());
    machine.write("/etc/mesh/token", token["token"].as_str().unwrap());
    machine.ok(&["chown", "mesh:mesh", "/etc/mesh/token"]);
    machine.ok(&["chmod", "600", "/etc/mesh/token"]);
    machine.write(
        "/etc/mesh/redirect.env",
        "MESH_REDIRECT_INCLUDE_UIDS=1000\n",
    );
    machine.ok(&[
        "systemctl",
        "enable",
        "--now",
        "mesh-redirect",
        "mesh-agent",
    ]);

    machine.ok(&["mesh", "agent", "wait", "--timeout", "60s"]);
    assert_eq!(machine.user_of("mesh-agent"), "mesh");
    let captures = || {
        machine
            .ok(&["nft", "list", "ruleset"])
            .contains("skuid 1000")
    };
    assert!(captures());
    // Whoever stops the watcher does not open the machine.
    machine.ok(&["systemctl", "stop", "mesh-redirect"]);
    assert!(captures());

    machine.ok(&["dpkg", "-r", "mesh"]);
    assert_eq!(machine.ok(&["nft", "list", "ruleset"]), "");
    assert!(machine.exists("/etc/mesh/agent.json"));
    machine.ok(&["dpkg", "-P", "mesh"]);
    for path in [
        "/etc/systemd/system/multi-user.target.wants/mesh-agent.service",
        "/var/lib/mesh-agent",
    ] {
        assert!(!machine.exists(path), "{path}");
    }
}

#[test]
fn an_upgrade_restarts_what_runs_and_keeps_settings_and_objects() {
    let machine = machine(Init::Systemd);
    machine.ok(&["dpkg", "-i", NOW]);
    server(&machine);
    kubectl(&machine, &["create", "namespace", "shop"]);
    let before = machine.main_pid("mesh-server");

    // The user's settings differ from ours of both versions: dpkg keeps them without asking.
    machine.ok(&["dpkg", "--force-confdef", "--force-confold", "-i", NEXT]);
    assert_ne!(machine.main_pid("mesh-server"), before);
    ready(&machine, &[15014]);
    let settings = machine.read("/etc/mesh/server.env");
    assert!(
        settings.contains("MESH_SERVER_ADVERTISE=192.0.2.10"),
        "{settings}"
    );
    assert!(!settings.contains("next version"), "{settings}");
    // What nobody edited is replaced.
    assert!(machine.read("/etc/mesh/agent.env").contains("next version"));
    assert!(kubectl(&machine, &["get", "namespaces"]).contains("shop"));
    let agent = machine.run(&["systemctl", "is-active", "mesh-agent"]);
    assert!(!agent.status.success(), "it did not run before");

    // Removed, everything of the user's stays; installed again, it is there again.
    machine.ok(&["dpkg", "-r", "mesh"]);
    let left = machine.run(&["systemctl", "is-active", "mesh-server"]);
    assert!(!left.status.success());
    assert!(!machine.exists("/usr/bin/mesh"));
    machine.ok(&["dpkg", "-i", NEXT]);
    machine.ok(&["systemctl", "start", "mesh-server"]);
    ready(&machine, &[15014]);
    assert!(kubectl(&machine, &["get", "namespaces"]).contains("shop"));
}

#[test]
fn a_purge_leaves_what_is_the_user_s_and_nothing_else() {
    let machine = machine(Init::Nothing);
    let before = machine.changes();
    machine.ok(&["dpkg", "-i", NOW]);
    // The control plane without a manager of services, as in a container.
    machine.ok(&["/usr/lib/mesh/server-state"]);
    let user = [
        "setpriv",
        "--reuid=mesh-server",
        "--regid=mesh-server",
        "--clear-groups",
    ];
    let start = "timeout --preserve-status 60 mesh server >/dev/null 2>&1 & \
                 until [ -s /var/lib/mesh/mixer.kubeconfig ]; do :; done; kill $!; wait $!";
    machine.ok(&[&user[..], &["bash", "-c", start]].concat());
    for path in ["/var/lib/mesh/notes", "/etc/mesh/notes"] {
        machine.write(path, "mine\n");
    }
    assert_ne!(machine.changes(), before);
    machine.ok(&["dpkg", "-i", NEXT]);
    machine.ok(&["dpkg", "-r", "mesh"]);
    assert!(machine.exists("/var/lib/mesh/store.redb"));
    let said = machine.ok(&["dpkg", "-P", "mesh"]);
    assert!(said.contains("/var/lib/mesh/notes"), "{said}");

    let left: BTreeSet<_> = machine.changes().difference(&before).cloned().collect();
    let own = [
        "/etc/mesh",
        "/etc/mesh/notes",
        "/var/lib/mesh",
        "/var/lib/mesh/notes",
    ];
    assert_eq!(left, own.map(PathBuf::from).into());
    machine.ok(&["rm", "-r", "/etc/mesh", "/var/lib/mesh"]);
    assert_eq!(machine.changes(), before);
}

#[test]
fn the_unit_takes_over_what_mesh_up_has_made() {
    let machine = machine(Init::Systemd);
    machine.ok(&["dpkg", "-i", NOW]);
    machine.ok(&["mesh", "up"]);
    kubectl(&machine, &["create", "namespace", "shop"]);
    let both = machine.run(&["systemctl", "start", "mesh-server"]);
    assert!(!both.status.success(), "two control planes at once");
    machine.ok(&["mesh", "down"]);
    server(&machine);
    assert!(kubectl(&machine, &["get", "namespaces"]).contains("shop"));
    let owner = |path: &str| machine.ok(&["stat", "--format=%U", path]);
    assert_eq!(owner("/var/lib/mesh/store.redb").trim(), "mesh-server");
}

#[test]
fn what_mesh_up_has_started_ends_with_the_package_and_its_state_stays() {
    let machine = machine(Init::Systemd);
    machine.ok(&["dpkg", "-i", NOW]);
    machine.ok(&["mesh", "up"]);
    assert!(kubectl(&machine, &["get", "namespaces"]).contains("default"));
    machine.ok(&["ip", "link", "show", "mesh0"]);
    machine.ok(&["dpkg", "-r", "mesh"]);
    assert!(
        !machine
            .run(&["ip", "link", "show", "mesh0"])
            .status
            .success()
    );
    assert!(!machine.run(&["pidof", "mesh"]).status.success());
    assert!(machine.exists("/var/lib/mesh/store.redb"));
    machine.ok(&["dpkg", "-P", "mesh"]);
    assert!(!machine.exists("/var/lib/mesh"));
}

#[test]
fn who_else_has_the_proxies_number_is_said_before_anything_changes() {
    let machine = machine(Init::Nothing);
    machine.ok(&["useradd", "--uid", "1337", "--no-create-home", "somebody"]);
    let before = machine.changes();
    let refused = machine.run(&["dpkg", "-i", NOW]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("1337") && said.contains("`somebody`"),
        "{said}"
    );
    assert_eq!(machine.changes(), before);
}

#[test]
fn a_user_that_fits_is_kept() {
    let machine = machine(Init::Nothing);
    machine.ok(&["groupadd", "--gid", "1337", "mesh"]);
    machine.ok(&[
        "useradd",
        "--uid",
        "1337",
        "--gid",
        "mesh",
        "--comment",
        "Ours",
        "mesh",
    ]);
    let before = machine.ok(&["getent", "passwd", "mesh"]);
    machine.ok(&["dpkg", "-i", NOW]);
    machine.ok(&["dpkg", "-P", "mesh"]);
    assert_eq!(machine.ok(&["getent", "passwd", "mesh"]), before);
    assert!(
        !machine
            .run(&["getent", "passwd", "mesh-server"])
            .status
            .success()
    );
}
