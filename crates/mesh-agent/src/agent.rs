//! The assembly of an agent: everything is bound first, then started, and ended in the reverse order.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::renewal::{random_jitter, system_clock};
use mesh_identity::{CredentialDirectory, CredentialStore, Renewal};
use mesh_model::{Health, Namespace, SidecarConfig, SpiffeId};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bootstrap;
use crate::config::{self, Paths, Ports, Timing};
use crate::control_plane::{ControlPlane, Join};
use crate::dns::{self, Dns};
use crate::envoy::admin::Admin;
use crate::envoy::{self, EnvoyStatus, Supervisor};
use crate::error::AgentError;
use crate::file::write_private;
use crate::local;
use crate::names::NameTable;
use crate::readiness::application::{AppProbe, Application};
use crate::readiness::{Readiness, Watcher, serve};
use crate::register::Registration;
use crate::relay::{Registered, Relay};
use crate::sds::Sds;

/// The agent of one workload, not yet running.
#[derive(Debug)]
pub struct Agent {
    config: SidecarConfig,
    ports: Ports,
    timing: Timing,
    search: Option<OsString>,
    probes: Vec<AppProbe>,
    app_ports: BTreeSet<u16>,
    control: Option<watch::Receiver<ControlPlane>>,
    is_token_renewed: bool,
}

/// Everything that can be refused, had before anything starts.
struct Ground {
    paths: Paths,
    program: PathBuf,
    socket: UnixListener,
    readiness: TcpListener,
    dns: dns::Listeners,
    /// Held as long as the agent runs: no other agent may use the directory.
    lock: fs::File,
}

/// How the parts of a running agent are told to end, in this order.
#[derive(Default)]
struct Stops {
    /// Pilot and probes are told that it ends, the accepted configuration stays as it is.
    leaving: CancellationToken,
    /// Envoy ends.
    envoy: CancellationToken,
    /// The rest ends.
    rest: CancellationToken,
}

/// Runs the agent of `config` until `shutdown`, with the ports and times of the design;
/// Envoy is looked for in this process's PATH unless the configuration names it.
///
/// # Errors
///
/// When it cannot begin; once it runs, whatever fails is tried again.
pub async fn run(config: SidecarConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    Agent::new(config)
        .with_search_path(std::env::var_os("PATH"))
        .run(shutdown)
        .await
}

impl Agent {
    /// An agent with the ports and times of the design.
    pub fn new(config: SidecarConfig) -> Self {
        Self {
            config,
            ports: Ports::default(),
            timing: Timing::default(),
            search: None,
            probes: Vec::new(),
            app_ports: BTreeSet::new(),
            control: None,
            is_token_renewed: false,
        }
    }

    /// With other ports.
    #[must_use]
    pub fn with_ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// With other times.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Where Envoy is looked for when the configuration does not name it: a value of PATH.
    #[must_use]
    pub fn with_search_path(mut self, search: Option<OsString>) -> Self {
        self.search = search;
        self
    }

    /// With checks of the application that it makes for others.
    #[must_use]
    pub fn with_app_probes(mut self, probes: Vec<AppProbe>) -> Self {
        self.probes = probes;
        self
    }

    /// With a control plane that moves: what is told holds from then on, in place of what the
    /// configuration says.
    #[must_use]
    pub fn with_control_plane(mut self, control: watch::Receiver<ControlPlane>) -> Self {
        self.control = Some(control);
        self
    }

    /// With a token that somebody renews, as Nomad does: it is shown at each renewal of the
    /// certificate, before that.
    #[must_use]
    pub fn with_renewed_token(mut self) -> Self {
        self.is_token_renewed = true;
        self
    }

