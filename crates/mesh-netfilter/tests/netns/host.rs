//! The host's own namespace: what is refused there, and how a change comes to nothing.
//!
//! A namespace plays the host: on a thread with mounts of its own, `/proc/1/ns/net` is that of the
//! thread.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use mesh_netfilter::{
    Applied, Backend, Confirmed, Drain, Engine, EngineError, Facts, Guard, HostNetwork, Identities,
    IdentitySelect, Netns, Outbound, Plan, Policy, Port, RuleState, SshAccess,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::backends::everything;
use crate::traffic::{Attempt, From, Servers, here, there};
use crate::world::{APP, Namespace, PEER_V4, PEER_V6, PROXY, World, run};

/// Does `work` on a thread for which the namespace is that of process 1.
fn as_host<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    let path = format!("/run/netns/{}", namespace.name);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let file = File::open(&path).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            // SAFETY: file descriptors stay shared; mounts and root of this thread alone change.
            #[expect(unsafe_code, reason = "unsharing files would be unsafe; this does not")]
            unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
            // Programs inherit the mounts of the thread that starts them.
            run("mount", &["--make-rprivate", "/"]);
            run("mount", &["-t", "tmpfs", "fake", "/proc/1/ns"]);
            run("touch", &["/proc/1/ns/net"]);
            run("mount", &["--bind", &path, "/proc/1/ns/net"]);
            work()
        });
        thread.join().unwrap()
    })
}

fn only_app(outbound: u16) -> Policy {
    Policy::sidecar()
        .to_builder()
        .outbound(Outbound::to(Port::new(outbound).unwrap()))
        .identities(IdentitySelect::Only(Identities::users([APP.user])))
        .guard(Guard::Off)
        .build()
        .unwrap()
}

fn compiled(policy: &Policy) -> Plan {
    Plan::compile(policy, &Facts::default())
}

#[test]
fn the_host_is_refused_without_permission_and_without_identities() {
    let namespace = Namespace::new();
    let before = everything(&namespace);
    as_host(&namespace, || {
        for backend in Backend::ALL {
            let engine = Engine::detect(&Netns::Current, Some(backend)).unwrap();
            let plan = compiled(&only_app(15001));
            let error = engine.apply(&plan, HostNetwork::Refuse).unwrap_err();
            assert!(
                matches!(error, EngineError::HostNetwork { .. }),
                "{backend}: {error}"
            );
            let everybody = compiled(&Policy::sidecar());
            let allow = HostNetwork::DangerouslyAllow;
            let error = engine.apply(&everybody, allow).unwrap_err();
            assert!(
                matches!(error, EngineError::HostIdentities { .. }),
                "{backend}: {error}"
            );
            assert!(error.to_string().contains("`identities`"), "{error}");
            let within = Duration::from_secs(60);
            let error = engine
                .apply_unconfirmed(&everybody, allow, within)
                .unwrap_err();
            assert!(
                matches!(error, EngineError::HostIdentities { .. }),
                "{backend}: {error}"
            );
        }
    });
    assert_eq!(everything(&namespace), before);
    as_host(&namespace, || {
        for backend in Backend::ALL {
            let engine = Engine::detect(&Netns::Current, Some(backend)).unwrap();
            let plan = compiled(&only_app(15001).for_host(&SshAccess::default()).unwrap());
            engine.apply(&plan, HostNetwork::DangerouslyAllow).unwrap();
            assert_eq!(engine.verify(&plan).unwrap().state, RuleState::Intact);
            engine.remove(plan.instance(), Drain::Off).unwrap();
        }
    });
}

#[test]
fn an_unconfirmed_change_comes_to_nothing_by_itself() {
    let world = World::new();
    let _servers = Servers::start(&world);
    let engine = world.app.engine();
    let before = world.app.settled();
    let reached = |by| {
        [IpAddr::from(PEER_V4), PEER_V6.into()]
            .map(|to| Attempt::tcp(From::App(by), SocketAddr::new(to, 80)).make(&world))
    };
    // Nothing, then something; nobody lives to take it back.
    let plan = compiled(&only_app(15001));
    let within = Duration::from_millis(1500);
    let applied = engine
        .apply_unconfirmed(&plan, HostNetwork::Refuse, within)
        .unwrap();
    assert_eq!(applied, Applied::Created);
    drop(engine);
    assert_eq!(reached(APP), [here(15001), here(15001)]);
    assert_eq!(reached(PROXY), [there(80), there(80)]);
    let engine = world.app.engine();
    assert_eq!(engine.verify(&plan).unwrap().drifts, []);
    let left = engine
        .status(plan.instance())
        .unwrap()
        .unwrap()
        .unconfirmed
        .unwrap();
    assert!(left > Duration::ZERO && left <= within, "{left:?}");
    until_direct(&world);
    assert_eq!(reached(APP), [there(80), there(80)]);
    assert_ne!(engine.verify(&plan).unwrap().state, RuleState::Intact);
    assert_eq!(engine.confirm(plan.instance()).unwrap(), Confirmed::TooLate);
    assert_eq!(
        engine.confirm(plan.instance()).unwrap(),
        Confirmed::NothingToConfirm
    );
    assert_eq!(world.app.settled(), before);
}

