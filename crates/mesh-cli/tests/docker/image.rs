//! Images: the same twice, made again when something differs, and told what is missing.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::host::{Host, on_a_host};

fn build(host: &Host, image: &str) -> Value {
    let said = host.mesh(&["image", "build", image, "--json"]).ok();
    let mut images: Vec<Value> = serde_json::from_str(&said).unwrap();
    assert_eq!(images.len(), 1, "{images:?}");
    images.remove(0)
}

fn layers(host: &Host, image: &str) -> String {
    let format = ["inspect", "--format", "{{json .RootFS.Layers}}", image];
    host.daemon.docker(&format)
}

#[test]
fn what_is_equal_is_not_made_again_and_has_equal_layers() {
    on_a_host(|host| {
        let first = build(host, "etcd");
        assert_eq!(first["created"], true, "{first}");
        let second = build(host, "etcd");
        assert_eq!(second["created"], false, "{second}");
        assert_eq!(first["id"], second["id"]);
        let name = first["name"].as_str().unwrap().to_owned();
        let before = layers(host, &name);
        host.daemon
            .docker(&["rmi", "--force", first["id"].as_str().unwrap()]);
        let third = build(host, "etcd");
        assert_eq!(third["created"], true, "{third}");
        assert_eq!(third["name"], first["name"]);
        assert_eq!(layers(host, &name), before);
    });
}

#[test]
fn the_images_run_their_programs_and_nothing_else() {
    on_a_host(|host| {
        host.mesh(&["image", "build"]).ok();
        let run = |entry: &str, image: &str, arguments: &[&str]| {
            let first = [
                "run",
                "--rm",
                "--network",
                "none",
                "--entrypoint",
                entry,
                image,
            ];
            host.daemon.docker(&[&first, arguments].concat())
        };
        let version = concat!(":", env!("CARGO_PKG_VERSION"));
        let (mesh, etcd) = (format!("mesh{version}"), format!("mesh-etcd{version}"));
        assert!(run("/usr/bin/mesh", &mesh, &["--version"]).starts_with("mesh "));
        assert!(run("/usr/bin/envoy", &mesh, &["--version"]).contains("version:"));
        assert!(run("/usr/bin/etcd", &etcd, &["--version"]).contains("etcd Version"));

        let container = host.daemon.docker(&["create", &mesh]);
        let archive = host.daemon.path("mesh.tar");
        let out = archive.to_str().unwrap();
        host.daemon
            .docker(&["export", "--output", out, container.trim()]);
        host.daemon.docker(&["rm", container.trim()]);
        let listed = host.run("tar", &["--list", "--file", out], "").ok();
        let programs: BTreeSet<_> = listed
            .lines()
            .filter(|it| it.starts_with("usr/bin/") && !it.ends_with('/'))
            .collect();
        assert_eq!(programs, ["usr/bin/envoy", "usr/bin/mesh"].into());
    });
}

#[test]
fn an_archive_of_an_image_is_loaded_as_what_is_built() {
    on_a_host(|host| {
        let write = |to: &str| {
            let directory = host.daemon.path(to);
            let words = ["image", "build", "--json", "--output"];
            let words = [&words[..], &[directory.to_str().unwrap()]].concat();
            let images: Vec<Value> = serde_json::from_str(&host.mesh(&words).ok()).unwrap();
            images
        };
        let first = write("archives");
        let second = write("again");
        assert_eq!(first.len(), 2, "{first:?}");
        // No daemon was asked for either.
        let there = host.daemon.docker(&["images", "--all", "--quiet"]);
        assert_eq!(there, "");
        for (one, other) in first.iter().zip(&second) {
            let read = |image: &Value| std::fs::read(image["file"].as_str().unwrap()).unwrap();
            assert!(
                read(one) == read(other),
                "{one} has other bytes than {other}"
            );
        }

        for image in &first {
            let load = [
                "load",
                "--quiet",
                "--input",
                image["file"].as_str().unwrap(),
            ];
            host.daemon.docker(&load);
            let name = image["image"].as_str().unwrap();
            let id = host
                .daemon
                .docker(&["inspect", "--format", "{{.Id}}", name]);
            assert_eq!(id.trim(), image["id"].as_str().unwrap());
        }
        let version = concat!("mesh:", env!("CARGO_PKG_VERSION"));
        let run = ["run", "--rm", "--network", "none", version, "--version"];
        assert!(host.daemon.docker(&run).starts_with("mesh "));

        // What was loaded is taken for what would be built, and has the same files.
        for (image, kind) in first.iter().zip(["mesh", "etcd"]) {
            let built = build(host, kind);
            assert_eq!(built["created"], false, "{built}");
            for key in ["image", "name", "id"] {
                assert_eq!(built[key], image[key], "{key}");
            }
        }
        let etcd = first[1]["name"].as_str().unwrap();
        let loaded = layers(host, etcd);
        host.daemon
            .docker(&["rmi", "--force", first[1]["id"].as_str().unwrap()]);
        let built = build(host, "etcd");
        assert_eq!(built["created"], true, "{built}");
        assert_eq!(layers(host, etcd), loaded);
    });
}

#[test]
fn an_archive_that_cannot_be_finished_is_not_there() {
    on_a_host(|host| {
        let full = host.daemon.path("full");
        std::fs::create_dir(&full).unwrap();
        let script = format!(
            "mount -t tmpfs -o size=1m tmpfs '{0}' && \"$0\" image build etcd --output '{0}'; \
             code=$?; ls -A '{0}'; exit $code",
            full.display()
        );
        let mesh = env!("CARGO_BIN_EXE_mesh");
        let said = host.run("unshare", &["--mount", "sh", "-c", &script, mesh], "");
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("etcd"), "{said:?}");
        assert_eq!(said.stdout, "", "{said:?}");
    });
}

#[test]
fn another_program_makes_another_image_and_the_old_one_goes() {
    on_a_host(|host| {
        let first = build(host, "etcd");
        // The same program with one byte behind its end.
        let etcd = host.daemon.path("etcd");
        let copy = format!(
            "cp \"$(readlink -f \"$(command -v etcd)\")\" '{0}' && echo >> '{0}'",
            etcd.display()
        );
        host.run("sh", &["-c", &copy], "").ok();
        let words = [
            "image",
            "build",
            "etcd",
            "--json",
            "--etcd",
            etcd.to_str().unwrap(),
        ];
        let said = host.mesh(&words).ok();
        let second: Value = serde_json::from_str(&said).unwrap();
        assert_ne!(first["name"], second[0]["name"]);
        let ids = host
            .daemon
            .docker(&["images", "--all", "--quiet", "--no-trunc"]);
        let ids: BTreeSet<_> = ids.split_whitespace().collect();
        assert_eq!(ids, [second[0]["id"].as_str().unwrap()].into());
    });
}

#[test]
fn a_daemon_that_is_away_is_one_sentence_and_exit_code_4() {
    on_a_host(|host| {
        host.daemon.stop_daemon();
        let home = host.home();
        let words = ["image", "build", "--docker-socket", "/nowhere/docker.sock"];
        // Its own network is gone with the daemon.
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(words)
            .env("MESH_HOME", &home)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(4));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.starts_with("error: no container daemon answers at"),
            "{said}"
        );
        assert!(said.contains("hint: start the daemon"), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    });
}
