//! What is told of Docker in the other files of this ring, on podman; and what podman does otherwise.

use mesh_netfilter::Policy;
use mesh_runtime::inject::Resolver;
use mesh_runtime::{Attachment, Creation, GroupSpec, NetworkSpec, Runtime as _, Start, UnitState};

use crate::conformance::bed::{Bed as _, group, name, run, said, settle};
use crate::dockerd::Kind;
use crate::host::{on_a_daemon_of, on_a_podman_bed};
use crate::{daemon, image, unit};

#[test]
fn a_published_port_reaches_the_group_and_a_taken_one_is_named() {
    on_a_podman_bed(unit::ports);
}

#[test]
fn a_group_is_found_by_its_aliases() {
    on_a_podman_bed(unit::aliases);
}

#[test]
fn files_outside_the_groups_directory_are_the_units_alone() {
    on_a_podman_bed(unit::own_files);
}

#[test]
fn what_is_mounted_is_the_machines_and_stays_when_the_unit_goes() {
    on_a_podman_bed(unit::mounts);
}

#[test]
fn a_container_or_network_of_somebody_else_is_left_alone() {
    on_a_podman_bed(daemon::foreign);
}

#[test]
fn an_image_that_is_missing_is_named_with_what_to_do() {
    on_a_podman_bed(image::missing_image);
}

#[test]
fn a_full_disk_is_told_as_such_and_leaves_nothing() {
    on_a_daemon_of(Kind::Podman, Some("size=8m"), image::full_disk);
}

/// Containers of podman need no daemon.
#[test]
fn while_the_service_is_away_everything_goes_on_and_is_adopted() {
    on_a_podman_bed(async |bed| {
        let engine = bed.engine().await;
        let web = settle(&*engine, "shop.web").await;
        let unit = bed.unit("app", &["sleep"]);
        run(&*engine, &web, &unit).await;
        let before = engine.status(&web, &unit.name).await.unwrap();
        let namespace = engine.group(&web).await.unwrap().namespace.unwrap();
        bed.stop_daemon();
        assert!(namespace.exists());
        bed.start_daemon();
        let fresh = bed.engine().await;
        let adoption = fresh.adopt().await.unwrap();
        assert_eq!(adoption.running, [(web.clone(), name("app"))]);
        let after = fresh.status(&web, &unit.name).await.unwrap();
        assert_eq!(after, before);
        assert!(matches!(after.state, UnitState::Running { .. }));
        let again = fresh.start_unit(&web, &unit.name).await.unwrap();
        assert_eq!(again, Start::AlreadyRunning);
        let (creation, group) = fresh.create_group(&group("shop.web")).await.unwrap();
        assert_eq!(
            (creation, group.namespace),
            (Creation::Exists, Some(namespace))
        );
    });
}

/// Podman answers names at the gateway of the network, so nothing of it is inside the namespace, and
/// all queries of the application go to the proxy.
#[test]
fn queries_of_the_application_go_to_the_proxy_and_its_own_reach_podmans_resolver() {
    on_a_podman_bed(async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        let web = settle(&engine, "shop.web").await;
        let mut cart = group("shop.cart");
        cart.aliases = vec!["cart".to_owned()];
        let (_, cart) = engine.create_group(&cart).await.unwrap();
        let cart = cart.addresses.unwrap().v4.to_string();
        let Resolver::Servers { upstream, .. } = engine.resolver(&NetworkSpec::mesh()) else {
            panic!("podman has no resolver at 127.0.0.11");
        };
        let ask = |named: &str, uid: u32| {
            let mut unit = bed.unit(named, &["resolve", &upstream[0].to_string(), "cart"]);
            (unit.uid, unit.gid) = (uid, uid);
            unit
        };
        let text = said(&engine, &web, &ask("before", 7)).await;
        assert_eq!(text.trim_end(), cart);
        let policy = Policy::sidecar();
        let creation = engine.redirect_group(&web, &policy).await.unwrap();
        assert_eq!(creation, Creation::Created);
        crate::redirect::answer(bed, &engine, &web).await;
        let text = said(&engine, &web, &ask("of-user", 7)).await;
        assert_eq!(text.trim_end(), "192.0.2.1");
        let text = said(&engine, &web, &ask("of-proxy", 1337)).await;
        assert_eq!(text.trim_end(), cart);
    });
}

/// What podman answers for a namespace that is gone, an error names.
#[test]
fn a_group_that_somebody_stopped_is_made_again() {
    on_a_podman_bed(async |bed| {
        let engine = bed.engine().await;
        let web = settle(&*engine, "shop.web").await;
        bed.docker(&["kill", "mesh_shop.web"]);
        let spec = GroupSpec::new(web.clone(), Attachment::Network(name("mesh")));
        let (creation, group) = engine.create_group(&spec).await.unwrap();
        assert_eq!(creation, Creation::Exists);
        assert!(group.namespace.is_some());
        let text = said(&*engine, &web, &bed.unit("print", &["print", "again"])).await;
        assert_eq!(text, "again\n");
    });
}
