//! `mesh vm` under systemd itself: a machine with the package joins the mesh of another, starts anew
//! with its sidecar, and leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::machine::{Init, Machine, PATIENCE};
use crate::{NEXT, NOW, machine, program};

/// The VM's addresses, in the network of workloads, where the engine gives none.
const ADDRESSES: [&str; 2] = ["10.213.200.10/16", "fd6d:6573:68d5::c80a/64"];
const INVITE: &str = "mesh vm invite --namespace shop --service-account db --ttl";
const JOIN: &str = "mesh vm join --invite /root/invitation --name db --port http:8080 \
                    --include-uids 1000 --confirm-within 90s";
/// The longest that a token is accepted beyond its time.
const LEEWAY: Duration = Duration::from_secs(6);

/// An application of the machine that may call others from its first moment on.
const APPLICATION: &str = "\
[Unit]
Requires=mesh-agent-ready.service
After=mesh-agent-ready.service

[Service]
User=1000
Group=1000
ExecStart=/usr/local/bin/mesh-echo --name db --listen [::]:8080 --control /tmp/db.sock

[Install]
WantedBy=multi-user.target
";

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// The echo server, which is a program of another package.
fn echo() -> &'static Path {
    static ECHO: OnceLock<PathBuf> = OnceLock::new();
    ECHO.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "mesh-tests"])
            .args(["--bin", "mesh-echo"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.unwrap().success(), "mesh-echo is not to be built");
        Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("mesh-echo")
    })
}

/// A machine with the package, Envoy and the echo server.
fn equipped() -> Machine {
    let machine = machine(Init::Systemd);
    machine.ok(&["dpkg", "-i", NOW]);
    // Where no unit hides it, unlike this test's own folder.
    fs::copy(program("ENVOY_BIN"), machine.path("/usr/local/bin/envoy")).unwrap();
    fs::copy(echo(), machine.path("/usr/local/bin/mesh-echo")).unwrap();
    machine
}

/// A machine with the control plane and the workload `web`, and one that is to join them.
fn two_machines() -> (Machine, Machine) {
    let control = equipped();
    control.ok(&["mesh", "up"]);
    let line = "mesh run --detach --name web --namespace shop --service-account web --port http:8080 \
                --user 1000 -- /usr/local/bin/mesh-echo --name web --listen [::]:8080 \
                --control /tmp/web.sock";
    control.ok(&words(line));
    let mut vm = equipped();
    vm.attach(&control, ADDRESSES);
    vm.write("/etc/resolv.conf", "nameserver 192.0.2.1\n");
    (control, vm)
}

/// Brings an invitation to the machine; when nobody can use it any more.
fn invite(control: &Machine, vm: &Machine, seconds: u64) -> Instant {
    let seconds_text = seconds.to_string();
    let mut line = words(INVITE);
    line.push(&seconds_text);
    let invitation = control.ok(&line);
    vm.write("/root/invitation", &invitation);
    Instant::now() + Duration::from_secs(seconds) + LEEWAY
}

/// Who called, as the sidecar of the called has proved it.
fn caller(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap();
    let header = answer.pointer("/headers/x-forwarded-client-cert");
    header
        .and_then(Value::as_str)
        .unwrap_or("nobody")
        .to_owned()
}

fn calls_work_both_ways(control: &Machine, vm: &Machine) {
    let line = "setpriv --reuid=1000 --regid=1000 --clear-groups \
                curl --silent --fail --max-time 5 http://web:8080/only";
    let from_vm = vm.eventually(&words(line));
    assert!(caller(&from_vm).contains("/ns/shop/sa/db"), "{from_vm}");
    let line = "mesh exec web.shop -- \
                curl --silent --fail --max-time 5 http://db.shop.mesh:8080/only";
    let to_vm = control.eventually(&words(line));
    assert!(caller(&to_vm).contains("/ns/shop/sa/web"), "{to_vm}");
}

/// Everything below /etc: kinds, modes, owners, contents.
fn settings(machine: &Machine) -> String {
    let script = "find /etc -printf '%p %y %m %U:%G %l\\n' | sort; \
                  find /etc -type f -exec sha256sum {} + | sort";
    machine.ok(&["sh", "-c", script])
}

