//! Sidecars of containers: those that `mesh run` starts, those that others start with labels, and
//! those that join a network that is ready.

use std::collections::BTreeSet;

use crate::mesh::{Bed, IMAGE, on_a_mesh};

/// Starts a container as somebody does who knows nothing of the mesh but labels.
fn run_labelled(bed: &Bed, name: &str, more: &[&str]) {
    let label = format!("mesh.service-account={name}");
    let own = [
        "run",
        "--detach",
        "--name",
        name,
        "--label",
        "mesh.inject=true",
        "--label",
        &label,
        "--label",
        "mesh.ports=http:9080",
    ];
    let command = [IMAGE, "--name", name];
    bed.docker(&[&own, more, &command].concat());
}

/// Has `mesh run` start an application from an image.
fn run_image(bed: &Bed, name: &str, more: &[&str]) -> String {
    let own = [
        "run",
        "--detach",
        "--name",
        name,
        "--service-account",
        name,
        "--port",
        "http:9080",
        "--image",
        IMAGE,
    ];
    let command = ["--", "/usr/bin/mesh-echo", "--name", name];
    bed.mesh(&[&own, more, &command].concat())
}

/// The words that run one call of curl from an image, and wait for its end.
fn run_curl(flag: &str) -> [&str; 8] {
    [
        "run",
        "--name",
        "once",
        "--image",
        IMAGE,
        "--",
        "/usr/bin/curl",
        flag,
    ]
}

/// The identity of the caller, as the sidecar of the one that was called verified it.
fn caller(answer: &serde_json::Value) -> &str {
    let header = answer.pointer("/headers/x-forwarded-client-cert");
    let header = header.and_then(|it| it.as_str()).unwrap_or_default();
    let uri = header.split(';').find_map(|part| part.strip_prefix("URI="));
    uri.unwrap_or_default()
}

/// The answer of a server that may just have come into the mesh.
fn answer(bed: &mut Bed, from: &str, url: &str) -> serde_json::Value {
    bed.eventually(&format!("{from} gets an answer from {url}"), |bed| {
        bed.call(from, url).ok().filter(|it| it["name"].is_string())
    })
}

fn names(bed: &Bed, arguments: &[&str]) -> BTreeSet<String> {
    let told = bed.docker(arguments);
    told.lines().map(str::to_owned).collect()
}

fn containers(bed: &Bed) -> BTreeSet<String> {
    names(bed, &["ps", "--all", "--format", "{{.Names}}"])
}

#[test]
fn labelled_containers_call_each_other_under_mutual_tls_and_nobody_else_gets_in() {
    on_a_mesh(|bed| {
        let before = containers(bed);
        // One was there before the watch, on Docker's own bridge; the other comes after it.
        run_labelled(bed, "reviews", &[]);
        bed.start_watch();
        run_labelled(bed, "web", &["--network", "mesh_istiomesh"]);
        for container in ["reviews", "web"] {
            bed.wait_enrolled(container);
        }
        // By its name, which Docker's resolver does not know.
        for (from, to) in [("web", "reviews"), ("reviews", "web.default.mesh")] {
            let answer = answer(bed, from, &format!("http://{to}:9080/"));
            let expected = format!("spiffe://cluster.local/ns/default/sa/{from}");
            assert_eq!(caller(&answer), expected, "{answer}");
        }

        // Somebody without a sidecar gets no answer, and the same container gives one with one.
        let address = "{{(index .NetworkSettings.Networks \"mesh_istiomesh\").IPAddress}}";
        let address = bed.docker(&["inspect", "--format", address, "reviews"]);
        let plain = format!("http://{}:9080/", address.trim());
        bed.docker(&[
            "run",
            "--detach",
            "--name",
            "stranger",
            "--network",
            "mesh_istiomesh",
            IMAGE,
            "--name",
            "stranger",
        ]);
        assert!(bed.call("stranger", &plain).is_err());
        assert!(answer(bed, "web", "http://reviews:9080/")["name"] == "reviews");

        // Twice is once.
        let running = containers(bed);
        bed.kill_watch();
        bed.start_watch();
        for container in ["reviews", "web"] {
            bed.wait_enrolled(container);
        }
        assert_eq!(containers(bed), running);

        // With their containers, sidecars go, and nothing else.
        bed.docker(&["rm", "--force", "reviews", "web", "stranger"]);
        bed.eventually("sidecars are removed", |bed| {
            (containers(bed) == before).then_some(())
        });
        let left = std::fs::read_dir(bed.path("home/docker")).unwrap();
        let left = left.map(|it| it.unwrap().file_name().into_string().unwrap());
        let left: BTreeSet<_> = left
            .filter(|it| it.contains("web") || it.contains("held"))
            .collect();
        assert_eq!(left, BTreeSet::new());
    });
}

