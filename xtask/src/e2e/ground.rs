//! What the mesh is installed on, as far as the scenario has to know.

use std::net::IpAddr;
use std::path::PathBuf;

use mesh_runtime::image::{ImageSpec, RootFs, ThisMachine};
use mesh_runtime::{DockerEngine, DockerOptions, NetworkSpec};

use super::daemon::{self, Daemon};
use super::nomad::cluster::Cluster;
use super::nomad::{self, Lab};
use super::scenario::{addresses, cluster};
use super::world::{Step, World, ensure};
use crate::Ground;

/// The image of the sample's programs.
pub(crate) const IMAGE: &str = "mesh-sample:1";
/// The programs in it, at the paths that they have on the machine.
pub(crate) const PROGRAMS: [&str; 2] = ["mesh-echo", "redis-server"];

/// What the ground consists of while a run lasts.
#[derive(Debug, Default)]
pub(crate) struct Daemons {
    pub(crate) docker: Option<Daemon>,
    pub(crate) nomad: Option<Lab>,
    pub(crate) cluster: Option<Cluster>,
}

impl Daemons {
    /// Stops them.
    pub(crate) async fn stop(self) -> Step<()> {
        if let Some(daemon) = self.docker {
            daemon.stop().await?;
        }
        if let Some(lab) = self.nomad {
            lab.stop().await?;
        }
        match self.cluster {
            Some(cluster) => cluster.stop().await,
            None => Ok(()),
        }
    }
}

impl World {
    /// Starts what the ground needs before anything is installed.
    ///
    /// Whatever becomes of it, what was started is in `daemons`.
    pub(crate) async fn open_ground(&self, daemons: &mut Daemons) -> Step<()> {
        match self.ground() {
            Ground::Process => Ok(()),
            Ground::Docker => {
                let daemon = daemons.docker.insert(Daemon::start(self)?);
                daemon.wait(self).await?;
                self.build_image(IMAGE, &PROGRAMS.map(|name| self.bin(name)), &[])
                    .await
            }
            Ground::Nomad => self.open_nomad(&mut daemons.nomad).await,
            Ground::Cluster => Cluster::start(self, &mut daemons.cluster).await,
        }
    }

    /// Installs the control plane. Certificates live so short that a renewal falls into the
    /// scenario, at half of their life, give or take a tenth; and long enough for the time that the
    /// CA is away and an agent stands still.
    pub(crate) async fn install(&self) -> Step<()> {
        let up: &[&str] = match self.ground() {
            Ground::Process => &["up", "--separate"],
            Ground::Docker => &["up", "--engine", "docker"],
            Ground::Nomad | Ground::Cluster => return self.install_on_nomad().await,
        };
        let ttl = ["--certificate-ttl", "30"];
        self.mesh(&[up, &ttl].concat()).await.map(drop)
    }

