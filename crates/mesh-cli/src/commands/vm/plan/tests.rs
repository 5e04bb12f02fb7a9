//! What joining a machine changes, for each kind of machine.

use mesh_model::{Protocol, WorkloadPort, WorkloadService};
use mesh_netfilter::{Content, Decision, Facts, InterfaceName, Owner, Packet};

use super::*;

fn request() -> VmRequest {
    VmRequest {
        workload: Workload {
            explicit: None,
            sidecar: mesh_model::Sidecar::Present,
            capture: mesh_model::Capture::default(),
            gateway: false,
            id: "shop/db".parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            service_account: "db".parse().unwrap(),
            addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
            labels: BTreeMap::new(),
            services: vec![WorkloadService {
                name: "db".parse().unwrap(),
                ports: vec![WorkloadPort {
                    name: "tcp".to_owned(),
                    number: 80,
                    target: 5432,
                    inside: None,
                    protocol: Protocol::Tcp,
                }],
            }],
        },
        trust_domain: TrustDomain::default(),
        pilots: vec!["192.0.2.1:15012".parse().unwrap()],
        cas: vec!["192.0.2.1:15012".parse().unwrap()],
        root_hashes: vec!["ab".repeat(32)],
        token: Token("very.secret.token".to_owned()),
        include_uids: vec!["1000".parse().unwrap()],
        include_gids: Vec::new(),
        exclude_networks: vec!["198.51.100.0/24".parse().unwrap()],
        ssh_ports: BTreeSet::from([Port::of::<22>()]),
        upstream_dns: Vec::new(),
        program: "/opt/mesh/mesh".into(),
        envoy: "/opt/mesh/envoy".into(),
        packaged: BTreeMap::new(),
        proxy_user: None,
    }
}

fn file<'a>(plan: &'a Plan, path: &str) -> &'a File {
    plan.files
        .iter()
        .find(|file| file.path == Path::new(path))
        .unwrap()
}

fn text<'a>(plan: &'a Plan, path: &str) -> &'a str {
    file(plan, path).contents.plain().unwrap()
}

#[test]
fn only_declared_ports_and_included_users_are_captured() {
    let policy = plan(&request()).unwrap().policy;
    let plan = mesh_netfilter::Plan::compile(&policy, &Facts::default());
    let link: InterfaceName = "eth0".parse().unwrap();
    let incoming = |to: &str| {
        let from = "203.0.113.1:1".parse().unwrap();
        let packet = Packet::incoming(Content::TcpFirst, from, to.parse().unwrap(), link.clone());
        plan.evaluate(&packet).decision
    };
    let redirect = |port| Decision::Redirect(Port::new(port).unwrap());
    assert_eq!(incoming("192.0.2.7:5432"), redirect(15006));
    for open in [
        "192.0.2.7:22",
        "192.0.2.7:80",
        "192.0.2.7:9999",
        "192.0.2.7:15021",
    ] {
        assert_eq!(incoming(open), Decision::Pass, "{open}");
    }
    let outgoing = |user, to: &str, content| {
        let from = "192.0.2.7:40000".parse().unwrap();
        let owner = Owner { user, group: user };
        let packet = Packet::outgoing(content, from, to.parse().unwrap(), link.clone(), owner);
        plan.evaluate(&packet).decision
    };
    assert_eq!(
        outgoing(1000, "203.0.113.1:80", Content::TcpFirst),
        redirect(15001)
    );
    assert_eq!(
        outgoing(1000, "198.51.100.1:80", Content::TcpFirst),
        Decision::Pass
    );
    assert_eq!(
        outgoing(1000, "127.0.0.53:53", Content::Udp),
        redirect(15053)
    );
    for user in [0, 1001, 1337] {
        assert_eq!(
            outgoing(user, "203.0.113.1:80", Content::TcpFirst),
            Decision::Pass
        );
        assert_eq!(
            outgoing(user, "127.0.0.53:53", Content::Udp),
            Decision::Pass
        );
    }
}

