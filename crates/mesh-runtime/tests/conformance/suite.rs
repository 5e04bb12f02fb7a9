//! What every engine must do, whatever it is made of.

#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]

use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_runtime::{
    Capability, Condition, Contents, Creation, Dependency, DirectorySpec, Exit, FileSpec,
    LogOptions, NetworkSpec, Readiness, Removal, RestartPolicy, RuntimeError, Start, Stop,
    UnitState, start_group,
};

use super::bed::{Bed, SOON, eventually, group, log, name, run, said, settle};

/// The tests, run by `$run` on a bed.
macro_rules! on_every_engine {
    ($run:path: $($case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                $run(async |bed| crate::conformance::suite::$case(bed).await);
            }
        )*
    };
}

/// The names of all tests, given to a macro that runs them.
macro_rules! conformance {
    ($run:path) => {
        crate::conformance::suite::on_every_engine! {
            $run:
            everything_can_be_asked_for_twice,
            what_is_there_is_not_changed_by_asking_differently,
            units_start_after_what_they_depend_on,
            readiness_over_http_is_asked_inside_the_namespace,
            a_unit_that_is_never_ready_is_named_with_its_state,
            a_unit_that_crashes_is_started_again_and_one_that_ends_well_is_not,
            a_command_that_is_not_there_is_an_error_that_names_it,
            a_unit_has_its_user_its_capabilities_and_its_environment_alone,
            files_have_their_owner_and_mode_and_are_shared_in_the_group,
            logs_are_read_from_their_end_and_followed_to_theirs,
            commands_beside_a_unit_tell_their_output_and_their_code,
            what_a_unit_uses_is_told_while_it_runs,
            stopping_ends_orphans_too,
            what_happens_to_units_is_told,
            groups_have_the_address_that_was_asked_for_or_none,
            two_groups_reach_each_other_on_both_families,
            a_later_process_adopts_what_runs_and_removes_what_is_half_made,
            engines_with_the_same_names_do_not_touch_each_other,
            groups_are_found_by_their_labels,
            removal_leaves_nothing,
        }
    };
}

pub(crate) use {conformance, on_every_engine};

pub(crate) async fn everything_can_be_asked_for_twice(bed: &impl Bed) {
    let engine = bed.engine().await;
    let network = NetworkSpec::mesh();
    let spec = group("shop.web");
    for expected in [Creation::Created, Creation::Exists] {
        assert_eq!(engine.create_network(&network).await.unwrap(), expected);
    }
    assert_eq!(engine.network(&network.name).await.unwrap(), network);
    let (creation, made) = engine.create_group(&spec).await.unwrap();
    assert_eq!(creation, Creation::Created);
    let again = engine.create_group(&spec).await.unwrap();
    assert_eq!(again, (Creation::Exists, made));
    let unit = bed.unit("app", &["sleep"]);
    for expected in [Creation::Created, Creation::Exists] {
        let outcome = engine.create_unit(&spec.name, &unit).await.unwrap();
        assert_eq!(outcome, expected);
    }
    assert_eq!(engine.unit(&spec.name, &unit.name).await.unwrap(), unit);
    for expected in [Start::Started, Start::AlreadyRunning] {
        let outcome = engine.start_unit(&spec.name, &unit.name).await.unwrap();
        assert_eq!(outcome, expected);
    }
    for expected in [Stop::Stopped, Stop::NotRunning] {
        let outcome = engine.stop_unit(&spec.name, &unit.name).await.unwrap();
        assert_eq!(outcome, expected);
    }
    let status = engine.status(&spec.name, &unit.name).await.unwrap();
    assert_eq!(status.state, UnitState::Stopped);
    // And on again, after a stop.
    let started = engine.start_unit(&spec.name, &unit.name).await.unwrap();
    assert_eq!(started, Start::Started);
    for expected in [Removal::Removed, Removal::Absent] {
        let outcome = engine.remove_unit(&spec.name, &unit.name).await.unwrap();
        assert_eq!(outcome, expected);
    }
    for expected in [Removal::Removed, Removal::Absent] {
        assert_eq!(engine.remove_group(&spec.name).await.unwrap(), expected);
    }
    for expected in [Removal::Removed, Removal::Absent] {
        assert_eq!(
            engine.remove_network(&network.name).await.unwrap(),
            expected
        );
    }
}

