//! Who is the proxy: several users and groups as one set, the largest numbers, user namespaces.

use std::process::Command;

use mesh_netfilter::{Identities, Owner, Policy};

use crate::classes::{app, check};
use crate::traffic::Servers;
use crate::traffic::{Attempt, From, here, there};
use crate::world::{
    APP_V4, APP_V6, Namespace, PEER_V4, PEER_V6, World, compile, for_each_backend, run,
};

const fn owner(user: u32, group: u32) -> Owner {
    Owner { user, group }
}

fn policy(proxy: Identities) -> Policy {
    Policy::sidecar().to_builder().proxy(proxy).build().unwrap()
}

#[test]
fn each_of_several_identities_is_the_proxy() {
    let users = [1337, 1338, 1339];
    let groups = [1337, 2000];
    let owners = users.map(|user| owner(user, 7)).into_iter();
    let owners = owners.chain(groups.map(|group| owner(1000, group)));
    let mut attempts = Vec::new();
    for who in owners {
        attempts.extend([
            (app(who, PEER_V4, 80), there(80)),
            (app(who, PEER_V6, 80), there(80)),
            (app(who, APP_V4, 8080), here(15006)),
            (app(who, APP_V6, 8080), here(15006)),
        ]);
    }
    let stranger = owner(1340, 2001);
    attempts.extend([
        (app(stranger, PEER_V4, 80), here(15001)),
        (app(stranger, APP_V6, 8080), here(8080)),
    ]);
    check(
        &policy(Identities::users(users).and_groups(groups)),
        &attempts,
    );
}

#[test]
fn numbers_beyond_sixteen_bits_are_whole() {
    let largest = u32::MAX - 1;
    // What is left of the number when only 16 bits of it are kept, and its neighbours.
    for (id, others) in [
        (65_536, [0, 65_535, 65_537]),
        (largest, [65_534, 1000, largest - 1]),
    ] {
        let mut attempts = vec![
            (app(owner(id, 7), PEER_V4, 80), there(80)),
            (app(owner(id, 7), APP_V6, 8080), here(15006)),
            (app(owner(7, id), PEER_V6, 80), there(80)),
            (app(owner(7, id), APP_V4, 8080), here(15006)),
        ];
        for other in others {
            attempts.push((app(owner(other, other), PEER_V4, 80), here(15001)));
            attempts.push((app(owner(other, other), PEER_V6, 80), here(15001)));
        }
        check(&policy(Identities::users([id]).and_groups([id])), &attempts);
    }
}

#[test]
fn numbers_are_those_of_the_user_namespace_that_owns_the_network() {
    for_each_backend(|backend| {
        let world = World::around(in_user_namespace());
        let _servers = Servers::start(&world);
        world.app.create(backend, &compile(&Policy::sidecar()));
        for (user, expected) in [
            (MAPPED + 1337, there(80)),
            (MAPPED + 1000, here(15001)),
            // The same number outside is somebody else.
            (1337, here(15001)),
        ] {
            for peer in [PEER_V4.into(), std::net::IpAddr::from(PEER_V6)] {
                let attempt = Attempt::tcp(From::App(owner(user, user)), (peer, 80));
                assert_eq!(attempt.make(&world), expected, "{backend}: {user}");
            }
        }
    });
}

/// Where the numbers of the user namespace begin outside.
const MAPPED: u32 = 100_000;

/// A network namespace as containers with users of their own have it.
fn in_user_namespace() -> Namespace {
    let mut child = Command::new("unshare")
        .args(["--user", "--net", "sleep", "60"])
        .spawn()
        .unwrap();
    let process = format!("/proc/{}", child.id());
    let link = |process: &str| std::fs::read_link(format!("{process}/ns/net")).unwrap();
    while link(&process) == link("/proc/self") {
        std::thread::yield_now();
    }
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("{process}/{map}"), format!("0 {MAPPED} 65536")).unwrap();
    }
    let namespace = Namespace::adopt(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    let owner = run("ip", &["netns", "list"]);
    assert!(owner.contains(&namespace.name));
    namespace
}
