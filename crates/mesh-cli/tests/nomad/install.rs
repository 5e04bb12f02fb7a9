//! An install from the first command to the last.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use mesh_nomad::client::{Client, Config, Register, Stop, TokenSource};
use mesh_nomad::model::Nanoseconds;
use mesh_nomad::model::acl::SecretText;
use mesh_nomad::model::namespace::Namespace;
use serde_json::json;

use crate::lab::{ADDRESS, Kind, Lab, job, until, with_agent_of};
use crate::program::{MESH, Mesh};

pub(crate) const NODE: Kind = Kind {
    acl: false,
    own_files: true,
};

/// What bears witness of an install in the cluster.
pub(crate) async fn traces(client: &Client) -> Vec<String> {
    let mut traces = Vec::new();
    for namespace in client.namespaces().await.unwrap() {
        let name = namespace.name.text().to_owned();
        for job in client
            .jobs(&name)
            .await
            .map(|reply| reply.value)
            .unwrap_or_default()
        {
            traces.push(format!("job {}", job.id.text()));
        }
        for variable in client.variables(&name, "").await.unwrap() {
            traces.push(format!("variable {}", variable.path.text()));
        }
        if name != "default" {
            traces.push(format!("namespace {name}"));
        }
    }
    traces
}

#[test]
fn a_trial_is_installed_used_and_taken_away_without_a_trace() {
    with_agent_of(NODE, |lab| async move {
        let files = lab.node_files();
        let mesh = Mesh {
            lab: &lab,
            token: None,
        };
        let first = mesh.must(&["install", "--dev", "--program", MESH]);
        assert!(first.out.contains("mutual TLS is STRICT"), "{first:#?}");

        let kubeconfig = lab.directory().join("home/kubeconfig");
        let mode = fs::metadata(&kubeconfig).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let policies = [
            "get",
            "peerauthentications",
            "-n",
            "istio-system",
            "-o",
            "json",
        ];
        let policies = mesh.kubectl(&policies).json();
        assert_eq!(policies["items"][0]["spec"]["mtls"]["mode"], "STRICT");

        let status = mesh.must(&["status", "--json"]).json();
        assert_eq!(status["components"][0]["healthy"], 1, "{status:#}");
        assert_eq!(
            status["roots"]["catalogue"], status["roots"]["published"],
            "{status:#}"
        );
        assert_eq!(status["roots"]["catalogue"].as_array().unwrap().len(), 1);
        assert_eq!(status["nodes"][0]["ready"], true, "{status:#}");

        let before = versions(&lab).await;
        let second = mesh.must(&["install"]);
        assert!(
            second.out.starts_with("nothing was to be done"),
            "{second:#?}"
        );
        assert_eq!(versions(&lab).await, before);
        no_secret_is_seen(&lab).await;

        let mut injected = job("web", 1);
        let group = &mut injected.task_groups.items_mut()[0];
        group
            .meta
            .or_default()
            .insert("mesh.injected".to_owned(), "1".to_owned());
        lab.run(&injected).await;
        let refused = mesh.run(&["uninstall"]);
        assert_eq!(refused.code, Some(5), "{refused:#?}");
        assert!(refused.err.contains("default/web"), "{refused:#?}");
        assert_eq!(versions(&lab).await, before);
        let purge = Stop {
            purge: true,
            ..Stop::default()
        };
        lab.client.stop_job("default", "web", purge).await.unwrap();

        mesh.must(&["uninstall", "--purge-data"]);
        assert_eq!(traces(&lab.client).await, Vec::<String>::new());
        assert_eq!(lab.node_files(), files);
    });
}

