//! A fleet: many namespaces enrolled by eight threads at a time.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Mutex;
use std::time::Duration;

use mesh_netfilter::{Backend, Engine, HostNetwork, Netns};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::ground::{in_namespace, namespace, restore, sidecar, texts, time};
use crate::measure;

const THREADS: usize = 8;

pub(crate) fn measure_fleet(count: u32) {
    let plan = sidecar();
    let texts = texts(&plan);
    let ours = enrol(count, &|namespace| {
        let path = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        let engine = Engine::detect(&Netns::Path(path.into()), Some(Backend::Netlink)).unwrap();
        engine.apply(&plan, HostNetwork::Refuse).unwrap();
    });
    let theirs = enrol(count, &|namespace| {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), network).unwrap();
        restore("nft", &texts);
    });
    let rate = |time: Duration| f64::from(count) / time.as_secs_f64();
    let by_nft = "namespaces enrolled by 8 threads, iptables-nft-restore";
    measure(by_nft, rate(theirs).round(), "/s", None);
    let name = "namespaces enrolled by 8 threads, in process";
    measure(name, rate(ours).round(), "/s", Some(by_nft));
}

/// How long it takes to enrol so many namespaces, which are made before.
fn enrol(count: u32, work: &(dyn Fn(&File) + Sync)) -> Duration {
    let namespaces: Vec<File> = (0..count).map(|_| in_namespace(namespace)).collect();
    let rest = Mutex::new(namespaces.iter());
    time(|| {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    loop {
                        let next = rest.lock().unwrap().next();
                        let Some(namespace) = next else { return };
                        work(namespace);
                    }
                });
            }
        });
    })
}
