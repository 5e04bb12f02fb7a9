//! `mesh vm` under systemd itself: a join that nobody confirms is taken back, also after a reboot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::machine::{Init, Machine, PATIENCE};
use crate::{NOW, machine, program};

/// The VM's addresses, in the network of workloads, where the engine gives none.
const ADDRESSES: [&str; 2] = ["10.213.200.10/16", "fd6d:6573:68d5::c80a/64"];
const INVITE: &str = "mesh vm invite --namespace shop --service-account db --ttl";
const JOIN: &str = "mesh vm join --invite /root/invitation --name db --port http:8080 \
                    --include-uids 1000 --confirm-within 90s";
/// The longest that a token is accepted beyond its time.
const LEEWAY: Duration = Duration::from_secs(6);

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
