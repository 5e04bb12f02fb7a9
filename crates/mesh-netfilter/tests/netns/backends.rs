//! What holds for every backend: apply, repeat, change, remove; and what is only true of iptables.

use std::fmt::Write as _;
use std::fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use mesh_netfilter::{
    Applied, Backend, DestinationSelect, Destinations, Dns, DnsTarget, Drain, Drift, DropInvalid,
    Engine, EngineError, Existing, Facts, Family, Guard, Hazard, HostNetwork, IdRange, Identities,
    IdentityPorts, Inbound, InboundMode, InstanceName, Netns, Outbound, Plan, Policy, Port,
    PortRange, PortSelect, Reason, Removed, RuleState, Tproxy, Transport, VirtualInterface,
    parse_network,
};
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{FlockOperation, flock};

use crate::arbitrary::policy;
use crate::world::{APP, Namespace};

/// The two variants of iptables, with the ends of the names of their programs.
pub(crate) const IPTABLES: [(Backend, &str); 2] = [
    (Backend::IptablesNft, "nft"),
    (Backend::IptablesLegacy, "legacy"),
];

fn sidecar() -> Plan {
    Plan::compile(&Policy::sidecar(), &Facts::default())
}

/// A plan with other rules in NAT and none in the guard.
fn other() -> Plan {
    let excluded = DestinationSelect::AllExcept(Destinations {
        ports: [Port::of::<9090>()].into(),
        ..Destinations::default()
    });
    let outbound = Outbound::to(Port::of::<15001>()).destinations(excluded);
    let policy = Policy::sidecar()
        .to_builder()
        .outbound(outbound)
        .guard(Guard::Off);
    Plan::compile(&policy.build().unwrap(), &Facts::default())
}

fn engine(namespace: &Namespace, backend: Backend) -> Engine {
    Engine::detect(&namespace.netns(), Some(backend)).unwrap()
}

fn apply(engine: &Engine, plan: &Plan) -> Applied {
    engine.apply(plan, HostNetwork::Refuse).unwrap()
}

/// Everything that any tool sees, without counters and times.
pub(crate) fn everything(namespace: &Namespace) -> String {
    let mut all = namespace.exec("nft", &["-s", "list", "ruleset"]);
    for (_, variant) in IPTABLES {
        for tool in ["iptables", "ip6tables"] {
            let program = format!("{tool}-{variant}-save");
            all.push_str(&namespace.exec(&program, &[]));
        }
    }
    for arguments in [
        "-4 rule",
        "-6 rule",
        "-4 route show table all",
        "-6 route show table all",
        "addr",
    ] {
        all.push_str(&namespace.ip(arguments));
    }
    let lines = all.lines().filter(|line| !line.starts_with('#'));
    let stripped = lines.map(|line| match line.split_once(" [") {
        Some((chain, _)) if chain.starts_with(':') => chain,
        _ => line,
    });
    stripped.collect::<Vec<_>>().join("\n")
}

/// Makes the kernel register every legacy table, which it then keeps as long as the namespace.
fn register_legacy(namespace: &Namespace) {
    for tool in ["iptables-legacy", "ip6tables-legacy"] {
        for table in ["raw", "mangle", "nat", "filter"] {
            namespace.exec(tool, &["-w", "-t", table, "-S"]);
        }
    }
}

#[test]
fn applying_twice_touches_nothing_whatever_the_backend() {
    for backend in Backend::ALL {
        let namespace = Namespace::new();
        let engine = engine(&namespace, backend);
        assert_eq!(engine.backend(), backend);
        assert_eq!(apply(&engine, &sidecar()), Applied::Created, "{backend}");
        assert_eq!(engine.verify(&sidecar()).unwrap().drifts, [], "{backend}");
        // Handles are new for every rule that the kernel is given.
        let handles = namespace.exec("nft", &["-a", "-s", "list", "ruleset"]);
        let before = everything(&namespace);
        for _ in 0..10 {
            assert_eq!(apply(&engine, &sidecar()), Applied::Unchanged, "{backend}");
        }
        assert_eq!(everything(&namespace), before, "{backend}");
        assert_eq!(
            namespace.exec("nft", &["-a", "-s", "list", "ruleset"]),
            handles
        );
        let installed = engine.installed(&InstanceName::default()).unwrap().unwrap();
        assert!(installed.is_intact(), "{backend}: {installed:?}");
    }
}

