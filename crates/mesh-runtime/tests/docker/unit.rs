//! What only containers have: published ports, aliases, file systems of their own.

#![expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
#![expect(clippy::panic, reason = "a panic is a failed test")]

use std::net::Ipv4Addr;

use mesh_runtime::inject::Resolver;
use mesh_runtime::{
    Contents, FileSpec, MountSpec, NetworkSpec, Protocol, PublishedPort, Runtime as _,
    RuntimeError, Stop,
};

use crate::conformance::bed::{Bed as _, SOON, eventually, group, run, said, settle};
use crate::host::{DockerBed, on_a_bed};

fn published(host: u16) -> PublishedPort {
    serde_json::from_value(serde_json::json!({
        "address": Ipv4Addr::LOCALHOST, "host": host, "group": 7000, "protocol": Protocol::Tcp,
    }))
    .unwrap()
}

#[test]
fn a_published_port_reaches_the_group_and_a_taken_one_is_named() {
    on_a_bed(ports);
}

pub(crate) async fn ports(bed: &mut DockerBed) {
    let engine = bed.engine().await;
    engine.create_network(&NetworkSpec::mesh()).await.unwrap();
    let mut web = group("shop.web");
    web.ports = vec![published(18_080)];
    engine.create_group(&web).await.unwrap();
    run(
        &*engine,
        &web.name,
        &bed.unit("app", &["http", "0.0.0.0:7000"]),
    )
    .await;
    let guest = bed.path("rootfs/guest");
    let fetch = [guest.to_str().unwrap(), "fetch", "127.0.0.1:18080"];
    // The daemon's forwarder takes connections before the unit listens.
    let said =
        eventually(async || Some(bed.beside_the_daemon(&fetch)).filter(|it| !it.trim().is_empty()));
    assert!(said.await.contains("here"));

    let mut cart = group("shop.cart");
    cart.ports = vec![published(18_081), published(18_080)];
    let error = engine.create_group(&cart).await.unwrap_err();
    let RuntimeError::InUse {
        kind: "port",
        name: port,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(port, "18080");
    let error = engine.group(&cart.name).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error:?}");
}

#[test]
fn a_group_is_found_by_its_aliases() {
    on_a_bed(aliases);
}

pub(crate) async fn aliases(bed: &mut DockerBed) {
    let engine = bed.open("mesh").await.unwrap();
    let web = settle(&engine, "shop.web").await;
    let resolver = match engine.resolver(&NetworkSpec::mesh()) {
        Resolver::Servers { upstream, .. } => upstream[0].to_string(),
        _ => "127.0.0.11:53".to_owned(),
    };
    let mut cart = group("shop.cart");
    cart.aliases = vec!["cart".to_owned(), "cart.shop".to_owned()];
    let (_, made) = engine.create_group(&cart).await.unwrap();
    let address = made.addresses.unwrap().v4.to_string();
    for (number, alias) in cart.aliases.iter().enumerate() {
        let unit = bed.unit(&format!("ask{number}"), &["resolve", &resolver, alias]);
        assert_eq!(said(&engine, &web, &unit).await.trim_end(), address);
    }
}

#[test]
fn files_outside_the_groups_directory_are_the_units_alone() {
    on_a_bed(own_files);
}

pub(crate) async fn own_files(bed: &mut DockerBed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let mut unit = bed.unit("app", &["cat", "/etc/app/conf"]);
    unit.files = vec![FileSpec {
        path: "/etc/app/conf".into(),
        contents: Contents(b"secret".to_vec()),
        mode: 0o640,
        uid: 5,
        gid: 6,
    }];
    unit.capabilities = [mesh_runtime::Capability::DacOverride].into();
    let text = said(&*engine, &web, &unit).await;
    assert_eq!(text.trim_end(), "640 5:6 secret");
    assert!(!std::path::Path::new("/etc/app/conf").exists());
    let told = bed.docker(&["inspect", "mesh_shop.web_app"]);
    assert!(
        told.contains("/etc/app/conf") && !told.contains("secret"),
        "{told}"
    );
    // No unit sees what it has no files in.
    let other = bed.unit("other", &["sleep"]);
    engine.create_unit(&web, &other).await.unwrap();
    let binds = ["inspect", "--format", "{{.HostConfig.Binds}}"];
    for unit in ["mesh_shop.web_app", "mesh_shop.web_other"] {
        assert_eq!(
            bed.docker(&[&binds, [unit].as_slice()].concat()).trim(),
            "[]"
        );
    }
}

#[test]
fn what_docker_would_grant_less_of_is_refused() {
    on_a_bed(async |bed| {
        let engine = bed.engine().await;
        let web = settle(&*engine, "shop.web").await;
        let mut unit = bed.unit("app", &["sleep"]);
        unit.uid = 7;
        unit.capabilities = [mesh_runtime::Capability::NetAdmin].into();
        let error = engine.create_unit(&web, &unit).await.unwrap_err();
        assert!(
            matches!(error, RuntimeError::Unsupported { .. }),
            "{error:?}"
        );
    });
}

#[test]
fn a_command_that_does_not_catch_term_is_not_waited_for() {
    on_a_bed(async |bed| {
        let engine = bed.engine().await;
        let web = settle(&*engine, "shop.web").await;
        let mut unit = bed.unit("app", &["sleep"]);
        unit.stop_grace = std::time::Duration::from_secs(1000);
        run(&*engine, &web, &unit).await;
        let stopped = tokio::time::timeout(SOON, engine.stop_unit(&web, &unit.name)).await;
        assert_eq!(stopped.unwrap().unwrap(), Stop::Stopped);
    });
}

#[test]
fn what_is_mounted_is_the_machines_and_stays_when_the_unit_goes() {
    on_a_bed(mounts);
}

pub(crate) async fn mounts(bed: &mut DockerBed) {
    let engine = bed.engine().await;
    let web = settle(&*engine, "shop.web").await;
    let data = bed.path("data-of-mine");
    std::fs::create_dir(&data).unwrap();
    let mount = |read_only| MountSpec {
        source: data.clone(),
        target: "/data".into(),
        read_only,
    };
    let mut unit = bed.unit("write", &["write", "/data/file", "kept"]);
    unit.mounts = vec![mount(false)];
    run(&*engine, &web, &unit).await;
    engine.wait_ended(&web, &unit.name).await.unwrap();
    engine.remove_unit(&web, &unit.name).await.unwrap();
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "kept");

    let mut unit = bed.unit("read-only", &["write", "/data/file", "changed"]);
    unit.mounts = vec![mount(true)];
    run(&*engine, &web, &unit).await;
    let ended = engine.wait_ended(&web, &unit.name).await.unwrap();
    assert!(!ended.state.is_active(), "{ended:?}");
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "kept");

    // What is not there is not made.
    let mut unit = bed.unit("missing", &["sleep"]);
    unit.mounts = vec![MountSpec {
        source: bed.path("nothing"),
        ..mount(false)
    }];
    let error = engine.create_unit(&web, &unit).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("nothing"), "{cause}");
    assert!(!bed.path("nothing").exists());
}
