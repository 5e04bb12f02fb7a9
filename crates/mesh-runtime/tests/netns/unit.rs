//! Units: order, readiness, restarts, stopping, users, files, logs.

use std::fs;
use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_runtime::{
    Condition, Creation, Dependency, DirectorySpec, Dns, Exit, FileSpec, LogOptions, MountSpec,
    NetworkSpec, Readiness, RestartPolicy, Runtime as _, RuntimeError, Start, Stop, UnitState,
    start_group,
};

use crate::SOON;
use crate::host::{self, name, on_a_host};

#[test]
fn units_start_after_what_they_depend_on() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "control-plane").await;
        let gate = host.path("gate");
        let mut app = host::unit("app", &["sleep", "100"]);
        app.after = vec![Dependency {
            unit: name("sidecar"),
            condition: Condition::Ready,
        }];
        let mut sidecar = host::unit("sidecar", &["sleep", "100"]);
        sidecar.readiness = Some(Readiness::command(["test", "-e", gate.to_str().unwrap()]));
        sidecar.after = vec![Dependency {
            unit: name("setup"),
            condition: Condition::Finished,
        }];
        let setup = host::unit("setup", &["sh", "-c", "echo done"]);
        // Nobody depends on it, and still the group is not up before it is ready.
        let mut last = host::unit("last", &["sleep", "100"]);
        last.readiness = Some(Readiness::command(["sleep", "0.2"]));
        for unit in [&app, &sidecar, &setup, &last] {
            engine.create_unit(&group, unit).await.unwrap();
        }
        let starting = start_group(&engine, &group, SOON);
        let opening = async {
            while !engine
                .status(&group, &sidecar.name)
                .await
                .unwrap()
                .state
                .is_active()
            {
                tokio::task::yield_now().await;
            }
            let status = engine.status(&group, &app.name).await.unwrap();
            assert_eq!(status.state, UnitState::Created);
            fs::write(&gate, "").unwrap();
        };
        let (started, ()) = tokio::join!(starting, opening);
        started.unwrap();
        assert!(engine.status(&group, &last.name).await.unwrap().ready);
        let sidecar = engine.status(&group, &sidecar.name).await.unwrap();
        let app = engine.status(&group, &app.name).await.unwrap();
        assert!(sidecar.ready && app.ready);
        assert!(sidecar.ready_at_millis <= app.started_at_millis);
        let setup = engine.status(&group, &setup.name).await.unwrap();
        assert_eq!(
            setup.state,
            UnitState::Finished {
                exit: Exit::Code(0)
            }
        );
    });
}

#[test]
fn a_unit_that_is_never_ready_is_named_with_its_state() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let mut unit = host::unit("app", &["sleep", "100"]);
        unit.readiness = Some(Readiness::http(1, "/ready"));
        engine.create_unit(&group, &unit).await.unwrap();
        engine.start_unit(&group, &unit.name).await.unwrap();
        let limit = Duration::from_millis(200);
        let error = engine
            .wait_ready(&group, &unit.name, limit)
            .await
            .unwrap_err();
        assert!(matches!(error, RuntimeError::NotReady { .. }), "{error}");
        engine.stop_unit(&group, &unit.name).await.unwrap();
        let error = engine
            .wait_ready(&group, &unit.name, limit)
            .await
            .unwrap_err();
        assert!(matches!(error, RuntimeError::Ended { .. }), "{error}");
    });
}

#[test]
fn readiness_over_http_is_asked_inside_the_namespace() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let group = host.group(&engine, "shop.web").await.spec.name;
        let mut unit = host::unit("app", &host::http_answer("127.0.0.1", 8080));
        unit.readiness = Some(Readiness::http(8080, "/ready"));
        engine.create_unit(&group, &unit).await.unwrap();
        engine.start_unit(&group, &unit.name).await.unwrap();
        let status = engine.wait_ready(&group, &unit.name, SOON).await.unwrap();
        assert!(status.ready && status.ready_at_millis >= status.started_at_millis);
    });
}

#[test]
fn a_unit_that_crashes_is_started_again_and_one_that_ends_well_is_not() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let mut unit = host::unit("app", &["sleep", "100"]);
        unit.restart = RestartPolicy::OnFailure;
        engine.create_unit(&group, &unit).await.unwrap();
        engine.start_unit(&group, &unit.name).await.unwrap();
        let UnitState::Running { pid } = engine.status(&group, &unit.name).await.unwrap().state
        else {
            panic!("the unit does not run");
        };
        host::kill(pid);
        let again = host::eventually(async || {
            let status = engine.status(&group, &unit.name).await.unwrap();
            match status.state {
                UnitState::Running { pid: new } if new != pid => Some(status.restarts),
                _ => None,
            }
        });
        assert_eq!(again.await, 1);

        let mut well = host::unit("well", &["true"]);
        well.restart = RestartPolicy::OnFailure;
        engine.create_unit(&group, &well).await.unwrap();
        engine.start_unit(&group, &well.name).await.unwrap();
        let status = engine.wait_ended(&group, &well.name).await.unwrap();
        assert_eq!(
            status.state,
            UnitState::Finished {
                exit: Exit::Code(0)
            }
        );
        assert_eq!(status.restarts, 0);
    });
}

