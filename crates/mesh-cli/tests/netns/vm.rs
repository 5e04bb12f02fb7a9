//! `mesh vm`: a machine joins, works, starts anew, and leaves without a trace.
//!
//! Needs root, Envoy, `ip`, `nft`, and an overlay file system.

mod init;
mod machine;
mod resolver;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::Value;

use self::machine::{Families, Host, V4, V6, Vm, until};

/// The commands of the README, by which everything here is done.
const README: &str = include_str!("../../../../README.md");
const INVITE: &str = "mesh vm invite --namespace shop --service-account db";
const JOIN: &str =
    "mesh vm join --invite invitation --name db --port http:8080 --include-uids 1000";
const LEAVE: &str = "mesh vm leave --drain";

/// The words of a command of the README, and more.
fn line<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    assert!(README.contains(command), "the README has no `{command}`");
    command.split(' ').chain(more.iter().copied()).collect()
}

/// One request over a connection that stays open; what was answered.
fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /only HTTP/1.1\r\nhost: vm\r\n\r\n")?;
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

fn is_answered(host: &Host, to: &str) -> bool {
    let answer = host.connect(to).and_then(|mut stream| ask(&mut stream));
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Who called, as the sidecar of the called has proved it.
fn caller(outcome: &Value) -> &str {
    assert_eq!(outcome["status"], 200, "{outcome}");
    let header = outcome.pointer("/body/headers/x-forwarded-client-cert");
    header.and_then(Value::as_str).unwrap_or("nobody")
}

/// Calls both ways, with both names, under mutual TLS, by each family.
fn calls_work_both_ways(host: &Host, vm: &Vm<'_>) {
    names_work_both_ways(host, vm);
    virtual_addresses_work(vm, &[false, true]);
}

/// Calls both ways, with both names, under mutual TLS.
fn names_work_both_ways(host: &Host, vm: &Vm<'_>) {
    let from_vm = until("a call from the VM", || {
        let outcome = vm.call("app", "http://web:8080/only");
        (outcome["status"] == 200).then_some(outcome)
    });
    assert_eq!(from_vm["body"]["name"], "web");
    assert!(
        caller(&from_vm).contains("URI=spiffe://cluster.local/ns/shop/sa/db"),
        "{from_vm}"
    );
    let to_vm = until("a call to the VM", || {
        let outcome = host.call("web", "http://db.shop.mesh:8080/only");
        (outcome["status"] == 200).then_some(outcome)
    });
    assert_eq!(to_vm["body"]["name"], "app");
    assert!(
        caller(&to_vm).contains("URI=spiffe://cluster.local/ns/shop/sa/web"),
        "{to_vm}"
    );
}

/// By its virtual addresses a captured connection is told.
fn virtual_addresses_work(vm: &Vm<'_>, families: &[bool]) {
    let found = vm.resolve("app", "web.shop.mesh");
    let addresses: Vec<&str> = found
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for &is_v6 in families {
        let address = addresses
            .iter()
            .find(|address| address.contains(':') == is_v6)
            .unwrap();
        let to = if is_v6 {
            format!("[{address}]:8080")
        } else {
            format!("{address}:8080")
        };
        let answer = vm.exchange(
            "app",
            &to,
            "GET /only HTTP/1.1\r\nhost: web.shop.mesh:8080\r\n\r\n",
        );
        assert!(
            answer.contains("URI=spiffe://cluster.local/ns/shop/sa/db"),
            "{to}: {answer}"
        );
    }
}

fn plaintext_is_refused_and_ssh_is_not(host: &Host) {
    for address in [V4.to_owned(), format!("[{V6}]")] {
        assert!(
            !is_answered(host, &format!("{address}:8080")),
            "{address} takes plaintext"
        );
        assert!(
            is_answered(host, &format!("{address}:22")),
            "{address} has no ssh"
        );
        // A port that nobody declared is nobody's business.
        assert!(is_answered(host, &format!("{address}:9999")), "{address}");
    }
}

fn other_users_are_untouched(vm: &Vm<'_>, last: &str) {
    // The sidecar alone knows the names of the mesh; others it asks of the machine's resolver.
    let found = vm.resolve("other", "web.shop.mesh");
    assert!(found.get("error").is_some(), "{found}");
    for user in ["app", "other"] {
        let found = vm.resolve(user, resolver::NAME);
        assert_eq!(
            found,
            serde_json::json!([resolver::KNOWN.map(|part| part.to_string()).join(".")])
        );
    }
    // The captured user's call comes later, and the log is in order.
    let outcome = vm.call("other", "http://10.213.0.1:15014/ready");
    assert_eq!(outcome["status"], 200, "{outcome}");
    vm.call("app", &format!("http://web:8080/only/{last}"));
    let log = until("the log", || {
        let log = vm.log("mesh-agent.service");
        log.contains(&format!("/only/{last}")).then_some(log)
    });
    assert!(
        !log.contains("to=10.213.0.1:15014"),
        "another user's connection went to Envoy"
    );
}

/// The programs of the machine: the service, a user that is not captured, and what stands for sshd.
fn serve(vm: &Vm<'_>) {
    vm.serve("app", 1000, 8080);
    vm.serve("other", 1001, 9999);
    vm.serve("sshd", 0, 22);
}

/// The service answers past every sidecar, as it does where no mesh is.
fn everybody_is_answered(host: &Host, addresses: &[String], when: &str) {
    for address in addresses {
        assert!(
            is_answered(host, &format!("{address}:8080")),
            "{address} {when}"
        );
    }
}

/// What joining wrote is what systemd takes for units, and the token is for nobody else.
fn files_are_in_order(vm: &Vm<'_>) {
    let units = [
        "mesh-redirect.service",
        "mesh-agent.service",
        "mesh-agent-ready.service",
    ];
    for unit in units {
        let path = format!("/etc/systemd/system/{unit}");
        let verified = vm.says(&["systemd-analyze", "verify", "--man=no", &path]);
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        let ours: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("/mesh-"))
            .collect();
        assert!(verified.status.success() && ours.is_empty(), "{said}");
    }
    let token = vm.outside("/var/lib/mesh-agent/token");
    let mode = std::os::unix::fs::MetadataExt::mode(&token.metadata().unwrap()) & 0o777;
    assert_eq!(mode, 0o600);
}