fn state(machine: &Machine, verb: &str, unit: &str) -> String {
    let output = machine.run(&["systemctl", verb, unit]);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_vm_joins_starts_anew_with_its_sidecar_and_leaves_without_a_trace() {
    let (control, mut vm) = two_machines();
    vm.write("/root/invitation", "");
    vm.write("/etc/systemd/system/db.service", APPLICATION);
    let (files, etc) = (vm.changes(), settings(&vm));

    let expires = invite(&control, &vm, 45);
    vm.ok(&words(JOIN));
    for unit in ["mesh-redirect", "mesh-agent"] {
        assert_eq!(state(&vm, "is-enabled", unit), "enabled", "{unit}");
        assert_eq!(state(&vm, "is-active", unit), "active", "{unit}");
    }
    assert_eq!(state(&vm, "is-active", "mesh-unconfirmed"), "inactive");
    assert_eq!(vm.user_of("mesh-agent"), "mesh");
    vm.ok(&["systemctl", "enable", "--now", "db"]);
    calls_work_both_ways(&control, &vm);

    // The token is of no use any more: the certificate is.
    while Instant::now() < expires {
        std::thread::sleep(Duration::from_millis(100));
    }
    let before = vm.read("/proc/sys/kernel/random/boot_id");
    vm.reboot();
    assert_ne!(vm.read("/proc/sys/kernel/random/boot_id"), before);
    // With the boot the application is there, behind its sidecar.
    assert_eq!(state(&vm, "is-active", "db"), "active");
    assert_eq!(state(&vm, "is-active", "mesh-agent-ready"), "active");
    calls_work_both_ways(&control, &vm);
    let status = vm.ok(&["mesh", "vm", "status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["rules"], "in force", "{status}");

    // An upgrade cuts no connection: the sidecar goes on, the watcher of the rules is the new one.
    let agent = vm.main_pid("mesh-agent");
    let watcher = vm.main_pid("mesh-redirect");
    let said = vm.ok(&["dpkg", "-i", NEXT]);
    assert!(said.contains("systemctl restart mesh-agent"), "{said}");
    assert_eq!(vm.main_pid("mesh-agent"), agent);
    assert_ne!(vm.main_pid("mesh-redirect"), watcher);
    calls_work_both_ways(&control, &vm);
    vm.ok(&["systemctl", "restart", "mesh-agent"]);
    vm.ok(&["mesh", "agent", "wait", "--timeout", "60s"]);
    calls_work_both_ways(&control, &vm);
    vm.ok(&["dpkg", "-i", NOW]);

    vm.ok(&["systemctl", "disable", "--now", "db"]);
    vm.ok(&["mesh", "vm", "leave", "--drain", "1s"]);
    assert_eq!(vm.ok(&["nft", "list", "ruleset"]), "");
    vm.write("/root/invitation", "");
    assert_eq!(settings(&vm), etc);
    let left: Vec<_> = vm.changes().symmetric_difference(&files).cloned().collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    for unit in ["mesh-redirect", "mesh-agent", "mesh-agent-ready"] {
        assert_eq!(state(&vm, "is-active", unit), "inactive", "{unit}");
    }
}

#[test]
fn systemd_takes_a_join_back_that_nobody_confirms_also_after_a_reboot() {
    let (control, mut vm) = two_machines();
    vm.write("/root/invitation", "");
    let (files, etc) = (vm.changes(), settings(&vm));
    for is_rebooted in [false, true] {
        invite(&control, &vm, 60);
        let within = if is_rebooted { "80s" } else { "15s" };
        let line = JOIN.replace("90s", within) + " --no-confirm";
        vm.ok(&words(&line));
        assert_eq!(state(&vm, "is-active", "mesh-unconfirmed"), "active");
        if is_rebooted {
            vm.reboot();
        }
        let began = Instant::now();
        while vm.exists("/etc/mesh/vm") || state(&vm, "is-active", "mesh-unconfirmed") == "active" {
            assert!(began.elapsed() < PATIENCE, "the join is not taken back");
        }
        assert_eq!(vm.ok(&["nft", "list", "ruleset"]), "");
        assert_eq!(state(&vm, "is-active", "mesh-agent"), "inactive");
        vm.write("/root/invitation", "");
        assert_eq!(settings(&vm), etc);
        let left: Vec<_> = vm.changes().symmetric_difference(&files).cloned().collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}