#[test]
fn a_directory_that_the_proxy_cannot_get_through_is_told_until_it_is_open() {
    with_agent_of(NODE, |lab| async move {
        let mesh = Mesh {
            lab: &lab,
            token: None,
        };
        let (root, data) = (lab.directory(), lab.directory().join("data"));
        // As an agent that is a client alone makes it, and as an operator may.
        for closed in [root, &data] {
            fs::set_permissions(closed, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let told = |directory: &Path| format!("directory {} has mode 0700", directory.display());
        let first = mesh.must(&["install", "--dev", "--program", MESH]);
        assert!(first.err.contains(&told(root)), "{first:#?}");
        let mut web = job("web", 1);
        let bridge = json!([{
            "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }],
        }]);
        web.task_groups.items_mut()[0].networks = serde_json::from_value(bridge).unwrap();
        let file = root.join("web.json");
        fs::write(&file, json!({ "Job": web }).to_string()).unwrap();
        let check = ["check", "--program", MESH, file.to_str().unwrap()];
        let found = mesh.run(&check);
        assert!(found.out.contains(&told(root)), "{found:#?}");

        for (open, next) in [(root, Some(&data)), (&data, None)] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o711)).unwrap();
            let again = mesh.must(&["install"]);
            assert!(
                again.out.starts_with("nothing was to be done"),
                "{again:#?}"
            );
            match next {
                Some(next) => assert!(again.err.contains(&told(next)), "{again:#?}"),
                None => assert!(!again.err.contains("has mode"), "{again:#?}"),
            }
        }
        let found = mesh.run(&check);
        assert!(!found.out.contains("has mode"), "{found:#?}");
        mesh.must(&["uninstall", "--purge-data"]);
    });
}

