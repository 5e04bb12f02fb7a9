//! What each mode makes of a job of each driver, frozen: `tests/golden/inject/<mode>-<driver>.json`,
//! or `.refused` where it is refused. `UPDATE_EXPECT=1 cargo test -p mesh-nomad --test it golden`
//! writes the files anew.

use std::fs;
use std::path::Path;

use mesh_nomad::inject::{ModeChoice, Options, inject, uninject};
use mesh_nomad::model::Job;
use mesh_nomad::sidecar::Mode;
use serde_json::{Value, json};

const DRIVERS: [&str; 5] = ["docker", "podman", "exec", "raw_exec", "exec2"];

/// A web server with a check, in the network that the mode is for.
fn job(driver: &str, mode: Mode) -> Value {
    let is_container = matches!(driver, "docker" | "podman");
    let mut config = if is_container {
        json!({ "image": "shop/web:7" })
    } else {
        json!({ "command": "/usr/local/bin/web" })
    };
    let network = if mode.is_host() {
        if is_container {
            config["network_mode"] = "host".into();
        }
        json!({ "Mode": "host", "DynamicPorts": [{ "Label": "http" }], "ReservedPorts": null })
    } else {
        json!({ "Mode": "bridge", "DynamicPorts": [{ "Label": "http", "To": 8080 }] })
    };
    let mut meta = json!({ "team": "shop", "mesh.upstreams": "reviews:9080" });
    if mode.is_host() && !is_container {
        meta["mesh.include_uids"] = "2000".into();
    }
    json!({
        "ID": "web",
        "Name": "web",
        "Type": "service",
        "Meta": meta,
        "TaskGroups": [{
            "Name": "front",
            "Count": 2,
            "Networks": [network],
            "Services": [{
                "Name": "web",
                "Provider": "nomad",
                "PortLabel": "http",
                "Meta": { "version": "v2" },
                "Checks": [
                    { "Name": "alive", "Type": "http", "Path": "/health", "Interval": 10_000_000_000_u64,
                      "Timeout": 2_000_000_000, "Header": { "X-Probe": ["1"] } },
                    { "Type": "tcp", "Interval": 10_000_000_000_u64, "Timeout": 2_000_000_000 },
                ],
            }],
            "Tasks": [{
                "Name": "app",
                "Driver": driver,
                "User": if is_container { "1000:1000" } else { "" },
                "Config": config,
                "Env": null,
                "xUnknown": { "kept": [1, 2.5] },
            }],
        }],
    })
}

#[test]
fn each_mode_makes_of_each_driver_what_is_beside() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/inject");
    let is_update = std::env::var_os("UPDATE_EXPECT").is_some();
    for mode in Mode::ALL {
        for driver in DRIVERS {
            let options = Options {
                mode: ModeChoice::Mode(mode),
                image: Some("mesh/sidecar:1".into()),
                ..Options::default()
            };
            let before: Job = serde_json::from_value(job(driver, mode)).unwrap();
            let (ending, text) = match inject(&before, &options) {
                Ok(injection) => {
                    assert_eq!(uninject(&injection.job).unwrap(), before);
                    let text = serde_json::to_string_pretty(&injection.job).unwrap();
                    assert!(text.contains("mesh-proxy"), "{mode} {driver}");
                    ("json", text + "\n")
                }
                Err(refusals) => ("refused", format!("{refusals}\n")),
            };
            let file = directory.join(format!("{mode}-{driver}.{ending}"));
            if is_update {
                fs::create_dir_all(&directory).unwrap();
                fs::write(&file, &text).unwrap();
            }
            let expected = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert_eq!(text, expected, "{}", file.display());
        }
    }
}

#[test]
fn a_file_in_hcl_is_edited_only_where_it_changes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hcl");
    let text = fs::read_to_string(directory.join("shop.nomad.hcl")).unwrap();
    for mode in ["cni", "guard", "explicit"] {
        let options = Options {
            mode: mode.parse().unwrap(),
            image: Some("mesh/sidecar:1".into()),
            ..Options::default()
        };
        let injected = mesh_nomad::hcl::inject(&text, &options).unwrap().text;
        // Whatever line is gone was changed for a reason that the frozen file shows.
        let kept = text.lines().filter(|line| injected.contains(line)).count();
        assert!(
            kept * 10 >= text.lines().count() * 8,
            "only {kept} lines are left"
        );
        let file = directory.join(format!("shop.{mode}.hcl"));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&file, &injected).unwrap();
        }
        assert_eq!(injected, fs::read_to_string(&file).unwrap(), "{mode}");
        let again = mesh_nomad::hcl::inject(&injected, &options).unwrap_err();
        assert_eq!(again.to_string(), "group `front` is injected already");
    }
}
