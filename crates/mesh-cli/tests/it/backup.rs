//! A control plane whose store is lost comes back from a backup as it was.

use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use mesh_tests::port::free_address;
use serde_json::Value;

use super::mesh;

/// A control plane of API server and CA on ports of its own; ends with the test.
struct Plane {
    server: Child,
    home: String,
}

impl Plane {
    fn start(home: &Path) -> Self {
        let home = home.to_str().unwrap().to_owned();
        let [api, grpc, metrics] = [(); 3].map(|()| free_address().to_string());
        let arguments = [
            ["server", "--roles", "api,ca", "--listen", "127.0.0.1"].as_slice(),
            &["--api-listen", &api, "--grpc-listen", &grpc],
            &["--metrics-listen", &metrics, "--home", &home],
        ]
        .concat();
        let server = mesh(&arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let plane = Self { server, home };
        // The CA is the last to write: where agents find it.
        plane.wait_for(&["get", "configmap", "mesh", "--namespace", "mesh-system"]);
        plane
    }

    fn run(&self, arguments: &[&str]) -> Output {
        mesh(&[arguments, &["--home", &self.home]].concat())
            .output()
            .unwrap()
    }

    fn wait_for(&self, arguments: &[&str]) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let output = self.run(arguments);
            if output.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(Instant::now() < until, "{arguments:?}: {said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Objects of a kind without the revisions, which are the store's.
    fn objects(&self, kind: &str) -> Vec<Value> {
        let output = self.run(&["get", kind, "-A", "-o", "json"]);
        assert!(output.status.success(), "{output:?}");
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut items = list.get("items").unwrap().as_array().unwrap().clone();
        for item in &mut items {
            let metadata = item.get_mut("metadata").and_then(Value::as_object_mut);
            metadata.unwrap().remove("resourceVersion");
        }
        items
    }

    fn stop(mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

#[test]
fn a_lost_store_comes_back_from_a_backup_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (home, file) = (directory.path().join("home"), directory.path().join("b"));
    let file = file.to_str().unwrap();
    let policy = directory.path().join("policy.yaml");
    let document = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
        metadata: {name: strict, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
    std::fs::write(&policy, document).unwrap();

    let plane = Plane::start(&home);
    plane.wait_for(&["apply", "-f", policy.to_str().unwrap()]);
    let kinds = [
        "namespaces",
        "secrets",
        "peerauthentications",
        "clusterroles",
    ];
    let before = kinds.map(|kind| plane.objects(kind));
    let output = plane.run(&["backup", file]);
    assert!(output.status.success(), "{output:?}");
    // A second one does not replace the first.
    assert_eq!(plane.run(&["backup", file]).status.code(), Some(1));
    // Nor is a store touched that is in use.
    let output = plane.run(&["restore", file]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    plane.stop();

    let output = mesh(&["restore", file, "--home", home.to_str().unwrap()]);
    let output = { output }.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");

    std::fs::remove_file(home.join("store.redb")).unwrap();
    let output = mesh(&["restore", file, "--home", home.to_str().unwrap()]);
    let output = { output }.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let plane = Plane::start(&home);
    let after = kinds.map(|kind| plane.objects(kind));
    assert_eq!(
        after, before,
        "the roots and keys among them are the old ones"
    );
    assert!(before.iter().all(|objects| !objects.is_empty()));
}
