//! An install of containers, from images that are on the node and in no registry.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh_nomad::client::{Client, Stop};
use mesh_nomad::model::allocation::Allocation;
use mesh_nomad::model::{Job, JobDocument};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::install::traces;
use crate::machine::{ADDRESS, PATIENCE, api, until};
use crate::node::{IMAGE, Kind, Node, on_a_node};
use crate::program::{Said, kubectl};

/// A node with Docker as it comes, which nobody has prepared.
const NODE: Kind = Kind {
    docker: true,
    unprepared: true,
    second_address: false,
    plain_docker: true,
};

/// The images, by the names that an operator gives.
const MESH: &str = concat!("mesh:", env!("CARGO_PKG_VERSION"));
const ETCD: &str = concat!("mesh-etcd:", env!("CARGO_PKG_VERSION"));
/// Another release: the same programs in an image that is another.
const NEXT: &str = "files.example/mesh:2";

/// One of each, which is what one node can have.
const ONE_OF_EACH: [&str; 10] = [
    "--etcd", "1", "--api", "1", "--ca", "1", "--pilot", "1", "--mixer", "1",
];

/// The host of the application at the gateways.
const EDGE: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [shop.example.com]
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

/// What answers, in a process of the node.
const SERVER: &str = r#"$s = IO::Socket::INET->new(LocalPort => 8080, Listen => 99, ReuseAddr => 1) or die $!;
while ($c = $s->accept) {
    while (<$c>) { last if /^\r?$/ }
    print $c "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\ninside";
    close $c;
}"#;

/// Who calls, in a container: a new connection each time, and a line for each answer or the lack of
/// one.
const CALLER: &str = r#"while :; do
    line=
    if exec 3<>/dev/tcp/web/8080; then
        printf 'GET / HTTP/1.1\r\nHost: web:8080\r\nConnection: close\r\n\r\n' >&3
        read -t 10 -r line <&3
        exec 3>&-
    fi 2>/dev/null
    [ -n "$line" ] || line=nothing
    echo "$line" >> "$NOMAD_ALLOC_DIR/data/answers"
    sleep 0.05
done"#;

/// The node, with the words of an operator.
struct Site {
    node: Node,
}

impl Site {
    /// The images are made as archives, and loaded.
    fn new(node: Node) -> Self {
        let site = Self { node };
        let directory = site.path("images");
        let words = ["image", "build", "--output", directory.to_str().unwrap()];
        let made = site.node.mesh(&words);
        assert!(made.status.success(), "{made:?}");
        for file in fs::read_dir(&directory).unwrap() {
            let file = file.unwrap().path();
            site.docker(&["load", "--quiet", "--input", file.to_str().unwrap()]);
            fs::remove_file(file).unwrap();
        }
        site
    }

    fn client(&self) -> &Client {
        &self.node.machine.client
    }

    fn path(&self, name: &str) -> PathBuf {
        self.node.machine.path(name)
    }

    fn docker(&self, words: &[&str]) -> String {
        self.node.run(&[&["docker"], words].concat())
    }

    /// `mesh`, which finds Nomad here.
    fn verb(&self, nomad: &str, words: &[&str]) -> Said {
        let (nomad, home) = (
            format!("NOMAD_ADDR={nomad}"),
            format!("MESH_HOME={}", self.path("home").display()),
        );
        let mesh = self.path("bin/mesh");
        let mesh = mesh.to_str().unwrap();
        let words = [&["env", &nomad, &home, mesh], words].concat();
        Said::from(self.node.machine.command(&words).output().unwrap())
    }

    /// `mesh nomad`.
    fn run(&self, words: &[&str]) -> Said {
        self.verb(&api(), &[&["nomad"], words].concat())
    }

    /// The same; it must succeed.
    fn must(&self, words: &[&str]) -> Said {
        let said = self.run(words);
        assert_eq!(said.code, Some(0), "mesh nomad {words:?}: {said:#?}");
        said
    }

    fn status(&self) -> Value {
        self.must(&["status", "--json"]).json()
    }

    fn kubectl(&self, words: &[&str]) -> Said {
        kubectl(&self.path("home/kubeconfig"), words)
    }