#[test]
fn the_token_is_the_proxy_s_alone_and_never_shown() {
    let plan = plan(&request()).unwrap();
    let token = file(&plan, TOKEN);
    assert_eq!((token.mode, token.owner), (0o600, 1337));
    assert_eq!(token.contents.bytes(), b"very.secret.token");
    assert_eq!(token.contents.plain(), None);
    assert!(!format!("{plan:?}{:?}", request()).contains("secret.token"));
    let own = plan
        .directories
        .iter()
        .find(|directory| directory.is_own)
        .unwrap();
    assert_eq!((own.mode, own.owner), (0o700, 1337));
    let others = plan
        .files
        .iter()
        .filter(|file| file.path != Path::new(TOKEN));
    assert!(others.map(|file| file.owner).all(|owner| owner == 0));
}

#[test]
fn units_name_this_binary_and_files_that_are_written() {
    let plan = plan(&request()).unwrap();
    let agent = text(&plan, "/etc/systemd/system/mesh-agent.service");
    assert!(
        agent.contains("ExecStart=/opt/mesh/mesh --verbose agent"),
        "{agent}"
    );
    assert!(
        agent.contains("User=1337\n") && agent.contains("Group=1337\n"),
        "{agent}"
    );
    for unit in [REDIRECT_UNIT, AGENT_UNIT, READY_UNIT, UNCONFIRMED_UNIT] {
        let text = text(&plan, &format!("{UNIT_DIRECTORY}/{unit}"));
        assert!(!text.contains("/usr/bin/mesh"), "{text}");
    }
    // What the shared text looks for is what is written here.
    let named = [
        "EnvironmentFile=-/etc/mesh/vm/agent.env",
        "StateDirectory=mesh-agent",
    ];
    assert!(
        named
            .iter()
            .all(|line| agent.lines().any(|found| found == *line)),
        "{agent}"
    );
    let redirect = text(&plan, "/etc/systemd/system/mesh-redirect.service");
    assert!(
        redirect.contains("EnvironmentFile=-/etc/mesh/vm/redirect.env"),
        "{redirect}"
    );
    assert!(redirect.contains(VERDICT), "{redirect}");
    assert!(redirect.contains("Before=network-pre.target"), "{redirect}");
    assert!(text(&plan, "/etc/mesh/vm/redirect.env").contains(POLICY));
    assert!(text(&plan, "/etc/mesh/vm/agent.env").contains(CONFIG));
    let policy: Policy = serde_json::from_str(text(&plan, POLICY)).unwrap();
    assert_eq!(policy, plan.policy);
    let config: SidecarConfig = serde_json::from_str(text(&plan, CONFIG)).unwrap();
    assert_eq!(config, plan.config);
}

#[test]
fn units_of_a_package_are_used_as_they_are() {
    let packaged = PathBuf::from("/usr/lib/systemd/system/mesh-agent.service");
    let mut request = request();
    request.packaged.insert(AGENT_UNIT, packaged.clone());
    let plan = plan(&request).unwrap();
    let own = Path::new(UNIT_DIRECTORY).join(AGENT_UNIT);
    assert!(plan.files.iter().all(|file| file.path != own));
    assert!(plan.links.iter().any(|link| link.target == packaged));
    assert_eq!(plan.links.len(), 2);
    let link = unconfirmed_link(&request.packaged);
    assert_eq!(link.target, unconfirmed_unit());
}

#[test]
fn everything_wrong_is_found_at_once() {
    let mut request = request();
    request.include_uids = vec!["1300-1400".parse().unwrap()];
    request.ssh_ports.insert(Port::of::<5432>());
    request.root_hashes.clear();
    request.proxy_user = Some("alice".to_owned());
    request.envoy = "/home/alice/envoy".into();
    request.program = "mesh; true".into();
    let problems = plan(&request).unwrap_err();
    let paths: Vec<&str> = problems
        .0
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "root_hashes",
            "--include-uids",
            "--port",
            "/etc/passwd",
            "mesh",
            "--envoy"
        ]
    );
    request.include_uids.clear();
    let problems = plan(&request).unwrap_err().to_string();
    assert!(
        problems.contains("at least one user or group"),
        "{problems}"
    );
}
