//! What is there stays, is found again, and goes without a trace.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use mesh_runtime::{
    Contents, Creation, FileSpec, NetworkSpec, Removal, Runtime as _, RuntimeError, Start, Stop,
    UnitSpec, UnitState,
};

use crate::host::{self, name, on_a_host};

#[test]
fn everything_can_be_asked_for_twice() {
    on_a_host(async |host| {
        let engine = host.engine();
        let network = NetworkSpec::mesh();
        assert_eq!(
            engine.create_network(&network).await.unwrap(),
            Creation::Created
        );
        assert_eq!(
            engine.create_network(&network).await.unwrap(),
            Creation::Exists
        );
        assert_eq!(engine.network(&network.name).await.unwrap(), network);
        let spec = host::group_spec("shop.web");
        let (creation, group) = engine.create_group(&spec).await.unwrap();
        assert_eq!(creation, Creation::Created);
        assert_eq!(
            engine.create_group(&spec).await.unwrap(),
            (Creation::Exists, group)
        );
        let unit = host::unit("app", &["sleep", "100"]);
        assert_eq!(
            engine.create_unit(&spec.name, &unit).await.unwrap(),
            Creation::Created
        );
        assert_eq!(
            engine.create_unit(&spec.name, &unit).await.unwrap(),
            Creation::Exists
        );
        assert_eq!(
            engine.start_unit(&spec.name, &unit.name).await.unwrap(),
            Start::Started
        );
        assert_eq!(
            engine.start_unit(&spec.name, &unit.name).await.unwrap(),
            Start::AlreadyRunning
        );

        assert_eq!(
            engine.stop_unit(&spec.name, &unit.name).await.unwrap(),
            Stop::Stopped
        );
        assert_eq!(
            engine.stop_unit(&spec.name, &unit.name).await.unwrap(),
            Stop::NotRunning
        );
        assert_eq!(
            engine.remove_group(&spec.name).await.unwrap(),
            Removal::Removed
        );
        assert_eq!(
            engine.remove_group(&spec.name).await.unwrap(),
            Removal::Absent
        );
        assert_eq!(
            engine.remove_network(&network.name).await.unwrap(),
            Removal::Removed
        );
        assert_eq!(
            engine.remove_network(&network.name).await.unwrap(),
            Removal::Absent
        );
    });
}

#[test]
fn what_is_there_is_not_changed_by_asking_differently() {
    on_a_host(async |host| {
        let engine = host.engine();
        let network = NetworkSpec::mesh();
        engine.create_network(&network).await.unwrap();
        let spec = host.group(&engine, "shop.web").await.spec;
        let unit = host::unit("app", &["sleep", "100"]);
        engine.create_unit(&spec.name, &unit).await.unwrap();
        let mut other = network.clone();
        other.v4 = "10.99.0.0/16".parse().unwrap();
        let error = engine.create_network(&other).await.unwrap_err();
        assert!(
            matches!(
                error,
                RuntimeError::Differs {
                    kind: "network",
                    ..
                }
            ),
            "{error}"
        );
        let mut other = unit.clone();
        other.command = vec!["true".to_owned()];
        let error = engine.create_unit(&spec.name, &other).await.unwrap_err();
        assert!(
            matches!(error, RuntimeError::Differs { kind: "unit", .. }),
            "{error}"
        );
        let error = engine.remove_network(&network.name).await.unwrap_err();
        assert!(matches!(error, RuntimeError::InUse { .. }), "{error}");
    });
}

#[test]
fn a_fresh_engine_adopts_what_runs_and_removes_what_is_half_made() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let group = host.group(&engine, "shop.web").await.spec.name;
        host.run(
            &engine,
            "shop.web",
            "app",
            &["sleep".to_owned(), "100".to_owned()],
        )
        .await;
        let half = host.group(&engine, "shop.half").await;
        // As a crash in the middle leaves it.
        let record = host.path("engine/groups/shop.half/group.json");
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replace("\"ready\"", "\"creating\"")).unwrap();
        drop(engine);

        let fresh = host.engine();
        let adoption = fresh.adopt().await.unwrap();
        assert_eq!(adoption.running, [(group.clone(), name("app"))]);
        assert_eq!(adoption.removed, ["group `shop.half`, half made"]);
        assert!(!half.namespace.unwrap().exists());
        assert_eq!(
            fresh.start_unit(&group, &name("app")).await.unwrap(),
            Start::AlreadyRunning
        );
        let again = fresh.adopt().await.unwrap();
        assert!(again.removed.is_empty() && again.lost.is_empty());
    });
}

#[test]
fn a_group_whose_namespace_is_gone_is_not_adopted() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let group = host.group(&engine, "shop.web").await;
        // As a restart of the machine leaves it: the file without what was mounted on it.
        rustix::mount::unmount(
            group.namespace.unwrap(),
            rustix::mount::UnmountFlags::DETACH,
        )
        .unwrap();
        let adoption = engine.adopt().await.unwrap();
        assert_eq!(
            adoption.removed,
            ["group `shop.web`, its namespace is gone"]
        );
        let error = engine.group(&group.spec.name).await.unwrap_err();
        assert!(matches!(error, RuntimeError::NotFound { .. }));
    });
}