fn invite(host: &Host, vm: &Vm<'_>, seconds: &str) -> String {
    let invitation = host.ok(&line(INVITE, &["--ttl", seconds]));
    fs::write(vm.outside("/tmp/invitation"), &invitation).unwrap();
    invitation
}

/// Waits until the token of an invitation is refused for its age, the servers' leeway included.
fn wait_until_expired(invitation: &str) {
    let decoded =
        |text: &str| -> Value { serde_json::from_slice(&BASE64.decode(text).unwrap()).unwrap() };
    let invitation = decoded(invitation.trim().split('.').nth(1).unwrap());
    let claims = decoded(
        invitation["token"]
            .as_str()
            .unwrap()
            .split('.')
            .nth(1)
            .unwrap(),
    );
    let over = UNIX_EPOCH + Duration::from_secs(claims["exp"].as_u64().unwrap() + 6);
    until("the token's end", || {
        (SystemTime::now() > over).then_some(())
    });
}

#[test]
fn a_machine_joins_works_starts_anew_and_leaves_without_a_trace() {
    let host = Host::new();
    host.ok(&["mesh", "up"]);
    host.workload("web");
    let mut vm = Vm::new(&host, "vm");
    serve(&vm);
    let (files, rules) = (vm.tree(), vm.ruleset());
    let both = [V4.to_owned(), format!("[{V6}]")];
    let ssh = both
        .each_ref()
        .map(|address| host.connect(&format!("{address}:22")).unwrap());
    let mut ssh = ssh.map(|mut stream| {
        ask(&mut stream).unwrap();
        stream
    });
    everybody_is_answered(&host, &both, "before joining");

    nothing_is_done_where_it_cannot_be(&vm);
    assert_eq!(vm.tree(), files);

    invite(&host, &vm, "600");
    let addresses = ["--address", V4, "--address", V6];
    vm.ok(&line(JOIN, &addresses));
    // Again: a new token, and nothing else without leaving first.
    let invitation = invite(&host, &vm, "12");
    vm.ok(&line(JOIN, &addresses));
    let other = vm.says(&line(
        JOIN,
        &[&addresses[..], &["--label", "version=v2"]].concat(),
    ));
    assert_eq!(other.status.code(), Some(5), "{other:?}");
    let status: Value = serde_json::from_str(&vm.ok(&["mesh", "vm", "status", "--json"])).unwrap();
    assert_eq!(
        status["identity"], "spiffe://cluster.local/ns/shop/sa/db",
        "{status}"
    );
    assert_eq!(
        (&status["confirmed"], &status["rules"]),
        (&true.into(), &"in force".into())
    );
    files_are_in_order(&vm);

    calls_work_both_ways(&host, &vm);
    plaintext_is_refused_and_ssh_is_not(&host);
    other_users_are_untouched(&vm, "first-boot");
    for stream in &mut ssh {
        assert!(
            ask(stream).unwrap().starts_with("HTTP/1.1 200"),
            "ssh of before is cut"
        );
    }
    assert!(!vm.init.as_ref().unwrap().runs("mesh-unconfirmed.service"));

    // The power fails, and the token is of no use any more: the certificate is.
    wait_until_expired(&invitation);
    vm.reboot();
    let started = vm.init.as_ref().unwrap().started();
    assert_eq!(started, ["mesh-redirect.service", "mesh-agent.service"]);
    vm.ok(&["systemctl", "start", "mesh-agent-ready.service"]);
    serve(&vm);
    calls_work_both_ways(&host, &vm);
    plaintext_is_refused_and_ssh_is_not(&host);
    other_users_are_untouched(&vm, "second-boot");

    // It leaves; connections through the sidecar had their time.
    vm.ok(&line(LEAVE, &["2s"]));
    assert_eq!(vm.tree(), files);
    assert_eq!(vm.ruleset(), rules);
    everybody_is_answered(&host, &both, "after leaving");

    // With the old invitation nobody joins.
    fs::write(vm.outside("/tmp/invitation"), &invitation).unwrap();
    let refused = vm.says(&line(JOIN, &["--confirm-within", "3s"]));
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("make a new invitation"),
        "{refused:?}"
    );
    assert_eq!(vm.tree(), files);
    assert_eq!(vm.ruleset(), rules);
}

