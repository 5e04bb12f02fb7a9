//! The outside comes in by the gateways of an install: over TLS with a certificate of a Secret, to
//! an injected workload, and only while a Gateway says so.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mesh_nomad::client::Stop;
use mesh_nomad::model::{Job, JobDocument};
use serde_json::json;

use crate::install::{NODE, traces};
use crate::lab::{Lab, PATIENCE, until, with_agent_of};
use crate::program::{MESH, Mesh, Said};

/// What the application answers.
const ANSWER: &str = "from-inside";

/// What binds the host to the workload at the gateways.
const EDGE: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [shop.example.com]
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [shop.example.com]
    tls: {mode: SIMPLE, credentialName: shop}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec:
  hosts: [shop.example.com]
  gateways: [edge]
  http:
  - route: [{destination: {host: web, port: {number: 8080}}}]
";

/// A job that answers, as `mesh inject` makes it.
fn web() -> Job {
    let length = ANSWER.len();
    let script = format!(
        r#"$s = IO::Socket::INET->new(LocalPort => 8080, Listen => 9, ReuseAddr => 1) or die $!;
        while ($c = $s->accept) {{
            while (<$c>) {{ last if /^\r?$/ }}
            print $c "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{ANSWER}";
            close $c;
        }}"#
    );
    let job = json!({ "Job": {
        "ID": "web", "Name": "web", "Type": "service", "Datacenters": ["*"],
        "TaskGroups": [{
            "Name": "web", "Count": 1,
            "Networks": [{
                "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }],
            }],
            "Services": [{ "Name": "web", "PortLabel": "http", "Provider": "nomad" }],
            "EphemeralDisk": { "SizeMB": 20 },
            "Tasks": [{
                "Name": "main", "Driver": "raw_exec", "User": "nobody",
                "Config": {
                    "command": "/usr/bin/perl", "args": ["-MIO::Socket::INET", "-e", script],
                },
                "Resources": { "CPU": 20, "MemoryMB": 32 },
                "LogConfig": { "MaxFiles": 1, "MaxFileSizeMB": 1 },
            }],
        }],
    } });
    let mut child = Command::new(MESH)
        .args(["inject", "--mode", "cni", "--program", MESH, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(job.to_string().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let document: JobDocument = serde_json::from_slice(&output.stdout).unwrap();
    document.into_job()
}

/// Tasks are users that may not look into a directory of root's.
fn open(lab: &Lab) {
    for directory in [lab.directory().to_owned(), lab.directory().join("data")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A certificate for the host that signs itself, and its key.
fn certificate(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (own, key) = (
        directory.join(format!("{name}.crt")),
        directory.join(format!("{name}.key")),
    );
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                 -subj /CN=shop -addext subjectAltName=DNS:shop.example.com";
    let made = Command::new("openssl")
        .args(words.split_whitespace())
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&own)
        .output()
        .unwrap_or_else(|error| panic!("the nomad ring needs openssl: {error}"));
    assert!(made.status.success(), "{made:?}");
    (own, key)
}

/// A request from outside the mesh to the gateways of the node; in HTTP/1.1, for that is what the
/// application speaks, and what callers speak is passed on.
fn curl(url: &str, roots: &Path) -> Said {
    let output = Command::new("curl")
        // Of HTTP/2, as browsers: the application knows HTTP/1.1 alone.
        .args(["--silent", "--show-error", "--max-time", "5", "--fail"])
        .args(["--connect-to", "::10.20.0.1:", "--cacert"])
        .arg(roots)
        .arg(url)
        .output()
        .unwrap_or_else(|error| panic!("the nomad ring needs curl: {error}"));
    Said::from(output)
}

async fn answers(what: &str, url: &str, roots: &Path) {
    let start = Instant::now();
    loop {
        let said = curl(url, roots);
        if said.out.contains(ANSWER) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {said:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn gateways_let_the_outside_in_over_tls_while_a_gateway_says_so() {
    with_agent_of(NODE, |lab| async move {
        open(&lab);
        let mesh = Mesh {
            lab: &lab,
            token: None,
        };
        mesh.must(&["install", "--dev", "--program", MESH, "--ingress", "1"]);
        let status = mesh.must(&["status", "--json"]).json();
        assert_eq!(status["components"][1]["job"], "mesh-ingress", "{status:#}");
        assert_eq!(status["components"][1]["healthy"], 1, "{status:#}");
        let second = mesh.must(&["install"]);
        assert!(
            second.out.starts_with("nothing was to be done"),
            "{second:#?}"
        );
        // Who serves the outside has no way to the key of the mesh's root.
        let account = "--as=system:serviceaccount:mesh-ingress:mesh-ingress";
        for (namespace, may) in [("mesh-ingress", "yes"), ("mesh-system", "no")] {
            let said = mesh.kubectl(&["auth", "can-i", "get", "secrets", "-n", namespace, account]);
            assert_eq!(said.out.trim(), may, "{namespace}: {said:#?}");
        }

        lab.run(&web()).await;
        let (roots, key) = certificate(lab.directory(), "shop");
        let (cert, key) = (
            format!("--cert={}", roots.display()),
            format!("--key={}", key.display()),
        );
        let secret = ["create", "secret", "tls", "shop", "-n", "mesh-ingress"];
        let made = mesh.kubectl(&[&secret[..], &[&cert, &key]].concat());
        assert_eq!(made.code, Some(0), "{made:#?}");
        let edge = lab.directory().join("edge.yaml");
        fs::write(&edge, EDGE).unwrap();
        let edge = edge.to_str().unwrap();
        let applied = mesh.kubectl(&["apply", "-f", edge]);
        assert_eq!(applied.code, Some(0), "{applied:#?}");
        let https = "https://shop.example.com/";
        answers("the outside is let in", https, &roots).await;
        answers("in plaintext too", "http://shop.example.com/", &roots).await;
        let other = curl("https://other.example.com/", &roots);
        assert_ne!(other.code, Some(0), "{other:#?}");

        let (next, key) = certificate(lab.directory(), "next");
        let refused = curl(https, &next);
        assert_eq!(refused.code, Some(60), "{refused:#?}");
        let (cert, key) = (
            format!("--cert={}", next.display()),
            format!("--key={}", key.display()),
        );
        let dry = [&cert, &key, "--dry-run=client", "-o", "json"];
        let changed = mesh.kubectl(&[&secret[..], &dry].concat()).out;
        let file = lab.directory().join("shop.json");
        fs::write(&file, changed).unwrap();
        let replaced = mesh.kubectl(&["replace", "-f", file.to_str().unwrap()]);
        assert_eq!(replaced.code, Some(0), "{replaced:#?}");
        answers("the changed Secret is served", https, &next).await;

        let deleted = mesh.kubectl(&["delete", "-f", edge]);
        assert_eq!(deleted.code, Some(0), "{deleted:#?}");
        // curl's word for a connection that nobody takes.
        let refused = || async { (curl(https, &next).code == Some(7)).then_some(()) };
        until("connections are refused", refused).await;

        let ended = mesh.must(&["install", "--ingress", "0"]);
        assert!(ended.out.contains("job mesh-ingress: gone"), "{ended:#?}");
        mesh.must(&["install", "--ingress", "1", "--ingress-port", "8443"]);
        let purge = Stop {
            purge: true,
            ..Stop::default()
        };
        lab.client.stop_job("default", "web", purge).await.unwrap();
        mesh.must(&["uninstall", "--purge-data"]);
        assert_eq!(traces(&lab.client).await, Vec::<String>::new());
    });
}
