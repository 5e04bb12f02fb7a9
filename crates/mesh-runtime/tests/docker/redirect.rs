//! Redirect rules in a group on a Docker network, beside Docker's resolver and its own rules.

use mesh_netfilter::Policy;
use mesh_runtime::docker::{RESOLVER, policy_beside_resolver};
use mesh_runtime::{Creation, Dns, Group, LogOptions, Name, Runtime, UnitSpec};

use crate::conformance::bed::{Bed as _, eventually, group, log, run, said, settle};
use crate::dockerd;
use crate::host::{DockerBed, on_a_bed};

const PROXY: u32 = 1337;

/// The rules of Docker in the namespace of a group, without what changes by itself.
fn docker_rules(group: &Group) -> String {
    let namespace = group.namespace.clone().unwrap();
    let pid = namespace.components().nth(2).unwrap();
    let pid = pid.as_os_str().to_str().unwrap();
    let rules = dockerd::inside(pid, &["nft", "--stateless", "list", "table", "ip", "nat"]);
    assert!(rules.contains("127.0.0.11"), "{rules}");
    rules
}

/// A question to Docker's resolver.
fn ask(bed: &DockerBed, unit: &str, uid: u32, name: &str) -> UnitSpec {
    let mut unit = bed.unit(unit, &["resolve", &format!("{RESOLVER}:53"), name]);
    (unit.uid, unit.gid) = (uid, uid);
    unit
}

/// Answers in place of the proxy at its DNS port, as the proxy's user.
pub(crate) async fn answer(bed: &DockerBed, engine: &dyn Runtime, web: &Name) {
    let mut proxy = bed.unit("proxy", &["dns-answer", "127.0.0.1:15053", "192.0.2.1"]);
    (proxy.uid, proxy.gid) = (PROXY, PROXY);
    run(engine, web, &proxy).await;
    eventually(async || {
        let said = log(engine, web, &proxy.name, LogOptions::default()).await;
        said.contains("answering").then_some(())
    })
    .await;
}

#[test]
fn queries_of_the_application_go_to_the_proxy_and_its_own_reach_dockers_resolver() {
    on_a_bed(async |bed| {
        let engine = bed.engine().await;
        let web = settle(&*engine, "shop.web").await;
        let mut cart = group("shop.cart");
        cart.aliases = vec!["cart".to_owned()];
        let (_, cart) = engine.create_group(&cart).await.unwrap();
        let cart = cart.addresses.unwrap().v4.to_string();
        let before = docker_rules(&engine.group(&web).await.unwrap());
        // Without rules, Docker answers everybody.
        let text = said(&*engine, &web, &ask(bed, "before", 7, "cart")).await;
        assert_eq!(text.trim_end(), cart);

        let policy = policy_beside_resolver(&Policy::sidecar());
        for expected in [Creation::Created, Creation::Exists] {
            let creation = engine.redirect_group(&web, &policy).await.unwrap();
            assert_eq!(creation, expected);
        }
        answer(bed, &*engine, &web).await;
        for (unit, uid) in [("of-user", 7), ("of-root", 0)] {
            let text = said(&*engine, &web, &ask(bed, unit, uid, "cart")).await;
            assert_eq!(text.trim_end(), "192.0.2.1", "{unit}");
        }
        let text = said(&*engine, &web, &ask(bed, "of-proxy", PROXY, "cart")).await;
        assert_eq!(text.trim_end(), cart);
        let after = engine.group(&web).await.unwrap();
        assert_eq!(docker_rules(&after), before);
        assert!(after.rules_applied_at_millis.is_some());
    });
}

/// What Docker's resolver does not know it asks others, from inside the namespace.
#[test]
fn what_dockers_resolver_asks_others_comes_back_to_the_proxy_unless_the_policy_is_narrowed() {
    on_a_bed(async |bed| {
        let engine = bed.engine().await;
        let web = settle(&*engine, "shop.web").await;
        engine.remove_group(&web).await.unwrap();
        // The server that Docker is told to ask is another group.
        let upstream = settle(&*engine, "upstream").await;
        let address = engine.group(&upstream).await.unwrap().addresses.unwrap().v4;
        let server = bed.unit("server", &["dns-answer", "0.0.0.0:53", "192.0.2.2"]);
        run(&*engine, &upstream, &server).await;
        let mut spec = group("shop.web");
        spec.dns = Some(Dns {
            servers: vec![address.into()],
            search: vec![],
        });
        engine.create_group(&spec).await.unwrap();
        answer(bed, &*engine, &web).await;

        engine
            .redirect_group(&web, &Policy::sidecar())
            .await
            .unwrap();
        let text = said(&*engine, &web, &ask(bed, "captured", PROXY, "example.org")).await;
        assert_eq!(
            text.trim_end(),
            "192.0.2.1",
            "the loop that the narrowed policy is for"
        );

        let policy = policy_beside_resolver(&Policy::sidecar());
        let creation = engine.redirect_group(&web, &policy).await.unwrap();
        assert_eq!(creation, Creation::Created);
        let text = said(&*engine, &web, &ask(bed, "passed", PROXY, "example.org")).await;
        assert_eq!(text.trim_end(), "192.0.2.2");
        let text = said(&*engine, &web, &ask(bed, "of-user", 7, "example.org")).await;
        assert_eq!(text.trim_end(), "192.0.2.1");
    });
}
