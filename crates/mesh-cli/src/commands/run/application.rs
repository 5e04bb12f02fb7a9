//! An application as flags describe it; pure.

use std::path::Path;
use std::str::FromStr;

use mesh_model::{
    DeclaredUpstream, Mode, Namespace, ServiceAccount, ServiceName, WorkloadPort, WorkloadService,
};
use mesh_runtime::inject::parse_port;
use mesh_runtime::{Application, Capability, MountSpec, Protocol, PublishedPort, RestartPolicy};

use crate::exit::Failure;

/// What is run, and as what.
#[derive(Debug, clap::Args)]
pub(crate) struct Description {
    #[command(flatten)]
    part: Part,
    /// The image that it runs in, with the Docker engine; pulled if it is not there.
    #[arg(long)]
    image: Option<String>,
    /// A directory or file of this machine that it sees in its image; may be repeated.
    #[arg(long, value_name = "HOST:CONTAINER[:ro]", requires = "image")]
    volume: Vec<Volume>,
    /// How its traffic comes to its sidecar: by redirect rules (transparent), or by the application
    /// itself (explicit). Explicit needs no rule and no right: the application finds the sidecar
    /// by `HTTP_PROXY` and `MESH_UPSTREAM_…`, and should listen on loopback only, because whoever
    /// reaches it elsewhere goes past the sidecar.
    #[arg(long, value_enum, default_value = "transparent")]
    mode: ModeName,
    /// It is no application but a gateway: a proxy that serves callers outside the mesh as the
    /// Gateways say that select its labels. It runs under an account of its own, its name unless
    /// another one is given, which may read the Secrets of its namespace.
    #[arg(
        long,
        conflicts_with_all = ["mode", "upstream", "port", "service", "image", "env", "user", "command"],
        requires = "label"
    )]
    gateway: bool,
    /// A port of the gateway that is reached at this machine, with the Docker engine; with the
    /// process engine it is reached at its own address.
    #[arg(
        long,
        value_name = "[ADDRESS:]PORT[:GATEWAY-PORT]",
        requires = "gateway"
    )]
    publish: Vec<Published>,
    /// A service that it calls at a loopback address, in explicit mode: HOST:PORT, taken at the next
    /// port from 127.0.0.1:15200 unless an address is given. `MESH_UPSTREAM_ADDR_<HOST>` tells the
    /// application, in upper case with `_` for other characters.
    #[arg(long, value_name = "HOST:PORT[=ADDRESS:PORT]", value_parser = upstream)]
    upstream: Vec<DeclaredUpstream>,
    /// A variable of its environment, which is otherwise empty but for PATH and what its image
    /// says.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// The numeric user, and group if that has another number; nobody unless given, and with an
    /// image the image's.
    #[arg(long, value_name = "UID[:GID]")]
    user: Option<User>,
    /// The program and its arguments; with an image the image's unless given.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The part that an application has in the mesh.
#[derive(Debug, clap::Args)]
pub(crate) struct Part {
    /// Name of the workload, unique in its namespace.
    #[arg(long)]
    name: ServiceName,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    namespace: Namespace,
    /// The account that it runs as.
    #[arg(long, default_value = "default")]
    service_account: ServiceAccount,
    /// The service that it is an instance of; its own name unless given.
    #[arg(long, requires = "port")]
    service: Option<ServiceName>,
    /// A port of the service: NAME:PORT[:TARGET]. NAME begins with the protocol (http, http2,
    /// grpc, tcp, tls), as in `http` or `http-admin`; TARGET is where the application listens.
    #[arg(long, value_name = "NAME:PORT[:TARGET]")]
    port: Vec<PortArgument>,
    /// A label, by which subsets and policies select it.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
}

/// A mode as `--mode` has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum ModeName {
    Transparent,
    Explicit,
}

/// A port as `--port` has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::commands) struct PortArgument(pub(in crate::commands) WorkloadPort);

/// A port as `--publish` has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Published(PublishedPort);

/// A user as `--user` has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct User {
    uid: u32,
    gid: u32,
}

/// A mount as `--volume` has it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Volume(MountSpec);

// === impl Description ===

impl Description {
    /// The application. It starts in `directory`; one that nobody attends is kept running.
    pub(super) fn application(
        &self,
        directory: &Path,
        detached: bool,
    ) -> Result<Application, Failure> {
        let mut application = self.part.application(&self.command)?;
        application.image.clone_from(&self.image);
        application.mounts = self.volume.iter().map(|it| it.0.clone()).collect();
        application.environment = unique("--env", &self.env)?;
        if let Some(User { uid, gid }) = self.user {
            application.uid = uid;
            application.gid = gid;
        }
        application.published = self.publish.iter().map(|it| it.0).collect();
        application.mode = match self.mode {
            _ if self.gateway => Mode::Gateway,
            ModeName::Transparent => Mode::Transparent,
            ModeName::Explicit => Mode::Explicit,
        };
        application.upstreams.clone_from(&self.upstream);
        if self.gateway && application.service_account.as_str() == "default" {
            application.service_account = application
                .name
                .as_str()
                .parse()
                .map_err(|problem: mesh_model::Problem| Failure::usage(problem.to_string()))?;
        }
        if application.uid == 0 {
            application.capabilities = Capability::of_a_server();
        }
        application.working_directory = directory.to_path_buf();
        application.restart = if detached {
            RestartPolicy::Always
        } else {
            RestartPolicy::Never
        };
        Ok(application)
    }