    /// How many of a component are healthy, and from which image.
    fn component(&self, job: &str) -> (u64, String) {
        let status = self.status();
        let components = status["components"].as_array().unwrap();
        let found = components.iter().find(|found| found["job"] == job);
        let found = found.unwrap_or_else(|| panic!("no {job}: {status:#}"));
        let programs = found["programs"].as_str().unwrap().to_owned();
        (found["healthy"].as_u64().unwrap(), programs)
    }

    /// What an install leaves behind on a node that is as it was: nothing.
    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        let mut add = |what: &str, text: String| {
            left.extend(text.lines().map(|line| format!("{what} {line}")));
        };
        add(
            "container",
            self.docker(&["ps", "--all", "--format", "{{.Names}}"]),
        );
        add("volume", self.docker(&["volume", "ls", "--quiet"]));
        let directory = |name: &str| self.path(name).display().to_string();
        let (plugins, networks) = (directory("cni/bin"), directory("cni/config"));
        let (volumes, cache) = (directory("lab/host_volumes"), directory("cni/cache"));
        fs::create_dir_all(&volumes).unwrap();
        let find = [
            "find", &plugins, &networks, &volumes, &cache, "/var/lib", "-type", "f",
        ];
        add("file", self.node.run(&find));
        // Docker keeps one for whoever is in the machine's own.
        let own = ["!", "-name", "default", "-type", "f"];
        let namespaces = [&["find", "/run", "-path", "*/netns/*"], &own[..]].concat();
        add("namespace", self.node.run(&namespaces));
        let rules = self.node.run(&["iptables-save"]);
        let of_groups = rules.lines().filter(|line| line.contains("172.27."));
        add("rule", of_groups.collect::<Vec<_>>().join("\n"));
        left.sort_unstable();
        left
    }

    /// Prepares the node with the steps that an install prints.
    async fn prepare(&self, installed: &Said) {
        let steps = installed.err.lines().map(str::trim);
        let prepare = steps
            .filter(|line| line.starts_with("mesh nomad node prepare "))
            .collect::<Vec<_>>();
        let [prepare] = prepare.as_slice() else {
            panic!("{installed:#?}");
        };
        self.on_node(prepare);
        self.node.machine.signal_agent(Signal::HUP);
        until("the node is ready for groups", || async {
            let status = self.run(&["status", "--json"]).json();
            (status["nodes"][0]["ready"] == true).then_some(())
        })
        .await;
    }

    /// A line of an operator on the node, where the client's own agent answers.
    fn on_node(&self, line: &str) {
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        let said = self.verb(&format!("http://{ADDRESS}:4646"), &words);
        assert_eq!(said.code, Some(0), "{line}: {said:#?}");
    }

    /// Runs a job as `mesh inject` makes it.
    async fn inject(&self, job: &Value) -> Allocation {
        let file = self.path("job.json");
        fs::write(&file, job.to_string()).unwrap();
        let program = self.path("bin/mesh");
        let (file, program) = (file.to_str().unwrap(), program.to_str().unwrap());
        let words = ["inject", "--image", MESH, "--program", program, file];
        let said = self.verb(&api(), &words);
        assert_eq!(said.code, Some(0), "{said:#?}");
        let document: JobDocument = serde_json::from_str(&said.out).unwrap();
        let job: Job = document.into_job();
        self.node.machine.run(&job).await.remove(0)
    }

    /// What the caller has heard.
    fn answers(&self, caller: &Allocation) -> Vec<String> {
        let file = "alloc/data/answers";
        let file = self.node.machine.task_directory(caller.id.text(), file);
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// Waits until the caller has heard so many more answers.
    async fn more(&self, caller: &Allocation, count: usize) {
        let wanted = self.answers(caller).len() + count;
        let start = Instant::now();
        while self.answers(caller).len() < wanted {
            assert!(start.elapsed() < PATIENCE, "the caller is stuck");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The answer to somebody outside the mesh, if there is one.
    fn curl(&self, url: &str) -> Said {
        let connect = format!("::{ADDRESS}:");
        let words = [
            "curl",
            "--silent",
            "--max-time",
            "5",
            "--fail",
            "--connect-to",
        ];
        let words = [&words[..], &[&connect, url]].concat();
        Said::from(self.node.machine.command(&words).output().unwrap())
    }

    async fn purge(&self, job: &str) {
        let purge = Stop {
            purge: true,
            ..Stop::default()
        };
        self.client().stop_job("default", job, purge).await.unwrap();
    }
}

/// A job of one task with a network of its own.
fn job(id: &str, driver: &str, user: &str, config: &Value) -> Value {
    json!({ "Job": {
        "ID": id, "Name": id, "Type": "service", "Datacenters": ["*"],
        "TaskGroups": [{
            "Name": id, "Count": 1,
            "Networks": [{
                "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }],
            }],
            "Services": [{ "Name": id, "PortLabel": "http", "Provider": "nomad" }],
            "EphemeralDisk": { "SizeMB": 20 },
            "Tasks": [{
                "Name": "main", "Driver": driver, "User": user, "Config": config,
                "KillTimeout": 1_000_000_000,
                "Resources": { "CPU": 20, "MemoryMB": 48 },
                "LogConfig": { "MaxFiles": 1, "MaxFileSizeMB": 1 },
            }],
        }],
    } })
}

#[test]
fn readme_has_the_words_of_images_that_are_run_here() {
    let readme = include_str!("../../../../README.md");
    let archive = |image: &str| format!("{}-x86_64.tar", image.replace(':', "-"));
    for command in [
        "mesh image build --output images".to_owned(),
        format!("docker load --input images/{}", archive(MESH)),
        format!("docker load --input images/{}", archive(ETCD)),
        format!("mesh nomad install --image {MESH} --etcd-image {ETCD}"),
        format!("mesh nomad upgrade --image {NEXT}"),
    ] {
        let mut lines = readme.lines().map(|line| line.split("  #").next().unwrap());
        assert!(lines.any(|line| line == command), "{command}");
    }
}

/// Who is not of the mesh speaks no TLS of its, but for the way that gateways open.
async fn strangers_come_in_by_the_gateway_alone(site: &Site, server: &Allocation) {
    let placed = site.client().allocation(server.id.text()).await.unwrap();
    let mut ports = placed.value.ports().iter();
    let port = ports.find(|port| port.label.text() == "http");
    let direct = format!("http://{ADDRESS}:{}/", port.unwrap().value.value());
    assert_ne!(site.curl(&direct).code, Some(0));
    let edge = site.path("edge.yaml");
    fs::write(&edge, EDGE).unwrap();
    let applied = site.kubectl(&["apply", "-f", edge.to_str().unwrap()]);
    assert_eq!(applied.code, Some(0), "{applied:#?}");
    until("the gateway lets callers in", || async {
        let said = site.curl("http://shop.example.com/");
        (said.out == "inside").then_some(())
    })
    .await;
}

/// Makes another release, and upgrades to it: one component after the other.
fn upgrade(site: &Site) {
    let container = site.docker(&["create", MESH]);
    let change = ["commit", "--change", "LABEL release=next"];
    site.docker(&[&change[..], &[container.trim(), NEXT]].concat());
    site.docker(&["rm", container.trim()]);
    let upgraded = site.must(&["upgrade", "--image", NEXT]);
    let order = upgraded
        .out
        .lines()
        .filter(|line| line.ends_with(": healthy"));
    let names = ["etcd", "api", "ca", "pilot", "mixer", "ingress"];
    let names = names.map(|name| format!("job mesh-{name}: healthy"));
    assert_eq!(order.collect::<Vec<_>>(), names);
    for name in ["mesh-api", "mesh-ca", "mesh-ingress"] {
        assert_eq!(site.component(name), (1, NEXT.to_owned()));
    }
}

#[test]
fn loaded_images_become_a_mesh_that_is_upgraded_under_load_and_leaves_nothing() {
    on_a_node(NODE, |node| async move {
        let site = Site::new(node);
        let before = site.left();
        let missing = ["install", "--dev", "--image", "mesh:missing", "--no-nodes"];
        let refused = site.run(&missing);
        assert_eq!(refused.code, Some(1), "{refused:#?}");
        assert!(refused.err.contains("mesh:missing"), "{refused:#?}");
        assert!(refused.err.contains("docker load"), "{refused:#?}");
        site.must(&["uninstall", "--purge-data"]);

        let install = [
            "install",
            "--image",
            MESH,
            "--etcd-image",
            ETCD,
            "--ingress",
            "1",
        ];
        let installed = site.must(&[&install[..], &ONE_OF_EACH].concat());
        let again = site.must(&["install"]);
        assert!(
            again.out.starts_with("nothing was to be done"),
            "{again:#?}"
        );
        site.prepare(&installed).await;

        let perl = json!({
            "command": "/usr/bin/perl", "args": ["-MIO::Socket::INET", "-e", SERVER],
        });
        let server = site.inject(&job("web", "raw_exec", "nobody", &perl)).await;
        let bash = json!({
            "image": IMAGE, "command": "/bin/bash", "args": ["-c", CALLER],
        });
        let caller = site.inject(&job("caller", "docker", "65534", &bash)).await;
        until("the caller is answered", || async {
            let last = site.answers(&caller).pop()?;
            (last == "HTTP/1.1 200 OK").then_some(())
        })
        .await;
        let begun = site.answers(&caller).len();

        strangers_come_in_by_the_gateway_alone(&site, &server).await;

        site.must(&["install", "--pilot", "2", "--mixer", "2"]);
        assert_eq!(site.component("mesh-pilot"), (2, MESH.to_owned()));
        assert_eq!(site.component("mesh-mixer"), (2, MESH.to_owned()));

        upgrade(&site);
        site.more(&caller, 20).await;
        let answers = site.answers(&caller);
        let bad = answers
            .iter()
            .skip(begun)
            .filter(|line| *line != "HTTP/1.1 200 OK");
        assert_eq!(bad.count(), 0, "of {}: {answers:?}", answers.len() - begun);

        for job in ["caller", "web"] {
            site.purge(job).await;
        }
        let gone = site.must(&["uninstall", "--purge-data"]);
        let steps = gone.err.lines().map(str::trim);
        let remove = steps.filter(|line| line.starts_with("mesh nomad node remove "));
        let [remove] = remove.collect::<Vec<_>>()[..] else {
            panic!("{gone:#?}");
        };
        site.on_node(remove);
        assert_eq!(traces(site.client()).await, Vec::<String>::new());
        until("nothing is left", || async {
            (site.left() == before).then_some(())
        })
        .await;
    });
}

#[test]
fn a_backup_fills_the_volume_of_an_install_of_images() {
    on_a_node(NODE, |node| async move {
        let site = Site::new(node);
        let before = site.left();
        let trial = ["install", "--dev", "--image", MESH, "--no-nodes"];
        site.must(&trial);
        let again = site.must(&["install"]);
        assert!(
            again.out.starts_with("nothing was to be done"),
            "{again:#?}"
        );
        let made = site.kubectl(&["create", "configmap", "kept"]);
        assert_eq!(made.code, Some(0), "{made:#?}");
        let seen = || {
            let status = site.status();
            let found = site
                .kubectl(&["get", "configmap", "kept", "-o", "json"])
                .json();
            (status["roots"].clone(), found["metadata"]["uid"].clone())
        };
        let first = seen();
        assert_eq!(first.0["catalogue"], first.0["published"]);
        let backup = site.path("mesh.backup");
        let backup = backup.to_str().unwrap();
        let said = site.verb(&api(), &["backup", backup]);
        assert_eq!(said.code, Some(0), "{said:#?}");

        let cluster = [
            "install",
            "--image",
            MESH,
            "--etcd-image",
            ETCD,
            "--no-nodes",
        ];
        let cluster = [&cluster[..], &ONE_OF_EACH].concat();
        for install in [&trial[..], &cluster] {
            site.must(&["uninstall", "--purge-data"]);
            assert_eq!(traces(site.client()).await, Vec::<String>::new());
            until("nothing is left", || async {
                (site.left() == before).then_some(())
            })
            .await;
            fs::remove_dir_all(site.path("home")).unwrap();
            site.must(&[install, &["--restore", backup]].concat());
            assert_eq!(seen(), first, "{install:?}");
        }
        site.must(&["uninstall"]);
        let kept = site.run(&[&cluster[..], &["--restore", backup]].concat());
        assert_eq!(kept.code, Some(5), "{kept:#?}");
        site.must(&["uninstall", "--purge-data"]);
        until("nothing is left", || async {
            (site.left() == before).then_some(())
        })
        .await;
    });
}
