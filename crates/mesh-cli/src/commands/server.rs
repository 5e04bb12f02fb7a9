//! `mesh server`: the control plane, all of its roles or some, until it is told to stop.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use mesh_control::ca::Lifetimes;
use mesh_control::server::{self, Listen, Role, Roles, ServerConfig};
use mesh_model::TrustDomain;
use mesh_nomad::client::Client;
use mesh_nomad::instances::Following;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Failure, OK, Outcome};
use crate::nomad;
use crate::store::StoreArgs;

/// Run the control plane: API server, CA, Pilot and Mixer, in one process or apart.
///
/// Each option has a variable, which the settings of the packages' units use.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Roles of this process, of `api`, `ca`, `pilot` and `mixer`, joined by commas.
    #[arg(long, env = "MESH_SERVER_ROLES", default_value_t)]
    roles: Roles,
    /// Where keys, kubeconfigs and the file store are.
    #[arg(long, env = "MESH_HOME", default_value = "/var/lib/mesh")]
    home: PathBuf,
    /// The address at which the roles listen; the API listens on loopback too.
    #[arg(long, env = "MESH_SERVER_LISTEN", default_value = "0.0.0.0")]
    listen: IpAddr,
    /// An address at which workloads reach the control plane, replicas included; may be repeated, or
    /// joined by commas.
    /// Without any: `--listen`, or the address of the interface towards the API.
    #[arg(long, env = "MESH_SERVER_ADVERTISE", value_delimiter = ',')]
    advertise: Vec<IpAddr>,
    /// Address and port of the API, instead of 6443 at `--listen`; may be repeated, or joined by
    /// commas.
    #[arg(long, env = "MESH_SERVER_API_LISTEN", value_delimiter = ',')]
    api_listen: Vec<SocketAddr>,
    /// A name by which clients call the API, for its certificate; may be repeated, or joined by
    /// commas.
    #[arg(
        long,
        env = "MESH_SERVER_API_NAME",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    api_name: Vec<String>,
    /// Address and port of CA and Pilot, instead of 15012 at `--listen`.
    #[arg(long, env = "MESH_SERVER_GRPC_LISTEN")]
    grpc_listen: Option<SocketAddr>,
    /// Address and port of the Mixer, instead of 15011 at `--listen`.
    #[arg(long, env = "MESH_SERVER_MIXER_LISTEN")]
    mixer_listen: Option<SocketAddr>,
    /// Address and port of metrics and readiness, in clear, instead of 15014 at `--listen`.
    #[arg(long, env = "MESH_SERVER_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    store: StoreArgs,
    /// How roles without the API in their process reach it; `<role>.kubeconfig` of `--home` if
    /// absent.
    #[arg(long, env = "MESH_SERVER_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// This control plane is for a Nomad cluster: Pilot reads its catalogue, the CA believes its
    /// workload identities, and replicas find each other as its services.
    ///
    /// Nomad's API is where `NOMAD_ADDR` and its kin say; a task without them asks as itself.
    #[arg(long, env = "MESH_SERVER_NOMAD", value_parser = FalseyValueParser::new())]
    nomad: bool,
    /// Before anything else, write each item of this variable of Nomad's as a file below `--home`;
    /// `~` in the name of an item stands for `/`.
    /// While Nomad does not answer, the files of an earlier start serve.
    #[arg(long, env = "MESH_SERVER_NOMAD_FILES", value_name = "PATH")]
    nomad_files: Option<String>,
    /// How roles without the API in their process find it: as this service of Nomad's, whose
    /// instances all have a certificate for the name `mesh-api`.
    #[arg(long, env = "MESH_SERVER_API_SERVICE", value_name = "NAME")]
    api_service: Option<String>,
    /// The trust domain of a new mesh, `cluster.local` if absent; a mesh keeps the one it has.
    #[arg(long, env = "MESH_SERVER_TRUST_DOMAIN")]
    trust_domain: Option<TrustDomain>,
    /// Life of a certificate when the workload asks for none, as in `30s`, `10m`, `24h`, `7d`.
    #[arg(long, env = "MESH_SERVER_CERTIFICATE_TTL", default_value = "24h", value_parser = duration)]
    certificate_ttl: Duration,
    /// Shortest life of a certificate, at least 30s; 10m, or the life above if that is shorter.
    #[arg(long, env = "MESH_SERVER_MIN_CERTIFICATE_TTL", value_parser = duration)]
    min_certificate_ttl: Option<Duration>,
    /// Longest life of a certificate, at most 90d; 7d, or the life above if that is longer.
    #[arg(long, env = "MESH_SERVER_MAX_CERTIFICATE_TTL", value_parser = duration)]
    max_certificate_ttl: Option<Duration>,
}