#[test]
fn a_command_that_is_not_there_is_an_error_that_names_it() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let unit = host::unit("app", &["/no/such/program"]);
        engine.create_unit(&group, &unit).await.unwrap();
        let error = engine.start_unit(&group, &unit.name).await.unwrap_err();
        assert!(matches!(error, RuntimeError::NotStarted { .. }), "{error}");
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        assert!(error.to_string().contains("No such file"), "{error}");
        let status = engine.status(&group, &unit.name).await.unwrap();
        assert!(
            matches!(status.state, UnitState::Failed { .. }),
            "{status:?}"
        );
    });
}

#[test]
fn the_end_of_a_supervisor_is_noticed_and_the_next_start_clears_up() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let unit = host::unit("app", &["sleep", "100"]);
        engine.create_unit(&group, &unit).await.unwrap();
        engine.start_unit(&group, &unit.name).await.unwrap();
        let UnitState::Running { pid } = engine.status(&group, &unit.name).await.unwrap().state
        else {
            panic!("the unit does not run");
        };
        let ended = engine.wait_ended(&group, &unit.name);
        let killing = async { host::kill(host::parent(pid)) };
        let (ended, ()) = tokio::join!(ended, killing);
        let left_behind = vec![pid];
        assert_eq!(ended.unwrap().state, UnitState::Lost { left_behind });
        let adoption = engine.adopt().await.unwrap();
        assert_eq!(adoption.lost, [(group.clone(), unit.name.clone())]);
        assert_eq!(
            engine.start_unit(&group, &unit.name).await.unwrap(),
            Start::Started
        );
        assert!(!host::runs(pid));
        let status = engine.status(&group, &unit.name).await.unwrap();
        assert!(matches!(status.state, UnitState::Running { .. }));
    });
}

#[test]
fn stopping_ends_what_forked_away_and_what_ignores_term() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let pids = host.path("pids");
        let script = format!(
            "trap '' TERM; (setsid sh -c 'sleep 100 & echo $! >> {0}; exec sleep 101' &) ; \
             while [ ! -s {0} ]; do :; done; echo ready; while :; do sleep 102; done",
            pids.display()
        );
        let mut unit = host::unit("app", &["sh", "-c", &script]);
        unit.stop_grace = Duration::from_millis(100);
        unit.readiness = Some(Readiness::command(["test", "-s", pids.to_str().unwrap()]));
        engine.create_unit(&group, &unit).await.unwrap();
        engine.start_unit(&group, &unit.name).await.unwrap();
        engine.wait_ready(&group, &unit.name, SOON).await.unwrap();
        let orphan: u32 = fs::read_to_string(&pids).unwrap().trim().parse().unwrap();
        assert!(host::runs(orphan));
        assert_eq!(
            engine.stop_unit(&group, &unit.name).await.unwrap(),
            Stop::Stopped
        );
        assert!(!host::runs(orphan));
        let status = engine.status(&group, &unit.name).await.unwrap();
        assert_eq!(status.state, UnitState::Stopped);
    });
}

#[test]
fn where_only_version_one_of_cgroups_is_units_are_kept_in_a_controller() {
    on_a_host(async |host| {
        host::unmount_cgroups(|kind| kind == "cgroup2");
        orphans_end_with_their_unit(host).await;
    });
}

#[test]
fn where_no_cgroups_are_orphans_are_found_by_parentage() {
    on_a_host(async |host| {
        host::unmount_cgroups(|_| true);
        orphans_end_with_their_unit(host).await;
    });
}

async fn orphans_end_with_their_unit(host: &host::Host) {
    let engine = host.engine();
    let group = host.host_group(&engine, "g").await;
    let pid = host.path("pid");
    let script = format!(
        "setsid sh -c 'sleep 100 & echo $! > {}'; exec sleep 100",
        pid.display()
    );
    let mut unit = host::unit("app", &["sh", "-c", &script]);
    unit.readiness = Some(Readiness::command(["test", "-s", pid.to_str().unwrap()]));
    engine.create_unit(&group, &unit).await.unwrap();
    engine.start_unit(&group, &unit.name).await.unwrap();
    engine.wait_ready(&group, &unit.name, SOON).await.unwrap();
    let orphan: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert!(host::runs(orphan));
    engine.stop_unit(&group, &unit.name).await.unwrap();
    assert!(!host::runs(orphan));
}

