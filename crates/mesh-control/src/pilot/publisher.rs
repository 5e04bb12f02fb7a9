//! Makes views of the mesh and keeps them current.
//!
//! One loop reads config and workloads, has the views made that somebody waits for, and hands
//! them to the streams. It begins when it knows enough: an empty answer would destroy what
//! proxies have, silence keeps it.

mod builder;
mod pace;
mod views;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::Host;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::builder::{Builder, Input, Output};
use self::pace::{Cause, Pace};
use super::mesh::{Config, CredentialKey};
use super::registry::Registry;

pub use self::builder::Assembly;
pub use self::views::Views;

/// What the publisher works on and for.
pub struct Publisher<F> {
    /// Makes an assembly; called again if one panicked.
    pub assembly: F,
    /// The objects of the API, once they are known.
    pub config: watch::Receiver<Option<Arc<Config>>>,
    /// The workloads.
    pub registry: Arc<dyn Registry>,
    /// Where the snapshots go.
    pub views: Views,
    /// Where hosts go that need virtual addresses.
    pub unaddressed: watch::Sender<BTreeSet<Host>>,
    /// Where it is told which Secrets gateways need.
    pub credentials: watch::Sender<BTreeSet<CredentialKey>>,
}

/// Registrations are all here when none came for so long …
const QUIET: Duration = Duration::from_secs(1);

/// … or after so long in any case.
const MAX_GATE: Duration = Duration::from_secs(10);

/// How long to wait for a registry that was not read whole: longer than servers take to choose a
/// leader or to be started anew.
const MAX_WHOLE: Duration = Duration::from_secs(30);

/// A registry that was not read whole after so long will not be for now: what it lacks is believed
/// to be gone, so that what changes elsewhere reaches the proxies that came back.
const MAX_DISTRUST: Duration = Duration::from_secs(300);

/// For so long after the start a workload that was there before may still be on its way back:
/// longer than an agent's longest pause between two attempts to connect.
const TRUST_AFTER: Duration = Duration::from_secs(10);

impl<A: Assembly, F: Fn() -> A + Send> Publisher<F> {
    /// Publishes until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.publish() => {}
        }
    }

    /// Publishes until the config has no source any more.
    async fn publish(mut self) {
        if self.gate().await.is_none() {
            return;
        }
        let opened = Instant::now();
        let mut is_trusted = false;
        let mut changes = self.registry.changes();
        let mut wanted = self.views.wanted();
        let mut pace = Pace::default();
        let mut builder = Builder::new((self.assembly)());
        info!("views are published from here on");
        loop {
            let began = Instant::now();
            builder = self.build(builder).await;
            pace.built(began, Instant::now());
            let trust_at = opened
                + if self.registry.is_whole() {
                    TRUST_AFTER
                } else {
                    MAX_DISTRUST
                };
            let cause = loop {
                tokio::select! {
                    read = self.config.changed() => match read {
                        Ok(()) => break Cause::Config,
                        Err(_closed) => return,
                    },
                    Ok(()) = changes.changed() => break Cause::Workloads,
                    Ok(()) = wanted.changed() => break Cause::View,
                    () = sleep_until(trust_at), if !is_trusted => {
                        is_trusted = true;
                        self.views.trust();
                    }
                }
            };
            sleep(pace.delay(Instant::now(), cause)).await;
        }
    }

    /// Waits until config is known and workloads had their time to come.
    async fn gate(&mut self) -> Option<()> {
        self.config.wait_for(Option::is_some).await.ok()?;
        let mut changes = self.registry.changes();
        let registry = &self.registry;
        let whole = async { while !registry.is_whole() && changes.changed().await.is_ok() {} };
        if timeout(MAX_WHOLE, whole).await.is_err() {
            warn!("a registry was not read whole; the gate opens with what is known");
        }
        let quiet = async { while let Ok(Ok(())) = timeout(QUIET, changes.changed()).await {} };
        if timeout(MAX_GATE, quiet).await.is_err() {
            info!("registrations keep coming; the gate opens all the same");
        }
        Some(())
    }

    /// Makes the views that are wanted; on a thread of its own, since it may take long.
    async fn build(&mut self, mut builder: Builder<A>) -> Builder<A> {
        let Some(config) = self.config.borrow_and_update().clone() else {
            return builder;
        };
        // In this order: whoever waits for a view is registered before.
        let wanted = self.views.workloads();
        let input = Input {
            config,
            wanted,
            workloads: self.registry.workloads(),
        };
        let built = spawn_blocking(move || {
            let output = builder.build(input);
            (builder, output)
        });
        let (builder, output) = match built.await {
            Ok(built) => built,
            Err(error) => {
                // Proxies keep what they have, which was right before the change.
                error!(%error, "views could not be made; this is a bug, please report it");
                return Builder::new((self.assembly)());
            }
        };
        let Output {
            snapshots,
            gone,
            unaddressed,
            credentials,
        } = output;
        for (workload, snapshot) in snapshots {
            self.views.publish(&workload, snapshot);
        }
        for workload in gone {
            self.views.close(&workload);
        }
        tell(&self.unaddressed, unaddressed);
        tell(&self.credentials, credentials);
        builder
    }
}

/// Tells what is new, if it is.
fn tell<T: PartialEq>(to: &watch::Sender<T>, new: T) {
    to.send_if_modified(|current| {
        let changed = *current != new;
        *current = new;
        changed
    });
}

impl<F> fmt::Debug for Publisher<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("views", &self.views)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
