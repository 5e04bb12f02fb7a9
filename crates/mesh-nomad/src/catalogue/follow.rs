//! The shell around [`Catalogue`]: reads from a server, for ever, and publishes.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, unfold};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Catalogue, Input, Read, Snapshot};
use crate::client::{Client, Error, EventStream, Reply, Topic};
use crate::model::event::EventBatch;

/// Follows the catalogue of a server. Dropped, it ends.
#[derive(Debug)]
pub struct Follower {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    status: watch::Receiver<Status>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

/// What to follow, and how hard.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct FollowSettings {
    /// The namespace; `*` is all, which needs a policy.
    pub namespace: String,
    /// How many reads may be on their way at once. Each is a connection, and four more are for
    /// lists and events; an agent allows one address 100.
    pub concurrency: usize,
    /// How long to rest between two reads of a whole list of allocations or jobs, which are large.
    pub pace: Duration,
    /// How long a blocking query waits.
    pub wait: Duration,
}

/// How following goes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// Whether a whole snapshot was published.
    pub is_whole: bool,
    /// Whether the event stream is open. Without it changes come a little later.
    pub has_events: bool,
    /// The failure that is being waited out, if there is one; what is known stays.
    pub failure: Option<String>,
    /// Whether that failure is that the token does not allow to read.
    pub is_denied: bool,
}

impl Default for FollowSettings {
    fn default() -> Self {
        Self {
            namespace: "*".to_owned(),
            concurrency: 8,
            pace: Duration::from_millis(500),
            wait: Duration::from_secs(60),
        }
    }
}

/// How often waits that ended are looked for.
const TICK: Duration = Duration::from_millis(100);

/// How long to rest before a denied event stream is tried again.
const DENIED_PAUSE: Duration = Duration::from_secs(30);

// === impl Follower ===

impl Follower {
    /// Starts to follow, in a task of its own.
    pub fn start(client: Client, settings: FollowSettings) -> Self {
        let (snapshots, snapshot) = watch::channel(Arc::default());
        let (status, current) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let shell = Shell {
            client,
            settings,
            catalogue: Catalogue::new(),
            started: Instant::now(),
            queue: VecDeque::new(),
            begin: None,
            newest: 0,
            snapshots,
            status,
        };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped
                .run_until_cancelled_owned(Box::pin(shell.run()))
                .await;
        });
        Self {
            snapshots: snapshot,
            status: current,
            stop: stop.drop_guard(),
            task,
        }
    }

    /// Everything as it is known now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Follows the snapshots; [`Snapshot::since`] says what changed between two.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// How it goes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends, and waits until nothing is left of it.
    pub async fn close(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the catalogue ended badly");
        }
    }
}

struct Shell {
    client: Client,
    settings: FollowSettings,
    catalogue: Catalogue,
    started: Instant,
    queue: VecDeque<Read>,
    /// Lets the event stream begin, at an index.
    begin: Option<oneshot::Sender<u64>>,
    /// The highest index of a list so far.
    newest: u64,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Sender<Status>,
}

type Reading = Pin<Box<dyn Future<Output = (Read, Result<Input, Error>)> + Send>>;

// === impl Shell ===