pub(crate) async fn what_is_there_is_not_changed_by_asking_differently(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let unit = bed.unit("app", &["sleep"]);
    engine.create_unit(&web, &unit).await.unwrap();
    let differs = |error: RuntimeError, kind: &str| match error {
        RuntimeError::Differs { kind: found, .. } => assert_eq!(found, kind),
        error => panic!("{error:?}"),
    };
    let mut network = NetworkSpec::mesh();
    network.v4 = "10.99.0.0/16".parse().unwrap();
    differs(
        engine.create_network(&network).await.unwrap_err(),
        "network",
    );
    let mut other = group("shop.web");
    other.labels = [("tier".to_owned(), "back".to_owned())].into();
    differs(engine.create_group(&other).await.unwrap_err(), "group");
    let other = bed.unit("app", &["exit", "0"]);
    differs(engine.create_unit(&web, &other).await.unwrap_err(), "unit");
    let error = engine.remove_network(&name("mesh")).await.unwrap_err();
    assert!(error.to_string().contains("group `shop.web`"), "{error}");
    let error = engine.status(&web, &name("none")).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::NotFound { kind: "unit", .. }),
        "{error}"
    );
}

pub(crate) async fn units_start_after_what_they_depend_on(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let shared = engine.group(&web).await.unwrap().directory;
    let gate = shared.join("gate/open");
    let gate = gate.to_str().unwrap();
    let mut app = bed.unit("app", &["sleep"]);
    app.after = vec![Dependency {
        unit: name("sidecar"),
        condition: Condition::Ready,
    }];
    let mut sidecar = bed.unit("sidecar", &["sleep"]);
    sidecar.directories = vec![DirectorySpec {
        path: shared.join("gate"),
        mode: 0o755,
        uid: 0,
        gid: 0,
    }];
    sidecar.readiness = Some(Readiness::command(bed.command(&["exists", gate])));
    sidecar.after = vec![Dependency {
        unit: name("setup"),
        condition: Condition::Finished,
    }];
    let setup = bed.unit("setup", &["print", "done"]);
    for unit in [&app, &sidecar, &setup] {
        engine.create_unit(&web, unit).await.unwrap();
    }
    let starting = start_group(&*engine, &web, SOON);
    let opening = async {
        eventually(async || {
            let status = engine.status(&web, &sidecar.name).await.unwrap();
            assert!(!status.ready);
            matches!(status.state, UnitState::Running { .. }).then_some(())
        })
        .await;
        let status = engine.status(&web, &app.name).await.unwrap();
        assert_eq!(status.state, UnitState::Created);
        std::fs::write(gate, "").unwrap();
    };
    let (started, ()) = tokio::join!(starting, opening);
    started.unwrap();
    let sidecar = engine.status(&web, &sidecar.name).await.unwrap();
    let app = engine.status(&web, &app.name).await.unwrap();
    assert!(sidecar.ready && app.ready);
    assert!(sidecar.ready_at_millis.is_some() && sidecar.ready_at_millis <= app.started_at_millis);
    let setup = engine.status(&web, &setup.name).await.unwrap();
    let exit = Exit::Code(0);
    assert_eq!(setup.state, UnitState::Finished { exit });
}

pub(crate) async fn readiness_over_http_is_asked_inside_the_namespace(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let mut unit = bed.unit("app", &["http", "127.0.0.1:8080"]);
    unit.readiness = Some(Readiness::http(8080, "/ready"));
    run(&*engine, &web, &unit).await;
    let status = engine.wait_ready(&web, &unit.name, SOON).await.unwrap();
    assert!(status.ready && status.ready_at_millis >= status.started_at_millis);
}

pub(crate) async fn a_unit_that_is_never_ready_is_named_with_its_state(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let mut unit = bed.unit("app", &["sleep"]);
    unit.readiness = Some(Readiness::http(1, "/ready"));
    let limit = Duration::from_millis(200);
    engine.create_unit(&web, &unit).await.unwrap();
    let error = engine.wait_ready(&web, &unit.name, limit).await;
    let state = UnitState::Created;
    assert!(matches!(error, Err(RuntimeError::Ended { state: it, .. }) if it == state));
    run(&*engine, &web, &unit).await;
    let error = engine
        .wait_ready(&web, &unit.name, limit)
        .await
        .unwrap_err();
    assert!(matches!(error, RuntimeError::NotReady { .. }), "{error}");
    engine.stop_unit(&web, &unit.name).await.unwrap();
    let error = engine
        .wait_ready(&web, &unit.name, limit)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::Ended {
                state: UnitState::Stopped,
                ..
            }
        ),
        "{error}"
    );
}

