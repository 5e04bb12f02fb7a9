//! Images: missing, imported with progress, too big for the disk.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use mesh_runtime::docker::Progress;
use mesh_runtime::{Capability, Runtime as _, RuntimeError, UnitSpec};

use crate::conformance::bed::{Bed as _, eventually, name, said, settle};
use crate::host::{DockerBed, on_a_bed, on_a_daemon};

#[test]
fn an_image_that_is_missing_is_named_with_what_to_do() {
    on_a_bed(missing_image);
}

pub(crate) async fn missing_image(bed: &mut DockerBed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let mut unit = bed.unit("app", &["sleep"]);
    unit.image = Some("mesh-test/none:1".to_owned());
    let error = engine.create_unit(&web, &unit).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no image `mesh-test/none:1`");
    assert_eq!(error.hint(), Some("pull it, or import it"));
    let error = engine.status(&web, &unit.name).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::NotFound { kind: "unit", .. }),
        "{error:?}"
    );
    unit.image = None;
    let error = engine.create_unit(&web, &unit).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::Unsupported { .. }),
        "{error:?}"
    );
}

#[test]
fn a_registry_that_is_away_is_told_in_the_daemons_words() {
    on_a_daemon(None, async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        // Port 1 of the daemon's own loopback.
        let image = "127.0.0.1:1/web:1";
        let error = engine.pull(image, &mut |_| {}).await.unwrap_err();
        assert!(error.to_string().contains(image), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("connection refused"), "{cause}");
    });
}

/// A registry with one image in it, that of the guest program, on plain HTTP.
const REGISTRY: &str = r#"
import hashlib, http.server, io, json, sys, tarfile
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w") as archive: archive.add(sys.argv[1], "guest")
layer = packed.getvalue()
digest = lambda data: "sha256:" + hashlib.sha256(data).hexdigest()
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/guest"], "Cmd": ["print", "pulled"]},
                     "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}).encode()
kind = "application/vnd.docker.distribution.manifest.v2+json"
manifest = json.dumps({"schemaVersion": 2, "mediaType": kind,
    "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config), "digest": digest(config)},
    "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": len(layer), "digest": digest(layer)}]}).encode()
answers = {"/v2/": b"{}"}
for data in (config, layer): answers["/v2/web/blobs/" + digest(data)] = data
for name in ("1", "latest", digest(manifest)): answers["/v2/web/manifests/" + name] = manifest
class Registry(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self): self.answer(False)
    def do_GET(self): self.answer(True)
    def answer(self, whole):
        data = answers.get(self.path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Type", kind if "/manifests/" in self.path else "application/octet-stream")
        if data == manifest: self.send_header("Docker-Content-Digest", digest(manifest))
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if whole: self.wfile.write(data or b"")
http.server.ThreadingHTTPServer(("127.0.0.1", 5000), Registry).serve_forever()
"#;

#[test]
fn an_image_is_pulled_layer_by_layer_and_runs_what_it_says_itself() {
    on_a_daemon(None, async |bed| {
        let guest = bed.path("rootfs/guest");
        let program = ["python3", "-c", REGISTRY, guest.to_str().unwrap()];
        let mut registry = bed.start_beside_the_daemon(&program);
        let image = "127.0.0.1:5000/web:1";
        let engine = bed.open("mesh").await.unwrap();
        let mut steps = Vec::new();
        // Not before it listens.
        eventually(async || {
            steps.clear();
            engine.pull(image, &mut |step| steps.push(step)).await.ok()
        })
        .await;
        registry.kill().unwrap();
        registry.wait().unwrap();
        let of_a_layer = |step: &&Progress| step.layer.is_some() && step.total.is_some();
        assert!(steps.iter().any(|step| of_a_layer(&step)), "{steps:?}");
        assert!(steps.last().unwrap().step.contains(image), "{steps:?}");

        let web = settle(&engine, "shop.web").await;
        let mut unit = UnitSpec::new(name("app"), Vec::<String>::new());
        unit.image = Some(image.to_owned());
        assert_eq!(said(&engine, &web, &unit).await, "pulled\n");
    });
}

#[test]
fn a_root_file_system_becomes_an_image_as_it_is() {
    on_a_daemon(None, async |bed| {
        let root = bed.path("rootfs");
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/conf"), "value").unwrap();
        fs::set_permissions(root.join("etc/conf"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(root.join("etc/conf"), Some(1337), Some(1338)).unwrap();
        symlink("etc/conf", root.join("link")).unwrap();
        let engine = bed.open("mesh").await.unwrap();
        let mut steps = Vec::new();
        engine
            .import(crate::host::IMAGE, &root, &mut |step| {
                steps.push(step.to_string());
            })
            .await
            .unwrap();
        assert!(!steps.is_empty());
        let web = settle(&engine, "shop.web").await;
        let mut unit = bed.unit("cat", &["cat", "/link"]);
        unit.capabilities = [Capability::DacOverride].into();
        let text = said(&engine, &web, &unit).await;
        assert_eq!(text, "640 1337:1338 value\n");
        engine.remove_all().await.unwrap();
        assert_eq!(bed.docker(&["images", "--all", "--quiet"]), "");
    });
}

#[test]
fn a_directory_that_is_not_there_makes_no_image() {
    on_a_daemon(None, async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        let imported = engine
            .import("mesh-test/x", bed.path("none"), &mut |_| {})
            .await;
        let error = imported.unwrap_err();
        assert!(matches!(error, RuntimeError::System { .. }), "{error:?}");
        assert_eq!(bed.docker(&["images", "--all", "--quiet"]), "");
    });
}

#[test]
fn a_full_disk_is_told_as_such_and_leaves_nothing() {
    on_a_daemon(Some("size=8m"), full_disk);
}

pub(crate) async fn full_disk(bed: &mut DockerBed) {
    let engine = bed.open("mesh").await.unwrap();
    fs::write(bed.path("rootfs/big"), vec![7; 16 << 20]).unwrap();
    let error = bed.import(&engine).await.unwrap_err();
    assert!(matches!(error, RuntimeError::DiskFull { .. }), "{error:?}");
    assert!(error.hint().is_some());
    assert_eq!(bed.docker(&["images", "--all", "--quiet"]), "");

    // What fits still works, and a unit that fills the rest fails by itself alone.
    fs::remove_file(bed.path("rootfs/big")).unwrap();
    bed.import(&engine).await.unwrap();
    let web = settle(&engine, "shop.web").await;
    let text = said(&engine, &web, &bed.unit("print", &["print", "fits"])).await;
    assert_eq!(text, "fits\n");
    assert_eq!(
        engine.group(&web).await.unwrap().spec.name,
        name("shop.web")
    );
}
