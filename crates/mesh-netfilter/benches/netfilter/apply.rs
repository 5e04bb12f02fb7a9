//! First apply: in process, by two restoring processes, by one process per rule; and what of it is
//! the kernel's own time.

use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::ground::{apply, in_namespace, run, sidecar, texts, time};
use crate::{ground, measure, measure_times};

const IN_PROCESS: &str = "first apply, in process";

/// One way to put rules in place, and the times that it took.
struct Way<'a> {
    name: &'a str,
    against: Option<&'a str>,
    work: &'a (dyn Fn() + Sync),
    times: Vec<Duration>,
    /// Every how many rounds: the slow ones need not be tried so often.
    every: usize,
}

/// Every way in turn, each time in a new namespace.
pub(crate) fn measure_first(rounds: usize) {
    let plan = sidecar();
    let batch = creation(&plan.to_netlink());
    let texts = texts(&plan);
    let way = |name, against, work, every| Way {
        name,
        against,
        work,
        times: Vec::new(),
        every,
    };
    let in_process = || apply(&plan);
    let floor = || send_raw(&batch);
    let by_nft = || ground::restore("nft", &texts);
    let by_legacy = || ground::restore("legacy", &texts);
    let per_rule_nft = || one_process_per_rule("nft", &texts);
    let per_rule_legacy = || one_process_per_rule("legacy", &texts);
    let against = Some(IN_PROCESS);
    let mut ways = [
        way(
            "first apply, the same bytes without our work",
            None,
            &floor,
            1,
        ),
        way(
            IN_PROCESS,
            Some("first apply, the same bytes without our work"),
            &in_process,
            1,
        ),
        way("first apply, two iptables-nft-restore", against, &by_nft, 1),
        way(
            "first apply, two iptables-legacy-restore",
            against,
            &by_legacy,
            1,
        ),
        way(
            "first apply, one iptables-nft per rule",
            against,
            &per_rule_nft,
            5,
        ),
        way(
            "first apply, one iptables-legacy per rule",
            against,
            &per_rule_legacy,
            5,
        ),
    ];
    for round in 0..rounds {
        for way in &mut ways {
            if round % way.every == 0 {
                way.times.push(in_namespace(|| time(way.work)));
            }
        }
    }
    for way in &mut ways {
        measure_times(way.name, &mut way.times, way.against);
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand bytes")]
    measure("bytes of the transaction", batch.len() as f64, "B", None);
}

/// The whole program against one that does nothing.
pub(crate) fn measure_process(mesh: &str, rounds: usize) {
    let (mut nothing, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        nothing.push(in_namespace(|| time(|| run("/bin/true", &[]))));
        whole.push(in_namespace(|| {
            time(|| run(mesh, &["redirect", "apply", "--backend", "netlink"]))
        }));
    }
    let against = Some("process, /bin/true");
    measure_times("process, /bin/true", &mut nothing, None);
    measure_times("process, mesh redirect apply", &mut whole, against);
}

/// The program `mesh` of this profile, made from the same sources as this benchmark.
pub(crate) fn mesh() -> String {
    if let Ok(named) = std::env::var("MESH_BIN") {
        return named;
    }
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let mut arguments = vec!["build", "--quiet", "--package", "mesh-cli", "--bin", "mesh"];
    arguments.extend(["--manifest-path", manifest]);
    if !cfg!(debug_assertions) {
        arguments.push("--release");
    }
    run(env!("CARGO"), &arguments);
    // target/release/deps/netfilter-…, target/release/mesh
    let this = std::env::current_exe().unwrap();
    let folder = this.ancestors().nth(2).unwrap();
    folder.join("mesh").to_string_lossy().into_owned()
}

/// What the kernel takes for the transaction alone: a socket, the bytes, and the answers to them.
fn send_raw(batch: &[u8]) {
    let family = AddressFamily::NETLINK;
    let protocol = Some(netlink::NETFILTER);
    let fd: OwnedFd = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol).unwrap();
    let sent = send(&fd, batch, SendFlags::empty()).unwrap();
    assert_eq!(sent, batch.len());
    // The kernel has committed when `send` returns; errors are there by then.
    let mut buffer = vec![0; 64 * 1024];
    while let Ok((length, _)) = recv(&fd, &mut buffer, RecvFlags::DONTWAIT) {
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((header, _)) = rest.split_at_checked(20) {
            let number = |at: usize| {
                let bytes = header
                    .get(at..at + 4)
                    .and_then(|bytes| bytes.try_into().ok());
                bytes.map_or(0, u32::from_ne_bytes)
            };
            assert_eq!(number(16), 0, "the kernel refuses the transaction");
            let next = usize::try_from(number(0)).unwrap().next_multiple_of(4);
            rest = rest.get(next.max(20)..).unwrap_or_default();
        }
    }
}

/// A transaction without the messages that first remove what is there: waiting for that takes the
/// kernel longer than everything else.
fn creation(replacement: &[u8]) -> Vec<u8> {
    const NFT_MSG_DELTABLE: u16 = (10 << 8) | 2;
    let mut messages = Vec::new();
    let mut rest = replacement;
    while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) {
        let (message, after) = rest.split_at(usize::try_from(length).unwrap());
        messages.push(message);
        rest = after;
    }
    let kind = |message: &&[u8]| u16::from_ne_bytes([message[4], message[5]]);
    let is_removal = |message: &&[u8]| kind(message) == NFT_MSG_DELTABLE;
    let last = messages.iter().rposition(is_removal).unwrap();
    let begin = messages.first().copied().unwrap_or_default();
    let kept = messages.get(last + 1..).unwrap_or_default();
    [&[begin], kept].concat().concat()
}

/// What tools do that know no transaction.
fn one_process_per_rule(variant: &str, texts: &[String; 2]) {
    for (tool, text) in ["iptables", "ip6tables"].into_iter().zip(texts) {
        let program = format!("{tool}-{variant}");
        let mut table = "filter";
        for line in text.lines() {
            let arguments = match (line.strip_prefix('*'), line.strip_prefix(':')) {
                (Some(name), _) => {
                    table = name;
                    continue;
                }
                (_, Some(chain)) => {
                    let name = chain.split(' ').next().unwrap_or_default();
                    vec!["-N".to_owned(), name.to_owned()]
                }
                _ if line.starts_with('-') => words(line),
                _ => continue,
            };
            let output = Command::new(&program)
                .args(["-w", "-t", table])
                .args(&arguments)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{program} {arguments:?}: {output:?}"
            );
        }
    }
}

/// The words of a line, quotes taken off.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.extend(characters.next()),
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    words.push(word);
    words
}
