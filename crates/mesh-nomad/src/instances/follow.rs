//! Follows a service for as long as somebody listens.

use std::io;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Instances;
use crate::client::{Client, Error};
use crate::keep;
use crate::model::registration::Registration;

/// A service to follow.
#[derive(Clone, Debug)]
pub struct Following {
    client: Client,
    namespace: String,
    service: String,
    file: Option<PathBuf>,
}

/// Why what was known last could not be kept or found again.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
#[non_exhaustive]
pub struct KeepError {
    /// "read" or "write".
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

impl Following {
    /// A service of a namespace, which is one and not `*`.
    pub fn new(client: Client, namespace: &str, service: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            file: None,
        }
    }

    /// Keeps what is known in a file, so that a program that starts while Nomad is away has it.
    #[must_use]
    pub fn kept_in(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// What an earlier run of the program kept; nothing if there is no file, or none that can be
    /// read.
    pub fn kept(&self) -> Option<Instances> {
        let path = self.file.as_deref()?;
        match read(path) {
            Ok(kept) => kept.filter(|kept| !kept.is_empty()),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(
                    service = self.service,
                    error, "what was known of a service is lost"
                );
                None
            }
        }
    }

    /// Asks once.
    ///
    /// # Errors
    ///
    /// What Nomad's client says.
    pub async fn ask(&self) -> Result<Instances, Error> {
        let asked = self.client.service(&self.namespace, &self.service).await?;
        Ok(Instances::of(&asked.value))
    }

    /// Tells of each change until nobody listens any more: what was kept first, then what Nomad
    /// says. While Nomad is away, what was told last holds.
    pub async fn run(self, told: watch::Sender<Instances>) {
        if let Some(kept) = self.kept() {
            told.send_if_modified(|current| {
                let is_news = current.is_empty();
                if is_news {
                    *current = kept;
                }
                is_news
            });
        }
        let request = Client::service_request(&self.namespace, &self.service);
        let mut answers = Box::pin(self.client.watch::<Vec<Registration>>(request));
        let mut is_away = false;
        loop {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                () = told.closed() => return,
            };
            match answer {
                Some(Ok(answer)) => {
                    is_away = false;
                    let found = Instances::of(&answer.value);
                    let changed = told.send_if_modified(|current| {
                        let next = current.after(found);
                        let changed = *current != next;
                        *current = next;
                        changed
                    });
                    if changed {
                        let current = told.borrow().clone();
                        info!(
                            service = self.service,
                            addresses = ?current.addresses,
                            "where a service is changed"
                        );
                        self.keep(current).await;
                    }
                }
                Some(Err(error)) => {
                    let error: &dyn std::error::Error = &error;
                    if is_away {
                        debug!(service = self.service, error, "Nomad does not answer");
                    } else {
                        warn!(
                            service = self.service,
                            error, "Nomad does not tell where a service is; what is known holds"
                        );
                    }
                    is_away = true;
                }
                None => return,
            }
        }
    }

    async fn keep(&self, instances: Instances) {
        let Some(path) = self.file.clone() else {
            return;
        };
        let kept = tokio::task::spawn_blocking(move || write(&path, &instances)).await;
        if let Ok(Err(error)) = kept {
            let error: &dyn std::error::Error = &error;
            warn!(
                service = self.service,
                error, "what is known of a service is not kept"
            );
        }
    }
}

fn read(path: &Path) -> Result<Option<Instances>, KeepError> {
    keep::read(path).map_err(|source| KeepError {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, instances: &Instances) -> Result<(), KeepError> {
    let failed = |source| KeepError {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let text = serde_json::to_vec(instances).map_err(|error| failed(error.into()))?;
    keep::write(path, &text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Config;

    #[tokio::test]
    async fn what_was_kept_is_told_while_nomad_is_away() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state/mesh-api.json");
        let known = Instances {
            addresses: ["10.0.0.1:6443".parse().unwrap()].into(),
            tags: ["a".to_owned()].into(),
        };
        write(&file, &known).unwrap();
        let nowhere = format!("unix://{}/none.sock", directory.path().display());
        let client = Client::new(Config::new(nowhere.parse().unwrap())).unwrap();
        let following = Following::new(client, "mesh-system", "mesh-api").kept_in(&file);
        let (told, mut told_to) = watch::channel(Instances::default());
        let running = tokio::spawn(following.run(told));
        let found = told_to.wait_for(|found| !found.is_empty()).await;
        assert_eq!(*found.unwrap(), known);
        drop(told_to);
        running.await.unwrap();
    }

    #[test]
    fn a_file_that_makes_no_sense_is_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        std::fs::write(&file, "{").unwrap();
        let client = Client::new(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let following = Following::new(client, "mesh-system", "mesh-api").kept_in(&file);
        assert_eq!(following.kept(), None);
    }
}