#[test]
fn what_was_there_before_makes_no_difference_whatever_the_backend() {
    for backend in Backend::ALL {
        let (first, second) = (Namespace::new(), Namespace::new());
        let (one, two) = (engine(&first, backend), engine(&second, backend));
        assert_eq!(apply(&one, &sidecar()), Applied::Created, "{backend}");
        assert_eq!(apply(&one, &other()), Applied::Replaced, "{backend}");
        assert_eq!(one.verify(&other()).unwrap().drifts, [], "{backend}");
        assert_eq!(
            one.verify(&sidecar()).unwrap().state,
            RuleState::Drifted,
            "{backend}"
        );
        register_legacy(&first);
        register_legacy(&second);
        assert_eq!(apply(&two, &other()), Applied::Created, "{backend}");
        let rules = |namespace: &Namespace| {
            let all = everything(namespace);
            // Empty tables stay as long as rules of ours are elsewhere; links differ in numbers.
            let mut rules: Vec<String> = all
                .lines()
                .filter(|line| line.starts_with("-A") || line.contains("comment"))
                .map(str::to_owned)
                .collect();
            rules.sort();
            rules
        };
        assert_eq!(rules(&first), rules(&second), "{backend}");
        assert_eq!(apply(&one, &sidecar()), Applied::Replaced, "{backend}");
        assert_eq!(one.verify(&sidecar()).unwrap().drifts, [], "{backend}");
    }
}

#[test]
fn removing_leaves_the_namespace_byte_identical_whatever_the_backend() {
    for backend in Backend::ALL {
        for with_others in [false, true] {
            let namespace = Namespace::new();
            register_legacy(&namespace);
            if with_others {
                for (_, variant) in IPTABLES {
                    for tool in ["iptables", "ip6tables"] {
                        let tool = format!("{tool}-{variant}");
                        let add = |arguments: &str| {
                            namespace.exec(&tool, &arguments.split(' ').collect::<Vec<_>>());
                        };
                        add("-w -t nat -N MESH_mesh_NATOUT2");
                        add("-w -t nat -A OUTPUT -p tcp --dport 1 -j MESH_mesh_NATOUT2");
                        add("-w -t filter -N MESH_MESH_GRDOUT");
                        add("-w -t filter -A INPUT -p tcp --dport 2 -j DROP");
                    }
                }
                namespace.nft("table inet mesh_other { chain x { accept; }; }");
            }
            let before = everything(&namespace);
            let engine = engine(&namespace, backend);
            for plan in [sidecar(), other()] {
                apply(&engine, &plan);
                assert_ne!(everything(&namespace), before, "{backend}");
                let removed = engine.remove(&InstanceName::default(), Drain::Off).unwrap();
                assert_eq!(removed, Removed::Removed, "{backend}");
                assert_eq!(everything(&namespace), before, "{backend}");
            }
            let removed = engine.remove(&InstanceName::default(), Drain::Off).unwrap();
            assert_eq!(removed, Removed::Absent, "{backend}");
            assert_eq!(everything(&namespace), before, "{backend}");
        }
    }
}

