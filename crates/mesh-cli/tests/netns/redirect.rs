//! `mesh redirect` as a user calls it, in real network namespaces.
//!
//! Needs root, `ip`, `nft` and both variants of iptables.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A network namespace with a name, which is gone when this is dropped.
struct Namespace(String);

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Namespace {
    fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mesh-cli-{}-{number}", std::process::id());
        let added = ip(&["netns", "add", &name]);
        assert!(added.status.success(), "needs root: {added:?}");
        let namespace = Self(name);
        assert!(
            namespace
                .exec("ip", &["link", "set", "lo", "up"])
                .status
                .success()
        );
        namespace
    }

    /// Runs a program inside.
    fn exec(&self, program: &str, arguments: &[&str]) -> Output {
        ip(&[&["netns", "exec", &self.0, program], arguments].concat())
    }

    /// `mesh redirect` with these words, from outside.
    fn redirect(&self, words: &[&str]) -> Output {
        mesh(&[&["redirect", words[0], "--netns", &self.0], &words[1..]].concat())
    }

    fn ruleset(&self) -> String {
        text(&self.exec("nft", &["list", "ruleset"]).stdout)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(ip(&["netns", "delete", &self.0]));
    }
}

fn ip(arguments: &[&str]) -> Output {
    Command::new("ip").args(arguments).output().unwrap()
}

