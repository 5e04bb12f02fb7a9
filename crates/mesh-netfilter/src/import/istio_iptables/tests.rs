//! What each option of `istio-iptables` becomes; `tests/import.rs` asks what it does to packets.

use super::*;
use crate::{DestinationSelect, Dns, DnsServers, DnsTarget, Identities, Loopback, Port};

const NONE: [(&str, &str); 0] = [];

fn import(line: &str) -> Result<Imported, Problems> {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    istio_iptables(&words, NONE)
}

fn policy(line: &str) -> Policy {
    import(line).unwrap().policy().unwrap().clone()
}

fn problems(line: &str) -> String {
    import(line).unwrap_err().to_string()
}

fn remarks(imported: &Imported) -> Vec<(&str, RemarkKind)> {
    imported
        .remarks
        .iter()
        .map(|remark| (remark.option.as_str(), remark.kind))
        .collect()
}

#[test]
fn the_injector_s_line_becomes_a_sidecar() {
    let words = [
        "-p",
        "15001",
        "-z",
        "15006",
        "-u",
        "1337",
        "-m",
        "REDIRECT",
        "-i",
        "*",
        "-x",
        "",
        "-b",
        "*",
        "-d",
        "15090,15021,15020",
    ];
    let imported = istio_iptables(&words, NONE).unwrap();
    assert_eq!(imported.remarks, []);
    let mut sidecar = Policy::sidecar().inbound().unwrap().clone();
    sidecar.tunnel = Some(Port::of::<15008>());
    let policy = imported.policy().unwrap();
    assert_eq!(policy.inbound(), Some(&sidecar));
    assert_eq!(policy.outbound(), Policy::sidecar().outbound());
    assert_eq!(policy.proxy(), Policy::sidecar().proxy());
}

#[test]
fn nothing_is_captured_that_is_not_asked_for() {
    let text = problems("-p 15001");
    assert!(text.contains("--istio-inbound-ports"), "{text}");
    let policy = policy("-b 80");
    assert_eq!(policy.outbound(), None);
    assert_eq!(policy.dns(), None);
}

#[test]
fn the_proxy_s_groups_are_its_users_unless_they_are_said() {
    let users = Identities::users([1337_u32, 1338]);
    assert_eq!(
        policy("-b * -u 1337,1338").proxy(),
        &users.clone().and_groups([1337_u32, 1338])
    );
    assert_eq!(
        policy("-b * -u 1337,1338 -g 2000").proxy(),
        &users.and_groups([2000_u32])
    );
}

#[test]
fn names_of_users_are_not_looked_up() {
    let text = problems("-b * -u envoy");
    assert!(text.contains("-u: `envoy` is not a numeric id"), "{text}");
    let problems = istio_iptables(&["-b", "*"], [("ENVOY_USER", "envoy")]).unwrap_err();
    assert_eq!(problems.0[0].path, "ENVOY_USER");
    assert!(istio_iptables(&["-b", "*", "-u", "1"], [("ENVOY_USER", "envoy")]).is_ok());
}

#[test]
fn flags_win_over_variables_and_istio_s_over_those_named_like_flags() {
    let environment = [
        ("ISTIO_INBOUND_PORTS", "80"),
        ("INBOUND_CAPTURE_PORT", "1"),
        ("REDIRECT_DNS", "false"),
        ("ISTIO_META_DNS_CAPTURE", "true"),
        ("CAPTURE_ALL_DNS", "true"),
        ("ENVOY_PORT", "nonsense"),
        ("PATH", "/bin"),
    ];
    let imported = istio_iptables(&["-z", "16006", "-p", "16001"], environment).unwrap();
    let policy = imported.policy().unwrap();
    let inbound = policy.inbound().unwrap();
    assert_eq!(inbound.to, Port::of::<16006>());
    assert_eq!(inbound.ports, PortSelect::Only([Port::of::<80>()].into()));
    assert_eq!(
        policy.dns(),
        Some(&Dns::to(DnsTarget::Port(Port::of::<15053>())))
    );
}

#[test]
fn queries_are_captured_for_the_machine_s_servers_unless_for_all() {
    let servers = |line| policy(line).dns().map(|dns| dns.servers.clone());
    assert_eq!(servers("-b * --redirect-dns"), Some(DnsServers::ResolvConf));
    assert_eq!(
        servers("-b * --redirect-dns --capture-all-dns"),
        Some(DnsServers::All)
    );
    assert_eq!(servers("-b * --redirect-dns=false"), None);
    let imported = import("-b * -i * -o 53 --redirect-dns").unwrap();
    assert_eq!(imported.policy().unwrap().dns(), None);
    assert!(remarks(&imported).contains(&("--redirect-dns", RemarkKind::Ignored)));
}

#[test]
fn lists_that_the_tool_ignores_are_named() {
    for (line, option) in [
        ("-b 80 -d 22", "-d"),
        ("-i * -d 22", "-d"),
        ("-i * -q 80", "-q"),
        ("-b * -x 10.0.0.0/8", "-x"),
        ("-b * --capture-all-dns", "--capture-all-dns"),
        ("-b * --reconcile", "--reconcile"),
        ("-b * --iptables-probe-port 1", "--iptables-probe-port"),
        ("-b * -f", "-f"),
    ] {
        let imported = import(line).unwrap();
        assert!(
            remarks(&imported).contains(&(option, RemarkKind::Ignored)),
            "{line}: {imported:?}"
        );
    }
}

