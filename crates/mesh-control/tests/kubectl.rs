//! Rings `kubectl` and `samples`: the API server against real kubectl binaries.
//!
//! `MESH_KUBECTLS` names the binaries, separated by commas; without it `kubectl` of PATH is taken. Every
//! command runs with each of them, against a server of its own on loopback.
//! `MESH_ISTIO_SAMPLES` names a directory of Istio's own files for the last test.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use mesh_control::api::bootstrap::Authority;
use mesh_control::api::{ApiConfig, ApiHandle, ApiServer};
use mesh_control::store::{StoreConfig, open};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A server and one kubectl.
struct World {
    kubectl: PathBuf,
    home: TempDir,
    runtime: Runtime,
    server: Option<ApiHandle>,
    shutdown: CancellationToken,
}

/// What a command did.
#[derive(Debug)]
struct Done {
    #[expect(dead_code, reason = "a failed test shows it")]
    command: String,
    ok: bool,
    stdout: String,
    stderr: String,
}

// === impl World ===

impl World {
    fn new(kubectl: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let shutdown = CancellationToken::new();
        let server = runtime.block_on(async {
            let store = open(&StoreConfig::file(home.path().join("store.redb")))
                .await
                .unwrap();
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let config = ApiConfig::new(listen, home.path(), store);
            ApiServer::start(config, shutdown.clone()).await.unwrap()
        });
        Self {
            kubectl: kubectl.to_owned(),
            home,
            runtime,
            server: Some(server),
            shutdown,
        }
    }

    /// Runs `check` once for each kubectl.
    fn each(check: impl Fn(&Self)) {
        for kubectl in kubectls() {
            check(&Self::new(&kubectl));
        }
    }

    fn command(&self, kubeconfig: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", self.home.path().join(kubeconfig))
            .env("HOME", self.home.path())
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run_as(&self, kubeconfig: &str, line: &str, input: &str) -> Done {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let mut child = self
            .command(kubeconfig, &arguments)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "this ring needs kubectl at `{}`: {error}",
                    self.kubectl.display()
                )
            });
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        Done {
            command: format!("{} {line}", self.kubectl.display()),
            ok: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn run(&self, line: &str) -> Done {
        self.run_as("kubeconfig", line, "")
    }

    /// Runs a command that must succeed; its output.
    fn ok(&self, line: &str) -> String {
        self.run(line).succeeded().stdout
    }

    /// Runs a command on a file given on stdin that must succeed; its output.
    fn ok_with(&self, line: &str, input: &str) -> String {
        self.run_as("kubeconfig", line, input).succeeded().stdout
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} -o json"))).unwrap()
    }

    /// kubectl up to 1.24 does not know it.
    fn has(&self, word: &str) -> bool {
        self.run("--help").stdout.contains(word) || self.run("create --help").stdout.contains(word)
    }

    fn user(&self, name: &str) -> String {
        let authority = Authority::load(self.home.path()).unwrap();
        let text = authority.user_kubeconfig(name, &[], Duration::from_secs(600), None);
        let file = format!("{name}.kubeconfig");
        std::fs::write(self.home.path().join(&file), text.unwrap()).unwrap();
        file
    }

    /// A command that goes on by itself; the lines that it prints.
    fn follow(&self, line: &str) -> (Running, mpsc::Receiver<String>) {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let mut child = self.command("kubeconfig", &arguments).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        (Running(child), lines)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stopped());
        }
    }
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

// === impl Done ===

impl Done {
    fn succeeded(self) -> Self {
        assert!(self.ok, "{self:#?}");
        self
    }

    /// The command failed, and said this.
    fn failed_with(self, text: &str) -> Self {
        assert!(
            !self.ok && self.stderr.contains(text),
            "expected `{text}`: {self:#?}"
        );
        self
    }
}

fn kubectls() -> Vec<PathBuf> {
    std::env::var("MESH_KUBECTLS")
        .unwrap_or_else(|_| "kubectl".to_owned())
        .split(',')
        .map(PathBuf::from)
        .collect()
}