#[test]
fn a_machine_without_ipv4_joins_a_control_plane_without_ipv4() {
    let host = Host::new();
    // The network of the workloads is of both families.
    host.ok(&["mesh", "up"]);
    let mesh = host.serve_v6();
    host.workload_of("web", &mesh);
    let mut vm = Vm::with(&host, "vm", Families::V6);
    serve(&vm);
    let (files, rules) = (vm.tree(), vm.ruleset());
    let invitation = host.ok(&[&["env", &mesh][..], &line(INVITE, &["--ttl", "60"])].concat());
    fs::write(vm.outside("/tmp/invitation"), &invitation).unwrap();
    vm.ok(&line(JOIN, &[]));
    let config = fs::read_to_string(vm.outside("/etc/mesh/vm/agent.json")).unwrap();
    assert!(config.contains(&format!("\"{V6}\"")), "{config}");
    assert!(!config.contains("10.213."), "{config}");
    names_work_both_ways(&host, &vm);
    virtual_addresses_work(&vm, &[true]);
    let ssh = format!("[{V6}]:22");
    assert!(is_answered(&host, &ssh));

    vm.reboot();
    vm.ok(&["systemctl", "start", "mesh-agent-ready.service"]);
    serve(&vm);
    names_work_both_ways(&host, &vm);
    vm.ok(&line(LEAVE, &["1s"]));
    assert_eq!(vm.tree(), files);
    assert_eq!(vm.ruleset(), rules);
    assert!(is_answered(&host, &format!("[{V6}]:8080")));
}