impl Shell {
    async fn run(mut self) {
        let namespace = self.settings.namespace.clone();
        let wait = self.settings.wait;
        let client = self.client.clone();
        let services = client.watch_for(Client::services_request(&namespace), wait);
        let allocations = client.watch_for(Client::allocations_request(&namespace), wait);
        let jobs = client.watch_for(Client::jobs_request(&namespace), wait);
        let (mut services, mut allocations, mut jobs) =
            (pin!(services), pin!(allocations), pin!(jobs));
        let (begin, start) = oneshot::channel();
        self.begin = Some(begin);
        let mut events = pin!(events(client.clone(), namespace, start));
        let mut reading: FuturesUnordered<Reading> = FuturesUnordered::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut allocations_at, mut jobs_at) = (self.started, self.started);
        loop {
            self.advance(&mut reading);
            let now = Instant::now();
            tokio::select! {
                Some(item) = services.next() => self.take_list(item, |index, list| {
                    Input::Services { index, list }
                }),
                Some(item) = allocations.next(), if now >= allocations_at => {
                    allocations_at = now + self.settings.pace;
                    self.take_list(item, |index, list| Input::Allocations { index, list });
                }
                Some(item) = jobs.next(), if now >= jobs_at => {
                    jobs_at = now + self.settings.pace;
                    self.take_list(item, |index, list| Input::Jobs { index, list });
                }
                Some(news) = events.next() => self.take_news(news),
                Some((read, result)) = reading.next(), if !reading.is_empty() => {
                    self.take_read(read, result);
                }
                _ = tick.tick() => {}
            }
        }
    }

    /// Publishes what is new and starts what is to be read.
    fn advance(&mut self, reading: &mut FuturesUnordered<Reading>) {
        if self.catalogue.publish().is_some() {
            let snapshot = Arc::new(self.catalogue.snapshot().clone());
            self.snapshots.send_replace(snapshot);
            self.status
                .send_if_modified(|status| !std::mem::replace(&mut status.is_whole, true));
            // Not before: of what is read for the first time nothing has to be hinted at.
            if let Some(begin) = self.begin.take() {
                // Nobody waits for it if all of this ends.
                let _waits = begin.send(self.newest).is_ok();
            }
        }
        let now = self.now();
        self.queue.extend(self.catalogue.reads(now));
        while reading.len() < self.settings.concurrency.max(1) {
            let Some(next) = self.queue.pop_front() else {
                return;
            };
            reading.push(Box::pin(read(self.client.clone(), next)));
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        self.catalogue.take(input, now);
    }

    fn take_list<T>(&mut self, item: Result<Reply<T>, Error>, input: impl FnOnce(u64, T) -> Input) {
        match item {
            Ok(reply) => {
                self.newest = self.newest.max(reply.meta.floor());
                self.take(input(reply.meta.floor(), reply.value));
                self.well();
            }
            Err(error) => self.fail(&error),
        }
    }

    fn take_read(&mut self, read: Read, result: Result<Input, Error>) {
        match result {
            Ok(input) => self.take(input),
            Err(error) => {
                self.fail(&error);
                self.take(Input::Failed(read));
            }
        }
    }

    fn take_news(&mut self, news: News) {
        match news {
            News::Opened { is_again } => {
                // What changed before it was open for the first time, the lists tell.
                if is_again {
                    self.take(Input::StreamOpened);
                }
                self.status.send_modify(|status| status.has_events = true);
            }
            News::Events(batch) => self.take(Input::Events(batch)),
            News::Lost(error) => {
                tracing::debug!(%error, "no event stream of nomad");
                self.status.send_modify(|status| status.has_events = false);
            }
        }
    }

    fn fail(&self, error: &Error) {
        let failure = Some(error.to_string());
        let is_new = self.status.send_if_modified(|status| {
            let is_new = status.failure != failure;
            status.failure.clone_from(&failure);
            status.is_denied = error.is_denied();
            is_new
        });
        if is_new {
            tracing::warn!(%error, "nomad's catalogue cannot be read; what is known stays");
        }
    }

    fn well(&self) {
        self.status.send_if_modified(|status| {
            status.is_denied = false;
            status.failure.take().is_some()
        });
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

async fn read(client: Client, read: Read) -> (Read, Result<Input, Error>) {
    let result = match &read {
        Read::Service(name) => {
            let reply = client.service(&name.namespace, &name.service).await;
            reply.map(|reply| Input::Service {
                name: name.clone(),
                index: reply.meta.floor(),
                registrations: reply.value,
            })
        }
        Read::Allocation(id) => {
            let input = |allocation| Input::Allocation {
                id: id.clone(),
                allocation,
            };
            match client.allocation(id).await {
                Ok(reply) => Ok(input(Some(Box::new(reply.value)))),
                Err(error) if error.is_not_found() => Ok(input(None)),
                Err(error) => Err(error),
            }
        }
    };
    (read, result)
}

/// What the event stream says.
enum News {
    Opened { is_again: bool },
    Events(EventBatch),
    Lost(Error),
}

struct Hearing {
    client: Client,
    namespace: String,
    /// Says when and where to begin: what is older, the first lists tell.
    start: Option<oneshot::Receiver<u64>>,
    /// The index of what was heard last.
    index: Option<u64>,
    /// Whether it was open before.
    is_again: bool,
    stream: Option<EventStream>,
    pause: Duration,
    failures: u32,
}

/// The event stream, opened again whenever it ends.
fn events(
    client: Client,
    namespace: String,
    start: oneshot::Receiver<u64>,
) -> impl Stream<Item = News> + Send {
    let hearing = Hearing {
        client,
        namespace,
        start: Some(start),
        index: None,
        is_again: false,
        stream: None,
        pause: Duration::ZERO,
        failures: 0,
    };
    unfold(hearing, |mut hearing| async move {
        let news = hearing.next().await;
        Some((news, hearing))
    })
}

impl Hearing {
    async fn next(&mut self) -> News {
        if let Some(start) = self.start.take() {
            self.index = start.await.ok();
        }
        let Some(stream) = &mut self.stream else {
            sleep(self.pause).await;
            let topics = [Topic::all("Service"), Topic::all("Allocation")];
            return match self
                .client
                .events(&topics, &self.namespace, self.index)
                .await
            {
                Ok(stream) => {
                    self.stream = Some(stream);
                    let is_again = std::mem::replace(&mut self.is_again, true);
                    News::Opened { is_again }
                }
                Err(error) => self.lost(error),
            };
        };
        match stream.next().await {
            Ok(Some(batch)) => {
                self.failures = 0;
                self.index = Some(batch.index.value());
                News::Events(batch)
            }
            Ok(None) => self.lost(Error::Protocol {
                path: "/v1/event/stream".to_owned(),
                found: "the end of the stream".to_owned(),
            }),
            Err(error) => self.lost(error),
        }
    }

    fn lost(&mut self, error: Error) -> News {
        self.stream = None;
        self.pause = if error.is_denied() {
            DENIED_PAUSE
        } else {
            self.client.config().retry.pause(self.failures, 0.5)
        };
        self.failures = self.failures.saturating_add(1);
        News::Lost(error)
    }
}