fn next_line(lines: &mpsc::Receiver<String>, wanted: &str) -> String {
    loop {
        let line = lines
            .recv_timeout(Duration::from_secs(20))
            .unwrap_or_else(|_| panic!("no line with `{wanted}`"));
        if line.contains(wanted) {
            return line;
        }
    }
}

#[track_caller]
fn contains(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "expected `{wanted}` in:\n{text}");
}

fn route(subset: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {{host: reviews, subset: {subset}}}
      weight: 100
"
    )
}

const CONFIG: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
  labels: {app: web}
data:
  color: blue
";

#[test]
fn what_is_served_is_discovered() {
    World::each(|world| {
        contains(&world.ok("version"), "v1.32");
        let resources = world.ok("api-resources");
        for word in [
            "virtualservices",
            "vs",
            "configmaps",
            "rolebindings",
            "selfsubjectaccessreviews",
        ] {
            contains(&resources, word);
        }
        let versions = world.ok("api-versions");
        contains(&versions, "networking.istio.io/v1alpha3");
        contains(
            &world.ok("api-resources --verbs=list --namespaced -o name"),
            "serviceentries.networking.istio.io",
        );
        contains(&world.ok("get --raw /healthz"), "ok");
        contains(&world.ok("get --raw /readyz"), "ok");
    });
}

#[test]
fn schemas_are_explained() {
    World::each(|world| {
        let http = world.ok("explain virtualservice.spec.http");
        contains(&http, "route");
        contains(&http, "retries");
        contains(
            &world.ok("explain virtualservice.spec.http.route.destination"),
            "subset",
        );
        contains(&world.ok("explain configmap"), "binaryData");
        contains(&world.ok("explain rolebinding.subjects"), "namespace");
        contains(
            &world.ok("explain vs --api-version=networking.istio.io/v1beta1"),
            "v1beta1",
        );
        world
            .run("explain virtualservice.spec.nothing")
            .failed_with("nothing");
    });
}

