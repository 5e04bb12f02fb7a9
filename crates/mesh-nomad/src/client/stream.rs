//! Blocking queries and pages as streams.

use futures_util::Stream;
use futures_util::stream::unfold;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::sleep;

use super::{Blocking, Client, Error, Reply, Request, Step, jitter};

/// How long a blocking query waits: Nomad's maximum, which also bounds how long a dead connection
/// can go unseen.
pub(super) const WAIT: Duration = Duration::from_secs(300);

/// How long to rest after a list that is not allowed: a policy may come, and nobody is to be
/// flooded until then.
const DENIED_PAUSE: Duration = Duration::from_secs(5);

struct Watch {
    client: Client,
    request: Request,
    blocking: Blocking,
    failures: u32,
    pause: Duration,
}

impl Client {
    /// What a request answers now, and again whenever it may answer otherwise; for ever.
    ///
    /// Errors are items, and the stream goes on after them, with growing pauses.
    /// An answer whose index is lower than that of the one before comes like any other: whether
    /// the servers were restored or are behind is the reader's to decide, by its index.
    pub fn watch<T: DeserializeOwned + Send + 'static>(
        &self,
        request: Request,
    ) -> impl Stream<Item = Result<Reply<T>, Error>> + Send + use<T> {
        self.watch_for(request, WAIT)
    }

    /// The same with a wait of one's own.
    pub fn watch_for<T: DeserializeOwned + Send + 'static>(
        &self,
        request: Request,
        wait: Duration,
    ) -> impl Stream<Item = Result<Reply<T>, Error>> + Send + use<T> {
        let watch = Watch {
            client: self.clone(),
            request,
            blocking: Blocking::new(wait),
            failures: 0,
            pause: Duration::ZERO,
        };
        unfold(watch, |mut watch| async move {
            let item = watch.next().await;
            Some((item, watch))
        })
    }

    /// Every page of a list, each as a list; ends after the last page or an error.
    pub fn pages<T: DeserializeOwned + Send + 'static>(
        &self,
        request: Request,
        per_page: u32,
    ) -> impl Stream<Item = Result<Vec<T>, Error>> + Send + use<T> {
        let start = Some((
            self.clone(),
            request.query("per_page", per_page),
            None::<String>,
        ));
        unfold(start, |state| async move {
            let (client, request, token) = state?;
            let page = request.clone().query_if("next_token", token);
            match client.fetch::<Vec<T>>(&page).await {
                Ok(reply) => {
                    let next = reply.meta.next_token;
                    let rest = next.map(|token| (client, request, Some(token)));
                    Some((Ok(reply.value), rest))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

impl Watch {
    /// The next change or error.
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Reply<T>, Error> {
        loop {
            sleep(std::mem::take(&mut self.pause)).await;
            let mut request = self.request.clone().within(self.blocking.patience());
            if let Some((index, wait)) = self.blocking.query() {
                request = request
                    .query("index", index)
                    .query("wait", format!("{}ms", wait.as_millis()));
            }
            let reply = match self.client.fetch::<T>(&request).await {
                Ok(reply) => reply,
                Err(error) => {
                    self.blocking.failed();
                    self.pause = if error.is_denied() {
                        DENIED_PAUSE
                    } else {
                        self.client.config().retry.pause(self.failures, jitter())
                    };
                    self.failures = self.failures.saturating_add(1);
                    return Err(error);
                }
            };
            self.failures = 0;
            match self.blocking.answered(&reply.meta) {
                Step::Changed => return Ok(reply),
                // Not at once again: a server that is behind would be asked without rest.
                Step::WentBack => {
                    self.pause = self.client.config().retry.most / 2;
                    return Ok(reply);
                }
                Step::Unchanged => {}
            }
        }
    }
}
