//! The stage of a probe: a cable to a namespace of its own, listeners, and a table that steers
//! the probe's packets to them wherever the rules send them.
//!
//! Everything is gone when the stage is, also if the process is killed: the far namespace lives as
//! long as its file is open and takes the cable with it, and the table belongs to our socket. Only
//! a kernel before 5.12 knows no owner of tables; then the next probe or `remove` takes it away.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::case::{Case, Ends, Fate, Over, Sender};
use super::wire::{Seen, address, find, launch, listener, owned, transparent};
use crate::bytecode::{
    Bytes, Expression, Header, Meta, NF_ACCEPT, Operator, ProgramBase, ProgramChain, ProgramRule,
    ProgramTable,
};
use crate::engine::EngineError;
use crate::engine::route::RouteSocket;
use crate::engine::socket::Socket;
use crate::netlink::{Attributes, table_addition, table_removal};
use crate::rtnetlink::{
    Entry, Pair, ask_link, carries, delete_link, is_local, new_pair, route_to, set_up,
};
use crate::{Family, InstanceName};

#[derive(Debug)]
pub(super) struct Stage {
    routes: RouteSocket,
    /// The number of the cable's near end.
    link: u32,
    /// Owns the table; none before there is one.
    tables: Socket,
    table: String,
    far: File,
    acts: Vec<Act>,
    /// Listeners at the other end, each made when it is first needed. They stay: one that is
    /// closed lives on for a moment in a program that this process is about to start.
    theirs: Vec<(Over, SocketAddr, OwnedFd)>,
}

/// What is there for one family.
#[derive(Debug)]
struct Act {
    ends: Ends,
    tcp: OwnedFd,
    udp: OwnedFd,
}

/// The number of the far end; the near end has another one.
const FAR_INDEX: u32 = 1_000_003;
/// How long the kernel may take to let a new link carry IPv6.
const LINK_PATIENCE: Duration = Duration::from_secs(3);
/// After NAT chains, those of others included.
const PRIORITY: i32 = -50;
const PREROUTING: u32 = 0;
const NFT_TABLE_OWNER: u32 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// FIN, SYN, RST and ACK in the flags byte of TCP, and SYN alone.
const CONTROL_FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;
const NF_DROP: i32 = 0;
const NF_ACCEPT_VERDICT: i32 = 1;

impl Stage {
    /// Builds the stage in the thread's namespace. `ends` has one pair for each family.
    pub(super) fn build(
        instance: &InstanceName,
        (name, link): (&str, u32),
        ends: &[Ends],
    ) -> Result<Self, EngineError> {
        let failed = |step: &'static str| move |source| EngineError::Probe { step, source };
        let far = new_namespace().map_err(failed("making a network namespace"))?;
        let routes = RouteSocket::open().map_err(failed("opening a netlink socket"))?;
        let pair = Pair {
            near: name,
            far: "probe",
            indices: (link, FAR_INDEX),
            namespace: far.as_fd(),
        };
        routes
            .ask(&new_pair(&pair), |_, _| {})
            .map_err(failed("making a pair of links"))?;
        let mut stage = Self {
            routes,
            link,
            tables: Socket::open()?,
            table: instance.probe_table(),
            far,
            acts: Vec::new(),
            theirs: Vec::new(),
        };
        stage
            .connect(ends)
            .map_err(failed("setting up the links"))?;
        for pair in ends {
            let act = Act::open(*pair).map_err(failed("listening"))?;
            stage.acts.push(act);
        }
        Ok(stage)
    }

    /// Plays one case.
    pub(super) fn play(
        &mut self,
        case: &Case,
        token: &[u8],
        patience: Duration,
    ) -> Result<Seen, EngineError> {
        let failed = |source| EngineError::Probe {
            step: "sending a packet",
            source,
        };
        self.listen(case).map_err(failed)?;
        self.steer(case)?;
        let Some(act) = self.act(case.to.ip()) else {
            return Ok(Seen::Unsent("there is no such address".to_owned()));
        };
        let is_there = |it: &&(Over, SocketAddr, OwnedFd)| (it.0, it.1) == (case.over, case.to);
        let there = self.theirs.iter().find(is_there).map(|it| &it.2);
        let mut source = SocketAddr::new(case.source, 0);
        if let Some(before) = case.after {
            let fd = self.socket(before, case).map_err(failed)?;
            let token = b"before";
            let sent = launch(&fd, case.over, source, case.to, token, patience);
            source.set_port(address(&fd).map_err(failed)?.port());
            if let Err(seen) = sent {
                return Ok(seen);
            }
            // It has to be there before the next one is sent, and out of the way.
            let waiting = (act.of(case.over), there);
            find(&fd, case.over, waiting, token, patience).map_err(failed)?;
        }
        let fd = self.socket(case.sender, case).map_err(failed)?;
        match launch(&fd, case.over, source, case.to, token, patience) {
            Ok(()) => {
                find(&fd, case.over, (act.of(case.over), there), token, patience).map_err(failed)
            }
            Err(seen) => Ok(seen),
        }
    }