    /// The processes of the control plane: a role each, or all in one.
    pub(crate) fn roles(&self) -> &'static [&'static str] {
        match self.ground() {
            Ground::Process | Ground::Docker => &["api", "ca", "pilot", "mixer"],
            Ground::Nomad | Ground::Cluster => &["mesh"],
        }
    }

    /// The group and the unit of a role.
    pub(crate) fn role(&self, role: &'static str) -> (&'static str, &'static str) {
        match (self.ground(), role) {
            (Ground::Process, role) => ("control-plane", role),
            (Ground::Docker, "api") => ("apiserver", "apiserver"),
            (Ground::Docker | Ground::Nomad | Ground::Cluster, role) => (role, role),
        }
    }

    /// Stops a process of the control plane until it is started again.
    pub(crate) async fn stop_role(&self, role: &'static str) -> Step<()> {
        let (group, unit) = self.role(role);
        match self.ground() {
            Ground::Nomad => self.stop_control_plane().await,
            _ => self.mesh(&["stop", group, unit]).await.map(drop),
        }
    }

    /// Starts it again.
    pub(crate) async fn start_role(&self, role: &'static str) -> Step<()> {
        let (group, unit) = self.role(role);
        match self.ground() {
            Ground::Nomad => self.start_control_plane().await,
            _ => self.mesh(&["start", group, unit]).await.map(drop),
        }
    }

    /// What a sidecar said.
    pub(crate) async fn sidecar_log(&self, group: &str) -> Step<String> {
        match self.ground() {
            Ground::Nomad => nomad::instance(group).await?.log(self.home(), "mesh-proxy"),
            _ => self.mesh(&["logs", group, "sidecar"]).await,
        }
    }

    /// Whether workloads have addresses of both families.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.ground() != Ground::Nomad
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
            Ground::Nomad | Ground::Cluster => return Ok(vec![nomad::metrics().await?]),
        };
        let url = |address: &IpAddr| match address {
            IpAddr::V4(v4) => format!("http://{v4}:15014/metrics"),
            IpAddr::V6(v6) => format!("http://[{v6}]:15014/metrics"),
        };
        Ok(addresses.iter().map(url).collect())
    }

    /// Takes the mesh down, as a person does.
    pub(crate) async fn take_down(&self) -> bool {
        let (promise, down) = match self.ground() {
            Ground::Process | Ground::Docker => (
                "`mesh down` takes everything down",
                self.mesh(&["down"])
                    .await
                    .map(|text| text.trim().replace('\n', "; ")),
            ),
            Ground::Nomad => (
                "uninstall leaves nothing in Nomad and on its node",
                self.uninstall_from_nomad().await,
            ),
            Ground::Cluster => (
                "uninstall leaves nothing in Nomad",
                cluster::take_down(self).await,
            ),
        };
        self.record(promise, down)
    }

    /// What `mesh run` is told of where the sample's programs and control sockets are.
    pub(crate) fn placed(&self) -> Vec<String> {
        match self.ground() {
            Ground::Process | Ground::Nomad | Ground::Cluster => Vec::new(),
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
        // As Nomad's CNI network has it, too.
        self.network().bridge
    }

    /// The network of the workloads.
    fn network(&self) -> NetworkSpec {
        match self.ground() {
            Ground::Process | Ground::Nomad | Ground::Cluster => NetworkSpec::mesh(),
            Ground::Docker => NetworkSpec::istiomesh(),
        }
    }

    /// Where the key is that lets users in.
    pub(crate) fn authority(&self) -> PathBuf {
        match self.ground() {
            // The store's node has it.
            Ground::Nomad => self.nomad_state().join("server"),
            _ => self.mesh_home(),
        }
    }

    /// Where the objects are kept, in words, once it was seen that they are there.
    pub(crate) async fn store(&self) -> Step<String> {
        let file = match self.ground() {
            Ground::Nomad => self.nomad_state().join("server/store.redb"),
            _ => self.mesh_home().join("store.redb"),
        };
        if self.ground() != Ground::Docker {
            return ensure(file.exists(), || format!("there is no {}", file.display()))
                .map(|()| "the store is a file".to_owned());
        }
        ensure(!file.exists(), || format!("there is {}", file.display()))?;
        // As etcd has it, past the API: the object that `mesh up` has stored.
        let address = addresses(self, "etcd").await?;
        let address = address.iter().find(|address| address.is_ipv4());
        let address = address.ok_or("etcd has no address")?;
        let endpoint = format!("--endpoints=https://{address}:2379");
        let list = ["get", "--prefix", "/registry/", "--keys-only"];
        let question = [&[endpoint.as_str()], &list[..]].concat();
        let soon = ["--command-timeout=2s", "--dial-timeout=1s"];
        let refused = self
            .says("etcdctl", &[&soon, question.as_slice()].concat())
            .await;
        ensure(!refused.is_ok_and(|said| said.code == 0), || {
            "etcd answers without a certificate".to_owned()
        })?;
        let pki = self.mesh_home().join("pki/etcd");
        let files = [
            ("cacert", "ca.crt"),
            ("cert", "client.crt"),
            ("key", "client.key"),
        ];
        let files = files.map(|(flag, file)| format!("--{flag}={}", pki.join(file).display()));
        let files = files.each_ref().map(String::as_str);
        let said = self
            .says("etcdctl", &[&files, question.as_slice()].concat())
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

    /// Puts an image together from programs of this machine, which have the same paths there.
    pub(crate) async fn build_image(
        &self,
        name: &str,
        paths: &[PathBuf],
        entry_point: &[&str],
    ) -> Step<()> {
        let failed = |error: &dyn std::error::Error| format!("image {name}: {error}");
        let sources: Vec<PathBuf> = paths
            .iter()
            .map(|path| path.canonicalize().map_err(|error| failed(&error)))
            .collect::<Step<_>>()?;
        let names: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
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
            name: name.to_owned(),
            entry_point: entry_point.iter().map(|word| (*word).to_owned()).collect(),
            root,
        };
        engine
            .build(&image, &mut |_| {})
            .await
            .map_err(|error| failed(&error))?;
        Ok(())
    }
}