#[test]
fn objects_are_shown_as_table_yaml_and_json() {
    World::each(|world| {
        world.ok_with("apply -f -", &route("v1"));
        world.ok_with("apply -f -", CONFIG);
        let table = world.ok("get vs");
        contains(&table, "HOSTS");
        contains(&table, "[\"reviews\"]");
        contains(&world.ok("get vs -o wide -A"), "NAMESPACE");
        contains(&world.ok("get vs reviews -o yaml"), "subset: v1");
        contains(&world.ok("get vs,cm -l app=web"), "settings");
        contains(&world.ok("get cm --show-labels"), "app=web");
        contains(
            &world.ok("get cm --field-selector metadata.name=settings"),
            "settings",
        );
        contains(
            &world.ok("get cm settings -o jsonpath={.data.color}"),
            "blue",
        );
        contains(
            &world.ok("get cm -o custom-columns=N:.metadata.name"),
            "settings",
        );
        contains(
            &world.ok("get virtualservices.v1beta1.networking.istio.io reviews -o yaml"),
            "networking.istio.io/v1beta1",
        );
        contains(&world.ok("get cm --chunk-size=1"), "settings");
        contains(
            &world.ok("get istio-io"),
            "virtualservice.networking.istio.io/reviews",
        );
        contains(&world.ok("describe vs reviews"), "Subset:  v1");
        contains(&world.ok("describe ns default"), "Active");
        world
            .run("get vs absent")
            .failed_with("\"absent\" not found");
        world
            .run("get pods")
            .failed_with("doesn't have a resource type");
        let list = world.json("get cm");
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn applying_creates_configures_and_leaves_alone() {
    World::each(|world| {
        let apply = |input: &str| world.ok_with("apply -f -", input);
        contains(&apply(&route("v1")), "created");
        contains(&apply(&route("v1")), "unchanged");
        let diff = world.run_as("kubeconfig", "diff -f -", &route("v2"));
        contains(&diff.stdout, "+        subset: v2");
        let rehearsal = world.ok_with("apply --dry-run=server -f -", &route("v2"));
        contains(&rehearsal, "configured (server dry run)");
        contains(&world.ok("get vs reviews -o yaml"), "subset: v1");
        contains(&apply(&route("v2")), "configured");
        assert_eq!(world.json("get vs reviews")["metadata"]["generation"], 2);
        contains(&apply(CONFIG), "created");
        contains(&apply(CONFIG), "unchanged");
        contains(&apply(&CONFIG.replace("blue", "red")), "configured");
        // A field that is gone from the file is gone from the object.
        contains(
            &apply(&CONFIG.replace("labels: {app: web}", "labels: {}")),
            "configured",
        );
        assert!(
            world.json("get cm settings")["metadata"]
                .get("labels")
                .is_none_or(|labels| labels.get("app").is_none())
        );
        contains(&world.ok_with("delete -f -", CONFIG), "deleted");
        let both = format!("{}---\n{CONFIG}", route("v3"));
        let done = apply(&both);
        contains(
            &done,
            "virtualservice.networking.istio.io/reviews configured",
        );
        contains(&done, "configmap/settings created");
    });
}

#[test]
fn objects_are_created_replaced_and_patched() {
    World::each(|world| {
        contains(
            &world.ok("create configmap a --from-literal=x=1"),
            "created",
        );
        contains(
            &world.ok("create configmap d --from-literal=x=1 --dry-run=server"),
            "created",
        );
        world.run("get cm d").failed_with("not found");
        world
            .run("create configmap a --from-literal=x=1")
            .failed_with("already exists");
        contains(
            &world.ok("create secret generic s --from-literal=password=geheim"),
            "created",
        );
        assert_eq!(world.json("get secret s")["data"]["password"], "Z2VoZWlt");
        contains(&world.ok("create serviceaccount ci"), "created");
        contains(&world.ok("create namespace shop"), "created");
        contains(&world.ok("get sa default -n shop"), "default");
        contains(&world.ok_with("create -f -", &route("v1")), "created");
        contains(&world.ok_with("replace -f -", &route("v2")), "replaced");
        world.ok("patch vs reviews --type=merge -p {\"spec\":{\"hosts\":[\"a\"]}}");
        world.ok("patch vs reviews --type=json -p [{\"op\":\"add\",\"path\":\"/spec/hosts/-\",\"value\":\"b\"}]");
        assert_eq!(
            world.json("get vs reviews")["spec"]["hosts"],
            serde_json::json!(["a", "b"])
        );
        world.ok("patch configmap a -p {\"data\":{\"x\":null,\"y\":\"2\"}}");
        assert_eq!(
            world.json("get cm a")["data"],
            serde_json::json!({"y": "2"})
        );
        contains(&world.ok("label vs reviews team=web"), "labeled");
        contains(&world.ok("get vs -l team=web"), "reviews");
        contains(&world.ok("label vs reviews team-"), "reviews");
        contains(&world.ok("annotate cm a note=x"), "annotated");
        world
            .run("patch vs reviews --type=json -p [{\"op\":\"remove\",\"path\":\"/spec/none\"}]")
            .failed_with("invalid");
        world
            .run("patch vs reviews --type=strategic -p {\"spec\":{}}")
            .failed_with("accepted media types");
        contains(
            &world.ok("create role reader --verb=get,list --resource=configmaps"),
            "created",
        );
        contains(
            &world.ok("create rolebinding reader --role=reader --user=bob"),
            "created",
        );
        contains(
            &world.ok(
                "create clusterrole all --verb=get --resource=virtualservices.networking.istio.io",
            ),
            "created",
        );
        contains(
            &world.ok("create clusterrolebinding all --clusterrole=all --group=team"),
            "created",
        );
        if world.has("token ") {
            contains(&world.ok("create token ci --duration=10m"), ".");
        }
        contains(&world.ok("delete cm a --wait=true"), "deleted");
        contains(&world.ok("delete secret,sa --all -n shop"), "deleted");
        world.ok("delete namespace shop --timeout=20s");
        world.run("get ns shop").failed_with("not found");
        world
            .run("delete namespace mesh-system")
            .failed_with("may not be deleted");
    });
}

#[test]
fn a_watch_prints_changes_and_wait_ends_with_them() {
    World::each(|world| {
        world.ok_with("apply -f -", &route("v1"));
        let (_table, table) = world.follow("get vs -w");
        next_line(&table, "reviews");
        let (_names, names) = world.follow("get vs -w -o name --watch-only");
        let (_yaml, yaml) = world.follow("get vs reviews -w -o jsonpath={.spec.hosts}{\"\\n\"}");
        next_line(&yaml, "reviews");
        let (mut gone, _) = world.follow("wait --for=delete vs/reviews --timeout=20s");
        world.ok("patch vs reviews --type=merge -p {\"spec\":{\"hosts\":[\"later\"]}}");
        next_line(&table, "later");
        next_line(&yaml, "later");
        // Watchers of names that came late may have missed the first change, not the second.
        world.ok("label vs reviews x=y");
        next_line(&names, "virtualservice.networking.istio.io/reviews");
        world.ok("delete vs reviews");
        let status = gone.0.wait().unwrap();
        assert!(status.success(), "wait --for=delete");
    });
}

#[test]
fn a_reader_reads_and_is_refused_every_write() {
    World::each(|world| {
        world.ok_with("apply -f -", CONFIG);
        world.ok("create rolebinding bob --clusterrole=view --user=bob");
        let bob = world.user("bob");
        let as_bob = |line: &str| world.run_as(&bob, line, "");
        contains(&as_bob("get cm settings").succeeded().stdout, "settings");
        contains(
            &as_bob("auth can-i get configmaps").succeeded().stdout,
            "yes",
        );
        assert_eq!(as_bob("auth can-i create configmaps").stdout.trim(), "no");
        assert_eq!(as_bob("auth can-i get secrets").stdout.trim(), "no");
        assert_eq!(
            as_bob("auth can-i get configmaps -n mesh-system")
                .stdout
                .trim(),
            "no"
        );
        contains(
            &as_bob("auth can-i --list").succeeded().stdout,
            "configmaps",
        );
        as_bob("delete cm settings")
            .failed_with("User \"bob\" cannot delete resource \"configmaps\"");
        as_bob("create configmap mine --from-literal=a=b").failed_with("orbidden");
        as_bob("get secrets").failed_with("cannot list resource \"secrets\"");
        as_bob("get cm -A").failed_with("at the cluster scope");
        let write = world.run_as(&bob, "apply -f -", &route("v1"));
        write.failed_with("orbidden");
        world.run("get vs reviews").failed_with("not found");
        // Who may write roles cannot write one that gives more than they have.
        world.ok("create role granter --verb=create,get --resource=roles,rolebindings");
        world.ok("create rolebinding granter --role=granter --user=bob");
        as_bob("create role more --verb=delete --resource=configmaps")
            .failed_with("attempting to grant RBAC permissions not currently held");
        as_bob("create rolebinding more --clusterrole=edit --user=bob")
            .failed_with("not currently held");
        as_bob("create role same --verb=get --resource=configmaps").succeeded();
    });
}

#[test]
fn unknown_fields_are_refused_or_warned_of() {
    let unknown = route("v1").replace("  hosts:", "  hots: [x]\n  hosts:");
    World::each(|world| {
        let apply = world.run_as("kubeconfig", "apply -f -", &unknown);
        if world.ok("apply --help").contains("strict") {
            // kubectl from 1.25 on asks for strict validation by itself.
            apply.failed_with("unknown field \"spec.hots\"");
            let warned = world.run_as("kubeconfig", "apply --validate=warn -f -", &unknown);
            contains(&warned.succeeded().stderr, "unknown field \"spec.hots\"");
        } else {
            // Older ones read the schema themselves.
            apply.failed_with("unknown field \"hots\"");
            let warned = world.run_as("kubeconfig", "apply --validate=false -f -", &unknown);
            contains(&warned.succeeded().stderr, "unknown field");
        }
    });
}

#[test]
fn every_problem_of_an_object_is_told_at_once() {
    let wrong = route("v1")
        .replace("weight: 100", "weight: all")
        .replace("hosts: [reviews]", "hosts: [\"a b\"]");
    World::each(|world| {
        let done = world
            .run_as("kubeconfig", "apply --validate=false -f -", &wrong)
            .failed_with("weight");
        contains(&done.stderr, "spec.");
        world.run("get vs reviews").failed_with("not found");
    });
}

/// Numbers by their value: YAML's `100.0` is JSON's `100`.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(list) => list.iter().map(plain).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect(),
        other => other.clone(),
    }
}

/// Ring `samples`: a document of a kind that is served is stored and read back equal, any other is
/// refused by its kind.
#[test]
fn istios_own_files_are_stored_as_they_are() {
    let directory = std::env::var("MESH_ISTIO_SAMPLES").unwrap_or_else(|_| {
        panic!("this ring needs MESH_ISTIO_SAMPLES, a directory of Istio's sample files")
    });
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    let world = World::new(&kubectls()[0]);
    let (mut stored, mut refused) = (0, 0);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for document in text.split("\n---") {
            let document = document.trim_start_matches("---");
            let value: Value = serde_saphyr::from_str(document).unwrap_or_default();
            if value.is_null() {
                continue;
            }
            let kind = value["kind"].as_str().unwrap();
            let api_version = value["apiVersion"].as_str().unwrap();
            let namespace = value["metadata"]["namespace"].as_str().unwrap_or("default");
            let name = value["metadata"]["name"].as_str().unwrap();
            let context = format!("{kind} {name} of {}", file.display());
            if mesh_model::Kind::of_object(api_version, kind).is_none() {
                let done = world.run_as("kubeconfig", "apply --validate=false -f -", document);
                done.failed_with("no matches for kind");
                let plural = format!("{}s", kind.to_lowercase());
                let path = if api_version.contains('/') {
                    format!("/apis/{api_version}/namespaces/default/{plural}")
                } else {
                    format!("/api/{api_version}/namespaces/default/{plural}")
                };
                let json = value.to_string();
                let done = world.run_as("kubeconfig", &format!("create --raw {path} -f -"), &json);
                done.failed_with("could not find the requested resource");
                refused += 1;
                continue;
            }
            if namespace != "default" {
                world.run(&format!("create namespace {namespace}"));
            }
            // As strict as the kubectl is by itself.
            let done = world.run_as("kubeconfig", "apply -f -", document);
            assert!(done.ok, "{context}: {done:#?}");
            // `kind.version.group`, so that it is read in the version that it was written in.
            let resource = match api_version.rsplit_once('/') {
                Some((group, version)) => format!("{kind}.{version}.{group}"),
                None => kind.to_owned(),
            };
            let found = world.json(&format!("get {resource} {name} -n {namespace}"));
            for field in ["apiVersion", "kind", "spec", "data"] {
                assert_eq!(
                    plain(&found[field]),
                    plain(&value[field]),
                    "{context}: {field}"
                );
            }
            for (label, wanted) in value["metadata"]["labels"]
                .as_object()
                .into_iter()
                .flatten()
            {
                assert_eq!(&found["metadata"]["labels"][label], wanted, "{context}");
            }
            world.ok(&format!("delete {resource} {name} -n {namespace}"));
            stored += 1;
        }
    }
    println!("samples: {stored} stored and read back equal, {refused} refused by their kind");
    assert!(
        stored > 0 && refused > 0,
        "{stored} stored, {refused} refused"
    );
}
