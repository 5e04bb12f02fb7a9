//! Files made by chance: what is written reads as the same, and nothing makes the reader panic.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;

use crate::compose::*;
use crate::{Capability, Condition, Protocol};

fn located<T: std::fmt::Debug>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Located<T>> {
    value.prop_map(|value| Located {
        value,
        at: Position::START,
    })
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_.-]{0,8}"
}

/// Texts that YAML or variables could take for something else.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "[^\0]{0,6}",
        Just("true".to_owned()),
        Just("~".to_owned()),
        Just("0x10".to_owned()),
        Just("1.10".to_owned()),
        Just("$A ${B} $$".to_owned()),
        Just("line\nline\n".to_owned()),
        Just(": - #".to_owned()),
    ]
}

fn path() -> impl Strategy<Value = PathBuf> {
    "/[a-z0-9 $:_-]{1,8}".prop_map(PathBuf::from)
}

fn time() -> impl Strategy<Value = Duration> {
    (0..31_536_000_000_000_u64).prop_map(Duration::from_micros)
}

fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[A-Za-z_.~ -]{1,6}", text(), 0..3)
}

fn port() -> impl Strategy<Value = Port> {
    let address = prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::V4),
        any::<Ipv6Addr>().prop_map(IpAddr::V6)
    ];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let start = || 1..60_000_u16;
    (of(address), of(start()), start(), 0..100_u16, protocol).prop_map(
        |(address, published, target, more, protocol)| Port {
            address,
            published: published.and_then(|it| PortRange::new(it, it + more)),
            target: PortRange::new(target, target + more).unwrap(),
            protocol,
        },
    )
}

fn mount() -> impl Strategy<Value = Mount> {
    let source = prop_oneof![
        path().prop_map(MountSource::Bind),
        Just(MountSource::Bind("./here".into())),
        Just(MountSource::Named("data".to_owned())),
        Just(MountSource::Anonymous),
    ];
    (source, path(), any::<bool>()).prop_map(|(source, target, read_only)| Mount {
        source,
        target,
        read_only,
    })
}

fn network_use() -> impl Strategy<Value = NetworkUse> {
    let v4 = of(located(any::<Ipv4Addr>()));
    let v6 = of(located(any::<Ipv6Addr>()));
    (vec(name(), 0..3), v4, v6).prop_map(|(aliases, ipv4_address, ipv6_address)| NetworkUse {
        aliases,
        ipv4_address,
        ipv6_address,
    })
}

fn check() -> impl Strategy<Value = HealthCheck> {
    (
        vec(text(), 1..3),
        of(time()),
        of(time()),
        of(any::<u32>()),
        of(time()),
    )
        .prop_map(
            |(test, interval, timeout, retries, start_period)| HealthCheck {
                test,
                interval,
                timeout,
                retries,
                start_period,
                start_interval: interval,
            },
        )
}

fn capabilities() -> impl Strategy<Value = Vec<Located<CapabilityChoice>>> {
    let choice = prop_oneof![
        Just(CapabilityChoice::All),
        Just(CapabilityChoice::One(Capability::NetAdmin)),
        Just(CapabilityChoice::One(Capability::Chown)),
    ];
    vec(located(choice), 0..3)
}

prop_compose! {
    fn attached()(
        networks in btree_map(Just("net".to_owned()), located(network_use()), 0..2),
        host in any::<bool>(),
        hostname in of(located("[a-z0-9-]{1,63}")),
        ports in vec(located(port()), 0..3),
        dns in vec(any::<IpAddr>(), 0..2),
    ) -> Service {
        let network_mode = (host && networks.is_empty())
            .then_some(Located { value: NetworkMode::Host, at: Position::START });
        Service { networks, network_mode, ports, hostname, dns, ..Service::default() }
    }
}

prop_compose! {
    fn started()(
        command in of(vec(located(text()), 0..3)),
        entrypoint in of(vec(located(text()), 0..3)),
        environment in pairs(),
        labels in pairs(),
        volumes in vec(located(mount()), 0..2),
        working_dir in of(path()),
        container_name in of(name()),
        dns_search in vec(text(), 0..2),
    ) -> Service {
        Service {
            command, entrypoint, environment, labels, volumes, working_dir, container_name,
            dns_search, ..Service::default()
        }
    }
}

