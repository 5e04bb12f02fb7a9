//! The conformance suite on the process engine.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use mesh_runtime::{Name, Runtime, UnitSpec};

use crate::conformance::bed::{Bed, group, guest};
use crate::conformance::suite::conformance;
use crate::host::{self, Host, on_a_host};

struct ProcessBed<'a> {
    host: &'a Host,
    guest: PathBuf,
}

impl Bed for ProcessBed<'_> {
    async fn engine(&self) -> Box<dyn Runtime> {
        Box::new(self.host.engine())
    }

    async fn other_engine(&self) -> Box<dyn Runtime> {
        Box::new(host::engine_in(self.host.path("other")))
    }

    fn unit(&self, name: &str, arguments: &[&str]) -> UnitSpec {
        UnitSpec::new(host::name(name), self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Vec<String> {
        let program = self.guest.to_str().unwrap();
        let all = [&[program], arguments].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    async fn half_make(&self, named: &Name) {
        let engine = self.engine().await;
        engine.create_group(&group(named.as_str())).await.unwrap();
        // As a crash in the middle leaves it.
        let record = self.host.path(&format!("engine/groups/{named}/group.json"));
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replace("\"ready\"", "\"creating\"")).unwrap();
    }

    fn look(&self) -> BTreeSet<String> {
        let mut things = self.host.look(&self.host.engine());
        things.extend(Host::processes(self.guest.to_str().unwrap()));
        things
    }
}

fn on_a_process_bed(test: impl AsyncFnOnce(&ProcessBed<'_>) + Send) {
    on_a_host(async |host| {
        // Where every user may run it.
        let path = host.path("guest");
        fs::copy(guest(), &path).unwrap();
        test(&ProcessBed { host, guest: path }).await;
    });
}

conformance!(on_a_process_bed);
