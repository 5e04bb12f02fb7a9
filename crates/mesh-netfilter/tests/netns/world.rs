//! Two network namespaces: that of the application, and that of everybody else.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mesh_netfilter::{Engine, Netns, Owner};
use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

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
}

/// Addresses of the application's namespace, and of the peer on the same link.
pub(crate) const APP_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const APP_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
/// More addresses of the peer, beyond the link.
pub(crate) const FAR_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 1, 1);
pub(crate) const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1);
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

const fn owner(user: u32, group: u32) -> Owner {
    Owner { user, group }
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
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nf{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::Name(self.name.clone())
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::netlink(&self.netns()).unwrap()
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

    pub(crate) fn exec(&self, program: &str, arguments: &[&str]) -> String {
        let mut all = vec!["netns", "exec", &self.name, program];
        all.extend(arguments);
        run("ip", &all)
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

// === impl World ===

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            app: Namespace::new(),
            peer: Namespace::new(),
        };
        let (app, peer) = (&world.app, &world.peer);
        app.ip(&format!(
            "link add {LINK} type veth peer name p0 netns {}",
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

    /// The kernel needs up to a second before a new link carries IPv6.
    fn wait_for_link(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_closed = |to: SocketAddr| {
            let attempt = TcpStream::connect_timeout(&to, Duration::from_millis(100));
            attempt.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        };
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
