//! A watch on etcd that outlives connections, members and leaders.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use mesh_proto::etcdserverpb::event::EventType;
use mesh_proto::etcdserverpb::watch_client::WatchClient;
use mesh_proto::etcdserverpb::watch_request::RequestUnion;
use mesh_proto::etcdserverpb::{self as etcd, WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    CALL_TIMEOUT, EtcdStore, MAX_MESSAGE, is_unreachable, prefix_end, signed, timely, unsigned,
};
use crate::store::{Batch, Event, Revision, Store as _, StoreError, Watch};

/// Starts a watch; what cannot be watched is refused here, what happens later ends the stream.
pub(super) async fn watch(
    store: EtcdStore,
    prefix: Bytes,
    after: Revision,
) -> Result<Watch, StoreError> {
    let mut follower = Follower {
        store,
        prefix,
        after,
        cluster: 0,
        stream: None,
        failed: false,
    };
    follower.connect().await?;
    Ok(futures_util::stream::unfold(follower, Follower::next).boxed())
}

struct Follower {
    store: EtcdStore,
    prefix: Bytes,
    after: Revision,
    /// The cluster that the watch began on.
    cluster: u64,
    stream: Option<Open>,
    failed: bool,
}

struct Open {
    responses: Streaming<WatchResponse>,
    /// etcd ends the watch when the requests end.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Batch, StoreError>, Self)> {
        if self.failed {
            return None;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = if self.stream.is_some() {
                self.receive().await
            } else {
                self.connect().await.map(|()| None)
            };
            match outcome {
                Ok(Some(batch)) => {
                    self.after = batch.revision;
                    return Some((Ok(batch), self));
                }
                Ok(None) => {}
                Err(error) if error.needs_list() => {
                    self.failed = true;
                    return Some((Err(error), self));
                }
                Err(error) => {
                    tracing::debug!(%error, after = self.after, "etcd watch lost, will resume");
                    self.stream = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    /// Opens the stream at where the watch stands.
    async fn connect(&mut self) -> Result<(), StoreError> {
        // A watch from a revision in the future waits without a word, and one from a compacted revision is
        // confirmed before it is cancelled: both are found out by a linearizable read at that revision.
        let found = match self.store.at(&self.prefix, self.after).await {
            Err(StoreError::Future { .. }) => self.store.revision().await?,
            other => other?,
        };
        let cluster = self.store.seen().cluster;
        if found < self.after || (self.cluster != 0 && cluster != self.cluster) {
            return Err(StoreError::Rewound {
                seen: self.after,
                found,
            });
        }
        let (chosen, channel) = self.store.channel();
        let Some(channel) = channel else {
            return Err(StoreError::unavailable("no etcd member"));
        };
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: self.prefix.clone(),
                range_end: prefix_end(&self.prefix),
                start_revision: signed(self.after + 1),
                progress_notify: true,
                prev_kv: true,
                ..WatchCreateRequest::default()
            })),
        };
        requests
            .send(create)
            .await
            .map_err(StoreError::unavailable)?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let opened = timely(client.watch(ReceiverStream::new(receiver))).await;
        let mut responses = match opened {
            Ok(response) => response.into_inner(),
            Err(status) => return Err(self.lost(chosen, status)),
        };
        let first = tokio::time::timeout(CALL_TIMEOUT, responses.message())
            .await
            .map_err(StoreError::unavailable)?;
        match first {
            Ok(Some(response)) if response.canceled => Err(self.canceled(&response)),
            Ok(Some(response)) if response.created => {
                self.cluster = cluster;
                self.stream = Some(Open {
                    responses,
                    _requests: requests,
                });
                Ok(())
            }
            Ok(_) => Err(StoreError::unavailable("etcd did not confirm the watch")),
            Err(status) => Err(self.lost(chosen, status)),
        }
    }

    async fn receive(&mut self) -> Result<Option<Batch>, StoreError> {
        let Some(open) = &mut self.stream else {
            return Ok(None);
        };
        match open.responses.message().await {
            Ok(Some(response)) if response.canceled => Err(self.canceled(&response)),
            Ok(Some(response)) => self.batch(response).map(Some),
            Ok(None) => Err(StoreError::unavailable("etcd ended the watch")),
            Err(status) => {
                let (chosen, _) = self.store.channel();
                Err(self.lost(chosen, status))
            }
        }
    }

    fn batch(&self, response: WatchResponse) -> Result<Batch, StoreError> {
        let last = response
            .events
            .iter()
            .filter_map(|event| event.kv.as_ref())
            .map(|kv| unsigned(kv.mod_revision))
            .max();
        let header = response
            .header
            .map_or(0, |header| unsigned(header.revision));
        // Without events it is a progress notice: nothing up to the header's revision is outstanding.
        let revision = last.unwrap_or(header).max(self.after);
        let mut events = Vec::with_capacity(response.events.len());
        for event in response.events {
            events.extend(self.event(event)?);
        }
        Ok(Batch { revision, events })
    }

    fn event(&self, event: etcd::Event) -> Result<Option<Event>, StoreError> {
        let deleted = event.r#type == i32::from(EventType::Delete);
        let Some(kv) = event.kv else {
            return Ok(None);
        };
        let Some(key) = self.store.relative(&kv.key) else {
            return Ok(None);
        };
        let previous = event.prev_kv.map(|previous| previous.value);
        let is_change = deleted || kv.create_revision != kv.mod_revision;
        if is_change && previous.is_none() {
            // The value before is compacted away: without it nobody can tell what a change took away.
            return Err(StoreError::Compacted {
                asked: self.after,
                oldest: unsigned(kv.mod_revision),
            });
        }
        Ok(Some(Event {
            key,
            revision: unsigned(kv.mod_revision),
            value: (!deleted).then_some(kv.value),
            previous,
        }))
    }

    fn canceled(&self, response: &WatchResponse) -> StoreError {
        if response.compact_revision > 0 {
            return StoreError::Compacted {
                asked: self.after,
                oldest: unsigned(response.compact_revision),
            };
        }
        StoreError::unavailable(response.cancel_reason.clone())
    }

    fn lost(&self, chosen: usize, status: Status) -> StoreError {
        if is_unreachable(&status) || status.code() == Code::Internal {
            self.store.turn_from(chosen);
        }
        StoreError::unavailable(status)
    }
}

/// After a lost connection: most are back at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// As long as one may wait for an election.
const MAX_PAUSE: Duration = Duration::from_secs(1);