#[test]
fn connections_that_outlive_the_drain_end_with_the_sidecar_and_others_go_on() {
    let host = Host::new();
    host.ok(&["mesh", "up"]);
    host.workload("web");
    let vm = Vm::new(&host, "vm");
    serve(&vm);
    let mut ssh = host.connect(&format!("{V4}:22")).unwrap();
    ask(&mut ssh).unwrap();
    invite(&host, &vm, "60");
    vm.ok(&line(JOIN, &[]));
    calls_work_both_ways(&host, &vm);
    let found = vm.resolve("app", "web.shop.mesh");
    let found = found.as_array().unwrap().iter().filter_map(Value::as_str);
    let mut held: Vec<_> = found
        .map(|address| {
            // A keep-alive connection that nobody uses for the moment, as pools have them.
            let script = r#"exec 3<>"/dev/tcp/$0/8080"
                printf 'GET /only HTTP/1.1\r\nhost: web.shop.mesh:8080\r\n\r\n' >&3
                head -c 12 <&3; echo; timeout 20 cat <&3 >/dev/null && echo ended"#;
            let user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
            let line = [&user[..], &["bash", "-c", script, address]].concat();
            let mut child = vm.command(&line).stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            assert_eq!(first, "HTTP/1.1 200", "{address}");
            (child, lines)
        })
        .collect();
    assert_eq!(held.len(), 2);

    let began = Instant::now();
    let left = vm.says(&line(LEAVE, &["2s"]));
    assert!(left.status.success(), "{left:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{left:?}");
    let said = String::from_utf8_lossy(&left.stderr);
    assert!(said.contains("had not ended in time: "), "{said}");
    // Whoever waits for an answer is told that none comes.
    for (child, lines) in &mut held {
        assert_eq!(lines.next().unwrap().unwrap(), "ended");
        child.wait().unwrap();
    }
    assert!(
        ask(&mut ssh).unwrap().starts_with("HTTP/1.1 200"),
        "ssh is cut"
    );
}

#[test]
fn a_join_that_cannot_work_says_why_and_leaves_nothing() {
    let host = Host::new();
    host.ok(&["mesh", "up"]);
    let vm = Vm::new(&host, "vm");
    serve(&vm);
    // Written below and put back, so it is one of the machine's own files from here on.
    let passwd = fs::read_to_string(vm.outside("/etc/passwd")).unwrap();
    fs::write(vm.outside("/etc/passwd"), &passwd).unwrap();
    let (files, rules) = (vm.tree(), vm.ruleset());
    let refused = |line: &[&str], code: i32, words: &[&str]| {
        let said = vm.says(line);
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(code), "{line:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{line:?} says no `{word}`: {text}");
        }
        assert_eq!(vm.tree(), files, "{line:?}");
        assert_eq!(vm.ruleset(), rules, "{line:?}");
    };
    let within = ["--confirm-within", "8s"];
    let write = |text: &str| fs::write(vm.outside("/tmp/invitation"), text).unwrap();

    // What can be seen before anything is changed.
    write("mesh-invite-1.e30");
    refused(&line(JOIN, &[]), 2, &["the invitation is damaged"]);
    let invitation = invite(&host, &vm, "120");
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    let absolute = JOIN.replacen("mesh", "/mnt/mesh", 1);
    let without_envoy: Vec<_> = ["env", path]
        .into_iter()
        .chain(absolute.split(' '))
        .collect();
    refused(&without_envoy, 4, &["no `envoy` in PATH", "--envoy"]);
    vm.serve("squatter", 1001, 15006);
    refused(&line(JOIN, &[]), 4, &["15006", "in use"]);
    // Who has the number of the proxy.
    let alice = "alice:x:1337:1337::/home/alice:/bin/sh\n";
    fs::write(vm.outside("/etc/passwd"), format!("{passwd}{alice}")).unwrap();
    let said = vm.says(&line(JOIN, &[]));
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("alice"),
        "{said:?}"
    );
    fs::write(vm.outside("/etc/passwd"), &passwd).unwrap();
    vm.ok(&["pkill", "--full", "--", "--name squatter"]);
    until("the port", || {
        vm.says(&["bash", "-c", "echo > /dev/tcp/127.0.0.1/15006"])
            .status
            .code()
            .filter(|code| *code != 0)
    });

    // What the CA says.
    let mut wrong = decoded(&invitation);
    wrong["root_hashes"] = serde_json::json!(["ab".repeat(32)]);
    write(&encoded(&wrong));
    refused(&line(JOIN, &[]), 1, &["root", "nothing was changed"]);
    let mut wrong = decoded(&invitation);
    wrong["token"] = "e30.e30.e30".into();
    write(&encoded(&wrong));
    refused(&line(JOIN, &[]), 5, &["token", "nothing was changed"]);
    let mut wrong = decoded(&invitation);
    wrong["service_account"] = "other".into();
    write(&encoded(&wrong));
    refused(&line(JOIN, &[]), 1, &["sa/other", "nothing was changed"]);
    let mut wrong = decoded(&invitation);
    wrong["cas"] = serde_json::json!(["10.213.0.1:1"]);
    write(&encoded(&wrong));
    refused(&line(JOIN, &[]), 1, &["10.213.0.1:1", "no CA answered"]);

    // What only the sidecar sees is taken back: Pilot is nowhere.
    let mut wrong = decoded(&invitation);
    wrong["pilots"] = serde_json::json!(["10.213.0.1:1"]);
    write(&encoded(&wrong));
    refused(
        &line(JOIN, &within),
        1,
        &["not ready", "taking everything back"],
    );
}