#[test]
fn root_follows_no_link_that_the_owner_of_a_directory_put_there() {
    on_a_host(async |host| {
        use std::os::unix::fs::MetadataExt as _;
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let own = engine.directory_of(&group).join("sidecar");
        let mut unit = host::unit("app", &["true"]);
        unit.directories = [own.clone(), own.join("state")]
            .map(|path| DirectorySpec {
                path,
                mode: 0o700,
                uid: 1337,
                gid: 1337,
            })
            .into();
        engine.create_unit(&group, &unit).await.unwrap();
        assert_eq!(fs::metadata(&own).unwrap().uid(), 1337);
        let victim = host.path("victim");
        fs::create_dir(&victim).unwrap();
        fs::remove_dir(own.join("state")).unwrap();
        std::os::unix::fs::symlink(&victim, own.join("state")).unwrap();
        let error = engine.create_unit(&group, &unit).await.unwrap_err();
        assert!(matches!(error, RuntimeError::System { .. }), "{error}");
        assert_eq!(fs::metadata(&victim).unwrap().uid(), 0);
    });
}

#[test]
fn a_program_that_its_user_cannot_reach_is_refused_by_the_directory_in_the_way() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let private = host.path("private");
        fs::create_dir(&private).unwrap();
        rustix::fs::chmod(&private, rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        let mut unit = host::unit("app", &[private.join("program").to_str().unwrap()]);
        unit.uid = 1337;
        let error = engine.create_unit(&group, &unit).await.unwrap_err();
        let text = format!(
            "user 1337 cannot pass through directory `{}` (mode 0700)",
            private.display()
        );
        assert_eq!(error.to_string(), text);
    });
}

#[test]
fn a_unit_has_its_user_its_capabilities_its_environment_and_no_more() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let script =
            "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)' /proc/self/status; env | sort; pwd";
        let mut unit = host::unit("app", &["sh", "-c", script]);
        unit.uid = 1000;
        unit.gid = 1001;
        unit.capabilities = ["CAP_NET_BIND_SERVICE".parse().unwrap()].into();
        unit.environment = [("GREETING".to_owned(), "hello there".to_owned())].into();
        unit.working_directory = "/usr".into();
        engine.create_unit(&group, &unit).await.unwrap();
        engine.start_unit(&group, &unit.name).await.unwrap();
        engine.wait_ended(&group, &unit.name).await.unwrap();
        let log = host
            .log(&engine, &group, &unit.name, LogOptions::default())
            .await;
        let bind = "0000000000000400";
        for line in [
            "Uid:\t1000\t1000\t1000\t1000",
            "Gid:\t1001\t1001\t1001\t1001",
            "Groups:\t",
            &format!("CapInh:\t{bind}"),
            &format!("CapPrm:\t{bind}"),
            &format!("CapEff:\t{bind}"),
            &format!("CapBnd:\t{bind}"),
            &format!("CapAmb:\t{bind}"),
            "NoNewPrivs:\t1",
            "GREETING=hello there",
            "/usr",
        ] {
            assert!(
                log.lines().any(|it| it.trim_end() == line.trim_end()),
                "{line} in {log}"
            );
        }
        let names = log
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name);
        // The shell adds the last ones.
        let known = ["GREETING", "PATH", "PWD", "OLDPWD", "SHLVL", "_"];
        assert!(names.clone().all(|name| known.contains(&name)), "{log}");

        let root = host::unit("root", &["grep", "CapEff", "/proc/self/status"]);
        engine.create_unit(&group, &root).await.unwrap();
        engine.start_unit(&group, &root.name).await.unwrap();
        engine.wait_ended(&group, &root.name).await.unwrap();
        let log = host
            .log(&engine, &group, &root.name, LogOptions::default())
            .await;
        assert_eq!(log, "CapEff:\t0000000000000000\n");
    });
}