/// Where the API servers were last, in the home.
const API_SERVICE_FILE: &str = "api-service.json";
/// Shortest life of a certificate unless told otherwise: time enough to notice a CA that is away.
const MIN_TTL: Duration = Duration::from_secs(10 * 60);
/// Longest life of a certificate unless told otherwise.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

pub(crate) async fn run(args: &Args) -> Outcome {
    let asks_nomad = args.nomad || args.nomad_files.is_some() || args.api_service.is_some();
    let nomad = asks_nomad.then(nomad::client).transpose()?;
    let config = config(args, nomad.as_ref())?;
    let shutdown = CancellationToken::new();
    let failed = |error| Failure::doing("listening for signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let asked = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        shutdown.cancel();
        // The server decides when everything has ended.
        std::future::pending::<()>().await;
    };
    let serving = async {
        if let (Some(path), Some(client)) = (&args.nomad_files, &nomad)
            && !nomad::bring_files(client, path, &args.home, &shutdown).await?
        {
            return Ok(());
        }
        let served = server::run(config, shutdown.clone()).await;
        served.map_err(|error| Failure::of(&error).with_hint_of(error.hint()))
    };
    tokio::select! {
        ended = serving => ended?,
        () = asked => {}
    }
    Ok(OK.into())
}

/// The configuration that the command line says; what contradicts itself is a usage error.
fn config(args: &Args, nomad: Option<&Client>) -> Result<ServerConfig, Failure> {
    if args.api_service.is_some() && args.roles.has(Role::Api) {
        return Err(Failure::usage(
            "--api-service is for roles without `api` in their process; this one has it",
        ));
    }
    let api_service = args.api_service.as_ref().zip(nomad);
    let api_service = api_service.map(|(name, client)| {
        Following::new(client.clone(), nomad::namespace(client), name)
            .kept_in(args.home.join(API_SERVICE_FILE))
    });
    let ttl = args.certificate_ttl;
    let lifetimes = Lifetimes::new(
        ttl,
        args.min_certificate_ttl.unwrap_or_else(|| MIN_TTL.min(ttl)),
        args.max_certificate_ttl.unwrap_or_else(|| MAX_TTL.max(ttl)),
    )
    .map_err(|error| Failure::usage(error.to_string()))?;
    let mut listen = Listen::at(args.listen);
    if !args.api_listen.is_empty() {
        listen.api.clone_from(&args.api_listen);
    }
    listen.grpc = args.grpc_listen.unwrap_or(listen.grpc);
    listen.mixer = args.mixer_listen.unwrap_or(listen.mixer);
    listen.metrics = args.metrics_listen.unwrap_or(listen.metrics);
    Ok(ServerConfig {
        roles: args.roles.clone(),
        home: args.home.clone(),
        listen: listen.with_api_on_loopback(),
        advertise: args.advertise.clone(),
        api_names: args.api_name.clone(),
        store: args.store.config(&args.home),
        kubeconfig: args.kubeconfig.clone(),
        trust_domain: args.trust_domain.clone(),
        lifetimes,
        nomad: nomad.filter(|_| args.nomad).cloned(),
        api_service,
    })
}