/// What is in an invitation.
fn decoded(invitation: &str) -> Value {
    let encoded = invitation.trim().split_once('.').unwrap().1;
    serde_json::from_slice(&BASE64.decode(encoded).unwrap()).unwrap()
}

fn encoded(invitation: &Value) -> String {
    format!("mesh-invite-1.{}", BASE64.encode(invitation.to_string()))
}

#[test]
fn a_join_that_nobody_confirms_comes_to_nothing() {
    let host = Host::new();
    host.ok(&["mesh", "up"]);
    let mut vm = Vm::new(&host, "vm");
    serve(&vm);
    let (files, rules) = (vm.tree(), vm.ruleset());
    nobody_confirms(&host, &mut vm);
    assert_eq!(vm.tree(), files);
    assert_eq!(vm.ruleset(), rules);
}

#[test]
fn a_machine_joins_with_the_units_of_a_package_and_without_systemd() {
    let host = Host::new();
    host.ok(&["mesh", "up"]);
    host.workload("web");
    let vm = Vm::new(&host, "vm");
    serve(&vm);
    let (files, rules) = (vm.tree(), vm.ruleset());
    by_hand(&host, &vm);
    assert_eq!(vm.tree(), files);
    assert_eq!(vm.ruleset(), rules);

    packaged(&vm);
    let files = vm.tree();
    invite(&host, &vm, "60");
    vm.ok(&line(JOIN, &[]));
    assert!(
        !vm.outside("/etc/systemd/system/mesh-agent.service")
            .exists()
    );
    calls_work_both_ways(&host, &vm);
    vm.ok(&line(LEAVE, &["2s"]));
    assert_eq!(vm.tree(), files);
    assert_eq!(vm.ruleset(), rules);
}

/// What the package installs: units that name its binary and its user.
fn packaged(vm: &Vm<'_>) {
    fs::create_dir_all(vm.outside("/run/systemd/system")).unwrap();
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/package/systemd");
    for entry in fs::read_dir(units).unwrap() {
        let entry = entry.unwrap();
        let to = vm
            .outside("/usr/lib/systemd/system")
            .join(entry.file_name());
        fs::copy(entry.path(), to).unwrap();
    }
    let passwd = fs::read_to_string(vm.outside("/etc/passwd")).unwrap();
    let own = "mesh:x:1337:1337::/nonexistent:/usr/sbin/nologin\n";
    fs::write(vm.outside("/etc/passwd"), passwd + own).unwrap();
    vm.ok(&[
        "bash",
        "-c",
        "touch /usr/bin/mesh && mount --bind /mnt/mesh /usr/bin/mesh",
    ]);
}