#[test]
fn chains_of_any_version_are_removed_whatever_is_in_them() {
    const ENDINGS: [&str; 15] = [
        "ABOUT", "RAWOUT", "RAWPRE", "MANPRE", "MANOUT", "MARK", "NATPRE", "NATGST", "NATOUT",
        "NATINC", "GRDIN", "GRDFWD", "GRDGST", "GRDOUT", "GRDINC",
    ];
    for (backend, variant) in IPTABLES {
        let namespace = Namespace::new();
        register_legacy(&namespace);
        for tool in ["iptables", "ip6tables"] {
            // With the tables and base chains that others have made.
            let mut input = String::new();
            for table in ["raw", "mangle", "nat", "filter"] {
                write!(
                    input,
                    "*{table}\n:OTHER - [0:0]\n-A OUTPUT -j OTHER\nCOMMIT\n"
                )
                .unwrap();
            }
            restore(&namespace, &format!("{tool}-{variant}"), &input);
        }
        let before = everything(&namespace);
        for tool in ["iptables", "ip6tables"] {
            let mut input = String::new();
            for table in ["raw", "mangle", "nat", "filter"] {
                writeln!(input, "*{table}").unwrap();
                for ending in ENDINGS {
                    writeln!(input, ":MESH_mesh_{ending} - [0:0]").unwrap();
                }
                for ending in ENDINGS {
                    let rule = "-m comment --comment \"of another version\" -j RETURN";
                    writeln!(input, "-A MESH_mesh_{ending} {rule}").unwrap();
                    writeln!(input, "-A OUTPUT -j MESH_mesh_{ending}").unwrap();
                }
                input.push_str("-A MESH_mesh_GRDOUT -j MESH_mesh_GRDINC\nCOMMIT\n");
            }
            restore(&namespace, &format!("{tool}-{variant}"), &input);
        }
        assert_ne!(everything(&namespace), before);
        let engine = engine(&namespace, backend);
        let removed = engine.remove(&InstanceName::default(), Drain::Off).unwrap();
        assert_eq!(removed, Removed::Removed, "{backend}");
        assert_eq!(everything(&namespace), before, "{backend}");
    }
}

/// Has `input` done by `tool`, such as `iptables-nft`.
fn restore(namespace: &Namespace, tool: &str, input: &str) {
    let file = std::env::temp_dir().join(format!("{}.rules", namespace.name));
    fs::write(&file, input).unwrap();
    namespace.exec(
        &format!("{tool}-restore"),
        &["--noflush", "-w", "60", file.to_str().unwrap()],
    );
    fs::remove_file(&file).unwrap();
}

#[test]
fn tampering_is_found_and_repaired_whatever_the_variant_of_iptables() {
    for (backend, variant) in IPTABLES {
        let namespace = Namespace::new();
        let engine = engine(&namespace, backend);
        apply(&engine, &sidecar());
        for (tool, change, expected) in [
            ("iptables", "-t nat -D MESH_mesh_NATOUT 1", "is missing"),
            ("ip6tables", "-t nat -F MESH_mesh_NATOUT", "is missing"),
            (
                "iptables",
                "-t nat -I MESH_mesh_NATOUT 1 -j ACCEPT",
                "rule at 0",
            ),
            ("iptables", "-t nat -I OUTPUT 1 -j ACCEPT", "rule at 0"),
            ("iptables", "-t nat -F OUTPUT", "`ip nat OUTPUT` is missing"),
            ("iptables", "-t filter -D OUTPUT 1", "is missing"),
            (
                "ip6tables",
                "-t nat -R MESH_mesh_NATPRE 2 -p tcp -j REDIRECT --to-ports 15007",
                "was changed",
            ),
            (
                "iptables",
                "-t filter -N MESH_mesh_GRDINC",
                "not in the plan",
            ),
        ] {
            let mut arguments = vec!["-w"];
            arguments.extend(change.split(' '));
            namespace.exec(&format!("{tool}-{variant}"), &arguments);
            let report = engine.verify(&sidecar()).unwrap();
            assert_eq!(report.state, RuleState::Drifted, "{backend}: {change}");
            let words = report.verdict(None, 0).drifts.join("; ");
            assert!(words.contains(expected), "{backend}: {change}: {words}");
            assert_eq!(apply(&engine, &sidecar()), Applied::Replaced, "{change}");
            assert_eq!(engine.verify(&sidecar()).unwrap().drifts, [], "{change}");
        }
    }
}

