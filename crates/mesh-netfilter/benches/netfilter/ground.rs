//! Ground: network namespaces for trials, and the programs that are compared.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mesh_netfilter::{
    Backend, DestinationSelect, Destinations, Engine, Facts, HostNetwork, Netns, NetworkSet,
    Outbound, Plan, Policy, Port,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The plan of a sidecar, both families.
pub(crate) fn sidecar() -> Plan {
    Plan::compile(&Policy::sidecar(), &Facts::default())
}

/// The same with so many networks that are left alone; none of them can be merged.
pub(crate) fn excluding(count: u32) -> Plan {
    let networks: NetworkSet = (0..count)
        .map(|number| std::net::Ipv4Addr::from_bits(0x0b00_0000 + (number << 9)))
        .map(|address| mesh_netfilter::parse_network(&format!("{address}/24")).unwrap())
        .collect();
    let excluded = Destinations {
        networks,
        ..Destinations::default()
    };
    let outbound = Outbound::to(Port::of::<15001>());
    let policy = Policy::sidecar()
        .to_builder()
        .outbound(outbound.destinations(DestinationSelect::AllExcept(excluded)))
        .build();
    Plan::compile(&policy.unwrap(), &Facts::default())
}

/// Does `work` in a network namespace that ends with it.
pub(crate) fn in_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter_new();
            work()
        });
        thread.join().unwrap()
    })
}

/// Puts the calling thread into a network namespace of its own, with loopback up.
#[expect(
    unsafe_code,
    reason = "unshare is unsafe for what it may share, and here unshares"
)]
pub(crate) fn enter_new() {
    // SAFETY: only the network namespace is left; no memory and no file is shared otherwise.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    run("ip", &["link", "set", "lo", "up"]);
}

/// The namespace of the calling thread, which stays as long as the file.
pub(crate) fn namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Applies a plan by netlink, in this process and the thread's namespace.
pub(crate) fn apply(plan: &Plan) {
    let engine = Engine::detect(&Netns::Current, Some(Backend::Netlink)).unwrap();
    // This namespace was made a moment ago.
    engine.apply(plan, HostNetwork::DangerouslyAllow).unwrap();
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("`{program}`: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
}

/// One restoring process for each family, as careful tools do it.
pub(crate) fn restore(variant: &str, texts: &[String; 2]) {
    for (tool, text) in ["iptables", "ip6tables"].into_iter().zip(texts) {
        feed(&format!("{tool}-{variant}-restore"), text);
    }
}

fn feed(program: &str, input: &str) {
    let mut command = Command::new(program);
    command.args(["--noflush", "--wait"]).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success(), "{program}");
}

/// What `iptables-restore` reads, v4 and v6.
pub(crate) fn texts(plan: &Plan) -> [String; 2] {
    let texts = plan.to_iptables().unwrap();
    [texts.v4, texts.v6]
}

/// How long `work` takes.
pub(crate) fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