fn mesh(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(arguments)
        .env_remove("SSH_CONNECTION")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn rules_come_are_checked_and_go() {
    let namespace = Namespace::new();
    let before = namespace.ruleset();
    let applied = json(&namespace.redirect(&["apply", "--json"]));
    assert_eq!(applied["applied"], "created");
    assert_eq!(
        json(&namespace.redirect(&["apply", "--json"]))["applied"],
        "unchanged"
    );
    assert_eq!(code(&namespace.redirect(&["verify"])), 0);
    assert_eq!(code(&namespace.redirect(&["diff"])), 0);
    // Another policy than the one that is there.
    assert_eq!(code(&namespace.redirect(&["verify", "-o", "9090"])), 3);
    let diff = namespace.redirect(&["diff", "-o", "9090"]);
    assert_eq!(code(&diff), 3);
    assert!(text(&diff.stdout).contains("9090"), "{diff:?}");
    // The same policy, and somebody who has meddled.
    assert!(
        namespace
            .exec("nft", &["flush", "chain", "inet", "mesh_mesh", "nat_out"])
            .status
            .success()
    );
    assert_eq!(code(&namespace.redirect(&["verify"])), 3);
    let status = json(&namespace.redirect(&["status", "--json"]));
    assert_eq!(status["instances"][0]["is_intact"], false);
    assert_eq!(code(&namespace.redirect(&["remove"])), 0);
    assert_eq!(namespace.ruleset(), before);
}

#[test]
fn every_backend_can_be_named() {
    for backend in ["netlink", "iptables-nft", "iptables-legacy"] {
        let namespace = Namespace::new();
        let applied = namespace.redirect(&["apply", "--json", "--backend", backend]);
        assert_eq!(json(&applied)["backend"], backend, "{applied:?}");
        let verified = namespace.redirect(&["verify", "--backend", backend]);
        assert_eq!(code(&verified), 0, "{verified:?}");
        assert_eq!(
            code(&namespace.redirect(&["remove", "--backend", backend])),
            0
        );
    }
}

#[test]
fn the_real_tools_accept_what_plan_prints() {
    let namespace = Namespace::new();
    for options in [
        &[][..],
        &[
            "-m",
            "tproxy",
            "--drop-invalid",
            "-x",
            "10.0.0.0/8,fd00::/8",
            "-o",
            "22,8000-8010",
        ],
        &[
            "--compat",
            "prepare_proxy",
            "-p",
            "15001",
            "-u",
            "1337",
            "-i",
            "10.0.0.0/8",
        ],
        &[
            "-c",
            "eth1;x,{a}",
            "-k",
            "docker0",
            "--include-uids",
            "2000-2999",
            "--guard",
            "drop",
        ],
    ] {
        let plan = |form: &[&str]| {
            let output = mesh(&[&["redirect", "plan"], options, form].concat());
            assert_eq!(code(&output), 0, "{output:?}");
            output.stdout
        };
        let accepts = |program: &str, arguments: &[&str], input: &[u8]| {
            let path = std::env::temp_dir().join(format!("{}.rules", namespace.0));
            std::fs::write(&path, input).unwrap();
            let arguments = [arguments, &[path.to_str().unwrap()]].concat();
            let output = namespace.exec(program, &arguments);
            assert!(output.status.success(), "{program} {options:?} {output:?}");
            std::fs::remove_file(path).unwrap();
        };
        accepts("nft", &["-c", "-f"], &plan(&["--as", "nft"]));
        for variant in ["nft", "legacy"] {
            let v4 = format!("iptables-{variant}-restore");
            let v6 = format!("ip6tables-{variant}-restore");
            let restore = ["--test", "--noflush"];
            accepts(&v4, &restore, &plan(&["--as", "iptables", "--family", "4"]));
            accepts(&v6, &restore, &plan(&["--as", "iptables", "--family", "6"]));
        }
        assert_eq!(namespace.ruleset(), "", "nothing is set by asking");
        serde_json::from_slice::<Value>(&plan(&["--as", "json"])).unwrap();
    }
}

#[test]
fn the_old_script_s_name_gives_the_old_script_s_meaning() {
    let namespace = Namespace::new();
    let script = |arguments: &[&str]| {
        let mut line = vec!["netns", "exec", &namespace.0];
        line.extend(["bash", "-c", "exec -a prepare_proxy.sh \"$0\" \"$@\""]);
        line.push(env!("CARGO_BIN_EXE_mesh"));
        line.extend(arguments);
        ip(&line)
    };
    let applied = script(&["-p", "15001", "-u", "1337"]);
    assert_eq!(code(&applied), 0, "{applied:?}");
    let ruleset = namespace.ruleset();
    assert!(ruleset.contains("redirect to :15001"), "{ruleset}");
    assert!(!ruleset.contains("15006"), "{ruleset}");
    // Again, which was an error of the script's.
    assert_eq!(code(&script(&["-p", "15001", "-u", "1337"])), 0);
    let wrong = script(&["-p", "15001"]);
    assert_eq!(code(&wrong), 2);
    assert!(text(&wrong.stderr).contains("-u"), "{wrong:?}");
    // Without the old name or --compat, inbound has a port of its own.
    assert_eq!(
        code(&namespace.redirect(&["apply", "-p", "15001", "-u", "1337"])),
        0
    );
    assert!(namespace.ruleset().contains("redirect to :15006"));
}

/// `mesh` with these words as process 1 of a machine that is nothing but a namespace, so that the
/// host's own namespace is not this machine's.
fn on_a_host(script: &str) -> Output {
    Command::new("unshare")
        .args([
            "--fork",
            "--pid",
            "--mount-proc",
            "--net",
            "bash",
            "-c",
            script,
        ])
        .arg(env!("CARGO_BIN_EXE_mesh"))
        .env("SSH_CONNECTION", "203.0.113.7 50022 192.0.2.1 2222")
        .output()
        .unwrap()
}

#[test]
fn the_host_s_own_namespace_is_refused_with_the_line_to_use_instead() {
    let refused = on_a_host(r#""$0" redirect apply --compat prepare_proxy -p 15001 -u 1337"#);
    assert_eq!(code(&refused), 5, "{refused:?}");
    let said = text(&refused.stderr);
    let instead = "mesh redirect apply --compat prepare_proxy -p 15001 -u 1337 \
                   --allow-host-network --include-uids UID,UID --confirm-within 60s";
    assert!(said.contains(instead), "{said}");
    // Allowed, and still refused: whose connections?
    let refused = on_a_host(r#""$0" redirect apply --allow-host-network"#);
    assert_eq!(code(&refused), 5, "{refused:?}");
    assert!(
        text(&refused.stderr).contains("--include-uids"),
        "{refused:?}"
    );
}

#[test]
fn with_a_list_of_users_the_host_is_captured_for_a_time_and_ssh_is_not() {
    let applied = on_a_host(
        r#"set -e
           "$0" redirect apply --allow-host-network --include-uids 1000 --confirm-within 60s
           "$0" redirect status
           "$0" redirect confirm
           "$0" redirect status"#,
    );
    assert_eq!(code(&applied), 0, "{applied:?}");
    let said = text(&applied.stdout);
    for part in [
        "unless you confirm",
        "unconfirmed:",
        "the rules stay",
        "2222",
        "203.0.113.7",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn the_watcher_of_a_host_holds_to_what_was_applied_there() {
    let watched = on_a_host(
        r#"set -e
           "$0" redirect apply --allow-host-network --include-uids 1000
           "$0" redirect confirm
           "$0" redirect watch --allow-host-network --include-uids 1000 --verdict /dev/shm/$$ &
           until [ -e /dev/shm/$$ ]; do :; done
           cat /dev/shm/$$; rm /dev/shm/$$
           kill $!; wait $! || true
           "$0" redirect status"#,
    );
    assert_eq!(code(&watched), 0, "{watched:?}");
    let (said, log) = (text(&watched.stdout), text(&watched.stderr));
    assert!(said.contains(r#""state":"intact""#), "{said}");
    assert!(said.contains("2222"), "{said}");
    assert!(!log.contains("repaired"), "{log}");
}

#[test]
fn rules_that_nobody_confirms_are_undone() {
    let namespace = Namespace::new();
    let apply = ["apply", "--confirm-within", "1s"];
    assert_eq!(code(&namespace.redirect(&apply)), 0);
    let left = json(&namespace.redirect(&["status", "--json"]));
    assert!(left["instances"][0]["unconfirmed"].is_object(), "{left}");
    let deadline = Instant::now() + Duration::from_secs(20);
    // The kernel undoes them; asking is how one learns of it.
    loop {
        let status = json(&namespace.redirect(&["status", "--json"]));
        let left = &status["instances"][0]["unconfirmed"];
        if left.is_null() || (left["secs"] == 0 && left["nanos"] == 0) {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
    }
    assert_eq!(code(&namespace.redirect(&["confirm"])), 1);
    assert_eq!(code(&namespace.redirect(&apply)), 0);
    assert_eq!(code(&namespace.redirect(&["confirm"])), 0);
    assert_eq!(code(&namespace.redirect(&["verify"])), 0);
    assert_eq!(code(&namespace.redirect(&["confirm"])), 0);
}

#[test]
fn a_probe_fails_where_rules_are_missing_and_holds_where_they_are() {
    let namespace = Namespace::new();
    assert_eq!(code(&namespace.redirect(&["apply", "--probe"])), 0);
    assert_eq!(code(&namespace.redirect(&["remove"])), 0);
    let failed = namespace.redirect(&["probe", "--patience", "200ms"]);
    assert_eq!(code(&failed), 6, "{failed:?}");
}

#[test]
fn explain_names_the_rule_that_decides() {
    let said = |words: &[&str]| {
        let output = mesh(&[&["redirect", "explain", "--packet"], words].concat());
        assert_eq!(code(&output), 0, "{output:?}");
        text(&output.stdout).lines().last().unwrap().to_owned()
    };
    assert!(said(&["tcp:10.0.0.5:80", "--uid", "1000"]).contains("15001"));
    assert!(said(&["tcp:10.0.0.5:80", "--uid", "1337"]).contains("own traffic would loop"));
    assert!(said(&["tcp:10.0.0.5:80", "--uid", "1337", "--interface", "lo"]).contains("15006"));
    assert!(said(&["udp:[fd00::53]:53"]).contains("15053"));
    assert!(said(&["tcp:10.0.0.5:15021", "--direction", "in"]).contains("excluded port"));
    assert!(said(&["tcp:10.0.0.5:80", "-x", "10.0.0.0/8"]).contains("excluded destination"));
}

#[test]
fn watch_repairs_and_says_so_in_its_file() {
    let namespace = Namespace::new();
    assert_eq!(code(&namespace.redirect(&["apply"])), 0);
    let file = std::env::temp_dir().join(format!("{}.verdict", namespace.0));
    let path = file.to_str().unwrap();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args([
            "redirect",
            "watch",
            "--netns",
            &namespace.0,
            "--verdict",
            path,
        ])
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let state = |path: &Path| {
        let text = std::fs::read(path).unwrap_or_default();
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        value["state"].as_str().unwrap_or("none").to_owned()
    };
    let until = |what: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !what() {
            assert!(Instant::now() < deadline, "{}", state(&file));
            std::thread::yield_now();
        }
    };
    until(&|| state(&file) == "intact");
    assert!(
        namespace
            .exec("nft", &["flush", "ruleset"])
            .status
            .success()
    );
    until(&|| code(&namespace.redirect(&["verify"])) == 0);
    until(&|| state(&file) == "intact");
    watch.kill().unwrap();
    watch.wait().unwrap();
    std::fs::remove_file(file).unwrap();
}

#[test]
fn what_is_wrong_with_a_line_is_told_at_once() {
    let wrong = mesh(&[
        "redirect", "apply", "-p", "0", "-u", "root", "--netns", "pid:1",
    ]);
    assert_eq!(code(&wrong), 2);
    let said = text(&wrong.stderr);
    assert!(
        said.contains("--outbound-port") && said.contains("--proxy-uid"),
        "{said}"
    );
    assert_eq!(code(&mesh(&["redirect", "aply"])), 2);
    assert_eq!(code(&mesh(&["redirect", "--help"])), 0);
    assert_eq!(code(&mesh(&["-v", "redirect", "apply", "--help"])), 0);
}