fn golden_cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|case| case.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() >= 10);
    cases
}

#[test]
fn both_variants_accept_each_golden_file_and_print_the_same_rules() {
    for case in golden_cases() {
        let policy = fs::read_to_string(case.join("policy.json")).unwrap();
        let plan = Plan::compile(&serde_json::from_str(&policy).unwrap(), &Facts::default());
        for (backend, variant) in IPTABLES {
            let namespace = Namespace::new();
            namespace.ip("-6 address add ::6/128 dev lo nodad");
            let mut rules = 0;
            for (tool, file) in [("iptables", "rules.v4"), ("ip6tables", "rules.v6")] {
                let file = case.join(file);
                let file = file.to_str().unwrap();
                rules += fs::read_to_string(file).unwrap().matches("-A ").count();
                let restore = format!("{tool}-{variant}-restore");
                namespace.exec(&restore, &["--noflush", "--test", file]);
                let save = format!("{tool}-{variant}-save");
                let saved = namespace.exec(&save, &[]);
                assert!(!saved.contains("-A "), "checking only checks: {saved}");
                namespace.exec(&restore, &["--noflush", file]);
            }
            assert!(rules > 0);
            let mut drifts = engine(&namespace, backend).verify(&plan).unwrap().drifts;
            // Files hold rules alone, and not what rules need besides.
            drifts.retain(|drift| !matches!(drift, Drift::LocalMissing { .. }));
            assert_eq!(drifts, [], "{backend} {}", case.display());
        }
    }
}

/// One policy for each thing that rules can say.
fn features() -> Vec<Policy> {
    let sidecar = || Policy::sidecar().to_builder();
    let port = |number: u16| Port::new(number).unwrap();
    let inbound = || Inbound::to(port(15006));
    let odd_ports = (1..=40).map(|number| PortRange::from(port(number * 10)));
    let ranges = (1..=9).map(|number| PortRange::new(port(number * 1000), port(number * 1000 + 9)));
    let many: mesh_netfilter::PortSet = odd_ports.chain(ranges.map(Option::unwrap)).collect();
    let tproxy = InboundMode::Tproxy(Tproxy::default());
    let networks = |list: &[&str]| {
        list.iter()
            .map(|text| parse_network(text).unwrap())
            .collect()
    };
    let forward = |to: &str| Dns::to(DnsTarget::Forward(to.parse().unwrap()));
    let guests = VirtualInterface {
        name: "docker0".parse().unwrap(),
        direct: networks(&["172.17.0.0/16", "fd17::/64"]),
    };
    let ids = |text: &str| text.parse::<IdRange>().unwrap();
    let per_identity = |transport| IdentityPorts {
        identities: Identities::users([ids("2000-2999")]).and_groups([ids("0-4294967294")]),
        transport,
        ports: many.clone(),
    };
    let loopback =
        mesh_netfilter::Loopback::Capture(networks(&["127.0.0.2", "127.1.0.0/16", "::1"]));
    let builders = [
        sidecar().inbound(inbound().ports(PortSelect::AllExcept(many.clone()))),
        sidecar().inbound(inbound().ports(PortSelect::Only(many.clone()))),
        sidecar().inbound(inbound().mode(tproxy)),
        sidecar()
            .inbound(inbound().mode(tproxy))
            .guard(Guard::Drop)
            .drop_invalid(DropInvalid::Yes),
        sidecar().drop_invalid(DropInvalid::Yes).guard(Guard::Drop),
        sidecar().dns(forward("10.9.8.7:53")),
        sidecar().dns(forward("[fd00::53]:5353")),
        sidecar().existing(Existing::Break),
        sidecar().virtual_interfaces([guests]),
        sidecar().per_identity([
            per_identity(Transport::Tcp),
            per_identity(Transport::Udp),
            per_identity(Transport::TcpOrUdp),
        ]),
        sidecar().proxy(Identities::users([ids("65536"), ids("100000-165535")])),
        sidecar().outbound(Outbound {
            loopback,
            ..Outbound::to(port(15001))
        }),
    ];
    builders.map(|builder| builder.build().unwrap()).into()
}

