//! What the options of `mesh vm join` ask for, with what is to be seen on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use mesh_model::sidecar::PROXY_UID;
use mesh_model::{Namespace, ServiceAccount, ServiceName, TrustDomain, Workload, WorkloadService};
use mesh_netfilter::{IdRange, Netns, Port};

use super::files::Root;
use super::invite::Invite;
use super::plan::{Token, UNIT_NAMES, VmRequest};
use super::rules;
use crate::commands::run::{PortArgument, pair, unique};
use crate::engine;
use crate::exit::Failure;
use crate::image;
use crate::sidecar::name_servers;

/// What the machine is to be in the mesh, and whose traffic is captured.
#[derive(Debug, clap::Args)]
pub(super) struct Description {
    /// The file with what `mesh vm invite` printed, or `-` for standard input.
    #[arg(long, value_name = "FILE", required_unless_present = "token_file",
          conflicts_with_all = ["token_file", "namespace", "service_account", "root_sha256", "trust_domain"])]
    invite: Option<PathBuf>,
    /// The file with a join token of `mesh token create`, or `-` for standard input; the next six
    /// options say what an invitation says.
    #[arg(long, value_name = "FILE",
          requires_all = ["namespace", "service_account", "pilot", "ca", "root_sha256"])]
    token_file: Option<PathBuf>,
    /// Namespace of the token's account.
    #[arg(short, long)]
    namespace: Option<Namespace>,
    /// The token's account.
    #[arg(short, long)]
    service_account: Option<ServiceAccount>,
    /// A replica of Pilot.
    #[arg(long, value_name = "IP:PORT")]
    pilot: Vec<SocketAddr>,
    /// A replica of the CA.
    #[arg(long, value_name = "IP:PORT")]
    ca: Vec<SocketAddr>,
    /// SHA-256 of a root certificate of the mesh, in hex.
    #[arg(long, value_name = "HASH")]
    root_sha256: Vec<String>,
    /// The trust domain, `cluster.local` unless given.
    #[arg(long)]
    trust_domain: Option<TrustDomain>,
    /// Name of the workload, unique in its namespace; the machine's own unless given.
    #[arg(long)]
    name: Option<ServiceName>,
    /// The service that it is an instance of; its own name unless given.
    #[arg(long, requires = "port")]
    service: Option<ServiceName>,
    /// A port of the service: NAME:PORT[:TARGET], as of `mesh run`. Only these are captured.
    #[arg(long, value_name = "NAME:PORT[:TARGET]")]
    port: Vec<PortArgument>,
    /// A label, by which subsets and policies select it.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// An address at which others reach the machine; that by which it reaches Pilot unless given.
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// Numeric users whose connections and DNS queries are captured, such as 1000,2000-2999.
    #[arg(long, value_name = "UID[-UID],...", value_delimiter = ',')]
    include_uids: Vec<IdRange>,
    /// Numeric groups of which the same holds.
    #[arg(long, value_name = "GID[-GID],...", value_delimiter = ',')]
    include_gids: Vec<IdRange>,
    /// Networks that they reach directly.
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',',
          value_parser = mesh_netfilter::parse_network)]
    exclude_networks: Vec<IpNet>,
    /// A name server for names outside of the mesh; those of /etc/resolv.conf unless given.
    #[arg(long, value_name = "IP:PORT")]
    upstream_dns: Vec<SocketAddr>,
    /// The Envoy binary; the one in PATH unless given.
    #[arg(long, env = "ENVOY_BIN", value_name = "FILE")]
    envoy: Option<PathBuf>,
}

/// Where packages have their units.
const PACKAGED_UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];

// === impl Description ===

impl Description {
    /// The request, for the machine at `root`.
    pub(super) fn request(&self, root: &Root) -> Result<VmRequest, Failure> {
        let mut invite = self.invitation()?;
        let given = [
            (&self.pilot, &mut invite.pilots),
            (&self.ca, &mut invite.cas),
        ];
        for (given, invited) in given {
            if !given.is_empty() {
                given.clone_into(invited);
            }
        }
        let name = match &self.name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        let id = format!("{}/{name}", invite.namespace);
        let mut services = Vec::new();
        if !self.port.is_empty() {
            services.push(WorkloadService {
                name: self.service.clone().unwrap_or_else(|| name.clone()),
                ports: self
                    .port
                    .iter()
                    .map(|PortArgument(port)| port.clone())
                    .collect(),
            });
        }
        let workload = Workload {
            id: id
                .parse()
                .map_err(|problem: mesh_model::Problem| Failure::usage(problem.to_string()))?,
            namespace: invite.namespace.clone(),
            explicit: None,
            sidecar: mesh_model::Sidecar::Present,
            capture: mesh_model::Capture::default(),
            gateway: false,
            service_account: invite.service_account.clone(),
            addresses: if self.address.is_empty() {
                own_addresses(&invite.pilots)?
            } else {
                self.address.clone()
            },
            labels: unique("--label", &self.label)?,
            services,
        };
        let text = |path: &str| fs::read_to_string(root.at(Path::new(path))).unwrap_or_default();
        let upstream_dns = if self.upstream_dns.is_empty() {
            name_servers(&text("/etc/resolv.conf"))
        } else {
            self.upstream_dns.clone()
        };
        Ok(VmRequest {
            workload,
            token: invite.token,
            trust_domain: invite.trust_domain,
            pilots: invite.pilots,
            cas: invite.cas,
            root_hashes: invite.root_hashes,
            include_uids: self.include_uids.clone(),
            include_gids: self.include_gids.clone(),
            exclude_networks: self.exclude_networks.clone(),
            ssh_ports: ssh_ports(root)?,
            upstream_dns,
            program: engine::program()?,
            envoy: image::program("envoy", self.envoy.as_deref())?,
            packaged: packaged(root),
            proxy_user: proxy_user(&text("/etc/passwd")),
        })
    }

