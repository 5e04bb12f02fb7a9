//! Two network namespaces: that of the application, and that of everybody else.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mesh_netfilter::{Applied, Backend, Engine, Facts, HostNetwork, Netns, Owner, Plan, Policy};
use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::arbitrary::GUEST_LINK;

/// A network namespace that is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
}

/// The application's namespace, connected to that of a peer.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) app: Namespace,
    pub(crate) peer: Namespace,
    /// Somebody behind a virtual interface of the application's namespace, if there is one.
    pub(crate) guest: Option<Namespace>,
}

/// Addresses of the application's namespace, and of the peer on the same link.
pub(crate) const APP_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const APP_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
/// More addresses of the peer, beyond the link.
pub(crate) const FAR_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 1, 1);
pub(crate) const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1);
/// A guest, and the address that the application's namespace has towards it.
pub(crate) const GUEST_V4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
pub(crate) const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 1);
/// The interface of the application's namespace.
pub(crate) const LINK: &str = "a0";

/// Who sends.
pub(crate) const ROOT: Owner = owner(0, 0);
pub(crate) const APP: Owner = owner(1000, 1000);
pub(crate) const PROXY: Owner = owner(1337, 1337);
/// A second process of the proxy.
pub(crate) const PROXY_2: Owner = owner(1338, 1338);
/// Somebody of the proxy's group only.
pub(crate) const PROXY_GROUP: Owner = owner(1001, 1337);

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) const fn owner(user: u32, group: u32) -> Owner {
    Owner { user, group }
}

/// Every backend that this machine has. Netlink is always one: without it there is no ring.
pub(crate) fn backends() -> &'static [Backend] {
    static FOUND: OnceLock<Vec<Backend>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let namespace = Namespace::new();
        let (mut found, mut words) = (Vec::new(), String::new());
        for backend in Backend::ALL {
            match Engine::detect(&namespace.netns(), Some(backend)) {
                Ok(_) => {
                    found.push(backend);
                    write!(words, " {backend}").unwrap();
                }
                Err(error) => write!(words, " (not {backend}: {error})").unwrap(),
            }
        }
        // The harness swallows what `println!` prints; who reads the log must see this.
        eprintln!("backends of this machine:{words}");
        assert!(found.contains(&Backend::Netlink), "{words}");
        found
    })
}

/// Does the same with every backend of the machine, at the same time.
pub(crate) fn for_each_backend(work: impl Fn(Backend) + Sync) {
    std::thread::scope(|scope| {
        let run = |backend: &Backend| {
            let (backend, work) = (*backend, &work);
            let thread = std::thread::Builder::new().name(backend.to_string());
            thread.spawn_scoped(scope, move || work(backend)).unwrap()
        };
        let threads: Vec<_> = backends().iter().map(run).collect();
        let failed: Vec<String> = threads
            .into_iter()
            .filter_map(|thread| {
                let name = thread.thread().name().map(str::to_owned);
                thread.join().err().and(name)
            })
            .collect();
        assert!(failed.is_empty(), "failed with {failed:?}");
    });
}

/// The plan of a policy where nothing is known about the machine.
pub(crate) fn compile(policy: &Policy) -> Plan {
    Plan::compile(policy, &Facts::default())
}

/// Runs a program that must succeed, and gives its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("this ring needs `{program}` in PATH: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

// === impl Namespace ===

impl Namespace {
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this ring needs root, to make network namespaces"
        );
        let name = Self::fresh_name();
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// That of a process, which may end then.
    pub(crate) fn adopt(process: u32) -> Self {
        let name = Self::fresh_name();
        run("ip", &["netns", "attach", &name, &process.to_string()]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    fn fresh_name() -> String {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        format!("nf{}-{number}", std::process::id())
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::Name(self.name.clone())
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine_of(Backend::Netlink)
    }

    pub(crate) fn engine_of(&self, backend: Backend) -> Engine {
        Engine::detect(&self.netns(), Some(backend)).unwrap()
    }

    /// Puts a plan where nothing is.
    pub(crate) fn create(&self, backend: Backend, plan: &Plan) -> Engine {
        let engine = self.engine_of(backend);
        let applied = engine.apply(plan, HostNetwork::Refuse).unwrap();
        assert_eq!(applied, Applied::Created);
        engine
    }

    /// `ip` in this namespace.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run("ip", &all)
    }

    /// `nft` in this namespace, with a script.
    pub(crate) fn nft(&self, script: &str) -> String {
        let file = std::env::temp_dir().join(format!("{}.nft", self.name));
        std::fs::write(&file, format!("{script}\n")).unwrap();
        let output = self.exec("nft", &["-f", file.to_str().unwrap()]);
        std::fs::remove_file(&file).unwrap();
        output
    }

    /// Everything that `nft` sees in this namespace.
    pub(crate) fn ruleset(&self) -> String {
        self.nft("list ruleset")
    }

    /// What rules and their plans leave in this namespace, without what links do by themselves.
    pub(crate) fn settled(&self) -> String {
        let lists = [
            "link show",
            "address show dev lo",
            "-4 rule show",
            "-6 rule show",
        ];
        let lists = lists.map(|list| self.ip(list)).join("\n");
        lists + &self.exec("nft", &["-s", "list", "ruleset"])
    }

    pub(crate) fn exec(&self, program: &str, arguments: &[&str]) -> String {
        let mut all = vec!["netns", "exec", &self.name, program];
        all.extend(arguments);
        run("ip", &all)
    }

    /// Runs a program in this namespace that reads `input`.
    pub(crate) fn feed(&self, program: &str, input: &str) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{program}: {input}");
    }

    /// Does `work` in this namespace as `who`, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, who: Owner, work: impl FnOnce() -> T + Send) -> T {
        let path = PathBuf::from("/run/netns").join(&self.name);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(path).unwrap();
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(file.as_fd(), network).unwrap();
                // Of this thread alone, as the kernel has it; the C library would change all.
                let group = Gid::from_raw(who.group);
                let user = Uid::from_raw(who.user);
                set_thread_groups(&[]).unwrap();
                set_thread_res_gid(group, group, group).unwrap();
                set_thread_res_uid(user, user, user).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        if !std::thread::panicking() {
            assert!(
                deleted.is_ok_and(|status| status.success()),
                "{}",
                self.name
            );
        }
    }
}

