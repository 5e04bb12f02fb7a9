//! What options, variables and files make of a policy, and that nothing else comes through.

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use mesh_netfilter::{
    DestinationSelect, DnsServers, DropInvalid, Existing, Facts, Guard, Identities, IdentitySelect,
    InboundMode, Ipv6, Loopback, Plan, PortSelect,
};
use proptest::prelude::*;

use super::*;

fn matches(words: &[&str]) -> Result<ArgMatches, clap::Error> {
    let line = std::iter::once("plan").chain(words.iter().copied());
    PolicyArgs::augment_args(Command::new("plan")).try_get_matches_from(line)
}

fn wanted_in(words: &[&str], environment: &[(&str, &str)]) -> Result<Wanted, Failure> {
    let args = PolicyArgs::from_arg_matches(&matches(words).unwrap()).unwrap();
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    args.wanted(&environment.iter().map(pair).collect())
}

fn wanted(line: &str) -> Result<Wanted, Failure> {
    wanted_in(&line.split_whitespace().collect::<Vec<_>>(), &[])
}

fn policy(line: &str) -> Policy {
    wanted(line).unwrap().policy().unwrap().clone()
}

fn problem(line: &str) -> String {
    wanted(line).unwrap_err().to_string()
}

#[test]
fn without_options_the_policy_is_the_sidecar_s() {
    assert_eq!(policy(""), Policy::sidecar());
}

#[test]
fn options_add_exclusions_and_replace_identities() {
    let policy = policy(
        "--proxy-uid 101,102 --exclude-inbound-ports 22,8000-8010 --exclude-outbound-ports 9090 \
         --exclude-outbound-cidrs 10.0.0.0/8 --exclude-outbound-cidrs fd00::/8 --no-dns \
         --ipv6 block --guard drop --existing break --drop-invalid --instance blue \
         --exclude-interfaces eth1 --virtual-interfaces docker0 --exclude-uids 0-99",
    );
    assert_eq!(
        policy.proxy(),
        &Identities::users([101_u32, 102]).and_groups([1337_u32])
    );
    let PortSelect::AllExcept(ports) = &policy.inbound().unwrap().ports else {
        panic!("{policy:?}");
    };
    assert_eq!(ports.to_string(), "22, 8000-8010, 15020-15021, 15090");
    let DestinationSelect::AllExcept(excluded) = &policy.outbound().unwrap().destinations else {
        panic!("{policy:?}");
    };
    assert_eq!(excluded.ports.to_string(), "9090");
    assert_eq!(excluded.networks.to_string(), "10.0.0.0/8, fd00::/8");
    assert_eq!(policy.dns(), None);
    assert_eq!(policy.ipv6(), Ipv6::Block);
    assert_eq!(policy.guard(), Guard::Drop);
    assert_eq!(policy.existing(), Existing::Break);
    assert_eq!(policy.drop_invalid(), DropInvalid::Yes);
    assert_eq!(policy.instance().as_str(), "blue");
    assert_eq!(policy.excluded_interfaces().len(), 1);
    assert_eq!(policy.virtual_interfaces().len(), 1);
    assert!(matches!(policy.identities(), IdentitySelect::Except(_)));
}

#[test]
fn a_selection_replaces_and_an_exclusion_adds() {
    let inbound = |line| policy(line).inbound().map(|inbound| inbound.ports.clone());
    let outbound = |line| {
        let policy = policy(line);
        policy
            .outbound()
            .map(|outbound| outbound.destinations.clone())
    };
    assert_eq!(inbound("--inbound-ports="), None);
    assert_eq!(
        inbound("--inbound-ports *"),
        Some(Policy::sidecar().inbound().unwrap().ports.clone())
    );
    let Some(PortSelect::Only(only)) = inbound("-b 80,443,8080 -d 8080") else {
        panic!("all ports");
    };
    assert_eq!(only.to_string(), "80, 443");
    assert_eq!(outbound("-i="), None);
    assert_eq!(outbound("-i *"), Some(DestinationSelect::All));
    let Some(DestinationSelect::Only(only)) = outbound("-q 443 -i 10.0.0.0/8") else {
        panic!("all destinations");
    };
    assert_eq!(only.ports.to_string(), "443");
    assert_eq!(only.networks.to_string(), "10.0.0.0/8");
    assert!(matches!(
        policy("--capture-loopback 127.0.0.2")
            .outbound()
            .unwrap()
            .loopback,
        Loopback::Capture(_)
    ));
}