pub(crate) async fn a_unit_that_crashes_is_started_again_and_one_that_ends_well_is_not(
    bed: &impl Bed,
) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let mut unit = bed.unit("app", &["sleep"]);
    unit.restart = RestartPolicy::OnFailure;
    run(&*engine, &web, &unit).await;
    let UnitState::Running { pid } = engine.status(&web, &unit.name).await.unwrap().state else {
        panic!("the unit does not run");
    };
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let restarts = eventually(async || {
        let status = engine.status(&web, &unit.name).await.unwrap();
        match status.state {
            UnitState::Running { pid: new } if new != pid => Some(status.restarts),
            _ => None,
        }
    });
    assert_eq!(restarts.await, 1);

    let mut well = bed.unit("well", &["exit", "0"]);
    well.restart = RestartPolicy::OnFailure;
    run(&*engine, &web, &well).await;
    let status = engine.wait_ended(&web, &well.name).await.unwrap();
    let exit = Exit::Code(0);
    assert_eq!(status.state, UnitState::Finished { exit });
    assert_eq!(status.restarts, 0);

    let ill = bed.unit("ill", &["exit", "3"]);
    run(&*engine, &web, &ill).await;
    let status = engine.wait_ended(&web, &ill.name).await.unwrap();
    let exit = Exit::Code(3);
    assert_eq!(status.state, UnitState::Finished { exit });
}

pub(crate) async fn a_command_that_is_not_there_is_an_error_that_names_it(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let mut unit = bed.unit("app", &["sleep"]);
    unit.command = vec!["/not/there".to_owned()];
    engine.create_unit(&web, &unit).await.unwrap();
    let error = engine.start_unit(&web, &unit.name).await.unwrap_err();
    let RuntimeError::NotStarted { reason, .. } = error else {
        panic!("{error:?}");
    };
    assert!(reason.contains("/not/there"), "{reason}");
    let status = engine.status(&web, &unit.name).await.unwrap();
    assert!(
        matches!(status.state, UnitState::Failed { .. }),
        "{status:?}"
    );
}

pub(crate) async fn a_unit_has_its_user_its_capabilities_and_its_environment_alone(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let mut unit = bed.unit("user", &["self"]);
    (unit.uid, unit.gid) = (65_534, 65_533);
    unit.environment = [("COLOUR".to_owned(), "a = b".to_owned())].into();
    unit.working_directory = "/proc".into();
    let text = said(&*engine, &web, &unit).await;
    for line in [
        "Uid: 65534 65534 65534 65534",
        "Gid: 65533 65533 65533 65533",
        "CapEff: 0000000000000000",
        "NoNewPrivs: 1",
        "Dir: /proc",
        "COLOUR=a = b",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    // Of what the engine and its caller have in their environment, nothing.
    assert!(!text.contains("CARGO"), "{text}");
    let mut unit = bed.unit("root", &["self"]);
    unit.capabilities = [Capability::NetAdmin].into();
    let text = said(&*engine, &web, &unit).await;
    assert!(text.contains("CapEff: 0000000000001000"), "{text}");
}

pub(crate) async fn files_have_their_owner_and_mode_and_are_shared_in_the_group(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let shared = engine.group(&web).await.unwrap().directory;
    let path = shared.join("deep/token");
    let shown = path.display().to_string();
    let mut unit = bed.unit("one", &["cat", &shown]);
    let file = |contents: &str| FileSpec {
        path: path.clone(),
        contents: Contents(contents.as_bytes().to_vec()),
        mode: 0o600,
        uid: 1337,
        gid: 1338,
    };
    unit.files = vec![file("first")];
    (unit.uid, unit.gid) = (1337, 1338);
    let text = said(&*engine, &web, &unit).await;
    assert_eq!(text.trim_end(), "600 1337:1338 first");
    // Repeated with the same unit it is written again, and its contents are recorded nowhere.
    unit.files = vec![file("second")];
    let creation = engine.create_unit(&web, &unit).await.unwrap();
    assert_eq!(creation, Creation::Exists);
    let recorded = engine.unit(&web, &unit.name).await.unwrap();
    assert!(recorded.files[0].contents.0.is_empty());
    engine.start_unit(&web, &unit.name).await.unwrap();
    engine.wait_ended(&web, &unit.name).await.unwrap();
    let text = log(&*engine, &web, &unit.name, LogOptions::default()).await;
    assert!(text.contains("second"), "{text}");
}

pub(crate) async fn logs_are_read_from_their_end_and_followed_to_theirs(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let lines = bed.unit("lines", &["lines", "100"]);
    let text = said(&*engine, &web, &lines).await;
    assert_eq!(text.lines().count(), 100);
    let options = LogOptions {
        tail: Some(2),
        follow: false,
    };
    let text = log(&*engine, &web, &lines.name, options).await;
    assert_eq!(text, "line 98\nline 99\n");

    let unit = bed.unit("app", &["print-and-sleep", "hello"]);
    run(&*engine, &web, &unit).await;
    let options = LogOptions {
        tail: None,
        follow: true,
    };
    let mut stream = engine.logs(&web, &unit.name, options).await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"hello\n") {
        text.extend(stream.next().await.unwrap().unwrap());
    }
    engine.stop_unit(&web, &unit.name).await.unwrap();
    // It ends with the unit.
    let rest = tokio::time::timeout(SOON, stream.count()).await;
    assert_eq!(rest.unwrap(), 0);
}