/// Whether somebody at the address says that nobody listens.
fn is_closed(to: SocketAddr) -> bool {
    let attempt = TcpStream::connect_timeout(&to, Duration::from_millis(100));
    attempt.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

// === impl World ===

impl World {
    pub(crate) fn new() -> Self {
        Self::around(Namespace::new())
    }

    /// A world of which the application's namespace is there already.
    pub(crate) fn around(app: Namespace) -> Self {
        let world = Self {
            app,
            peer: Namespace::new(),
            guest: None,
        };
        let (app, peer) = (&world.app, &world.peer);
        // Both ends would get index 2, each in its namespace. The kernel takes such a pair for
        // one device and waits a second before it says that the link is up.
        app.ip(&format!(
            "link add {LINK} index 11 type veth peer name p0 index 12 netns {}",
            peer.name
        ));
        app.ip(&format!("addr add {APP_V4}/24 dev {LINK}"));
        app.ip(&format!("-6 addr add {APP_V6}/64 dev {LINK} nodad"));
        app.ip("-6 addr add ::6/128 dev lo nodad");
        peer.ip(&format!("addr add {PEER_V4}/24 dev p0"));
        peer.ip(&format!("-6 addr add {PEER_V6}/64 dev p0 nodad"));
        peer.ip(&format!("addr add {FAR_V4}/32 dev lo"));
        peer.ip(&format!("-6 addr add {FAR_V6}/128 dev lo nodad"));
        app.ip(&format!("link set {LINK} up"));
        peer.ip("link set p0 up");
        app.ip(&format!("route add default via {PEER_V4}"));
        app.ip(&format!("-6 route add default via {PEER_V6}"));
        world.wait_for_link();
        world
    }

    /// A world with a guest behind [`GUEST_LINK`], whose traffic the application's namespace
    /// forwards.
    pub(crate) fn with_guest() -> Self {
        let mut world = Self::new();
        let guest = Namespace::new();
        let (app, peer) = (&world.app, &world.peer);
        app.ip(&format!(
            "link add {GUEST_LINK} index 13 type veth peer name g0 index 14 netns {}",
            guest.name
        ));
        app.ip(&format!("addr add {GATEWAY_V4}/24 dev {GUEST_LINK}"));
        app.ip(&format!(
            "-6 addr add {GATEWAY_V6}/64 dev {GUEST_LINK} nodad"
        ));
        guest.ip(&format!("addr add {GUEST_V4}/24 dev g0"));
        guest.ip(&format!("-6 addr add {GUEST_V6}/64 dev g0 nodad"));
        app.ip(&format!("link set {GUEST_LINK} up"));
        guest.ip("link set g0 up");
        guest.ip(&format!("route add default via {GATEWAY_V4}"));
        guest.ip(&format!("-6 route add default via {GATEWAY_V6}"));
        for setting in ["ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1"] {
            app.exec("sysctl", &["-q", "-w", &format!("net.{setting}")]);
        }
        peer.ip(&format!("route add 172.31.0.0/24 via {APP_V4}"));
        peer.ip(&format!("-6 route add fd31::/64 via {APP_V6}"));
        let deadline = Instant::now() + Duration::from_secs(10);
        guest.inside(ROOT, || {
            for to in [SocketAddr::from((FAR_V4, 1)), (FAR_V6, 1).into()] {
                while !is_closed(to) {
                    assert!(Instant::now() < deadline, "no way from the guest to {to}");
                    std::thread::yield_now();
                }
            }
        });
        world.guest = Some(guest);
        world
    }

    /// The kernel needs a moment before a new link carries IPv6.
    fn wait_for_link(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let both = |namespace: &Namespace, to: [SocketAddr; 2]| {
            namespace.inside(ROOT, || {
                while !to.iter().copied().all(is_closed) {
                    assert!(Instant::now() < deadline, "no link between the namespaces");
                    std::thread::yield_now();
                }
            });
        };
        both(&self.app, [(FAR_V4, 1).into(), (FAR_V6, 1).into()]);
        both(&self.peer, [(APP_V4, 1).into(), (APP_V6, 1).into()]);
    }

    /// The address of the application's namespace, in the family of `like`.
    pub(crate) fn app_address(like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => APP_V4.into(),
            IpAddr::V6(_) => APP_V6.into(),
        }
    }
}