    /// Takes everything away and says if something stayed.
    pub(super) fn close(self) -> Result<(), EngineError> {
        let table = self.tables.commit(&table_removal(&self.table));
        let link = self.routes.ask(&delete_link(self.link), |_, _| {});
        table?;
        link.map_err(|source| EngineError::Probe {
            step: "removing the links",
            source,
        })
    }

    /// Listens at the other end where a packet is to go there.
    fn listen(&mut self, case: &Case) -> io::Result<()> {
        let is_far = self.acts.iter().any(|act| act.ends.far == case.to.ip());
        let is_open = |it: &(Over, SocketAddr, OwnedFd)| (it.0, it.1) == (case.over, case.to);
        if is_far && !self.theirs.iter().any(is_open) {
            let fd = self.at_far(|| listener(case.over, case.to))?;
            self.theirs.push((case.over, case.to, fd));
        }
        Ok(())
    }

    fn socket(&self, sender: Sender, case: &Case) -> io::Result<OwnedFd> {
        match sender {
            Sender::Near { .. } => owned(sender, case.over, case.source),
            Sender::Far => self.at_far(|| owned(sender, case.over, case.source)),
        }
    }

    fn act(&self, address: IpAddr) -> Option<&Act> {
        self.acts
            .iter()
            .find(|act| Family::of(act.ends.near) == Family::of(address))
    }

    fn connect(&self, ends: &[Ends]) -> io::Result<()> {
        let add = |routes: &RouteSocket, link, address: IpAddr| {
            let prefix = if address.is_ipv6() { 126 } else { 30 };
            routes.add(&Entry::Address {
                address,
                prefix,
                link,
            })
        };
        for pair in ends {
            add(&self.routes, self.link, pair.near)?;
        }
        self.routes.ask(&set_up(self.link), |_, _| {})?;
        self.at_far(|| {
            let routes = RouteSocket::open()?;
            for pair in ends {
                add(&routes, FAR_INDEX, pair.far)?;
            }
            routes.ask(&set_up(FAR_INDEX), |_, _| {})?;
            wait_ready(&routes, FAR_INDEX, ends.iter().map(|pair| pair.far))
        })?;
        wait_ready(&self.routes, self.link, ends.iter().map(|pair| pair.near))
    }

    /// Puts the table there that steers the packets of one case; one of before is replaced.
    fn steer(&self, case: &Case) -> Result<(), EngineError> {
        let mut table = ProgramTable {
            name: self.table.clone(),
            flags: NFT_TABLE_OWNER,
            chains: vec![ProgramChain {
                name: "steer".to_owned(),
                base: Some(ProgramBase {
                    kind: "filter".to_owned(),
                    hook: PREROUTING,
                    priority: PRIORITY,
                    policy: NF_ACCEPT,
                }),
                rules: Vec::new(),
            }],
        };
        if let (Some(chain), Some(act)) = (table.chains.first_mut(), self.act(case.to.ip())) {
            chain.rules = act.rules(case).map_err(|source| EngineError::Probe {
                step: "finding a port",
                source,
            })?;
        }
        match self.tables.commit(&table_addition(&table)) {
            // The kernel knows no owner of tables.
            Err(error) if error.is_unsupported() => {
                table.flags = 0;
                self.tables.commit(&table_addition(&table))
            }
            result => result,
        }
    }

