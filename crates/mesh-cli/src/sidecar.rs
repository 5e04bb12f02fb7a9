//! What the sidecars of this machine's workloads are made of, by the engine that runs them: programs
//! of the machine or an image, a network, somebody who answers names.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use mesh_runtime::{
    Application, DockerEngine, InjectedGroup, JoinToken, MeshFacts, Name, NetworkSpec, Resolver,
    inject,
};

use crate::engine::{self, Engine, Kind};
use crate::exit::{Failure, UNSUPPORTED, USAGE};
use crate::{image, join};

/// What flags say of sidecars.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SidecarArgs {
    /// The Envoy binary; the one in PATH unless given. With the Docker engine it is in the image.
    #[arg(long, env = "ENVOY_BIN", value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// The image of rules and sidecar, with the Docker engine.
    #[arg(long, value_name = "IMAGE", default_value_t = image::Kind::Mesh.name())]
    sidecar_image: String,
}

/// What sidecars are made of, before the mesh is asked anything.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    image: Option<String>,
    mesh: PathBuf,
    envoy: Option<PathBuf>,
    network: Name,
    resolver: Resolver,
}

// === impl SidecarArgs ===

impl SidecarArgs {
    /// The program of the machine that sidecars of an engine run; none if all is in an image.
    ///
    /// # Errors
    ///
    /// When it is missing. Looking for it makes nothing, so it is asked for first.
    pub(crate) fn envoy(&self, kind: Kind) -> Result<Option<PathBuf>, Failure> {
        match kind {
            Kind::Process => image::program("envoy", self.envoy.as_deref()).map(Some),
            Kind::Docker => Ok(None),
        }
    }

    /// What sidecars of an engine are made of.
    ///
    /// # Errors
    ///
    /// When the image or the network is missing.
    pub(crate) async fn ground(
        &self,
        engine: &Engine,
        envoy: Option<PathBuf>,
    ) -> Result<Ground, Failure> {
        let kind = match engine {
            Engine::Process(_) => Kind::Process,
            Engine::Docker(_) => Kind::Docker,
        };
        let wanted = engine::network(kind, None, None);
        let network = engine.network(&wanted.name).await.map_err(|error| {
            engine::failed(&error).with_hint("`mesh up` makes the network of the workloads")
        })?;
        match engine {
            Engine::Process(_) => on_processes(&network, envoy),
            Engine::Docker(docker) => self.on_docker(docker, network).await,
        }
    }

    /// With containers, all is in an image.
    pub(crate) async fn on_docker(
        &self,
        engine: &DockerEngine,
        network: NetworkSpec,
    ) -> Result<Ground, Failure> {
        let image = engine.image(&self.sidecar_image).await;
        if image.map_err(|error| engine::failed(&error))?.is_none() {
            let message = format!("the daemon has no image `{}`", self.sidecar_image);
            return Err(Failure::new(message)
                .with_code(UNSUPPORTED)
                .with_hint("`mesh image build` makes it from this program and Envoy"));
        }
        Ok(Ground {
            image: Some(self.sidecar_image.clone()),
            mesh: image::MESH.into(),
            envoy: Some(image::ENVOY.into()),
            resolver: engine.resolver(&network),
            network: network.name,
        })
    }
}

// === impl Ground ===

impl Ground {
    /// The application with its sidecar, and a token by which that joins.
    ///
    /// # Errors
    ///
    /// What the API says, and everything that is wrong with the application.
    pub(crate) async fn inject(
        &self,
        client: &Client,
        application: &Application,
    ) -> Result<(InjectedGroup, JoinToken), Failure> {
        let facts = self.facts(join::facts(client).await?);
        let token = token(client, application).await?;
        let injected = inject(application, &facts)
            .map_err(|problems| Failure::new(problems.to_string()).with_code(USAGE))?;
        Ok((injected, token))
    }

    /// With what the mesh says of itself.
    pub(crate) fn facts(&self, found: join::Facts) -> MeshFacts {
        MeshFacts {
            trust_domain: found.trust_domain,
            pilots: found.pilots,
            cas: found.cas,
            root_hashes: found.root_hashes,
            image: self.image.clone(),
            mesh: self.mesh.clone(),
            envoy: self.envoy.clone(),
            network: self.network.clone(),
            resolver: self.resolver.clone(),
            // The CA decides.
            certificate_ttl_seconds: None,
        }
    }
}

/// With processes, all is the machine's own.
fn on_processes(network: &NetworkSpec, envoy: Option<PathBuf>) -> Result<Ground, Failure> {
    let (v4, v6) = network.gateways();
    let conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    Ok(Ground {
        image: None,
        mesh: engine::program()?,
        envoy,
        network: network.name.clone(),
        resolver: Resolver::Servers {
            seen: vec![v4.into(), v6.into()],
            upstream: name_servers(&conf),
        },
    })
}

/// A token for the application's account, which is made where it is missing.
pub(crate) async fn token(
    client: &Client,
    application: &Application,
) -> Result<JoinToken, Failure> {
    let (namespace, account) = (&application.namespace, &application.service_account);
    // Most often the account is there: one question then, instead of three.
    if let Some(token) = join::token_if_known(client, namespace, account, TOKEN_TTL).await? {
        return Ok(JoinToken::new(token));
    }
    join::ensure_account(client, namespace, account).await?;
    let token = join::token(client, namespace, account, TOKEN_TTL).await?;
    Ok(JoinToken::new(token))
}

/// The name servers of a resolv.conf(5). Scoped addresses are left out: they mean nothing elsewhere.
pub(crate) fn name_servers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next()?;
        let address: IpAddr = words.next()?.parse().ok()?;
        (keyword == "nameserver").then_some(SocketAddr::new(address, 53))
    });
    addresses.collect()
}

/// The token is used once, within seconds; the least that the API server gives.
const TOKEN_TTL: Duration = Duration::from_secs(600);

/// Where the machine's own name servers are.
const RESOLV_CONF: &str = "/etc/resolv.conf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_the_rest_is_left() {
        let text = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\n nameserver ::1 # x\nnameserver fe80::1%eth0\noptions ndots:5";
        let expected = ["192.0.2.1:53", "[::1]:53"].map(|it| it.parse().unwrap());
        assert_eq!(name_servers(text), expected);
    }
}