#[test]
fn units_outlive_the_process_that_started_them() {
    // Played by this test itself in a process of its own.
    if let Some(root) = std::env::var_os("MESH_RUNTIME_TEST_CALLER") {
        return host::in_this_namespace(async || {
            let engine = host::engine_in(root);
            let group = host::group_spec_on_host("g");
            engine.create_group(&group).await.unwrap();
            let unit = host::unit("app", &["sleep", "100"]);
            engine.create_unit(&group.name, &unit).await.unwrap();
            engine.start_unit(&group.name, &unit.name).await.unwrap();
        });
    }
    on_a_host(async |host| {
        let test = "life::units_outlive_the_process_that_started_them";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env("MESH_RUNTIME_TEST_CALLER", host.path("engine"))
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let engine = host.engine();
        let status = engine.status(&name("g"), &name("app")).await.unwrap();
        let UnitState::Running { pid } = status.state else {
            panic!("the unit does not run: {status:?}");
        };
        assert!(host::runs(pid));
    });
}

#[test]
fn removal_leaves_nothing() {
    on_a_host(async |host| {
        let engine = host.engine();
        let before = host.look(&engine);
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let mut pids = Vec::new();
        for group in ["shop.web", "shop.cart"] {
            host.group(&engine, group).await;
            let command = ["sh", "-c", "setsid sleep 100 & exec sleep 100"].map(str::to_owned);
            host.run(&engine, group, "app", &command).await;
            let status = engine.status(&name(group), &name("app")).await.unwrap();
            let UnitState::Running { pid } = status.state else {
                panic!("the unit does not run: {status:?}");
            };
            pids.extend([pid, host::parent(pid)]);
        }
        // What a supervisor that is gone leaves behind, and one whose records are gone.
        host::kill(pids[1]);
        for group in ["shop.web", "shop.cart"] {
            fs::remove_dir_all(host.path("engine/groups").join(group)).unwrap();
        }
        let during = host.look(&engine);
        assert!(during.len() > before.len() + 4, "{during:?}");

        engine.remove_all().await.unwrap();
        assert_eq!(host.look(&engine), before);
        assert!(!host.path("engine").exists());
        assert!(pids.iter().all(|pid| !host::runs(*pid)));
    });
}

#[test]
fn two_engines_do_not_touch_each_other() {
    on_a_host(async |host| {
        let one = host.engine();
        let other = host::engine_in(host.path("other"));
        let mut network = NetworkSpec::mesh();
        one.create_network(&network).await.unwrap();
        network.bridge = "mesh1".to_owned();
        let error = other.create_network(&network).await.unwrap_err();
        assert!(matches!(error, RuntimeError::SubnetClash { .. }), "{error}");
        network.v4 = "10.214.0.0/16".parse().unwrap();
        network.v6 = "fd6d:6573:68d6::/64".parse().unwrap();
        other.create_network(&network).await.unwrap();
        let sleep = ["sleep", "100"].map(str::to_owned);
        host.group(&one, "shop.web").await;
        host.run(&one, "shop.web", "app", &sleep).await;
        let mut before = host.look(&one);
        assert!(before.remove("link mesh1"));
        host.group(&other, "shop.web").await;
        host.run(&other, "shop.web", "app", &sleep).await;
        assert!(host.look(&one).len() > before.len() + 2);
        other.remove_all().await.unwrap();
        assert_eq!(host.look(&one), before);
        let status = one.status(&name("shop.web"), &name("app")).await.unwrap();
        assert!(
            matches!(status.state, UnitState::Running { .. }),
            "{status:?}"
        );
        assert!(one.adopt().await.unwrap().removed.is_empty());
    });
}

#[test]
fn groups_are_found_by_their_labels() {
    on_a_host(async |host| {
        let engine = host.engine();
        for (group, tier) in [("a", "front"), ("b", "back")] {
            let mut spec = host::group_spec_on_host(group);
            spec.labels = [("tier".to_owned(), tier.to_owned())].into();
            engine.create_group(&spec).await.unwrap();
        }
        let labels = [("tier".to_owned(), "back".to_owned())].into();
        let found = engine.list(&labels).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].group.spec.name, name("b"));
        assert_eq!(engine.list(&BTreeMap::new()).await.unwrap().len(), 2);
    });
}

#[test]
fn a_full_disk_is_told_as_such_and_what_fits_still_works() {
    on_a_host(async |host| {
        let root = host.path("engine");
        fs::create_dir(&root).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            assert!(
                command
                    .args(arguments)
                    .arg(&root)
                    .status()
                    .unwrap()
                    .success()
            );
        };
        run(
            "mount",
            &["-t", "tmpfs", "-o", "size=512k,mode=711", "tmpfs"],
        );
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let group = host.group(&engine, "shop.web").await;
        let web = group.spec.name;
        let file = |size: usize| FileSpec {
            path: group.directory.join("data"),
            contents: Contents(vec![7; size]),
            mode: 0o600,
            uid: 0,
            gid: 0,
        };
        let mut unit = UnitSpec::new(name("app"), ["sleep", "60"]);
        unit.files = vec![file(1 << 20)];
        let error = engine.create_unit(&web, &unit).await.unwrap_err();
        assert!(matches!(error, RuntimeError::DiskFull { .. }), "{error:?}");
        assert!(error.hint().is_some());
        // Nothing of it takes the place of what fits.
        unit.files = vec![file(128 << 10)];
        engine.create_unit(&web, &unit).await.unwrap();
        engine.start_unit(&web, &unit.name).await.unwrap();
        engine.remove_all().await.unwrap();
        run("umount", &[]);
    });
}