#[test]
fn files_have_mode_owner_and_contents_and_stay_inside_the_group() {
    on_a_host(async |host| {
        use std::os::unix::fs::MetadataExt as _;
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let path = engine.directory_of(&group).join("sidecar/token");
        let mut unit = host::unit("app", &["cat", path.to_str().unwrap()]);
        unit.uid = 1337;
        unit.gid = 1337;
        let file = |path: &std::path::Path, text: &str| FileSpec {
            path: path.to_path_buf(),
            contents: mesh_runtime::Contents(text.into()),
            mode: 0o600,
            uid: 1337,
            gid: 1337,
        };
        unit.files = vec![file(&path, "secret-1")];
        engine.create_unit(&group, &unit).await.unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
            (0o600, 1337, 1337)
        );
        // Asked again, the file is brought up to date; its contents are in no record.
        unit.files = vec![file(&path, "secret-2")];
        assert_eq!(
            engine.create_unit(&group, &unit).await.unwrap(),
            Creation::Exists
        );
        engine.start_unit(&group, &unit.name).await.unwrap();
        engine.wait_ended(&group, &unit.name).await.unwrap();
        let log = host
            .log(&engine, &group, &unit.name, LogOptions::default())
            .await;
        assert_eq!(log, "secret-2");
        let found = host::files_with(&host.path("engine"), "secret-");
        assert_eq!(found.len(), 2, "in the file and in the log: {found:?}");

        let mut outside = host::unit("outside", &["true"]);
        outside.files = vec![file(&host.path("elsewhere"), "x")];
        let error = engine.create_unit(&group, &outside).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Outside { .. }), "{error}");
    });
}

#[test]
fn a_unit_sees_the_resolver_of_its_group_and_the_host_keeps_its_own() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let mut spec = host::group_spec("shop.web");
        spec.dns = Some(Dns {
            servers: vec!["10.213.0.1".parse().unwrap()],
            search: vec!["shop.mesh".to_owned()],
        });
        engine.create_group(&spec).await.unwrap();
        let before = fs::read_to_string("/etc/resolv.conf").unwrap();
        let unit = host::unit("app", &["cat", "/etc/resolv.conf"]);
        engine.create_unit(&spec.name, &unit).await.unwrap();
        engine.start_unit(&spec.name, &unit.name).await.unwrap();
        engine.wait_ended(&spec.name, &unit.name).await.unwrap();
        let log = host
            .log(&engine, &spec.name, &unit.name, LogOptions::default())
            .await;
        assert_eq!(log, "search shop.mesh\nnameserver 10.213.0.1\n");
        assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), before);
    });
}

#[test]
fn commands_run_beside_a_unit_as_its_user_and_in_its_namespaces() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let mut spec = host::group_spec("shop.web");
        spec.dns = Some(Dns {
            servers: vec!["10.213.0.1".parse().unwrap()],
            search: vec![],
        });
        engine.create_group(&spec).await.unwrap();
        let mut unit = host::unit("app", &["sleep", "100"]);
        unit.uid = 1000;
        unit.gid = 1000;
        engine.create_unit(&spec.name, &unit).await.unwrap();
        engine.start_unit(&spec.name, &unit.name).await.unwrap();
        let script =
            "id -u; cat /etc/resolv.conf; ls /proc/self/net/dev_snmp6; echo no >&2; exit 3";
        let command = ["sh", "-c", script].map(str::to_owned);
        let output = engine.exec(&spec.name, &unit.name, &command).await.unwrap();
        assert_eq!(output.exit, Exit::Code(3));
        assert_eq!(output.stderr, b"no\n");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, "1000\nnameserver 10.213.0.1\neth0\nlo\n");
    });
}

#[test]
fn a_log_is_followed_until_the_unit_ends() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "g").await;
        let gate = host.path("gate");
        let script = format!(
            "echo one; while [ ! -e {} ]; do sleep 0.01; done; echo two >&2",
            gate.display()
        );
        let unit = host::unit("app", &["sh", "-c", &script]);
        engine.create_unit(&group, &unit).await.unwrap();
        engine.start_unit(&group, &unit.name).await.unwrap();
        let options = LogOptions {
            tail: None,
            follow: true,
        };
        let mut stream = engine.logs(&group, &unit.name, options).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first, b"one\n");
        fs::write(&gate, "").unwrap();
        let mut rest = Vec::new();
        while let Some(piece) = stream.next().await {
            rest.extend(piece.unwrap());
        }
        assert_eq!(rest, b"two\n");
        let options = LogOptions {
            tail: Some(1),
            follow: false,
        };
        assert_eq!(
            host.log(&engine, &group, &unit.name, options).await,
            "two\n"
        );
    });
}

#[test]
fn what_needs_a_file_system_of_its_own_is_refused() {
    on_a_host(async |host| {
        let engine = host.engine();
        let group = host.host_group(&engine, "control-plane").await;
        let mut with_image = host::unit("app", &["sleep", "100"]);
        with_image.image = Some("web:1".to_owned());
        let mut with_mount = host::unit("app", &["sleep", "100"]);
        with_mount.mounts = vec![MountSpec {
            source: "/etc".into(),
            target: "/data".into(),
            read_only: true,
        }];
        for unit in [with_image, with_mount] {
            let error = engine.create_unit(&group, &unit).await.unwrap_err();
            assert!(
                matches!(error, RuntimeError::Unsupported { .. }),
                "{error:?}"
            );
        }
    });
}
