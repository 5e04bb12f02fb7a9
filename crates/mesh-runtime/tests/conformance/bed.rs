//! What a test of the suite stands on: a machine on which one kind of engine runs.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use mesh_runtime::{Attachment, GroupSpec, LogOptions, Name, NetworkSpec, Runtime, UnitSpec};

/// A machine on which one kind of engine runs. Dropped, it leaves nothing.
pub(crate) trait Bed {
    /// An engine as a new process opens it.
    async fn engine(&self) -> Box<dyn Runtime>;

    /// An engine that has nothing to do with the first.
    async fn other_engine(&self) -> Box<dyn Runtime>;

    /// A unit that runs the guest program.
    fn unit(&self, name: &str, arguments: &[&str]) -> UnitSpec;

    /// The guest program with these arguments, as a command inside a unit.
    fn command(&self, arguments: &[&str]) -> Vec<String>;

    /// Leaves a group behind as a crash in the middle of making it does.
    async fn half_make(&self, group: &Name);

    /// Everything of this machine that an engine may leave something in.
    fn look(&self) -> BTreeSet<String>;
}

/// Far more than anything takes that is waited for.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn group(group: &str) -> GroupSpec {
    GroupSpec::new(name(group), Attachment::Network(name("mesh")))
}

/// A network and a group on it.
pub(crate) async fn settle(engine: &dyn Runtime, named: &str) -> Name {
    engine.create_network(&NetworkSpec::mesh()).await.unwrap();
    engine.create_group(&group(named)).await.unwrap();
    name(named)
}

/// Makes a unit and starts it.
pub(crate) async fn run(engine: &dyn Runtime, group: &Name, unit: &UnitSpec) {
    engine.create_unit(group, unit).await.unwrap();
    engine.start_unit(group, &unit.name).await.unwrap();
}

/// What a unit that ends by itself wrote.
pub(crate) async fn said(engine: &dyn Runtime, group: &Name, unit: &UnitSpec) -> String {
    run(engine, group, unit).await;
    engine.wait_ended(group, &unit.name).await.unwrap();
    log(engine, group, &unit.name, LogOptions::default()).await
}

pub(crate) async fn log(
    engine: &dyn Runtime,
    group: &Name,
    unit: &Name,
    options: LogOptions,
) -> String {
    let stream = engine.logs(group, unit, options).await.unwrap();
    let pieces: Vec<Vec<u8>> = stream.try_collect().await.unwrap();
    String::from_utf8(pieces.concat()).unwrap()
}

/// What a question says in the end.
pub(crate) async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < SOON, "it never came to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The guest program, built once.
pub(crate) fn guest() -> PathBuf {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let source = include_str!("bin/guest.rs");
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = directory.join(format!("guest-{:016x}", hasher.finish()));
        if path.exists() {
            return path;
        }
        let unfinished = directory.join(format!("guest-{}", std::process::id()));
        let source =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/bin/guest.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args([
                "--edition=2024",
                "-Ctarget-feature=+crt-static",
                "-Copt-level=s",
            ])
            .args(["-Cstrip=symbols", "--crate-name=guest", "-o"])
            .args([&unfinished, &source])
            .status()
            .unwrap();
        assert!(
            status.success(),
            "rustc must be able to build a static program"
        );
        fs::rename(unfinished, &path).unwrap();
        path
    };
    GUEST.get_or_init(build).clone()
}
