//! The daemon: away, restarted, shared with others, and gone without a trace.

use std::collections::BTreeSet;
use std::fs;

use mesh_runtime::{
    Creation, NetworkSpec, RestartPolicy, Runtime as _, RuntimeError, Start, UnitState,
};

use crate::conformance::bed::{Bed as _, group, name, run, settle};
use crate::host::{DockerBed, on_a_bed, on_a_daemon};

#[test]
fn a_daemon_that_is_away_is_told_with_what_to_do() {
    on_a_daemon(None, async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        bed.stop_daemon();
        for error in [
            bed.open("mesh").await.unwrap_err(),
            engine
                .create_network(&NetworkSpec::mesh())
                .await
                .unwrap_err(),
            engine.list(&[].into()).await.unwrap_err(),
        ] {
            assert!(matches!(error, RuntimeError::NoDaemon { .. }), "{error:?}");
            assert!(error.to_string().contains("docker.sock"), "{error}");
            assert!(error.hint().unwrap().contains("systemctl start docker"));
        }
    });
}

#[test]
fn after_a_restart_of_the_daemon_nothing_runs_without_its_namespace_and_all_comes_back() {
    on_a_bed(async |bed| {
        let engine = bed.engine().await;
        let web = settle(&*engine, "shop.web").await;
        let mut unit = bed.unit("app", &["sleep"]);
        unit.restart = RestartPolicy::Always;
        run(&*engine, &web, &unit).await;
        let mut done = bed.unit("setup", &["write", "/kept", "data"]);
        done.restart = RestartPolicy::Never;
        run(&*engine, &web, &done).await;
        engine.wait_ended(&web, &done.name).await.unwrap();
        let stopped = bed.unit("stopped", &["sleep"]);
        run(&*engine, &web, &stopped).await;
        engine.stop_unit(&web, &stopped.name).await.unwrap();
        bed.stop_daemon();
        bed.start_daemon();

        let fresh = bed.engine().await;
        // The daemon itself would start the unit; without the namespace, and so without the
        // redirect rules, it may not.
        let adoption = fresh.adopt().await.unwrap();
        assert_eq!(adoption.lost, [(web.clone(), name("app"))]);
        assert_eq!((adoption.running, adoption.removed), (vec![], vec![]));
        assert_eq!(fresh.group(&web).await.unwrap().namespace, None);
        let error = fresh.start_unit(&web, &unit.name).await.unwrap_err();
        assert!(
            matches!(error, RuntimeError::NotStarted { .. }),
            "{error:?}"
        );

        let (creation, again) = fresh.create_group(&group("shop.web")).await.unwrap();
        assert_eq!(creation, Creation::Exists);
        assert!(again.namespace.is_some() && again.rules_applied_at_millis.is_none());
        let started = fresh.start_unit(&web, &unit.name).await.unwrap();
        assert_eq!(started, Start::Started);
        let state = fresh.status(&web, &stopped.name).await.unwrap().state;
        assert_eq!(state, UnitState::Stopped);
        // What a container wrote is there as before.
        assert!(
            bed.docker(&["diff", "mesh_shop.web_setup"])
                .contains("A /kept")
        );
    });
}

#[test]
fn a_container_or_network_of_somebody_else_is_left_alone() {
    on_a_bed(foreign);
}

pub(crate) async fn foreign(bed: &mut DockerBed) {
    let engine = bed.engine().await;
    bed.docker(&["network", "create", "mesh_mesh"]);
    let error = engine
        .create_network(&NetworkSpec::mesh())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::NameTaken {
                kind: "network",
                ..
            }
        ),
        "{error:?}"
    );
    bed.docker(&["network", "rm", "mesh_mesh"]);
    let web = settle(&*engine, "shop.web").await;
    for foreign in ["mesh_shop.cart", "mesh_shop.web_app"] {
        bed.docker(&["create", "--name", foreign, crate::host::IMAGE, "/guest"]);
    }
    let unit = bed.unit("app", &["sleep"]);
    for error in [
        engine.create_group(&group("shop.cart")).await.unwrap_err(),
        engine.remove_group(&name("shop.cart")).await.unwrap_err(),
        engine.create_unit(&web, &unit).await.unwrap_err(),
        engine.remove_unit(&web, &unit.name).await.unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                RuntimeError::NameTaken {
                    kind: "container",
                    ..
                }
            ),
            "{error:?}"
        );
    }
    engine.remove_all().await.unwrap();
    let left = bed.docker(&["ps", "--all", "--format", "{{.Names}}"]);
    let left: BTreeSet<_> = left.lines().collect();
    assert_eq!(left, ["mesh_shop.cart", "mesh_shop.web_app"].into());
}

#[test]
fn a_daemon_of_this_ring_does_not_touch_the_machine_that_it_runs_on() {
    let look = || {
        let rules = std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output();
        let links = fs::read_to_string("/proc/net/dev").unwrap();
        let docker = links
            .lines()
            .filter(|line| line.contains("docker") || line.contains("mesh"));
        let docker: Vec<_> = docker.filter_map(|it| it.split(':').next()).collect();
        let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        (rules.unwrap().stdout, docker.join(" "), forward)
    };
    let before = look();
    on_a_bed(async |bed| {
        let engine = bed.engine().await;
        settle(&*engine, "shop.web").await;
        let links = bed.beside_the_daemon(&["ip", "link"]);
        assert!(
            links.contains("docker0") && links.contains("mesh0"),
            "{links}"
        );
        assert_eq!(look(), before);
    });
    assert_eq!(look(), before);
}
