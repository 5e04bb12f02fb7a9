//! What the mesh is installed on, as far as the scenario has to know.

use std::net::IpAddr;
use std::path::PathBuf;

use mesh_runtime::image::{ImageSpec, RootFs, ThisMachine};
use mesh_runtime::{DockerEngine, DockerOptions, NetworkSpec};

use super::daemon::{self, Daemon};
use super::scenario::addresses;
use super::world::{Step, World, ensure};
use crate::Ground;

/// The image of the sample's programs.
const IMAGE: &str = "mesh-sample:1";
/// The programs in it, at the paths that they have on the machine.
const PROGRAMS: [&str; 2] = ["mesh-echo", "redis-server"];

impl World {
    /// Starts what the ground needs before anything is installed.
    ///
    /// Whatever becomes of it, a daemon that was started is in `daemon`.
    pub(crate) async fn open_ground(&self, daemon: &mut Option<Daemon>) -> Step<()> {
        if self.ground() == Ground::Process {
            return Ok(());
        }
        daemon.insert(Daemon::start(self)?).wait(self).await?;
        self.build_image().await
    }

    /// How the control plane is installed: its four roles apart.
    pub(crate) fn up(&self) -> &'static [&'static str] {
        match self.ground() {
            Ground::Process => &["up", "--separate"],
            Ground::Docker => &["up", "--engine", "docker"],
        }
    }

    /// The group and the unit of a role.
    pub(crate) fn role(&self, role: &'static str) -> (&'static str, &'static str) {
        match (self.ground(), role) {
            (Ground::Process, role) => ("control-plane", role),
            (Ground::Docker, "api") => ("apiserver", "apiserver"),
            (Ground::Docker, role) => (role, role),
        }
    }

    /// Where a server answers plaintext that has no sidecar, in both families: the Mixer's metrics.
    pub(crate) async fn outside(&self) -> Step<Vec<String>> {
        let addresses = match self.ground() {
            // The host's own, where the roles listen.
            Ground::Process => {
                let (v4, v6) = self.network().gateways();
                vec![v4.into(), v6.into()]
            }
            Ground::Docker => addresses(self, self.role("mixer").0).await?,
        };
        let url = |address: &IpAddr| match address {
            IpAddr::V4(v4) => format!("http://{v4}:15014/metrics"),
            IpAddr::V6(v6) => format!("http://[{v6}]:15014/metrics"),
        };
        Ok(addresses.iter().map(url).collect())
    }

    /// What `mesh run` is told of where the sample's programs and control sockets are.
    pub(crate) fn placed(&self) -> Vec<String> {
        match self.ground() {
            Ground::Process => Vec::new(),
            Ground::Docker => {
                let control = self.control().display().to_string();
                vec![
                    format!("--image={IMAGE}"),
                    format!("--volume={control}:{control}"),
                ]
            }
        }
    }

    /// The bridge that joins all workloads.
    pub(crate) fn bridge(&self) -> String {
        self.network().bridge
    }

    /// The network of the workloads.
    fn network(&self) -> NetworkSpec {
        match self.ground() {
            Ground::Process => NetworkSpec::mesh(),
            Ground::Docker => NetworkSpec::istiomesh(),
        }
    }

    /// Where the objects are kept, in words, once it was seen that they are there.
    pub(crate) async fn store(&self) -> Step<String> {
        let file = self.mesh_home().join("store.redb");
        if self.ground() == Ground::Process {
            return ensure(file.exists(), || format!("there is no {}", file.display()))
                .map(|()| "the store is a file".to_owned());
        }
        ensure(!file.exists(), || format!("there is {}", file.display()))?;
        // As etcd has it, past the API: the object that `mesh up` has stored.
        let address = addresses(self, "etcd").await?;
        let address = address.iter().find(|address| address.is_ipv4());
        let address = address.ok_or("etcd has no address")?;
        let endpoint = format!("--endpoints=http://{address}:2379");
        let list = ["get", "--prefix", "/registry/", "--keys-only"];
        let said = self
            .says("etcdctl", &[&[endpoint.as_str()], &list[..]].concat())
            .await?;
        let keys: Vec<_> = said
            .stdout
            .lines()
            .filter(|line| !line.is_empty())
            .collect();
        let is_there = |key: &&str| key.contains("peerauthentications/istio-system/default");
        ensure(keys.iter().any(is_there), || {
            format!("etcd has no PeerAuthentication: {keys:?} {}", said.stderr)
        })?;
        Ok(format!("etcd has {} objects", keys.len()))
    }

    async fn build_image(&self) -> Step<()> {
        let failed = |error: &dyn std::error::Error| format!("image {IMAGE}: {error}");
        let paths = PROGRAMS.map(|name| self.bin(name));
        let sources: Vec<PathBuf> = paths
            .iter()
            .map(|path| path.canonicalize().map_err(|error| failed(&error)))
            .collect::<Step<_>>()?;
        let names = paths.each_ref().map(|path| path.display().to_string());
        let programs: Vec<_> = names
            .iter()
            .zip(&sources)
            .map(|(name, source)| (name.as_str(), source.as_path()))
            .collect();
        let mut root = RootFs::default();
        root.programs(&programs, &ThisMachine)
            .and_then(|()| root.directory("/tmp", 0o1777))
            .map_err(|error| failed(&error))?;
        let mut options = DockerOptions::new(self.home().join("images"));
        options.socket = daemon::socket(self.home());
        let engine = DockerEngine::open(options)
            .await
            .map_err(|error| failed(&error))?;
        let image = ImageSpec {
            name: IMAGE.to_owned(),
            entry_point: Vec::new(),
            root,
        };
        engine
            .build(&image, &mut |_| {})
            .await
            .map_err(|error| failed(&error))?;
        Ok(())
    }
}