/// Reads `30s`, `10m`, `24h`, `7d`, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time, as in `30s`, `10m`, `24h` or `7d`");
    let (number, seconds) = match text.char_indices().next_back() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let seconds = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 24 * 3600,
                _ => return Err(wrong()),
            };
            (text.get(..at).unwrap_or_default(), seconds)
        }
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_no_number| wrong())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use clap::{CommandFactory as _, Parser as _};
    use mesh_control::store::{EtcdTls, StoreConfig};
    use mesh_nomad::client::Address;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn read(line: &[&str]) -> Result<ServerConfig, String> {
        let line = ["server"].iter().chain(line);
        let parsed = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        let nomad = Client::new(mesh_nomad::client::Config::new(Address::default())).unwrap();
        config(&parsed.args, Some(&nomad)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn nothing_said_is_everything_in_one_process() {
        let config = read(&["--home", "/h"]).unwrap();
        assert!(Role::ALL.iter().all(|role| config.roles.has(*role)));
        assert_eq!(config.listen.grpc, "0.0.0.0:15012".parse().unwrap());
        assert_eq!(config.listen.api, ["0.0.0.0:6443".parse().unwrap()]);
        assert_eq!(config.store, StoreConfig::file("/h/store.redb"));
    }

    #[test]
    fn nomad_is_asked_only_for_what_was_said() {
        let config = read(&[]).unwrap();
        assert!(config.nomad.is_none() && config.api_service.is_none());
        let line = ["--roles", "mixer", "--api-service", "mesh-api"];
        let config = read(&line).unwrap();
        assert!(config.nomad.is_none() && config.api_service.is_some());
        assert!(read(&["--nomad"]).unwrap().nomad.is_some());
        let error = read(&["--api-service", "mesh-api"]).unwrap_err();
        assert!(error.contains("without `api`"), "{error}");
    }

    #[test]
    fn each_option_has_the_variable_of_its_name() {
        let command = Line::command();
        for option in command.get_arguments().filter(|o| o.get_id() != "home") {
            let name = option.get_id().as_str().to_ascii_uppercase();
            let variable = format!("MESH_SERVER_{name}");
            let expected = Some(OsStr::new(&variable));
            assert_eq!(option.get_env(), expected, "{}", option.get_id());
        }
    }

    #[test]
    fn the_api_is_on_loopback_too() {
        let loopback = "127.0.0.1:6443".parse().unwrap();
        for line in [
            ["--listen", "10.213.0.1"],
            ["--api-listen", "10.213.0.1:6443"],
        ] {
            let config = read(&line).unwrap();
            assert_eq!(
                config.listen.api,
                ["10.213.0.1:6443".parse().unwrap(), loopback]
            );
        }
    }

    #[test]
    fn a_short_life_lowers_the_shortest() {
        let config = read(&["--certificate-ttl", "40"]).unwrap();
        assert_eq!(config.lifetimes.decide(0), Duration::from_secs(40));
        assert_eq!(config.lifetimes.decide(1), Duration::from_secs(40));
        let error = read(&["--certificate-ttl", "10s"]).unwrap_err();
        assert!(error.contains("30s"), "{error}");
    }

    #[test]
    fn etcd_needs_its_members() {
        let error = read(&["--store", "etcd"]).unwrap_err();
        assert!(error.contains("--etcd-endpoints"), "{error}");
        let members = [
            "--store",
            "etcd",
            "--etcd-endpoints",
            "http://a:1,http://b:2",
        ];
        let endpoints = vec!["http://a:1".into(), "http://b:2".into()];
        let expected = StoreConfig::etcd(endpoints, EtcdTls::default());
        assert_eq!(read(&members).unwrap().store, expected);
    }

    #[test]
    fn times_are_read_with_their_units() {
        for (text, seconds) in [
            ("45", 45),
            ("30s", 30),
            ("2m", 120),
            ("1h", 3600),
            ("1d", 86400),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "1w", "-1", "1.5h", "é", "99999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