#[test]
fn names_and_letters_of_istio_iptables_are_options() {
    let short = policy(
        "-p 16001 -z 16006 -e 16008 -u 7 -g 8 -m TPROXY -t 9 -r 10 -b 80 -c eth1 -i 10.0.0.0/8 \
         -q 443 -k docker0 --redirect-dns --drop-invalid=true",
    );
    let long = policy(
        "--envoy-port 16001 --inbound-capture-port 16006 --inbound-tunnel-port 16008 \
         --proxy-uid 7 --proxy-gid 8 --istio-inbound-interception-mode TPROXY \
         --istio-inbound-tproxy-mark 9 --istio-inbound-tproxy-route-table 10 \
         --istio-inbound-ports 80 --istio-exclude-interfaces eth1 --istio-service-cidr 10.0.0.0/8 \
         --istio-outbound-ports 443 --kube-virt-interfaces docker0 --redirect-dns=true \
         --drop-invalid",
    );
    assert_eq!(short, long);
    assert_eq!(short.inbound().unwrap().to.get(), 16006);
    assert!(matches!(
        short.inbound().unwrap().mode,
        InboundMode::Tproxy(tproxy) if tproxy.mark == 9 && tproxy.table == 10
    ));
}

#[test]
fn without_compat_the_old_script_s_options_send_inbound_to_15006() {
    let policy = policy("-p 15001 -u 1337");
    assert_eq!(policy.inbound().unwrap().to.get(), 15006);
    assert_eq!(policy.outbound().unwrap().to.get(), 15001);
}

#[test]
fn with_compat_both_directions_go_to_the_port_of_the_old_script() {
    let wanted = wanted("--compat prepare_proxy -p 15001 -u 1337 -e 10.0.0.0/8 --ipv6 bypass");
    let wanted = wanted.unwrap();
    let policy = wanted.policy().unwrap();
    assert_eq!(policy.inbound().unwrap().to.get(), 15001);
    assert_eq!(policy.dns(), None);
    assert_eq!(policy.ipv6(), Ipv6::Bypass);
    assert!(wanted.remarks.iter().any(|remark| remark.option == "-e"));
    assert!(problem("--compat prepare_proxy -p 15001").contains("-u"));
    assert!(problem("--compat prepare_proxy -p 1 -u 1 --dry-run").contains("--dry-run"));
}

#[test]
fn with_compat_istio_s_defaults_and_variables_hold() {
    let environment = [
        ("ISTIO_META_DNS_CAPTURE", "true"),
        ("ISTIO_SERVICE_CIDR", "*"),
        ("MESH_REDIRECT_INBOUND_PORTS", "80"),
        ("MESH_REDIRECT_GUARD", "off"),
    ];
    let words = ["--compat", "istio-iptables", "--inbound-ports", "*"];
    let wanted = wanted_in(&words, &environment).unwrap();
    let policy = wanted.policy().unwrap();
    assert_eq!(policy.dns().unwrap().servers, DnsServers::ResolvConf);
    assert_eq!(policy.inbound().unwrap().ports, PortSelect::All);
    assert_eq!(policy.guard(), Guard::Off);
    assert!(problem("--compat istio-iptables -p 15001").contains("captures something"));
}

#[test]
fn what_says_how_istio_iptables_works_is_understood_or_named() {
    let found =
        wanted("--dry-run --network-namespace pid:7 --force-iptables-binary nft --reconcile");
    let found = found.unwrap();
    assert!(matches!(&found.task, Task::Print(policy) if policy == &Policy::sidecar()));
    assert_eq!(found.netns.as_deref(), Some("pid:7"));
    assert_eq!(found.backend, Some(Backend::IptablesNft));
    assert_eq!(found.remarks.len(), 1);
    assert!(wanted("--cleanup-only").unwrap().policy().is_err());
}

#[test]
fn flags_win_over_variables_and_variables_over_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.json");
    let file = r#"{"instance": "file", "proxy": {"uids": [1]}, "ipv6": "block", "guard": "off",
                   "outbound": {"capture": {"to": 1}}}"#;
    std::fs::write(&path, file).unwrap();
    let environment = [
        ("MESH_REDIRECT_INSTANCE", "variable"),
        ("MESH_REDIRECT_IPV6", "bypass"),
        ("MESH_REDIRECT_PROXY_UID", "2"),
    ];
    let path = path.to_str().unwrap();
    let wanted = wanted_in(&["--policy", path, "--instance", "flag"], &environment).unwrap();
    let policy = wanted.policy().unwrap();
    assert_eq!(policy.instance().as_str(), "flag");
    assert_eq!(policy.ipv6(), Ipv6::Bypass);
    assert_eq!(policy.proxy(), &Identities::users([2_u32]));
    assert_eq!(policy.guard(), Guard::Off);
    assert_eq!(policy.outbound().unwrap().to.get(), 1);
}