#[test]
fn exclusions_are_taken_out_of_inclusions() {
    let policy = policy("-i 10.0.0.0/8 -q 443,9090 -x 10.64.0.0/10 -o 22,9090");
    let DestinationSelect::Only(only) = &policy.outbound().unwrap().destinations else {
        panic!("{policy:?}");
    };
    assert!(only.ports.is_empty() && only.networks.is_empty());
    let [ports, networks] = only.network_ports.as_slice() else {
        panic!("{only:?}");
    };
    assert_eq!(ports.ports.to_string(), "443");
    assert!(!ports.networks.contains("10.65.0.1".parse().unwrap()));
    assert_eq!(networks.networks.to_string(), "10.0.0.0/10, 10.128.0.0/9");
    assert_eq!(networks.ports.to_string(), "1-21, 23-9089, 9091-65535");
}

#[test]
fn loopback_is_captured_if_it_is_included() {
    let loopback = |line| policy(line).outbound().unwrap().loopback.clone();
    assert_eq!(loopback("-i 10.0.0.0/8"), Loopback::Direct);
    assert_eq!(loopback("-i *"), Loopback::Direct);
    let Loopback::Capture(captured) = loopback("-i 127.0.0.0/30,10.0.0.0/8") else {
        panic!("loopback is left alone");
    };
    assert_eq!(
        captured.to_string(),
        "10.0.0.0/8, 127.0.0.0/32, 127.0.0.2/31"
    );
}

#[test]
fn owner_groups_are_all_but_some_or_some() {
    let identities = |pairs: &[(&str, &str)]| {
        let imported = istio_iptables(&["-i", "*"], pairs.iter().copied());
        imported.map(|imported| imported.policy().unwrap().identities().clone())
    };
    assert_eq!(
        identities(&[(settings::OWNER_GROUPS, "*")]),
        Ok(IdentitySelect::Everyone)
    );
    assert_eq!(
        identities(&[(settings::OWNER_GROUPS_EXCLUDED, "202,1337")]),
        Ok(IdentitySelect::Except(Identities::groups([202_u32])))
    );
    assert_eq!(
        identities(&[(settings::OWNER_GROUPS, "202,203,1337")]),
        Ok(IdentitySelect::Only(Identities::groups([202_u32, 203])))
    );
    for bad in ["", "java", "1337", "*,202"] {
        assert!(
            identities(&[(settings::OWNER_GROUPS, bad)]).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn tproxy_has_a_mark_and_a_table() {
    let mode = |line| policy(line).inbound().unwrap().mode;
    assert_eq!(mode("-b *"), InboundMode::Redirect);
    assert_eq!(
        mode("-b * -m TPROXY"),
        InboundMode::Tproxy(Tproxy::default())
    );
    let InboundMode::Tproxy(tproxy) = mode("-b * -m TPROXY -t 99 -r 77") else {
        panic!("redirected");
    };
    assert_eq!((tproxy.mark, tproxy.table), (99, 77));
    assert!(problems("-b * -m tproxy").contains("-m: `tproxy`"));
    assert!(problems("-b * -m TPROXY -t x").contains("-t: `x`"));
}

#[test]
fn what_the_tool_is_to_do_is_told_apart_from_the_policy() {
    let task = |line| import(line).unwrap().task;
    assert!(matches!(task("-b *"), Task::Apply(_)));
    assert!(matches!(task("-b * -n"), Task::Print(_)));
    assert!(matches!(
        task("-b * --run-validation"),
        Task::ApplyAndProbe(_)
    ));
    assert!(matches!(
        task("-b * --run-validation --skip-rule-apply"),
        Task::Probe(_)
    ));
    assert_eq!(task("--cleanup-only"), Task::Remove);
    let imported = import("-b * --network-namespace /run/netns/a --force-iptables-binary legacy");
    let imported = imported.unwrap();
    assert_eq!(imported.netns.as_deref(), Some("/run/netns/a"));
    assert_eq!(imported.backend, Some(Backend::IptablesLegacy));
    assert!(problems("-b * --native-nftables --force-legacy-iptables").contains("one way"));
}

#[test]
fn interfaces_are_whole_names() {
    let policy = policy("-b * -i * -c eth1,eth2 -k docker0");
    assert_eq!(policy.excluded_interfaces().len(), 2);
    assert_eq!(policy.virtual_interfaces()[0].name.as_str(), "docker0");
    let text = problems("-b * -c eth+ -k a/b");
    assert!(
        text.contains("-c: `eth+`") && text.contains("-k: `a/b`"),
        "{text}"
    );
}

#[test]
fn every_mistake_is_reported_at_once_under_the_name_that_was_written() {
    let text = problems(
        "-p 0 --inbound-capture-port=x -e 70000 -u root -g -1 -b 80,http -d 1 -i 10.0.0.0/40 \
         -x localhost -q - -o 1:0 --redirect-dns=maybe --unknown -t 0 extra",
    );
    for part in [
        "-p: `0`",
        "--inbound-capture-port: `x`",
        "-e: `70000`",
        "-u: `root`",
        "-g: `-1`",
        "-b: `http`",
        "-i: `10.0.0.0/40`",
        "-x: `localhost`",
        "-q: `-`",
        "-o: `1:0`",
        "--redirect-dns: `maybe`",
        "`--unknown` is not",
        "-t: `0`",
        "`extra` is not",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_is_wrong_with_the_whole_has_the_name_of_a_flag() {
    let text = problems("-b * -z 15008");
    assert!(text.contains("--inbound-tunnel-port"), "{text}");
    let text = problems("-b * -d 1:65535");
    assert!(text.contains("--istio-local-exclude-ports"), "{text}");
}