/// Wrong options, a dry run, and a machine that systemd does not run.
fn nothing_is_done_where_it_cannot_be(vm: &Vm<'_>) {
    let parts = [
        "mesh",
        "vm",
        "join",
        "--namespace",
        "shop",
        "--service-account",
        "db",
        "--token-file",
        "/run/boot_id",
        "--pilot",
        "10.213.0.1:15012",
        "--ca",
        "10.213.0.1:15012",
        "--root-sha256",
        "abababababababababababababababababababababababababababababababab",
    ];
    let says = |more: &[&str]| {
        let output = vm.says(&[&parts[..], more].concat());
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(said).unwrap(),
        )
    };
    let (code, said) = says(&["--port", "http:22", "--port", "tcp:15006"]);
    assert_eq!(code, 2, "{said}");
    for part in ["--include-uids", "`22`", "`15006`"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let (code, said) = says(&["--include-uids", "1000", "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    let token = fs::read_to_string(vm.outside("/run/boot_id")).unwrap();
    assert!(!said.contains(token.trim()), "the token is shown: {said}");
    for part in [
        "/etc/mesh/vm/redirect.json",
        "\"shop/db-1\"",
        V4,
        "User=1337",
        "(not shown)",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let booted = vm.outside("/run/systemd/system");
    fs::remove_dir(&booted).unwrap();
    let (code, said) = says(&["--include-uids", "1000"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("--init none"), "{said}");
    fs::create_dir(&booted).unwrap();
}

/// Without systemd: what is printed is run, line by line.
fn by_hand(host: &Host, vm: &Vm<'_>) {
    let booted = vm.outside("/run/systemd/system");
    fs::remove_dir(&booted).unwrap();
    invite(host, vm, "60");
    let said = vm.ok(&line(JOIN, &["--init", "none", "--confirm-within", "20s"]));
    let lines: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .collect();
    let script = format!(
        "set -e\nexec > /tmp/by-hand.log 2>&1\n{}\njobs -p > /tmp/jobs",
        lines.join("\n")
    );
    vm.ok(&["bash", "-c", &script]);
    calls_work_both_ways(host, vm);
    plaintext_is_refused_and_ssh_is_not(host);
    let early = vm.says(&["mesh", "vm", "leave"]);
    assert!(
        String::from_utf8_lossy(&early.stderr).contains("still runs"),
        "{early:?}"
    );
    vm.ok(&["bash", "-c", "kill $(cat /tmp/jobs) || true"]);
    until("the verdict's age", || {
        vm.says(&["mesh", "vm", "leave"])
            .status
            .success()
            .then_some(())
    });
}

/// A join that nobody confirms comes to nothing: by itself, and after the power has failed.
fn nobody_confirms(host: &Host, vm: &mut Vm<'_>) {
    let record = "/etc/mesh/vm/join.json";
    invite(host, vm, "60");
    let unconfirmed = |within| line(JOIN, &["--no-confirm", "--confirm-within", within]);
    vm.ok(&unconfirmed("4s"));
    assert!(vm.outside(record).exists() && vm.ruleset().contains("mesh_mesh"));
    assert!(
        !is_answered(host, &format!("{V4}:8080")),
        "the rules are in force for a time"
    );
    let began = Instant::now();
    until("the end of the time", || {
        (!vm.outside(record).exists() && !vm.init.as_ref()?.runs("mesh-unconfirmed.service"))
            .then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(is_answered(host, &format!("{V4}:8080")));
    assert!(!vm.init.as_ref().unwrap().runs("mesh-agent.service"));

    invite(host, vm, "60");
    vm.ok(&unconfirmed("60s"));
    vm.reboot();
    serve(vm);
    let started = vm.init.as_ref().unwrap().started();
    assert_eq!(started, ["mesh-unconfirmed.service"]);
    until("the join to be taken back", || {
        (!vm.outside(record).exists() && !vm.init.as_ref()?.runs("mesh-unconfirmed.service"))
            .then_some(())
    });
}