    fn invitation(&self) -> Result<Invitation, Failure> {
        if let Some(file) = &self.invite {
            let invite: Invite = read(file)?
                .parse()
                .map_err(|error: String| Failure::usage(format!("{}: {error}", file.display())))?;
            return Ok(Invitation {
                token: invite.token(),
                trust_domain: invite.trust_domain,
                namespace: invite.namespace,
                service_account: invite.service_account,
                pilots: invite.pilots,
                cas: invite.cas,
                root_hashes: invite.root_hashes,
            });
        }
        let (Some(file), Some(namespace), Some(service_account)) =
            (&self.token_file, &self.namespace, &self.service_account)
        else {
            return Err(Failure::usage("--invite or --token-file is missing"));
        };
        Ok(Invitation {
            token: Token(read(file)?.trim().to_owned()),
            trust_domain: self.trust_domain.clone().unwrap_or_default(),
            namespace: namespace.clone(),
            service_account: service_account.clone(),
            pilots: Vec::new(),
            cas: Vec::new(),
            root_hashes: self.root_sha256.clone(),
        })
    }
}

/// What an invitation says, or the options in its place.
struct Invitation {
    token: Token,
    trust_domain: TrustDomain,
    namespace: Namespace,
    service_account: ServiceAccount,
    pilots: Vec<SocketAddr>,
    cas: Vec<SocketAddr>,
    root_hashes: Vec<String>,
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().read_to_string(&mut text).map(drop)
    } else {
        fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text).map(drop))
    };
    read.map_err(|error| Failure::doing(format!("reading {}", file.display()), &error))?;
    Ok(text)
}

/// The first label of the machine's name.
fn host_name() -> Result<ServiceName, Failure> {
    let path = "/proc/sys/kernel/hostname";
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::doing(format!("reading {path}"), &error))?;
    let name = text.trim().split('.').next().unwrap_or_default();
    name.to_ascii_lowercase().parse().map_err(|_problem| {
        Failure::usage(format!(
            "the machine's name, `{name}`, cannot be that of a workload: say --name"
        ))
    })
}

/// The addresses from which the machine would call Pilot: a datagram socket that is connected knows
/// its route, and nothing is sent.
fn own_addresses(pilots: &[SocketAddr]) -> Result<Vec<IpAddr>, Failure> {
    let mut addresses = BTreeSet::new();
    for pilot in pilots {
        let any: IpAddr = match pilot {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let own = UdpSocket::bind((any, 0)).and_then(|socket| {
            socket.connect(pilot)?;
            socket.local_addr()
        });
        let own = own.map_err(|error| {
            Failure::doing(format!("looking for the way to Pilot at {pilot}"), &error)
                .with_hint("say at which addresses others reach this machine: --address")
        })?;
        addresses.insert(own.ip());
    }
    Ok(addresses.into_iter().collect())
}

fn ssh_ports(root: &Root) -> Result<BTreeSet<Port>, Failure> {
    if !root.is_machine() {
        return Ok(BTreeSet::from([Port::of::<22>()]));
    }
    rules::ssh_ports(&Netns::Current)
}

/// Units that a package has installed, with their paths.
pub(super) fn packaged(root: &Root) -> BTreeMap<&'static str, PathBuf> {
    let found = UNIT_NAMES.into_iter().filter_map(|unit| {
        let mut paths = PACKAGED_UNITS
            .iter()
            .map(|folder| Path::new(folder).join(unit));
        Some((unit, paths.find(|path| root.at(path).is_file())?))
    });
    found.collect()
}

/// Who has the proxy's number, by `passwd(5)`.
fn proxy_user(passwd: &str) -> Option<String> {
    let number = PROXY_UID.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_the_proxy_s_number_is_found() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nalice:x:1337:1000::/home/alice:/bin/sh\n";
        assert_eq!(proxy_user(passwd).as_deref(), Some("alice"));
        assert_eq!(proxy_user("a:x:1:1337::/:/bin/sh\nbroken\n"), None);
    }

    #[test]
    fn the_own_address_is_that_which_reaches_pilot() {
        let pilots = ["127.0.0.1:15012", "[::1]:15012", "127.0.0.1:1"];
        let own = own_addresses(&pilots.map(|pilot| pilot.parse().unwrap())).unwrap();
        assert_eq!(
            own,
            ["127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
    }
}
