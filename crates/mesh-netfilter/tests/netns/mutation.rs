//! Each rule is deleted in turn: verifying notices, and so do packets, or the rule has no reason.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_netfilter::{Backend, Engine, HostNetwork, Plan, Policy, RuleState};

use crate::classes::{app, peer, query};
use crate::traffic::{Attempt, From, Reached, Servers, ask};
use crate::world::{
    APP, APP_V4, APP_V6, Namespace, PEER_V4, PEER_V6, PROXY_GROUP, World, compile,
    for_each_backend, owner,
};

/// One rule in the kernel, as the tool that deletes it names it.
#[derive(Clone, Debug)]
struct Installed {
    program: &'static str,
    delete: Vec<String>,
    text: String,
    is_guard: bool,
}

/// Rules that no packet of this test can miss, each with the reason why it is there all the same.
const UNNOTICED: [&str; 3] = [
    // Tells what was applied; no packet comes there.
    "mesh-netfilter format",
    // An answer from port 53 to port 53: `guard.rs` has the resolver that it takes.
    "the answer to a query from outside",
    // Needed where queries are forwarded to port 53 of another server; netlink has it in one rule
    // with that of TCP, which packets miss.
    "-p udp -m conntrack --ctstate DNAT",
];

fn sidecar() -> Plan {
    compile(&Policy::sidecar())
}

/// Everything that T1 tells apart, by user and by group of the proxy.
fn corpus() -> Vec<Attempt> {
    let user = owner(1337, 7);
    let mut all = Vec::new();
    for (far, own, loopback, delivery) in [
        (
            IpAddr::from(PEER_V4),
            IpAddr::from(APP_V4),
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv4Addr::new(127, 0, 0, 6)),
        ),
        (
            PEER_V6.into(),
            APP_V6.into(),
            Ipv6Addr::LOCALHOST.into(),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
        ),
    ] {
        for who in [APP, user, PROXY_GROUP] {
            all.extend([
                app(who, far, 80),
                app(who, far, 53),
                app(who, own, 8080),
                app(who, own, 8080).bound(delivery),
                app(who, own, 15021),
                app(who, loopback, 8080),
                app(who, loopback, 53),
                query(who, far),
                query(who, loopback),
            ]);
        }
        all.extend([
            peer(own, 8080),
            peer(own, 15021),
            peer(own, 15006),
            Attempt::udp(From::Peer, (own, 9090)),
        ]);
    }
    all
}

/// What becomes of the corpus, and of queries that share a source port.
fn observe(world: &World) -> Vec<Reached> {
    let mut seen: Vec<Reached> = corpus().iter().map(|attempt| attempt.make(world)).collect();
    for (server, own) in [
        (IpAddr::from(PEER_V4), IpAddr::from(APP_V4)),
        (PEER_V6.into(), APP_V6.into()),
    ] {
        let ask = |who, port| {
            let source = SocketAddr::new(own, port);
            world.app.inside(who, || ask(source, (server, 53).into()))
        };
        for (port, who) in [(20_001, owner(1337, 7)), (20_002, PROXY_GROUP)] {
            seen.extend([ask(who, port), ask(APP, port)]);
        }
    }
    // What was asked stays asked for half a minute, and the next rule is judged anew.
    world.app.exec("conntrack", &["-F"]);
    seen
}

fn rules(namespace: &Namespace, backend: Backend) -> Vec<Installed> {
    if backend == Backend::Netlink {
        return nft_rules(namespace);
    }
    let mut all = Vec::new();
    for (program, save) in match backend {
        Backend::IptablesNft => [
            ("iptables-nft", "iptables-nft-save"),
            ("ip6tables-nft", "ip6tables-nft-save"),
        ],
        _ => [
            ("iptables-legacy", "iptables-legacy-save"),
            ("ip6tables-legacy", "ip6tables-legacy-save"),
        ],
    } {
        let saved = namespace.exec(save, &[]);
        let (mut table, mut chain, mut number) = ("", "", 0);
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            }
            let Some(rule) = line.strip_prefix("-A ") else {
                continue;
            };
            let of = rule.split(' ').next().unwrap();
            number = if of == chain { number + 1 } else { 1 };
            chain = of;
            let number = number.to_string();
            let delete = ["-w", "-t", table, "-D", chain, &number];
            all.push(Installed {
                program,
                delete: delete.map(str::to_owned).to_vec(),
                text: format!("{program} -t {table} {line}"),
                is_guard: table == "filter",
            });
        }
    }
    all
}