    /// Whether somebody said as which user it runs.
    pub(super) fn has_user(&self) -> bool {
        self.user.is_some()
    }
}

// === impl Part ===

impl Part {
    /// The application, with nothing said about how it runs.
    pub(crate) fn application(&self, command: &[String]) -> Result<Application, Failure> {
        let mut application = Application::new(
            self.namespace.clone(),
            self.name.clone(),
            self.service_account.clone(),
            command,
        );
        if !self.port.is_empty() {
            application.services = vec![WorkloadService {
                name: self.service.clone().unwrap_or_else(|| self.name.clone()),
                ports: self
                    .port
                    .iter()
                    .map(|PortArgument(port)| port.clone())
                    .collect(),
            }];
        }
        application.labels = unique("--label", &self.label)?;
        Ok(application)
    }
}

/// Pairs as a map; a key that comes twice is an error that names the flag.
pub(in crate::commands) fn unique(
    flag: &str,
    pairs: &[(String, String)],
) -> Result<std::collections::BTreeMap<String, String>, Failure> {
    let mut map = std::collections::BTreeMap::new();
    for (key, value) in pairs {
        if map.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("{flag} {key} is given twice")));
        }
    }
    Ok(map)
}

fn upstream(text: &str) -> Result<DeclaredUpstream, String> {
    text.parse()
        .map_err(|problem: mesh_model::Problem| problem.to_string())
}

/// A value of the form KEY=VALUE.
pub(in crate::commands) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

// === impl PortArgument ===

impl FromStr for PortArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_port(text)
            .map(Self)
            .map_err(|problem| problem.to_string())
    }
}

// === impl User ===

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            part.parse::<u32>()
                .map_err(|error| format!("`{part}` is not a numeric id: {error}"))
        };
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Ok(Self {
            uid: number(uid)?,
            gid: number(gid)?,
        })
    }
}

// === impl Published ===

impl FromStr for Published {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not PORT, PORT:GATEWAY-PORT or ADDRESS:PORT:GATEWAY-PORT (v6 in [])"
            )
        };
        let port = |text: &str| {
            let number = text.parse::<u16>().ok().filter(|number| *number != 0);
            number.ok_or_else(wrong)
        };
        let (host, group) = text.rsplit_once(':').unwrap_or((text, text));
        let (address, host) = match host.rsplit_once(':') {
            Some((address, host)) => {
                let bare = address
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'));
                let address = bare.unwrap_or(address).parse().map_err(|_none| wrong())?;
                (Some(address), host)
            }
            None => (None, host),
        };
        Ok(Self(PublishedPort {
            address,
            host: port(host)?,
            group: port(group)?,
            protocol: Protocol::Tcp,
        }))
    }
}

// === impl Volume ===

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (paths, read_only) = match text.strip_suffix(":ro") {
            Some(paths) => (paths, true),
            None => (text, false),
        };
        let wrong =
            || format!("`{text}` is not HOST:CONTAINER or HOST:CONTAINER:ro, both absolute");
        let (source, target) = paths.split_once(':').ok_or_else(wrong)?;
        let is_path = |path: &str| path.starts_with('/') && !path.contains(':');
        if !is_path(source) || !is_path(target) {
            return Err(wrong());
        }
        Ok(Self(MountSpec {
            source: source.into(),
            target: target.into(),
            read_only,
        }))
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Applications for tests.

    use super::Application;

    /// `web` of `default`, which runs this command.
    pub(in crate::commands::run) fn application(command: &[&str]) -> Application {
        let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
        Application::new(
            "default".parse().unwrap(),
            "web".parse().unwrap(),
            "default".parse().unwrap(),
            &command,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_brings_a_group_of_its_own_number_unless_told() {
        assert_eq!(
            "1000".parse(),
            Ok(User {
                uid: 1000,
                gid: 1000
            })
        );
        assert_eq!(
            "1000:100".parse(),
            Ok(User {
                uid: 1000,
                gid: 100
            })
        );
        assert!("root".parse::<User>().is_err());
        assert!("-1".parse::<User>().is_err());
    }

    #[test]
    fn a_volume_is_two_absolute_paths() {
        let volume = |text: &str| text.parse::<Volume>().map(|it| it.0);
        let mount = MountSpec {
            source: "/a".into(),
            target: "/b/c".into(),
            read_only: true,
        };
        assert_eq!(volume("/a:/b/c:ro"), Ok(mount.clone()));
        assert!(!volume("/a:/b/c").unwrap().read_only);
        for wrong in ["/a", "a:/b", "/a:b", "/a:/b:rw", "", ":"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_published_port_may_have_an_address_and_another_number() {
        let published = |text: &str| text.parse::<Published>().map(|it| it.0);
        let read = |text: &str| {
            let port = published(text).unwrap();
            (port.address.map(|it| it.to_string()), port.host, port.group)
        };
        assert_eq!(read("80"), (None, 80, 80));
        assert_eq!(read("8443:443"), (None, 8443, 443));
        let (address, ..) = read("[::1]:8443:443");
        assert_eq!(address.as_deref(), Some("::1"));
        assert_eq!(read("127.0.0.1:1:2"), (Some("127.0.0.1".to_owned()), 1, 2));
        for wrong in ["", "0", "x", "1:x", "a:1:2", "1:2:"] {
            assert!(published(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(pair("A").is_err() && pair("=b").is_err());
    }
}
