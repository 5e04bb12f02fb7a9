//! Networks and groups: who reaches whom, how links are named, what is refused.

use std::fs;
use std::net::IpAddr;

use mesh_runtime::{NetworkSpec, Runtime as _, RuntimeError};

use crate::host::{self, on_a_host};

#[test]
fn two_groups_and_the_gateway_reach_each_other_on_both_families() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let web = host.group(&engine, "shop.web").await;
        let cart = host.group(&engine, "shop.cart").await;
        let (web, cart) = (web.addresses.unwrap(), cart.addresses.unwrap());
        for (group, listen) in [("shop.web", web.both()), ("shop.cart", cart.both())] {
            for address in listen {
                let unit = format!("echo-{}", if address.is_ipv4() { "v4" } else { "v6" });
                host.run(&engine, group, &unit, &host::echo(address, 7000))
                    .await;
            }
        }
        let gateways: [IpAddr; 2] = [web.gateways.0.into(), web.gateways.1.into()];
        let _listeners = gateways.map(|address| host::answer_on(address, 7000));
        // At once: nothing waits for duplicate address detection.
        for (from, to) in [
            ("shop.web", cart.both()),
            ("shop.cart", web.both()),
            ("shop.web", gateways),
        ] {
            for address in to {
                assert_eq!(
                    host.call_from(&engine, from, address, 7000).await,
                    "here\n",
                    "{from} {address}"
                );
            }
        }
        for address in [web.both(), cart.both()].concat() {
            assert_eq!(host::call(address, 7000), "here\n", "host {address}");
        }
    });
}

#[test]
fn a_group_has_loopback_addresses_and_default_routes() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        let group = host.group(&engine, "shop.web").await;
        let seen = host::inside(&group, || {
            let addresses = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
            let v4 = fs::read_to_string("/proc/thread-self/net/route").unwrap();
            let v6 = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
            let port = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
            (addresses, v4, v6, port)
        });
        assert!(
            seen.0.contains("00000000000000000000000000000001 01 80"),
            "{}",
            seen.0
        );
        // Address, index, prefix, scope, flags: none is tentative (40), all are permanent (80).
        let ours = seen
            .0
            .lines()
            .find(|line| line.starts_with("fd6d"))
            .unwrap();
        let flags = ours.split_whitespace().nth(4).unwrap();
        assert_eq!(u8::from_str_radix(flags, 16).unwrap() & 0x40, 0, "{ours}");
        assert!(seen.1.contains("eth0\t00000000\t0100D50A"), "{}", seen.1);
        let zeros = "0".repeat(32);
        let gateway = "fd6d657368d500000000000000000001";
        let default = format!("{zeros} 00 {zeros} 00 {gateway}");
        assert!(seen.2.contains(&default), "{}", seen.2);
        assert_eq!(seen.3.trim(), "0");
        // The host hands nothing on.
        let forwarding = fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap();
        assert_eq!(forwarding.trim(), "0");
    });
}

#[test]
fn links_are_named_by_engine_and_group_and_carry_the_group_as_alias() {
    on_a_host(async |host| {
        let engine = host.engine();
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        host.group(&engine, "shop.web").await;
        let links = host::links();
        let cable: Vec<&String> = links
            .iter()
            .filter(|link| link.starts_with(&engine.link_prefix()))
            .collect();
        assert_eq!(cable.len(), 1, "{links:?}");
        assert_eq!(cable[0].len(), 15);
        assert!(links.contains("mesh0"));
        let shown = host::ip(&["-details", "link", "show", cable[0]]);
        assert!(
            shown.contains("alias shop.web") && shown.contains("master mesh0"),
            "{shown}"
        );
    });
}

#[test]
fn a_group_that_cannot_be_made_leaves_nothing() {
    on_a_host(async |host| {
        let engine = host.engine();
        let spec = host::group_spec("shop.web");
        let error = engine.create_group(&spec).await.unwrap_err();
        assert!(
            matches!(
                error,
                RuntimeError::NotFound {
                    kind: "network",
                    ..
                }
            ),
            "{error}"
        );
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
        // Without its bridge the cable has no other end.
        host::ip(&["link", "del", "mesh0"]);
        let before = host.look(&engine);
        let error = engine.create_group(&spec).await.unwrap_err();
        assert!(
            error.to_string().contains("connect group `shop.web`"),
            "{error}"
        );
        assert_eq!(host.look(&engine), before);
        assert!(!host.path("engine/groups/shop.web").exists());
    });
}

#[test]
fn a_subnet_that_is_in_use_is_refused_by_name() {
    on_a_host(async |host| {
        let engine = host.engine();
        host::ip(&["link", "add", "other0", "type", "bridge"]);
        host::ip(&["address", "add", "10.213.7.1/24", "dev", "other0"]);
        host::ip(&["link", "set", "other0", "up"]);
        let error = engine
            .create_network(&NetworkSpec::mesh())
            .await
            .unwrap_err();
        let text = "subnet `10.213.0.0/16` overlaps with address `10.213.7.1/24` of link `other0`";
        assert_eq!(error.to_string(), text);
        host::ip(&["address", "del", "10.213.7.1/24", "dev", "other0"]);
        host::ip(&["route", "add", "fd6d::/16", "dev", "other0"]);
        let error = engine
            .create_network(&NetworkSpec::mesh())
            .await
            .unwrap_err();
        let text = "subnet `fd6d:6573:68d5::/64` overlaps with route `fd6d::/16` of link `other0`";
        assert_eq!(error.to_string(), text);
        host::ip(&["route", "del", "fd6d::/16", "dev", "other0"]);
        engine.create_network(&NetworkSpec::mesh()).await.unwrap();
    });
}

#[test]
fn a_bridge_of_somebody_else_is_left_alone() {
    on_a_host(async |host| {
        let engine = host.engine();
        host::ip(&["link", "add", "mesh0", "type", "bridge"]);
        let error = engine
            .create_network(&NetworkSpec::mesh())
            .await
            .unwrap_err();
        assert!(matches!(error, RuntimeError::LinkTaken { .. }), "{error}");
        engine.remove_all().await.unwrap();
        assert!(host::links().contains("mesh0"));
    });
}