fn nft_rules(namespace: &Namespace) -> Vec<Installed> {
    let mut all = Vec::new();
    for table in sidecar().tables() {
        let listed = namespace.exec("nft", &["-a", "list", "table", "inet", table.name()]);
        let mut chain = "";
        for line in listed.lines() {
            if let Some(name) = line.strip_prefix("\tchain ") {
                chain = name.split(' ').next().unwrap();
            }
            let is_rule = line.starts_with("\t\t") && !line.contains("type ");
            let Some((text, handle)) = line.rsplit_once(" # handle ").filter(|_| is_rule) else {
                continue;
            };
            let delete = [
                "delete",
                "rule",
                "inet",
                table.name(),
                chain,
                "handle",
                handle,
            ];
            all.push(Installed {
                program: "nft",
                delete: delete.map(str::to_owned).to_vec(),
                text: format!("{chain} {}", text.trim()),
                is_guard: table.name().ends_with("guard"),
            });
        }
    }
    all
}

fn delete(namespace: &Namespace, rule: &Installed) {
    let arguments: Vec<&str> = rule.delete.iter().map(String::as_str).collect();
    namespace.exec(rule.program, &arguments);
}

/// Takes away what the guard is there for, as somebody else would.
fn flush_nat(namespace: &Namespace, backend: Backend) {
    if backend == Backend::Netlink {
        namespace.nft("flush chain inet mesh_mesh nat_out; flush chain inet mesh_mesh nat_pre");
        return;
    }
    for family in ["iptables", "ip6tables"] {
        let tool = backend.to_string().replace("iptables", family);
        for chain in ["OUTPUT", "PREROUTING"] {
            namespace.exec(&tool, &["-w", "-t", "nat", "-F", chain]);
        }
    }
}

fn whole(engine: &Engine) {
    engine.apply(&sidecar(), HostNetwork::Refuse).unwrap();
    assert_eq!(engine.verify(&sidecar()).unwrap().state, RuleState::Intact);
}

#[test]
fn each_rule_that_is_deleted_is_missed() {
    for_each_backend(|backend| {
        let world = World::new();
        let _servers = Servers::start(&world);
        let engine = world.app.create(backend, &sidecar());
        let with_nat = observe(&world);
        flush_nat(&world.app, backend);
        let without_nat = observe(&world);
        assert_ne!(with_nat, without_nat);
        whole(&engine);
        let count = rules(&world.app, backend).len();
        assert!(count > 30, "{count}");
        let mut unnoticed = BTreeSet::new();
        for index in 0..count {
            let rule = rules(&world.app, backend).swap_remove(index);
            delete(&world.app, &rule);
            let report = engine.verify(&sidecar()).unwrap();
            assert_eq!(report.state, RuleState::Drifted, "{backend}: {}", rule.text);
            let mut is_missed = observe(&world) != with_nat;
            if !is_missed && rule.is_guard {
                flush_nat(&world.app, backend);
                is_missed = observe(&world) != without_nat;
            }
            if !is_missed {
                unnoticed.insert(rule.text);
            }
            whole(&engine);
        }
        let is_known = |text: &String| UNNOTICED.iter().any(|known| text.contains(known));
        unnoticed.retain(|text| !is_known(text));
        for text in &unnoticed {
            writeln!(std::io::stderr(), "{backend}: no packet misses {text}").unwrap();
        }
        assert_eq!(unnoticed, BTreeSet::new(), "{backend}");
    });
}