pub(crate) async fn commands_beside_a_unit_tell_their_output_and_their_code(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let mut unit = bed.unit("app", &["sleep"]);
    (unit.uid, unit.gid) = (65_534, 65_533);
    run(&*engine, &web, &unit).await;
    let command = bed.command(&["self"]);
    let output = engine.exec(&web, &unit.name, &command).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.exit, Exit::Code(0));
    assert!(
        text.contains("Uid: 65534") && text.contains("CapEff: 0000000000000000"),
        "{text}"
    );
    let command = bed.command(&["exit", "7"]);
    let output = engine.exec(&web, &unit.name, &command).await.unwrap();
    assert_eq!((output.exit, output.stderr), (Exit::Code(7), vec![]));
    engine.stop_unit(&web, &unit.name).await.unwrap();
    let error = engine.exec(&web, &unit.name, &command).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Ended { .. }), "{error:?}");
}

pub(crate) async fn what_a_unit_uses_is_told_while_it_runs(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let unit = bed.unit("app", &["sleep"]);
    run(&*engine, &web, &unit).await;
    let used = engine.stats(&web, &unit.name).await.unwrap();
    assert!(used.processes >= 1, "{used:?}");
    assert!(
        (10_000..1_000_000_000).contains(&used.memory_bytes),
        "{used:?}"
    );
    engine.stop_unit(&web, &unit.name).await.unwrap();
    let error = engine.stats(&web, &unit.name).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Ended { .. }), "{error:?}");
}

pub(crate) async fn what_happens_to_units_is_told(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let unit = bed.unit("app", &["sleep"]);
    let mut events = engine.events().await.unwrap();
    run(&*engine, &web, &unit).await;
    let mut next = async |wanted: fn(Option<&UnitState>) -> bool| {
        let seen = async {
            loop {
                let event = events.next().await.unwrap().unwrap();
                assert_eq!(
                    (event.group.as_str(), event.unit.as_str()),
                    ("shop.web", "app")
                );
                if wanted(event.state.as_ref()) {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, seen).await.unwrap();
    };
    next(|state| matches!(state, Some(UnitState::Running { .. }))).await;
    engine.stop_unit(&web, &unit.name).await.unwrap();
    next(|state| state == Some(&UnitState::Stopped)).await;
    engine.remove_unit(&web, &unit.name).await.unwrap();
    next(|state| state.is_none()).await;
}

pub(crate) async fn stopping_ends_orphans_too(bed: &impl Bed) {
    let engine = bed.engine().await;
    let before = bed.look();
    let web = settle(&*engine, "shop.web").await;
    let unit = bed.unit("app", &["orphan"]);
    run(&*engine, &web, &unit).await;
    let processes = |things: std::collections::BTreeSet<String>| {
        things
            .into_iter()
            .filter(|it| it.starts_with("process") && it.contains("guest"))
            .count()
    };
    eventually(async || (processes(bed.look()) >= 2).then_some(())).await;
    engine.stop_unit(&web, &unit.name).await.unwrap();
    assert_eq!(processes(bed.look()), processes(before));
}

pub(crate) async fn groups_have_the_address_that_was_asked_for_or_none(bed: &impl Bed) {
    let engine = bed.engine().await;
    engine.create_network(&NetworkSpec::mesh()).await.unwrap();
    let mut fixed = group("shop.web");
    fixed.address = Some("10.213.0.13".parse().unwrap());
    let (_, made) = engine.create_group(&fixed).await.unwrap();
    let both = made.addresses.unwrap().both().map(|it| it.to_string());
    assert_eq!(both, ["10.213.0.13", "fd6d:6573:68d5::d"]);
    let mut same = group("shop.cart");
    same.address = fixed.address;
    let error = engine.create_group(&same).await.unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::InUse {
                kind: "address",
                ..
            }
        ),
        "{error:?}"
    );
    for wrong in ["10.213.0.1", "10.213.0.0", "10.213.255.255", "10.214.0.9"] {
        same.address = Some(wrong.parse().unwrap());
        let error = engine.create_group(&same).await.unwrap_err();
        assert!(
            matches!(error, RuntimeError::Invalid { .. }),
            "{wrong}: {error:?}"
        );
    }
    // Nothing of what failed is left.
    let error = engine.group(&same.name).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error:?}");
}