prop_compose! {
    fn service()(
        attached in attached(),
        started in started(),
        image in "[!-~]{1,20}",
        user in of(located((0..u32::MAX, of(0..u32::MAX)).prop_map(|(uid, gid)| User { uid, gid }))),
        privileged in located(any::<bool>()),
        cap_add in capabilities(),
        cap_drop in capabilities(),
        restart in located(prop_oneof![
            Just(Restart::No),
            Just(Restart::Always),
            Just(Restart::UnlessStopped),
            of(any::<u32>()).prop_map(Restart::OnFailure),
        ]),
        healthcheck in of(located(check())),
        stop_grace_period in of(time()),
        waits in of(prop_oneof![
            Just(Condition::Started), Just(Condition::Ready), Just(Condition::Finished)
        ]),
    ) -> Service {
        let at = Position::START;
        let depends_on = waits.map(|value| ("first".to_owned(), Located { value, at }));
        Service {
            image: Some(Located { value: image, at }),
            networks: attached.networks,
            network_mode: attached.network_mode,
            hostname: attached.hostname,
            ports: attached.ports,
            dns: attached.dns,
            user, privileged, cap_add, cap_drop, restart, healthcheck, stop_grace_period,
            depends_on: depends_on.into_iter().collect(),
            ..started
        }
    }
}

prop_compose! {
    fn compose()(
        name in of(text()),
        first in located(service()),
        others in btree_map("s[a-zA-Z0-9._-]{0,5}", located(service()), 0..3),
        v4 in of((any::<Ipv4Addr>(), 8..=28_u8)),
        v6 in of((any::<Ipv6Addr>(), 32..=96_u8)),
        bridge in of("[ -~]{1,20}"),
        external in any::<bool>(),
        said in of(text()),
    ) -> Compose {
        let at = Position::START;
        let mut services = others;
        services.insert("first".to_owned(), first);
        let v4 = v4.map(|(it, length)| ipnet::Ipv4Net::new_assert(it, length).trunc());
        let v6 = v6.map(|(it, length)| ipnet::Ipv6Net::new_assert(it, length).trunc());
        let network = Network {
            name: said.clone(),
            external,
            v4: v4.map(|value| Located { value, at }),
            v6: v6.map(|value| Located { value, at }),
            bridge: bridge.map(|value| Located { value, at }),
        };
        let default = Located { value: Network::default(), at };
        let networks = [("net".to_owned(), Located { value: network, at }), ("default".to_owned(), default)];
        let volume = Volume { name: said, external };
        Compose {
            name,
            services,
            networks: networks.into(),
            volumes: [("data".to_owned(), Located { value: volume, at })].into(),
            notes: Vec::new(),
        }
    }
}

fn read(source: &[u8]) -> Result<Compose, FileProblems> {
    Compose::read(source, &Reading::new("c.yaml", &BTreeMap::new()))
}

/// Whether a place is one of the text, or just behind its last character.
fn is_inside(at: Position, source: &[u8]) -> bool {
    let text = String::from_utf8_lossy(source);
    // What YAML takes for the end of a line.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = text.split('\n');
    let line = lines.nth(at.line as usize - 1);
    line.is_some_and(|line| at.column as usize <= line.chars().count() + 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_reads_as_the_same(compose in compose()) {
        let yaml = compose.to_yaml();
        let again = read(yaml.as_bytes());
        prop_assert_eq!(again.as_ref(), Ok(&compose), "{}", yaml);
    }

    #[test]
    fn plans_do_not_change_from_one_time_to_the_next(compose in compose()) {
        let options = PlanOptions::new("c.yaml", "/srv");
        prop_assert_eq!(compose.plan(&options), compose.plan(&options));
    }

    #[test]
    fn changed_bytes_never_panic_and_errors_are_inside_the_file(
        compose in compose(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6),
    ) {
        let mut source = compose.to_yaml().into_bytes();
        for (index, byte, how) in changes {
            let at = index.index(source.len());
            match how {
                0 => source[at] = byte,
                1 => source.insert(at, byte),
                _ => drop(source.remove(at)),
            }
        }
        match read(&source) {
            Err(found) => {
                for problem in found.problems {
                    prop_assert!(is_inside(problem.at, &source), "{} in {:?}", problem, String::from_utf8_lossy(&source));
                }
            }
            Ok(compose) => drop(compose.plan(&PlanOptions::new("c.yaml", "/srv"))),
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-z0-9:\\[\\]{},&*!|>'\"%@`#~<$ \n\t-]{0,80}") {
        if let Err(found) = read(text.as_bytes()) {
            for problem in found.problems {
                prop_assert!(is_inside(problem.at, text.as_bytes()), "{} in {:?}", problem, text);
            }
        }
    }
}