/// Waits until calls of the application arrive where they were sent.
fn until_direct(world: &World) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let attempt = Attempt::tcp(From::App(APP), (PEER_V4, 80));
    while attempt.make(world) != there(80) {
        assert!(Instant::now() < deadline, "the rules are still in force");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_rules_of_before_are_in_force_again() {
    let world = World::new();
    let _servers = Servers::start(&world);
    let engine = world.app.engine();
    let instance = only_app(15001).instance().clone();
    let call = || Attempt::tcp(From::App(APP), (PEER_V4, 80)).make(&world);
    // The same port for both directions, so that it can be told from the plan of before.
    let (old, new) = (compiled(&only_app(15001)), compiled(&only_app(15006)));
    engine.apply(&old, HostNetwork::Refuse).unwrap();
    let before = world.app.settled();
    let within = Duration::from_millis(1200);
    let applied = engine
        .apply_unconfirmed(&new, HostNetwork::Refuse, within)
        .unwrap();
    assert_eq!(applied, Applied::Replaced);
    assert_eq!(call(), here(15006));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let reached = call();
        if reached == here(15001) {
            break;
        }
        // Never neither of them.
        assert_eq!(reached, here(15006));
        assert!(Instant::now() < deadline);
    }
    assert_eq!(engine.confirm(&instance).unwrap(), Confirmed::TooLate);
    assert_eq!(call(), here(15001));
    assert_eq!(engine.verify(&old).unwrap().drifts, []);
    assert_eq!(world.app.settled(), before);
}

#[test]
fn a_confirmed_change_stays_as_if_it_had_been_applied() {
    let world = World::new();
    let engine = world.app.engine();
    let (old, new) = (compiled(&only_app(15001)), compiled(&only_app(15006)));
    engine.apply(&new, HostNetwork::Refuse).unwrap();
    let wanted = world.app.settled();
    engine.apply(&old, HostNetwork::Refuse).unwrap();
    let within = Duration::from_secs(60);
    engine
        .apply_unconfirmed(&new, HostNetwork::Refuse, within)
        .unwrap();
    assert_eq!(
        engine.confirm(new.instance()).unwrap(),
        Confirmed::Confirmed
    );
    assert_eq!(world.app.settled(), wanted);
    // To apply for good is to confirm, too; and to remove takes everything.
    engine
        .apply_unconfirmed(&old, HostNetwork::Refuse, within)
        .unwrap();
    engine
        .apply_unconfirmed(&new, HostNetwork::Refuse, within)
        .unwrap();
    assert_eq!(
        engine.apply(&new, HostNetwork::Refuse).unwrap(),
        Applied::Replaced
    );
    assert_eq!(world.app.settled(), wanted);
    engine
        .apply_unconfirmed(&old, HostNetwork::Refuse, within)
        .unwrap();
    engine.remove(old.instance(), Drain::Off).unwrap();
    assert_eq!(world.app.ruleset(), "");
}

#[test]
fn other_backends_do_not_pretend_that_they_could_take_it_back() {
    let namespace = Namespace::new();
    for backend in [Backend::IptablesNft, Backend::IptablesLegacy] {
        let engine = Engine::detect(&namespace.netns(), Some(backend)).unwrap();
        let within = Duration::from_secs(60);
        let error = engine
            .apply_unconfirmed(&compiled(&only_app(15001)), HostNetwork::Refuse, within)
            .unwrap_err();
        assert!(
            matches!(error, EngineError::Unconfirmable { .. }),
            "{error}"
        );
        assert!(
            engine
                .status(&only_app(15001).instance().clone())
                .unwrap()
                .is_none()
        );
    }
}