#[test]
fn a_restart_of_a_container_or_the_death_of_the_watch_loses_nothing() {
    on_a_mesh(|bed| {
        bed.start_watch();
        run_labelled(bed, "reviews", &[]);
        run_labelled(bed, "web", &[]);
        for container in ["reviews", "web"] {
            bed.wait_enrolled(container);
        }
        answer(bed, "web", "http://reviews:9080/");

        // A new run has a new network namespace, without rules until it is enrolled again.
        let first = bed.namespace("reviews");
        bed.docker(&["restart", "--time", "1", "reviews"]);
        assert_ne!(bed.namespace("reviews"), first);
        bed.eventually("the new run is enrolled", |bed| {
            let own = bed.namespace("reviews");
            let is_current = own.is_some() && own == bed.namespace("mesh_reviews_sidecar");
            (is_current && bed.standing("reviews") == "enrolled").then_some(())
        });
        let said = answer(bed, "web", "http://reviews:9080/");
        assert_eq!(caller(&said), "spiffe://cluster.local/ns/default/sa/web");

        // Without the watch, everything goes on, and what ends meanwhile is found by the next one.
        bed.kill_watch();
        answer(bed, "web", "http://reviews:9080/");
        bed.docker(&["restart", "--time", "1", "web"]);
        bed.docker(&["rm", "--force", "reviews"]);
        bed.start_watch();
        bed.eventually("the one that is gone has no sidecar any more", |bed| {
            let left = containers(bed);
            (!left.iter().any(|it| it.contains("reviews"))).then_some(())
        });
        run_labelled(bed, "reviews", &[]);
        for container in ["reviews", "web"] {
            bed.wait_enrolled(container);
        }
        answer(bed, "web", "http://reviews:9080/");

        // Taken down, the mesh leaves a container as it was: running, without rules, off its network.
        bed.kill_watch();
        bed.mesh(&["rm", "web"]);
        let networks = [
            "inspect",
            "--format",
            "{{json .NetworkSettings.Networks}}",
            "web",
        ];
        assert!(!bed.docker(&networks).contains("istiomesh"));
        let rules = bed.rules_of("web");
        assert!(!rules.contains("mesh"), "{rules}");
        assert_eq!(
            bed.docker(&["inspect", "--format", "{{.State.Status}}", "web"])
                .trim(),
            "running"
        );
    });
}

#[test]
fn a_restart_of_the_daemon_gives_every_container_a_sidecar_again() {
    on_a_mesh(|bed| {
        bed.start_watch();
        for name in ["reviews", "web"] {
            run_labelled(bed, name, &["--restart", "always"]);
            bed.wait_enrolled(name);
        }
        answer(bed, "web", "http://reviews:9080/");
        // The daemon has another network after this, and whoever watches it is started again by
        // whoever starts services.
        bed.restart_daemon();
        bed.mesh(&["up"]);
        bed.start_watch();
        for name in ["reviews", "web"] {
            bed.wait_enrolled(name);
        }
        let said = answer(bed, "web", "http://reviews:9080/");
        assert_eq!(caller(&said), "spiffe://cluster.local/ns/default/sa/web");
        let status = bed.mesh(&["proxy-status"]);
        for name in ["reviews", "web"] {
            assert!(status.contains(name), "{name} is not connected: {status}");
        }
    });
}

