//! Ten thousand excluded networks: what it takes to apply them, and what a connection pays.

use crate::ground::{apply, excluding, in_namespace, restore, sidecar, texts, time};
use crate::measure_times;
use crate::path::{Road, connect_times};

const NETWORKS: u32 = 10_000;

pub(crate) fn measure_list(rounds: usize) {
    let (plain, listed) = (sidecar(), excluding(NETWORKS));
    let texts = texts(&listed);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds.div_ceil(3) {
        ours.push(in_namespace(|| time(|| apply(&listed))));
        theirs.push(in_namespace(|| time(|| restore("nft", &texts))));
    }
    let by_nft = "10,000 networks, two iptables-nft-restore";
    measure_times(by_nft, &mut theirs, None);
    measure_times("10,000 networks, in process", &mut ours, Some(by_nft));
    let (mut none, mut many) = (Vec::new(), Vec::new());
    // In turn, so that both meet the same machine.
    let roads = [Road::new(|| apply(&plain)), Road::new(|| apply(&listed))];
    for _ in 0..rounds {
        none.extend(connect_times(&roads[0], 200));
        many.extend(connect_times(&roads[1], 200));
    }
    measure_times("connect, no network excluded", &mut none, None);
    let against = Some("connect, no network excluded");
    measure_times("connect, 10,000 networks excluded", &mut many, against);
}