#[test]
fn every_mistake_is_reported_at_once_under_its_name() {
    let words = [
        "-p",
        "0",
        "--proxy-uid=root",
        "-d",
        "9-1",
        "-x",
        "10.0.0.1/8",
        "--instance",
        "a;b",
        "--ipv6",
        "maybe",
        "--guard",
        "on",
        "-c",
        "a b",
        "--include-uids",
        "1",
        "--exclude-gids",
        "2",
        "--dns-servers",
        "one",
        "--drop-invalid=perhaps",
        "--proxy-mark",
        "0",
        "--exclude-outbound-ports-for-uids",
        "tcp:22",
    ];
    let text = wanted_in(&words, &[("MESH_REDIRECT_EXISTING", "x\ny")])
        .unwrap_err()
        .to_string();
    for part in [
        "--outbound-port: `0`",
        "--proxy-uid: `root`",
        "--exclude-inbound-ports: `9-1`",
        "--exclude-outbound-cidrs: `10.0.0.1/8`",
        "--instance: `a;b`",
        "--ipv6: `maybe`",
        "--guard: `on`",
        "--exclude-interfaces: `a b`",
        "--exclude-gids: `2`",
        "--dns-servers: `one`",
        "--drop-invalid: `perhaps`",
        "--proxy-mark: `0`",
        "--exclude-outbound-ports-for-uids: `tcp:22`",
        "MESH_REDIRECT_EXISTING: `x\ny`",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn options_of_what_is_off_are_refused() {
    for line in [
        "-b= -d 22",
        "-i= -x 10.0.0.0/8",
        "--no-dns --dns-servers all",
        "-t 7",
    ] {
        assert!(problem(line).contains("of any use"), "{line}");
    }
    assert!(problem("--inbound-ports= --outbound-cidrs= --no-dns").contains("captures something"));
}

// === Hostile text ===

/// Words that would mean something to a shell, to `nft` or to `iptables-restore`.
const HOSTILE: [&str; 14] = [
    "\"",
    "'",
    "\n",
    ";",
    "--",
    "}",
    "{",
    "$(x)",
    "`x`",
    "\\",
    "COMMIT",
    "-j ACCEPT",
    "\0",
    "é",
];

fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        proptest::sample::select(HOSTILE.to_vec()).prop_map(ToOwned::to_owned),
        "[a-z0-9*,:./-]{0,6}",
        Just("x".repeat(300)),
        any::<String>(),
    ];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.concat())
}

/// The options that are given a hostile value, each alone.
const NAMES: [&str; 29] = [
    "instance",
    "proxy-uid",
    "proxy-gid",
    "proxy-mark",
    "inbound-port",
    "tunnel-port",
    "inbound-ports",
    "exclude-inbound-ports",
    "exclude-inbound-cidrs",
    "inbound-mode",
    "outbound-port",
    "outbound-cidrs",
    "outbound-ports",
    "exclude-outbound-cidrs",
    "exclude-outbound-ports",
    "capture-loopback",
    "include-uids",
    "include-gids",
    "exclude-uids",
    "exclude-gids",
    "exclude-outbound-ports-for-uids",
    "dns-to",
    "dns-servers",
    "exclude-interfaces",
    "virtual-interfaces",
    "ipv6",
    "guard",
    "existing",
    "drop-invalid",
];

/// What a rule set may consist of: our own words, and values in the form of their types.
fn is_clean(text: &str) -> bool {
    // Our own reasons are English.
    let text = text.replace("proxy's", "").replace(r"proxy\'s", "");
    let is_plain = |c: char| c.is_ascii_graphic() || [' ', '\n', '\t'].contains(&c);
    text.chars().all(is_plain) && !["$(", "`", "'", "\\"].iter().any(|bad| text.contains(bad))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hostile_text_is_refused_or_a_value_of_its_type(
        name in proptest::sample::select(NAMES.to_vec()),
        value in hostile(),
        is_variable in any::<bool>(),
    ) {
        let flag = format!("--{name}={value}");
        let variable = format!("MESH_REDIRECT_{}", name.replace('-', "_").to_uppercase());
        let (words, environment) = if is_variable {
            (vec![], vec![(variable.as_str(), value.as_str())])
        } else {
            (vec![flag.as_str()], vec![])
        };
        let Ok(wanted) = wanted_in(&words, &environment) else {
            return Ok(());
        };
        let policy = wanted.policy().unwrap();
        // What came through has a form of its own, and says the same when it is read again.
        let json = serde_json::to_string(policy).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Policy>(&json).unwrap(), policy);
        let plan = Plan::compile(policy, &Facts::default());
        let mut texts = vec![plan.to_nft()];
        // A name that iptables would take for a pattern is refused, not rendered.
        if let Ok(rules) = plan.to_iptables() {
            texts.extend([rules.v4, rules.v6]);
        }
        let plain = Plan::compile(&Policy::sidecar(), &Facts::default());
        for text in texts {
            let is_interface = name.ends_with("interfaces");
            prop_assert!(is_interface || is_clean(&text), "{:?} made\n{}", value, text);
        }
        prop_assert!(plan.to_netlink().len() < 4 * plain.to_netlink().len() + 4096);
    }
}