#[test]
fn every_feature_is_read_back_as_it_was_written() {
    for (backend, _) in IPTABLES {
        let namespace = Namespace::new();
        let engine = engine(&namespace, backend);
        let mut applied = Applied::Created;
        for policy in features() {
            let plan = Plan::compile(&policy, &Facts::default());
            assert_eq!(apply(&engine, &plan), applied, "{backend}: {policy:?}");
            assert_eq!(engine.verify(&plan).unwrap().drifts, [], "{policy:?}");
            assert_eq!(apply(&engine, &plan), Applied::Unchanged, "{policy:?}");
            let installed = engine.installed(plan.instance()).unwrap().unwrap();
            assert!(installed.is_intact(), "{backend}: {policy:?}");
            applied = Applied::Replaced;
        }
    }
}

#[test]
fn random_policies_are_read_back_as_they_were_written() {
    for (backend, _) in IPTABLES {
        let namespace = Namespace::new();
        register_legacy(&namespace);
        let engine = engine(&namespace, backend);
        let before = everything(&namespace);
        let mut runner = TestRunner::new(Config {
            cases: 30,
            failure_persistence: None,
            ..Config::default()
        });
        let result = runner.run(&policy(), |policy| {
            let plan = Plan::compile(&policy, &Facts::default());
            let is_empty = plan.to_iptables().unwrap().v4.is_empty();
            let applied = apply(&engine, &plan);
            proptest::prop_assert!(applied == Applied::Created || is_empty);
            proptest::prop_assert_eq!(engine.verify(&plan).unwrap().drifts, vec![]);
            proptest::prop_assert_eq!(apply(&engine, &plan), Applied::Unchanged);
            engine.remove(plan.instance(), Drain::Off).unwrap();
            proptest::prop_assert_eq!(everything(&namespace), before.clone());
            Ok(())
        });
        result.unwrap();
    }
}

#[test]
fn two_instances_share_tables_and_the_last_one_takes_them_along() {
    let blue = Policy::sidecar()
        .to_builder()
        .instance("blue".parse().unwrap());
    let blue = Plan::compile(&blue.build().unwrap(), &Facts::default());
    for (backend, _) in IPTABLES {
        let namespace = Namespace::new();
        register_legacy(&namespace);
        let before = everything(&namespace);
        let engine = engine(&namespace, backend);
        apply(&engine, &sidecar());
        apply(&engine, &blue);
        // The later one stands in front; the other one stays where it is.
        assert_eq!(engine.verify(&blue).unwrap().drifts, [], "{backend}");
        let mut instances = engine.list().unwrap();
        instances.sort();
        assert_eq!(
            instances,
            [blue.instance().clone(), InstanceName::default()]
        );
        engine.remove(&InstanceName::default(), Drain::Off).unwrap();
        assert_eq!(engine.verify(&blue).unwrap().drifts, [], "{backend}");
        engine.remove(blue.instance(), Drain::Off).unwrap();
        assert_eq!(everything(&namespace), before, "{backend}");
    }
}