#[test]
fn a_container_is_held_until_its_rules_are_set_and_what_cannot_be_is_told() {
    on_a_mesh(|bed| {
        bed.start_watch();
        run_labelled(bed, "on-host", &["--network", "host"]);
        run_labelled(bed, "misspelt", &["--label", "mesh.port=http:80"]);
        for container in ["on-host", "misspelt"] {
            bed.eventually("it is refused", |bed| {
                (bed.standing(container) == "refused").then_some(())
            });
        }
        let (code, text) = bed.try_mesh(&["docker", "status"]);
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains("network mode: `host`"), "{text}");
        assert!(text.contains("mesh.port: `http:80`"), "{text}");
        bed.docker(&["rm", "--force", "on-host", "misspelt"]);

        // Nobody admits it: it has rules and no sidecar, and gets nowhere. What is said of the mesh
        // is known since the watch began.
        bed.docker(&["stop", "mesh_apiserver_apiserver"]);
        run_labelled(bed, "web", &[]);
        bed.eventually("rules are set", |bed| {
            bed.rules_of("web")
                .contains("table inet mesh_")
                .then_some(())
        });
        let pilot = "http://172.28.0.15:15014/ready";
        bed.eventually("it goes on, and gets nowhere", |bed| {
            let paused = bed.docker(&["inspect", "--format", "{{.State.Paused}}", "web"]);
            (paused.trim() == "false").then_some(())
        });
        assert!(bed.call("web", pilot).is_err());
        let network = "mesh_istiomesh";
        bed.docker(&[
            "run",
            "--detach",
            "--name",
            "stranger",
            "--network",
            network,
            IMAGE,
            "--name",
            "stranger",
        ]);
        assert!(bed.call("stranger", pilot).is_ok());
        assert_ne!(bed.standing("web"), "enrolled");
        bed.docker(&["start", "mesh_apiserver_apiserver"]);
        bed.wait_enrolled("web");
    });
}

#[test]
fn applications_from_images_and_containers_that_join_speak_through_their_sidecars_from_the_first_word()
 {
    on_a_mesh(|bed| {
        let (code, text) = bed.try_mesh(&["run", "--name", "web", "--", "true"]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("--image"), "{text}");
        assert!(run_image(bed, "reviews", &[]).contains("runs with its sidecar"));
        assert!(run_image(bed, "reviews", &[]).contains("was running"));
        assert!(run_image(bed, "reviews", &["--replace"]).contains("runs with its sidecar"));

        // Its first call, made before anything else, goes through the sidecar.
        let prepare = [
            "docker",
            "prepare",
            "--name",
            "web",
            "--service-account",
            "web",
        ];
        let network = bed.mesh(&prepare);
        assert_eq!(network.trim(), "container:mesh_web");
        assert_eq!(bed.mesh(&prepare), network);
        bed.docker(&[
            "run",
            "--detach",
            "--name",
            "joined",
            "--network",
            network.trim(),
            IMAGE,
            "--name",
            "joined",
        ]);
        let said = answer(bed, "joined", "http://reviews:9080/");
        assert_eq!(caller(&said), "spiffe://cluster.local/ns/default/sa/web");

        let exec = [
            "exec",
            "reviews",
            "--",
            "/usr/bin/curl",
            "-sS",
            "http://localhost:9080/",
        ];
        assert!(bed.mesh(&exec).contains("\"reviews\""));
        let status = bed.mesh(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let groups = status["groups"].as_array().unwrap();
        let reviews = groups.iter().find(|it| it["name"] == "reviews").unwrap();
        assert_eq!(reviews["rules"]["state"], "intact", "{reviews}");
        assert!(bed.mesh(&run_curl("--version")).contains("curl"));
        assert_eq!(bed.try_mesh(&run_curl("--bad")).0, Some(2));
        bed.docker(&["rm", "--force", "joined"]);
        bed.mesh(&["rm", "reviews", "web"]);
        let left = containers(bed);
        assert!(
            !left
                .iter()
                .any(|it| it.contains("web") || it.contains("reviews")),
            "{left:?}"
        );
    });
}