#[test]
fn groups_that_end_keep_the_plugin_until_their_network_is_down() {
    with_agent_of(NODE, |lab| async move {
        let files = lab.node_files();
        let mesh = Mesh {
            lab: &lab,
            token: None,
        };
        mesh.must(&["install", "--dev", "--program", MESH]);
        let enough = lab.directory().join("enough");
        let script = format!(
            "trap '' INT TERM; while [ ! -e {} ]; do sleep 0.1; done",
            enough.display()
        );
        let mut slow = job("slow", 1);
        let group = &mut slow.task_groups.items_mut()[0];
        let network = json!([{
            "Mode": "cni/mesh", "DynamicPorts": [{ "Label": "http", "To": 8080 }],
        }]);
        group.networks = serde_json::from_value(network).unwrap();
        let task = &mut group.tasks.items_mut()[0];
        task.config
            .or_default()
            .insert("args".to_owned(), json!(["-c", script]));
        task.kill_timeout = Nanoseconds::seconds(600).into();
        let allocation = lab.run(&slow).await.remove(0);
        let id = allocation.id.text();
        assert!(rules().contains(id), "{}", rules());

        let stop = Stop::default();
        lab.client.stop_job("default", "slow", stop).await.unwrap();
        let refused = mesh.run(&["uninstall", "--wait", "1s"]);
        assert_eq!(refused.code, Some(1), "{refused:#?}");
        assert!(refused.err.contains("default/slow"), "{refused:#?}");
        mesh.must(&["status"]);

        // Of what is purged nobody knows but its node.
        let purge = Stop {
            purge: true,
            ..Stop::default()
        };
        lab.client.stop_job("default", "slow", purge).await.unwrap();
        let refused = mesh.run(&["uninstall", "--wait", "1s"]);
        assert_eq!(refused.code, Some(1), "{refused:#?}");
        assert!(refused.err.contains(id), "{refused:#?}");
        let mut uninstall = mesh
            .command(&["nomad", "uninstall", "--purge-data"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(uninstall.stderr.take().unwrap());
        let mut lines = said.lines().map(Result::unwrap);
        let waits = "job mesh-node-removal: 0 of 1 nodes are done";
        assert!(lines.any(|line| line == waits));
        assert!(rules().contains(id), "{}", rules());
        fs::write(&enough, "").unwrap();
        let rest: Vec<_> = lines.collect();
        assert!(uninstall.wait().unwrap().success(), "{rest:#?}");
        assert_eq!(traces(&lab.client).await, Vec::<String>::new());
        assert_eq!(lab.node_files(), files);
        assert!(!rules().contains(id), "{}", rules());
    });
}

/// The rules of the machine that standard plugins made, each with its allocation.
fn rules() -> String {
    let output = Command::new("iptables-save").output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// The versions of all jobs in the namespace of the mesh.
async fn versions(lab: &Lab) -> Vec<(String, u64)> {
    let mut versions = Vec::new();
    for stub in lab.client.jobs("mesh-system").await.unwrap().value {
        let job = lab.client.job("mesh-system", stub.id.text()).await.unwrap();
        versions.push((stub.id.text().to_owned(), job.version.value()));
    }
    versions
}

/// Keys are in variables alone: not in a job, and in no log.
async fn no_secret_is_seen(lab: &Lab) {
    let variable = lab
        .client
        .variable("mesh-system", "nomad/jobs/mesh")
        .await
        .unwrap()
        .unwrap();
    let key = variable.item("pki~api-ca.key").unwrap();
    let line = key.lines().nth(1).unwrap();
    for stub in lab.client.jobs("mesh-system").await.unwrap().value {
        let job = lab.client.job("mesh-system", stub.id.text()).await.unwrap();
        assert!(!json!(job).to_string().contains(line), "{}", stub.id.text());
    }
    for allocation in lab
        .client
        .job_allocations("mesh-system", "mesh")
        .await
        .unwrap()
        .value
    {
        let logs = lab
            .task_directory(allocation.id.text(), "alloc")
            .join("logs");
        // Beside the files are pipes, which nobody is to read.
        let files = fs::read_dir(logs).unwrap().map(|file| file.unwrap().path());
        for file in files.filter(|file| file.is_file()) {
            let text = fs::read_to_string(file).unwrap();
            assert!(!text.contains(line));
        }
    }
}

#[test]
fn a_cluster_keeps_its_objects_through_an_upgrade_and_a_new_install() {
    with_agent_of(NODE, |lab| async move {
        let mesh = Mesh {
            lab: &lab,
            token: None,
        };
        let one_of_each = [
            "--etcd", "1", "--api", "1", "--ca", "1", "--pilot", "1", "--mixer", "1",
        ];
        let mut words = vec!["install", "--program", MESH, "--no-nodes"];
        words.extend(one_of_each);
        mesh.must(&words);
        let made = mesh.kubectl(&["create", "configmap", "kept", "-n", "default"]);
        assert_eq!(made.code, Some(0), "{made:#?}");

        // Another file is another release, as far as Nomad can tell.
        let other = lab.directory().join("mesh");
        fs::copy(MESH, &other).unwrap();
        let other = other.to_str().unwrap();
        let upgraded = mesh.must(&["upgrade", "--program", other]);
        let order: Vec<_> = upgraded
            .out
            .lines()
            .filter(|line| line.starts_with("job "))
            .collect();
        let expected = ["etcd", "api", "ca", "pilot", "mixer"];
        let expected = expected.map(|name| format!("job mesh-{name}: healthy"));
        assert_eq!(order, expected);
        assert!(
            mesh.kubectl(&["get", "configmap", "kept", "-n", "default"])
                .out
                .contains("kept")
        );

        let scaled = mesh.must(&["install", "--mixer", "2"]);
        assert!(
            scaled.out.contains("job mesh-mixer: healthy"),
            "{scaled:#?}"
        );
        let status = mesh.must(&["status", "--json"]).json();
        assert_eq!(status["components"][4]["healthy"], 2, "{status:#}");
        assert_eq!(status["components"][3]["programs"], other, "{status:#}");

        // The store stays where it is, unless it is to go.
        mesh.must(&["uninstall"]);
        assert_eq!(traces(&lab.client).await, Vec::<String>::new());
        fs::remove_dir_all(lab.directory().join("home")).unwrap();
        mesh.must(&words);
        assert!(
            mesh.kubectl(&["get", "configmap", "kept", "-n", "default"])
                .out
                .contains("kept")
        );
    });
}

#[test]
fn a_version_that_does_not_start_stops_the_upgrade_at_the_first_piece() {
    with_agent_of(NODE, |lab| async move {
        let mesh = Mesh {
            lab: &lab,
            token: None,
        };
        mesh.must(&["install", "--dev", "--program", MESH, "--no-nodes"]);
        let before = versions(&lab).await;
        let broken = lab.directory().join("broken");
        fs::write(&broken, "#!/bin/sh\necho no such luck >&2\nexit 3\n").unwrap();
        fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
        let said = mesh.run(&["upgrade", "--program", broken.to_str().unwrap()]);
        assert_eq!(said.code, Some(1), "{said:#?}");
        // Found on the nodes, before anything that runs was touched; with the task's own words.
        assert!(said.err.contains("mesh-check"), "{said:#?}");
        assert!(said.err.contains("no such luck"), "{said:#?}");
        assert_eq!(versions(&lab).await, before);
        mesh.must(&["status"]);
    });
}

#[test]
fn what_is_not_of_an_install_is_not_touched() {
    with_agent_of(NODE, |lab| async move {
        let theirs = Namespace {
            name: "mesh-system".into(),
            description: "theirs".into(),
            ..Namespace::default()
        };
        lab.client.write_namespace(&theirs).await.unwrap();
        let mut api = job("mesh-api", 1);
        api.namespace = "mesh-system".into();
        lab.client
            .register_job(&api, &Register::default())
            .await
            .unwrap();
        let mesh = Mesh {
            lab: &lab,
            token: None,
        };
        let said = mesh.run(&["install", "--program", MESH, "--etcd", "1"]);
        assert_eq!(said.code, Some(5), "{said:#?}");
        assert!(said.err.contains("namespace mesh-system"), "{said:#?}");
        assert!(said.err.contains("job mesh-api"), "{said:#?}");
        assert_eq!(
            traces(&lab.client).await,
            ["job mesh-api", "namespace mesh-system"]
        );
        let said = mesh.run(&["uninstall", "--purge-data"]);
        assert_eq!(said.code, Some(1), "{said:#?}");
        assert_eq!(
            traces(&lab.client).await,
            ["job mesh-api", "namespace mesh-system"]
        );
    });
}

#[test]
fn with_access_control_the_control_plane_may_read_the_catalogue_and_no_more() {
    with_agent_of(Kind { acl: true, ..NODE }, |lab| async move {
        let token = until("access control is set up", || async {
            lab.client.bootstrap_acl().await.ok()
        })
        .await;
        let token = token.secret_id.into_option().unwrap();
        let client = Client::new(Config {
            token: TokenSource::Fixed(SecretText::new(token.expose())),
            ..Config::new(ADDRESS.parse().unwrap())
        })
        .unwrap();
        until("the node is ready", || async {
            let nodes = client.nodes().await.ok()?.value;
            nodes
                .iter()
                .any(|node| node.status.text() == "ready")
                .then_some(())
        })
        .await;
        let nobody = Mesh {
            lab: &lab,
            token: None,
        };
        let refused = nobody.run(&["install", "--dev", "--program", MESH]);
        assert_eq!(refused.code, Some(1), "{refused:#?}");

        let mesh = Mesh {
            lab: &lab,
            token: Some(token.expose().to_owned()),
        };
        mesh.must(&["install", "--dev", "--program", MESH]);
        let policy = client.policy("mesh-system-mesh").await.unwrap();
        assert_eq!(policy.job_acl.get().unwrap().job_id.text(), "mesh");
        assert!(
            mesh.kubectl(&["get", "namespaces"])
                .out
                .contains("mesh-system")
        );
        let status = mesh.must(&["status", "--json"]).json();
        assert_eq!(status["nodes"][0]["ready"], true, "{status:#}");
        let second = mesh.must(&["install"]);
        assert!(
            second.out.starts_with("nothing was to be done"),
            "{second:#?}"
        );

        mesh.must(&["uninstall", "--purge-data"]);
        assert!(client.policies().await.unwrap().is_empty());
        assert_eq!(traces(&client).await, Vec::<String>::new());
    });
}

#[test]
fn rendered_jobs_are_those_of_the_install() {
    with_agent_of(NODE, |lab| async move {
        let mesh = Mesh {
            lab: &lab,
            token: None,
        };
        let directory = lab.directory().join("rendered");
        let into = directory.to_str().unwrap();
        mesh.must(&["render", into, "--dev", "--program", MESH]);
        mesh.must(&["install", "--dev", "--program", MESH, "--only-secrets"]);
        let nomad = std::env::var_os("NOMAD_BIN").unwrap_or_else(|| "nomad".into());
        for file in ["mesh", "mesh-node"] {
            let path = directory.join(format!("jobs/{file}.nomad.json"));
            let output = Command::new(&nomad)
                .args(["job", "run", "-json"])
                .arg(path)
                .env("NOMAD_ADDR", ADDRESS)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let before = versions(&lab).await;
        let said = mesh.must(&["install"]);
        // The tags of the roots are all that was left to say of a job.
        let jobs: Vec<_> = said
            .out
            .lines()
            .filter(|line| line.starts_with("job "))
            .collect();
        assert_eq!(jobs, ["job mesh: healthy"], "{said:#?}");
        let after = versions(&lab).await;
        assert_eq!(after[0].1, before[0].1 + 1);
        assert_eq!(after[1], before[1]);
    });
}