pub(crate) async fn two_groups_reach_each_other_on_both_families(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let cart = settle(&*engine, "shop.cart").await;
    let server = bed.unit("server", &["http", "[::]:7000"]);
    run(&*engine, &cart, &server).await;
    let addresses = engine.group(&cart).await.unwrap().addresses.unwrap();
    let targets = [
        format!("{}:7000", addresses.v4),
        format!("[{}]:7000", addresses.v6),
    ];
    for (number, target) in targets.iter().enumerate() {
        // Not before it listens; the address itself is usable at once.
        let mut waiting = bed.unit(&format!("probe{number}"), &["sleep"]);
        waiting.readiness = Some(Readiness::command(bed.command(&["fetch", target])));
        run(&*engine, &web, &waiting).await;
        let ready = engine.wait_ready(&web, &waiting.name, SOON).await;
        assert!(ready.unwrap().ready, "{target}");
    }
}

pub(crate) async fn a_later_process_adopts_what_runs_and_removes_what_is_half_made(bed: &impl Bed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let unit = bed.unit("app", &["sleep"]);
    run(&*engine, &web, &unit).await;
    let before = engine.status(&web, &unit.name).await.unwrap();
    bed.half_make(&name("shop.half")).await;
    drop(engine);

    let fresh = bed.engine().await;
    let adoption = fresh.adopt().await.unwrap();
    assert_eq!(adoption.running, [(web.clone(), name("app"))]);
    assert_eq!(adoption.lost, []);
    assert_eq!(adoption.removed, ["group `shop.half`, half made"]);
    assert_eq!(fresh.status(&web, &unit.name).await.unwrap(), before);
    let started = fresh.start_unit(&web, &unit.name).await.unwrap();
    assert_eq!(started, Start::AlreadyRunning);
    assert_eq!(fresh.adopt().await.unwrap().removed, Vec::<String>::new());
}

pub(crate) async fn engines_with_the_same_names_do_not_touch_each_other(bed: &impl Bed) {
    let one = bed.engine().await;
    let other = bed.other_engine().await;
    let web = settle(&*one, "shop.web").await;
    let unit = bed.unit("app", &["sleep"]);
    run(&*one, &web, &unit).await;
    let before = bed.look();
    let mut network = NetworkSpec::mesh();
    "mesh1".clone_into(&mut network.bridge);
    let error = other.create_network(&network).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::SubnetClash { .. }),
        "{error:?}"
    );
    network.v4 = "10.214.0.0/16".parse().unwrap();
    network.v6 = "fd6d:6573:68d6::/64".parse().unwrap();
    other.create_network(&network).await.unwrap();
    other.create_group(&group("shop.web")).await.unwrap();
    run(&*other, &web, &unit).await;
    other.remove_all().await.unwrap();
    assert_eq!(bed.look(), before);
    let status = one.status(&web, &unit.name).await.unwrap();
    assert!(
        matches!(status.state, UnitState::Running { .. }),
        "{status:?}"
    );
    assert_eq!(one.adopt().await.unwrap().removed, Vec::<String>::new());
}

pub(crate) async fn groups_are_found_by_their_labels(bed: &impl Bed) {
    let engine = bed.engine().await;
    engine.create_network(&NetworkSpec::mesh()).await.unwrap();
    for (named, tier) in [("a", "front"), ("b", "back")] {
        let mut spec = group(named);
        spec.labels = [("tier".to_owned(), tier.to_owned())].into();
        engine.create_group(&spec).await.unwrap();
    }
    let labels = [("tier".to_owned(), "back".to_owned())].into();
    let found = engine.list(&labels).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].group.spec.name, name("b"));
    assert_eq!(engine.list(&[].into()).await.unwrap().len(), 2);
}

pub(crate) async fn removal_leaves_nothing(bed: &impl Bed) {
    let before = bed.look();
    let engine = bed.engine().await;
    for named in ["shop.web", "shop.cart"] {
        let group = settle(&*engine, named).await;
        run(&*engine, &group, &bed.unit("app", &["orphan"])).await;
        run(&*engine, &group, &bed.unit("done", &["exit", "1"])).await;
    }
    assert!(bed.look().len() > before.len() + 4);
    engine.remove_all().await.unwrap();
    assert_eq!(bed.look(), before);
}