    /// With ports at which the application has to take connections before Pilot is told that it may
    /// be called: for where nothing else says that it has started.
    #[must_use]
    pub fn with_app_ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.app_ports = ports.into_iter().collect();
        self
    }

    /// Runs until `shutdown`, then lets Envoy drain and ends.
    ///
    /// # Errors
    ///
    /// When it cannot begin; once it runs, whatever fails is tried again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AgentError> {
        config::validate(&self.config).map_err(AgentError::Config)?;
        let ground = self.prepare().await?;
        let paths = ground.paths.clone();
        let stops = Stops::default();
        let mut tasks = JoinSet::new();
        let envoy_tasks = self.start(ground, &stops, &mut tasks);
        info!(workload = %self.config.workload.id, "the agent runs");

        shutdown.cancelled().await;
        info!("the agent ends");
        stops.leaving.cancel();
        let admin = Admin::new(paths.admin_socket.clone());
        if let Err(error) = admin.drain().await {
            let error: &dyn std::error::Error = &error;
            warn!(error, "envoy does not drain");
        } else {
            sleep(self.timing.drain).await;
        }
        stops.envoy.cancel();
        join(envoy_tasks).await;
        stops.rest.cancel();
        join(tasks).await;
        for path in [
            &paths.agent_socket,
            &paths.admin_socket,
            &paths.envoy_process,
        ] {
            remove(path);
        }
        Ok(())
    }

    /// Takes the directory, the ports and the binary, or says why not.
    async fn prepare(&self) -> Result<Ground, AgentError> {
        let paths = Paths::new(&self.config.state_dir);
        let lock = take_state_dir(&paths.state_dir)?;
        let named = self.config.envoy.as_deref();
        let named = named.unwrap_or_else(|| Path::new("envoy"));
        let program =
            envoy::find(named, self.search.as_ref()).ok_or_else(|| AgentError::NoEnvoy {
                program: named.to_owned(),
            })?;
        let document = bootstrap::bootstrap(&self.config, &paths, self.ports);
        write_private(&paths.bootstrap, document.to_string().as_bytes()).map_err(|source| {
            AgentError::StateDir {
                action: "write",
                path: paths.bootstrap.clone(),
                source,
            }
        })?;
        let socket = local::listen(&paths.agent_socket).map_err(|source| AgentError::StateDir {
            action: "listen on",
            path: paths.agent_socket.clone(),
            source,
        })?;
        let readiness = serve::listen(self.ports.readiness).map_err(|(address, source)| {
            AgentError::Listen {
                what: "readiness",
                address,
                source,
            }
        })?;
        let dns = dns::Listeners::bind(self.ports.dns)
            .await
            .map_err(|(address, source)| AgentError::Listen {
                what: "DNS",
                address,
                source,
            })?;
        Ok(Ground {
            paths,
            program,
            socket,
            readiness,
            dns,
            lock,
        })
    }

    /// The application, for checks that come to the agent.
    fn application(&self) -> Application {
        let mut addresses = self.config.workload.addresses.iter().copied();
        Application {
            address: addresses.find(IpAddr::is_ipv4),
            probes: self.probes.clone(),
            ports: self.app_ports.clone(),
        }
    }

    /// Starts every part; Envoy's are given back, because they end first.
    fn start(&self, ground: Ground, stops: &Stops, tasks: &mut JoinSet<()>) -> JoinSet<()> {
        let config = &self.config;
        let control = self.control_plane();
        let paths = ground.paths;
        let rest = || stops.rest.clone();
        let store = CredentialStore::empty();
        let admin = Admin::new(paths.admin_socket.clone());
        let (health, health_told) = watch::channel(Health::Starting);
        let (report, report_told) = Watcher::channel();
        let (registered, pilots) = watch::channel(Registered::new());
        let (source, source_told) = watch::channel(None);
        let (names, names_told) = watch::channel(Arc::new(NameTable::default()));
        let (status, status_told) = watch::channel(EnvoyStatus::default());
        let (relay, envoys) = mpsc::channel(1);

        let renewal = self.renewal(&paths, store.clone(), control.clone());
        tasks.spawn(renewal.run(rest()));
        let sds = Sds::new(store.clone(), rest());
        tasks.spawn(local::serve(ground.socket, relay, sds, rest()));
        let relay = Relay {
            node: bootstrap::node(config),
            file: paths.accepted.clone(),
            persist_after: self.timing.persist_after,
            envoys,
            pilots: pilots.clone(),
            names,
            source,
            freeze: stops.leaving.clone(),
        };
        tasks.spawn(relay.run(rest()));
        let registration = Registration {
            workload: config.workload.clone(),
            control,
            pilot_identity: self.pilot_identity(),
            store: store.clone(),
            health: health_told,
            admin: admin.clone(),
            registered,
        };
        tasks.spawn(registration.run(rest()));
        let namespace = config.workload.namespace.clone();
        let dns = Dns::new(names_told.clone(), namespace, config.upstream_dns.clone());
        tasks.spawn(dns.run(ground.dns, rest()));
        let watcher = Watcher {
            store,
            admin,
            verdict: config.rules_verdict.clone(),
            verdict_age: self.timing.verdict_age,
            addresses: config.workload.addresses.clone(),
            application: self.application(),
            interval: self.timing.readiness_interval,
            leaving: stops.leaving.clone(),
            report,
            health,
        };
        tasks.spawn(watcher.run(rest()));
        let readiness = Readiness {
            report: report_told,
            envoy: status_told,
            registered: pilots,
            source: source_told,
            names: names_told,
        };
        let (listener, application) = (ground.readiness, self.application());
        tasks.spawn(serve::serve(listener, readiness, application, rest()));
        let lock = ground.lock;
        let stop = rest();
        tasks.spawn(async move {
            stop.cancelled().await;
            drop(lock);
        });

        let supervisor = Supervisor {
            program: ground.program,
            arguments: bootstrap::arguments(&paths),
            record: paths.envoy_process,
            kill_after: self.timing.kill_after,
            status,
        };
        let mut envoy = JoinSet::new();
        envoy.spawn(supervisor.run(stops.envoy.clone()));
        envoy
    }

    /// Where the control plane is: what is told, or what is configured, for ever.
    fn control_plane(&self) -> watch::Receiver<ControlPlane> {
        let configured = || watch::channel(ControlPlane::of(&self.config)).1;
        self.control.clone().unwrap_or_else(configured)
    }

    fn renewal(
        &self,
        paths: &Paths,
        store: CredentialStore,
        control: watch::Receiver<ControlPlane>,
    ) -> Renewal {
        let config = &self.config;
        Renewal {
            identity: config.workload.identity(&config.trust_domain),
            ttl: config
                .certificate_ttl_seconds
                .map_or(CERTIFICATE_TTL, Duration::from_secs),
            store,
            directory: Some(CredentialDirectory::new(&paths.identity)),
            source: Box::new(Join {
                token: config.token_file.clone(),
                is_renewed: self.is_token_renewed,
                control,
            }),
            clock: system_clock(),
            jitter: random_jitter(),
        }
    }

    #[expect(clippy::expect_used, reason = "`pilot` is a name that parses")]
    fn pilot_identity(&self) -> SpiffeId {
        SpiffeId {
            trust_domain: self.config.trust_domain.clone(),
            namespace: Namespace::mesh_system(),
            service_account: "pilot".parse().expect("a valid name"),
        }
    }
}

/// Makes the directory if need be, closes it to others, and locks it against another agent.
fn take_state_dir(path: &Path) -> Result<fs::File, AgentError> {
    let failed = |action| {
        move |source| AgentError::StateDir {
            action,
            path: path.to_owned(),
            source,
        }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("close"))?;
    let directory = fs::File::open(path).map_err(failed("open"))?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(fs::TryLockError::WouldBlock) => Err(AgentError::AlreadyRunning {
            path: path.to_owned(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(failed("lock")(source)),
    }
}

/// Waits for every part; one that panicked is a defect, and said to be one.
async fn join(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the agent failed, please report this");
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "a file is left behind");
        }
        _ => {}
    }
}

/// Asks for no particular life: the CA gives what its operator chose.
const CERTIFICATE_TTL: Duration = Duration::ZERO;