    /// Does something at the other end, on a thread of its own.
    fn at_far<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let far = self.far.as_fd();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("probe".to_owned());
            let thread = thread.spawn_scoped(scope, move || {
                move_into_link_name_space(far, Some(LinkNameSpaceType::Network))?;
                work()
            })?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Act {
    fn open(ends: Ends) -> io::Result<Self> {
        let any: IpAddr = match ends.near {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let at = SocketAddr::new(any, 0);
        Ok(Self {
            ends,
            tcp: transparent(Over::Tcp, at)?,
            udp: transparent(Over::Udp, at)?,
        })
    }

    fn of(&self, over: Over) -> &OwnedFd {
        match over {
            Over::Tcp => &self.tcp,
            Over::Udp => &self.udp,
        }
    }

    /// The rules that bring the packets of a case to the listeners.
    ///
    /// A first packet of TCP is taken with whatever port it has: the socket then tells. A datagram
    /// does not, so only that with the right port is taken, and any other vanishes.
    fn rules(&self, case: &Case) -> io::Result<Vec<ProgramRule>> {
        let of_probe = [
            compare_address(self.ends.near, Side::Source),
            compare_address(self.ends.far, Side::Source),
            compare_address(self.ends.near, Side::Destination),
        ];
        let mut rules = Vec::new();
        for probe in of_probe {
            let mut expressions = family(self.ends.near);
            expressions.extend(probe);
            match case.over {
                Over::Tcp => {
                    expressions.extend(transport(TCP));
                    expressions.extend([
                        Expression::Payload {
                            base: Header::Transport,
                            offset: 13,
                            length: 1,
                        },
                        Expression::Mask([CONTROL_FLAGS].into()),
                        equal([SYN]),
                    ]);
                    let port = address(&self.tcp)?.port();
                    rules.push(steering(&expressions, self.ends.near, port));
                }
                Over::Udp => {
                    expressions.extend(transport(UDP));
                    if let Fate::Captured(port) = case.expected {
                        let mut captured = expressions.clone();
                        captured.extend([
                            Expression::Payload {
                                base: Header::Transport,
                                offset: 2,
                                length: 2,
                            },
                            equal(port.get().to_be_bytes()),
                        ]);
                        let port = address(&self.udp)?.port();
                        rules.push(steering(&captured, self.ends.near, port));
                    }
                    expressions.push(Expression::Verdict {
                        code: NF_DROP,
                        chain: None,
                    });
                    rules.push(rule(expressions));
                }
            }
        }
        Ok(rules)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What `close` has removed is not there any more. What cannot be removed goes with the
        // file of the far namespace and with the socket that owns the table.
        drop(self.routes.ask(&delete_link(self.link), |_, _| {}));
        drop(self.tables.commit(&table_removal(&self.table)));
    }
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn family(address: IpAddr) -> Vec<Expression> {
    // NFPROTO_IPV4 and NFPROTO_IPV6.
    let number = if address.is_ipv6() { 10 } else { 2 };
    vec![Expression::Meta(Meta::Family), equal([number])]
}

fn transport(number: u8) -> Vec<Expression> {
    vec![Expression::Meta(Meta::Transport), equal([number])]
}

fn compare_address(address: IpAddr, side: Side) -> Vec<Expression> {
    let (octets, offset) = match (address, side) {
        (IpAddr::V4(address), Side::Source) => (Bytes::from(address.octets()), 12),
        (IpAddr::V4(address), Side::Destination) => (address.octets().into(), 16),
        (IpAddr::V6(address), Side::Source) => (address.octets().into(), 8),
        (IpAddr::V6(address), Side::Destination) => (address.octets().into(), 24),
    };
    let length = if address.is_ipv6() { 16 } else { 4 };
    let load = Expression::Payload {
        base: Header::Network,
        offset,
        length,
    };
    vec![load, equal(octets)]
}

fn equal(value: impl Into<Bytes>) -> Expression {
    Expression::Compare {
        operator: Operator::Equal,
        value: value.into(),
    }
}

/// Gives the packet to the transparent socket at `port`.
fn steering(matches: &[Expression], address: IpAddr, port: u16) -> ProgramRule {
    const FAMILY: u16 = 1;
    const REGISTER_OF_PORT: u16 = 3;
    const REGISTER_1: u32 = 1;
    let mut data = Attributes::default();
    data.number(FAMILY, if address.is_ipv6() { 10 } else { 2 });
    data.number(REGISTER_OF_PORT, REGISTER_1);
    let mut expressions = matches.to_vec();
    expressions.push(Expression::Load(port.to_be_bytes().into()));
    expressions.push(Expression::Other {
        name: "tproxy".to_owned(),
        data: data.into_bytes(),
    });
    expressions.push(Expression::Verdict {
        code: NF_ACCEPT_VERDICT,
        chain: None,
    });
    rule(expressions)
}

fn rule(expressions: Vec<Expression>) -> ProgramRule {
    ProgramRule {
        expressions,
        comment: Some("probe".into()),
        counter: None,
    }
}

fn new_namespace() -> io::Result<File> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("probe".to_owned());
        let thread = thread.spawn_scoped(scope, || {
            // SAFETY: file descriptors stay shared; only the network namespace of this thread,
            // which ends below, becomes another.
            #[expect(unsafe_code, reason = "unsharing files would be unsafe; this does not")]
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")
        })?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits until a link carries packets and its addresses take them.
///
/// An address of IPv6 is listed, and can be bound, before the kernel has a route for it: it adds
/// that later, in its own time, and what arrives before is lost.
fn wait_ready(
    routes: &RouteSocket,
    link: u32,
    addresses: impl Iterator<Item = IpAddr>,
) -> io::Result<()> {
    let deadline = Instant::now() + LINK_PATIENCE;
    let mut waiting: Vec<IpAddr> = addresses.collect();
    loop {
        waiting.retain(|address| {
            let mut takes = false;
            let asked = routes.ask(&route_to(*address), |kind, content| {
                takes = is_local(kind, content);
            });
            // No route at all is an error of the kernel's, and is one only for now.
            asked.is_err() || !takes
        });
        let mut is_up = false;
        routes.ask(&ask_link(link), |_, content| is_up = carries(content))?;
        if is_up && waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