/// Rules of ours, in no order of chains.
fn sorted(namespace: &Namespace) -> Vec<String> {
    let mut lines: Vec<String> = everything(namespace).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_family_that_fails_leaves_both_as_they_were() {
    for (backend, variant) in IPTABLES {
        let namespace = Namespace::new();
        let engine = engine(&namespace, backend);
        apply(&engine, &sidecar());
        // A rule of somebody else that leads to a chain of ours, which so cannot be removed.
        let foreign = "-w -A OUTPUT -p tcp -j MESH_mesh_GRDOUT";
        let foreign: Vec<&str> = foreign.split(' ').collect();
        namespace.exec(&format!("ip6tables-{variant}"), &foreign);
        let before = sorted(&namespace);
        let error = engine.apply(&other(), HostNetwork::Refuse).unwrap_err();
        let EngineError::Partial { family, left, .. } = &error else {
            panic!("{backend}: {error:?}");
        };
        assert_eq!((*family, left.as_slice()), (Family::V6, &[][..]), "{error}");
        assert_eq!(sorted(&namespace), before, "{backend}");
        assert_eq!(engine.verify(&sidecar()).unwrap().drifts, [], "{backend}");
        assert_eq!(apply(&engine, &sidecar()), Applied::Unchanged, "{backend}");
    }
}

#[test]
fn appliers_and_others_at_the_same_time_lose_nothing() {
    const OTHERS: usize = 15;
    for backend in Backend::ALL {
        let namespace = Namespace::new();
        let add = |variant: &str, number: usize| {
            let number = (number + 1).to_string();
            let tool = format!("iptables-{variant}");
            let rule = [
                "-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", &number,
            ];
            namespace.exec(&tool, &[rule.as_slice(), &["-j", "ACCEPT"]].concat());
        };
        std::thread::scope(|scope| {
            for number in 0..8 {
                let engine = engine(&namespace, backend);
                scope.spawn(move || {
                    for round in 0..4 {
                        let is_even = (number + round) % 2 == 0;
                        let plan = if is_even { sidecar() } else { other() };
                        // With netlink somebody else may keep changing them; then nothing was
                        // touched.
                        match engine.apply(&plan, HostNetwork::Refuse) {
                            Ok(_) | Err(EngineError::Busy) => {}
                            Err(error) => panic!("{backend}: {error:?}"),
                        }
                    }
                });
            }
            for (_, variant) in IPTABLES {
                let add = &add;
                scope.spawn(move || (0..OTHERS).for_each(|number| add(variant, number)));
            }
        });
        let engine = engine(&namespace, backend);
        let states = [sidecar(), other()].map(|plan| engine.verify(&plan).unwrap().state);
        assert!(states.contains(&RuleState::Intact), "{backend}: {states:?}");
        for (_, variant) in IPTABLES {
            let saved = namespace.exec(&format!("iptables-{variant}-save"), &["-t", "nat"]);
            let foreign = saved.matches("-j ACCEPT").count();
            assert_eq!(foreign, OTHERS, "{backend}, {variant}: {saved}");
        }
    }
}

#[test]
fn whoever_holds_the_lock_of_all_iptables_is_not_waited_for_long() {
    let lock = File::create("/run/xtables.lock").unwrap();
    for (backend, _) in IPTABLES {
        let namespace = Namespace::new();
        let engine = engine(&namespace, backend);
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let begin = Instant::now();
        apply(&engine, &sidecar());
        let lasted = begin.elapsed();
        flock(&lock, FlockOperation::Unlock).unwrap();
        assert!(lasted < Duration::from_secs(4), "{backend}: {lasted:?}");
        assert_eq!(engine.verify(&sidecar()).unwrap().drifts, [], "{backend}");
    }
}

/// A process in a network namespace of a user namespace of its own, where root is 100000.
struct Container(Child);

impl Container {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--user", "--net", "sleep", "120"])
            .spawn()
            .unwrap();
        let container = Self(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        let inode = |path: &str| fs::metadata(path).map(|metadata| metadata.ino()).ok();
        for kind in ["user", "net"] {
            while inode(&container.file(&format!("ns/{kind}")))
                == inode(&format!("/proc/self/ns/{kind}"))
            {
                assert!(Instant::now() < deadline, "no user namespace");
                std::thread::yield_now();
            }
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(container.file(map), "0 100000 65536").unwrap();
        }
        container
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0.id())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn rules_that_name_owners_reach_a_namespace_of_another_user_namespace() {
    for backend in Backend::ALL {
        let container = Container::new();
        let netns = Netns::Pid(container.0.id());
        let engine = Engine::detect(&netns, Some(backend)).unwrap();
        assert_eq!(apply(&engine, &sidecar()), Applied::Created, "{backend}");
        assert_eq!(engine.verify(&sidecar()).unwrap().drifts, [], "{backend}");
        assert_eq!(apply(&engine, &other()), Applied::Replaced, "{backend}");
        assert_eq!(apply(&engine, &other()), Applied::Unchanged, "{backend}");
        let removed = engine.remove(&InstanceName::default(), Drain::Off).unwrap();
        assert_eq!(removed, Removed::Removed, "{backend}");
    }
    // The names of users are not asked for in the network that is set up; nobody else notices.
    assert!(fs::metadata("/etc/nsswitch.conf").is_ok_and(|metadata| metadata.len() > 0));
}

#[test]
fn what_other_backends_have_left_is_removed_when_asked() {
    let namespace = Namespace::new();
    register_legacy(&namespace);
    let before = everything(&namespace);
    let engines = Backend::ALL.map(|backend| engine(&namespace, backend));
    for engine in &engines {
        apply(engine, &sidecar());
        assert_eq!(
            engine.tool_version().is_some(),
            engine.backend() != Backend::Netlink
        );
    }
    for engine in &engines {
        assert_eq!(engine.verify(&sidecar()).unwrap().drifts, []);
    }
    let [netlink, ..] = &engines;
    let instance = InstanceName::default();
    assert_eq!(
        netlink.remove_others(&instance).unwrap(),
        IPTABLES.map(|(backend, _)| backend)
    );
    assert_eq!(netlink.verify(&sidecar()).unwrap().drifts, []);
    netlink.remove(&instance, Drain::Off).unwrap();
    assert_eq!(everything(&namespace), before);
}

#[test]
fn netlink_is_preferred_where_it_works_and_nothing_is_left_of_trying() {
    let namespace = Namespace::new();
    let before = everything(&namespace);
    for _ in 0..2 {
        let engine = Engine::detect(&namespace.netns(), None).unwrap();
        assert_eq!(engine.backend(), Backend::Netlink);
        let unusable = Vec::new();
        assert_eq!(*engine.reason(), Reason::Detected { unusable });
        assert_eq!(everything(&namespace), before);
        // Where there are rules already, it works as well.
        apply(&engine, &sidecar());
        engine.remove(&InstanceName::default(), Drain::Off).unwrap();
    }
    let asked = engine(&namespace, Backend::IptablesLegacy);
    assert_eq!(*asked.reason(), Reason::Asked);
    let error = namespace.inside(APP, || Engine::detect(&Netns::Current, None).unwrap_err());
    assert!(error.is_not_permitted(), "{error:?}");
}

#[test]
fn legacy_rules_for_nat_are_a_hazard_and_an_empty_table_is_none() {
    let namespace = Namespace::new();
    let engine = engine(&namespace, Backend::Netlink);
    apply(&engine, &sidecar());
    let hazards = || engine.verify(&sidecar()).unwrap().hazards;
    let legacy = Hazard::LegacyNat {
        family: "ip".to_owned(),
    };
    register_legacy(&namespace);
    assert!(!hazards().contains(&legacy), "{:?}", hazards());
    let rule = "-w -t nat -A OUTPUT -p tcp --dport 1 -j ACCEPT";
    namespace.exec("iptables-legacy", &rule.split(' ').collect::<Vec<_>>());
    assert!(hazards().contains(&legacy), "{:?}", hazards());
}
