//! Two machines in network namespaces, with a wire between them and the mesh's redirection.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The account of the proxy, whose traffic is let through.
pub(crate) const PROXY: u32 = 1337;

/// A network namespace that goes away with its owner.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    /// Its addresses on the wire.
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    /// Addresses of the same machine that nothing redirects: places outside the mesh.
    pub(crate) outside: [Ipv4Addr; 2],
}

/// Two machines that reach each other, and send whatever they do not know to each other.
pub(crate) fn pair() -> [Machine; 2] {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let machines = [2, 3].map(|last| Machine {
        name: format!("mesh-test-{}-{number}-{last}", id()),
        v4: Ipv4Addr::new(10, 99, 0, last),
        v6: Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last.into()),
        outside: [
            Ipv4Addr::new(10, 99, 1, last),
            Ipv4Addr::new(10, 99, 2, last),
        ],
    });
    let [one, other] = &machines;
    for machine in &machines {
        ip(&["netns", "add", &machine.name]);
    }
    let wire = "link add wire type veth peer name wire netns";
    let mut words: Vec<_> = wire.split(' ').collect();
    words.push(&other.name);
    one.ip(&words.join(" "));
    one.connect(other);
    other.connect(one);
    for machine in &machines {
        machine.redirect();
    }
    machines
}

// === impl Machine ===

impl Machine {
    /// Runs `work` inside: sockets that it makes and processes that it starts stay there.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        // A thread of its own, since a thread does not come back from a namespace.
        let thread = thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            work()
        });
        thread.join().unwrap()
    }

    /// Its addresses.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        vec![self.v4.into(), self.v6.into()]
    }

    fn connect(&self, other: &Self) {
        self.ip("link set lo up");
        self.ip("addr add ::6/128 dev lo");
        for address in self.outside.iter().chain([&self.v4]) {
            self.ip(&format!("addr add {address}/16 dev wire"));
        }
        // Without duplicate address detection, which takes seconds.
        self.ip(&format!("addr add {}/64 dev wire nodad", self.v6));
        self.ip("link set wire up");
        self.ip(&format!("route add default via {}", other.v4));
        self.ip(&format!("-6 route add default via {} dev wire", other.v6));
    }

    /// The redirection of a sidecar: everything out to 15001 and everything in to 15006, but what
    /// the proxy sends, and what is outside the mesh.
    fn redirect(&self) {
        let [plain, silent] = self.outside;
        let rules = format!(
            "table inet test {{
               chain out {{
                 type nat hook output priority -105;
                 oifname lo ip saddr 127.0.0.6 return
                 oifname lo ip6 saddr ::6 return
                 oifname lo return
                 meta skuid {PROXY} return
                 meta l4proto tcp redirect to :15001
               }}
               chain in {{
                 type nat hook prerouting priority -105;
                 ip daddr {{ {plain}, {silent} }} return
                 meta l4proto tcp redirect to :15006
               }}
             }}"
        );
        self.nft(&rules);
    }

    /// Leads calls of this machine's proxy to a port of another to another port there, as a port map
    /// does on the host of a network namespace: who is called sees the second port only.
    pub(crate) fn map_port(&self, to: &Self, dialed: u16, inside: u16) {
        let (v4, v6) = (to.v4, to.v6);
        self.nft(&format!(
            "table inet portmap {{
               chain out {{
                 type nat hook output priority -110;
                 meta skuid {PROXY} ip daddr {v4} tcp dport {dialed} dnat ip to {v4}:{inside}
                 meta skuid {PROXY} ip6 daddr {v6} tcp dport {dialed} dnat ip6 to [{v6}]:{inside}
               }}
             }}"
        ));
    }

    fn nft(&self, rules: &str) {
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &self.name, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        nft.stdin
            .take()
            .unwrap()
            .write_all(rules.as_bytes())
            .unwrap();
        assert!(nft.wait().unwrap().success(), "nft refuses the rules");
    }

    fn ip(&self, words: &str) {
        let words: Vec<_> = ["-n", &self.name]
            .into_iter()
            .chain(words.split(' '))
            .collect();
        ip(&words);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A failed test has already said what is wrong.
        drop(
            Command::new("ip")
                .args(["netns", "del", &self.name])
                .status(),
        );
    }
}

fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status();
    let status = status.unwrap_or_else(|error| panic!("`ip` does not run: {error}"));
    assert!(
        status.success(),
        "`ip {}` failed: are you root?",
        words.join(" ")
    );
}
