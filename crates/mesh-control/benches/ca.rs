//! Certificates per second over the wire, as agents get them: a new TLS connection, a request, and
//! the answer checked; by join token and by the current certificate, against signing alone.
//!
//! `cargo xtask bench ca`. The control plane has a process of its own; clients share the machine
//! with it, so the time that its processors took is told too.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed measurement"
)]

#[path = "shared/account.rs"]
mod account;
#[path = "shared/load.rs"]
mod load;
#[path = "shared/plane.rs"]
mod plane;
#[path = "shared/report.rs"]
mod report;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;
use std::time::{Duration, Instant, SystemTime};

use mesh_control::ca::csr::PublicKey;
use mesh_control::ca::{Order, Root, RootIssuer};
use mesh_identity::{CredentialStore, Key, Proof};

use account::Account;
use load::Load;
use plane::Plane;
use report::{measure, progress};

/// Keys and requests of as many workloads: more than call at once.
const WORKLOADS: usize = 32;

/// Certificates asked for by one client, and by 32 at once.
const ALONE: usize = 500;
const TOGETHER: usize = 4000;

/// Certificates signed without a wire, for each thread.
const SIGNED: u32 = 10_000;

fn main() {
    plane::run(run);
}

async fn run() {
    let keys: Arc<[Key]> = (0..WORKLOADS).map(|_| Key::generate().unwrap()).collect();
    sign(&keys, 1);
    sign(&keys, cores());

    let plane = Plane::start("api,ca", None).await;
    let account = Account::create(&plane.admin().await).await;
    let joined = account
        .ask(account.by_token.clone(), keys.first().unwrap())
        .await;
    let current = Proof::Current(CredentialStore::new(joined));
    for (proof, name) in [
        (account.by_token.clone(), "join by token"),
        (current, "renewal by certificate"),
    ] {
        for (clients, count) in [(1, ALONE), (WORKLOADS, TOGETHER)] {
            progress(&format!("{name}: {count} from {clients} at a time"));
            ask(&plane, &account, &proof, &keys, (name, clients, count)).await;
        }
    }
    measure("memory of the server", plane.memory(), "B", None);
}

/// Has so many clients ask for so many certificates in all.
async fn ask(
    plane: &Plane,
    account: &Account,
    proof: &Proof,
    keys: &Arc<[Key]>,
    (name, clients, count): (&str, usize, usize),
) {
    let serials = Arc::new(Mutex::new(BTreeSet::new()));
    let work = plane.work();
    let asked = (account.clone(), proof.clone(), Arc::clone(keys));
    let found = Arc::clone(&serials);
    let load = Load::run(clients, count, move |number| {
        let (account, proof, keys) = asked.clone();
        let serials = Arc::clone(&found);
        async move {
            let key = keys.get(number % WORKLOADS).unwrap();
            let credentials = account.ask(proof, key).await;
            serials.lock().unwrap().insert(credentials.serial());
        }
    })
    .await;
    let work = work.seconds();
    // Each answer was checked when it came; that each was a certificate of its own is left.
    assert_eq!(
        serials.lock().unwrap().len(),
        count,
        "serial numbers differ"
    );
    let cores = if clients == 1 { 1 } else { cores() };
    let name = format!("{name}, {clients} at a time");
    measure(&name, load.per_second(), "/s", Some(&signing(cores)));
    load.percentiles(&name, None);
    let work = work * 1e6 / load.count();
    let name = format!("{name}, CPU of the server each");
    measure(&name, work, "us", Some(SIGNING_COST));
}

/// Signs the same requests in this process: read the request, take its key, issue.
fn sign(keys: &[Key], threads: usize) {
    let requests: Vec<String> = keys.iter().map(|key| key.csr().unwrap()).collect();
    let issuer = RootIssuer::new(Root::generate(SystemTime::now()).unwrap());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for request in requests.iter().cycle().take(SIGNED as usize) {
                    let order = Order {
                        key: PublicKey::of_request(request).unwrap(),
                        identity: "spiffe://cluster.local/ns/default/sa/web".parse().unwrap(),
                        subject: None,
                        ttl: Duration::from_secs(3600),
                        now: SystemTime::now(),
                    };
                    issuer.sign(&order).unwrap();
                }
            });
        }
    });
    let took = began.elapsed().as_secs_f64();
    let count = f64::from(SIGNED) * f64::from(u32::try_from(threads).unwrap());
    measure(&signing(threads), count / took, "/s", None);
    if threads == 1 {
        measure(SIGNING_COST, took * 1e6 / count, "us", None);
    }
}

fn signing(threads: usize) -> String {
    format!("signing alone, threads: {threads}")
}

fn cores() -> usize {
    available_parallelism().unwrap().get()
}

const SIGNING_COST: &str = "signing alone, CPU each";
