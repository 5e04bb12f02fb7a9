//! The addresses of a role in the ConfigMap `mesh`: its own, and on Nomad those of all of its
//! replicas, as the catalogue lists them.
//!
//! Every replica writes the same, so it does not matter which of them was the last. Who is not on
//! Nomad (the tools, a VM, the roles among each other) so finds each replica too.

use std::net::SocketAddr;
use std::time::Duration;

use kube::Client;
use mesh_nomad::instances::{Following, Instances};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::access::Access;
use super::patience::patiently;
use super::rendezvous::{self, Service};
use super::{Context, SYSTEM_NAMESPACE};

/// What a replica publishes.
pub(super) struct Publication {
    service: Service,
    client: Client,
    /// Where this replica is, as far as it knows by itself.
    own: Vec<SocketAddr>,
    /// Nomad's service of the role.
    following: Option<Following>,
    stop: CancellationToken,
}

/// How long Nomad may take before a replica that starts publishes itself alone.
const PATIENCE: Duration = Duration::from_secs(3);

impl Publication {
    /// That of a role which listens at `listen`.
    pub(super) async fn new(
        context: &Context,
        access: &Access,
        service: Service,
        listen: SocketAddr,
    ) -> Self {
        let following = context.config.nomad.as_ref().map(|nomad| {
            let namespace = nomad.config().namespace.clone();
            let namespace = namespace.unwrap_or_else(|| SYSTEM_NAMESPACE.to_owned());
            Following::new(nomad.clone(), &namespace, service.nomad_name())
        });
        Self {
            service,
            client: access.client.clone(),
            own: access.advertised(&context.config.advertise, listen).await,
            following,
            stop: context.stop.clone(),
        }
    }

    /// Writes where the role is, with what else is to be written; the addresses, or nothing when
    /// it is time to stop.
    pub(super) async fn first(&self, more: &[(String, String)]) -> Option<Vec<SocketAddr>> {
        let listed = match &self.following {
            Some(following) => match timeout(PATIENCE, following.ask()).await {
                Ok(Ok(listed)) => listed,
                // Whoever follows says so.
                Ok(Err(_)) | Err(_) => Instances::default(),
            },
            None => Instances::default(),
        };
        let addresses = published(&listed, &self.own);
        self.write(&addresses, more).await.then_some(addresses)
    }

    /// Writes each change until it is time to stop; at once over where no Nomad tells of any.
    pub(super) async fn follow(self, mut written: Vec<SocketAddr>) {
        let Some(following) = self.following.clone() else {
            return;
        };
        let (told, mut listed) = watch::channel(Instances::default());
        let write = async {
            while listed.changed().await.is_ok() {
                let addresses = published(&listed.borrow_and_update(), &self.own);
                if addresses != written && self.write(&addresses, &[]).await {
                    info!(
                        service = self.service.nomad_name(),
                        ?addresses,
                        "replicas published"
                    );
                    written = addresses;
                }
            }
        };
        tokio::select! {
            () = following.run(told) => {}
            () = write => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn write(&self, addresses: &[SocketAddr], more: &[(String, String)]) -> bool {
        let entries = || more.iter().cloned().chain([self.service.entry(addresses)]);
        let written = patiently("publishing addresses", &self.stop, || {
            rendezvous::write(&self.client, entries())
        });
        written.await.is_some()
    }
}

/// What to publish: where Nomad lists the role, else where this replica is.
fn published(listed: &Instances, own: &[SocketAddr]) -> Vec<SocketAddr> {
    if listed.is_empty() {
        own.to_vec()
    } else {
        listed.addresses.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_nomad_does_not_list_publishes_itself() {
        let own = ["10.0.0.1:15012".parse().unwrap()];
        assert_eq!(published(&Instances::default(), &own), own);
        let listed = Instances {
            addresses: ["10.0.0.2:25000", "10.0.0.1:25000"]
                .map(|address| address.parse().unwrap())
                .into(),
            ..Instances::default()
        };
        let expected = ["10.0.0.1:25000", "10.0.0.2:25000"].map(|text| text.parse().unwrap());
        assert_eq!(published(&listed, &own), expected);
    }
}
