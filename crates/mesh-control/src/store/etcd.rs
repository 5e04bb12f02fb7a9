//! The store in an etcd cluster (3.4 or later): a thin client on etcd's own RPCs.
//!
//! Three shapes of transaction suffice, as for Kubernetes: put if absent, put if the revision is known,
//! delete if the revision is known. Reads are linearizable. Every answer carries the cluster's id and
//! revision, which must not go back: a cluster restored from a backup would otherwise give watchers a
//! history that never was.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mesh_proto::etcdserverpb::kv_client::KvClient;
use mesh_proto::etcdserverpb::request_op::Request as Op;
use mesh_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RangeResponse,
    ResponseHeader, TxnRequest, TxnResponse,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{
    Answer, Entry, EtcdTls, Guard, Page, Range, Revision, Store, StoreError, Watch, check_size,
};

mod follow;
mod member;
mod message;

use message::{at_revision, found, one, op, prefix_end, signed, unsigned, written};

/// An etcd cluster as a [`Store`].
#[derive(Clone)]
pub(super) struct EtcdStore {
    members: Arc<[Channel]>,
    /// The member that is asked; moves on when it does not answer.
    chosen: Arc<AtomicUsize>,
    prefix: String,
    seen: Arc<Mutex<Seen>>,
}

/// The cluster and the highest revision that it showed.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    cluster: u64,
    revision: Revision,
}

// === impl EtcdStore ===

impl EtcdStore {
    /// A client of these members; connects when first asked.
    pub(super) fn new(
        endpoints: &[String],
        tls: &EtcdTls,
        prefix: String,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            members: member::channels(endpoints, tls)?.into(),
            chosen: Arc::default(),
            prefix,
            seen: Arc::default(),
        })
    }

    fn channel(&self) -> (usize, Option<Channel>) {
        let chosen = self.chosen.load(Ordering::Relaxed);
        let member = self.members.get(chosen % self.members.len()).cloned();
        (chosen, member)
    }

    /// Turns to the next member, unless somebody has already.
    fn turn_from(&self, chosen: usize) {
        self.chosen
            .compare_exchange(
                chosen,
                chosen.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .unwrap_or_default();
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks an answer's header against what was seen before its request was sent.
    fn check(&self, header: Option<&ResponseHeader>, before: Seen) -> Result<Revision, StoreError> {
        let header =
            header.ok_or_else(|| StoreError::unavailable("etcd answered without header"))?;
        let found = unsigned(header.revision);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = before.cluster != 0 && header.cluster_id != before.cluster;
        if is_other || found < before.revision {
            // Remembered from here on, so that the list that must follow is answered.
            *seen = Seen {
                cluster: header.cluster_id,
                revision: found,
            };
            return Err(StoreError::Rewound {
                seen: before.revision,
                found,
            });
        }
        if seen.cluster == 0 || seen.cluster == header.cluster_id {
            *seen = Seen {
                cluster: header.cluster_id,
                revision: seen.revision.max(found),
            };
        }
        Ok(found)
    }

    async fn range(&self, request: RangeRequest) -> Result<(RangeResponse, Revision), StoreError> {
        let mut tries = 0;
        loop {
            let before = self.seen();
            let (chosen, channel) = self.channel();
            let Some(channel) = channel else {
                return Err(StoreError::unavailable("no etcd member"));
            };
            let mut client = client(channel);
            let call = client.range(deadline(request.clone()));
            match timely(call).await {
                Ok(response) => {
                    let response = response.into_inner();
                    let revision = self.check(response.header.as_ref(), before)?;
                    return Ok((response, revision));
                }
                Err(status) => {
                    // Reading twice does no harm: each member gets its chance.
                    if is_unreachable(&status) {
                        self.turn_from(chosen);
                        tries += 1;
                        if tries < self.members.len() {
                            continue;
                        }
                    }
                    return Err(failure(status, request.revision));
                }
            }
        }
    }

    /// A transaction is sent once: if the answer is lost, nobody knows whether it happened.
    async fn transact(&self, request: TxnRequest) -> Result<TxnResponse, StoreError> {
        let before = self.seen();
        let (chosen, channel) = self.channel();
        let Some(channel) = channel else {
            return Err(StoreError::unavailable("no etcd member"));
        };
        let mut client = client(channel);
        match timely(client.txn(deadline(request))).await {
            Ok(response) => {
                let response = response.into_inner();
                self.check(response.header.as_ref(), before)?;
                Ok(response)
            }
            Err(status) => {
                if is_unreachable(&status) {
                    self.turn_from(chosen);
                }
                Err(failure(status, 0))
            }
        }
    }

    /// The revision of the store, if what was at `revision` is still kept.
    async fn at(&self, key: &Bytes, revision: Revision) -> Result<Revision, StoreError> {
        let request = RangeRequest {
            // 0 would ask for now.
            revision: signed(revision.max(1)),
            count_only: true,
            ..one(key.clone())
        };
        Ok(self.range(request).await?.1)
    }

    fn absolute(&self, key: &str) -> Bytes {
        format!("{}{key}", self.prefix).into()
    }

    /// The key without the prefix; none for a key that is not ours or is not text.
    fn relative(&self, key: &[u8]) -> Option<String> {
        let key = key.strip_prefix(self.prefix.as_bytes())?;
        String::from_utf8(key.to_vec()).ok()
    }

    fn entry(&self, kv: KeyValue) -> Option<Entry> {
        Some(Entry {
            key: self.relative(&kv.key)?,
            value: kv.value,
            revision: unsigned(kv.mod_revision),
        })
    }

    async fn replace(
        &self,
        key: &str,
        expected: Revision,
        request: Op,
    ) -> Result<Revision, StoreError> {
        let absolute = self.absolute(key);
        let response = self
            .transact(TxnRequest {
                compare: vec![at_revision(absolute.clone(), expected)],
                success: vec![op(request)],
                failure: vec![op(Op::RequestRange(one(absolute)))],
            })
            .await?;
        if response.succeeded {
            return written(&response);
        }
        Err(StoreError::Conflict {
            key: key.to_owned(),
            expected,
            found: found(&response, 0),
        })
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("members", &self.members.len())
            .field("prefix", &self.prefix)
            .field("seen", &self.seen())
            .finish_non_exhaustive()
    }
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            let (response, _) = self.range(one(self.absolute(key))).await?;
            Ok(response.kvs.into_iter().find_map(|kv| self.entry(kv)))
        })
    }

    fn list<'a>(&'a self, range: Range<'a>) -> Answer<'a, Page> {
        Box::pin(async move {
            let prefix = self.absolute(range.prefix);
            let key = match range.after {
                // The smallest key after that one.
                Some(after) => [&self.absolute(after), [0].as_slice()].concat().into(),
                None => prefix.clone(),
            };
            let limit = range.limit.map_or(0, |limit| signed(limit.get() as u64));
            let request = RangeRequest {
                key: key.max(prefix.clone()),
                range_end: prefix_end(&prefix),
                limit,
                revision: range.at.map_or(0, signed),
                ..RangeRequest::default()
            };
            let (response, current) = match self.range(request).await {
                Err(StoreError::Future { asked, .. }) => {
                    // etcd does not say how far it is.
                    let current = self.revision().await?;
                    return Err(StoreError::Future { asked, current });
                }
                other => other?,
            };
            Ok(Page {
                more: response.more,
                revision: range.at.unwrap_or(current),
                entries: response
                    .kvs
                    .into_iter()
                    .filter_map(|kv| self.entry(kv))
                    .collect(),
            })
        })
    }

    fn create<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        guard: Option<Guard<'a>>,
    ) -> Answer<'a, Revision> {
        Box::pin(async move {
            check_size(key, &value)?;
            let absolute = self.absolute(key);
            let mut compare = vec![at_revision(absolute.clone(), 0)];
            if let Some(guard) = guard {
                compare.push(at_revision(self.absolute(guard.key), guard.revision));
            }
            let response = self
                .transact(TxnRequest {
                    compare,
                    success: vec![op(Op::RequestPut(PutRequest {
                        key: absolute.clone(),
                        value,
                        ..PutRequest::default()
                    }))],
                    failure: vec![op(Op::RequestRange(one(absolute)))],
                })
                .await?;
            if response.succeeded {
                return written(&response);
            }
            Err(match (found(&response, 0), guard) {
                (None, Some(guard)) => StoreError::Guard {
                    key: guard.key.to_owned(),
                },
                _ => StoreError::Exists {
                    key: key.to_owned(),
                },
            })
        })
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Revision,
    ) -> Answer<'a, Revision> {
        Box::pin(async move {
            check_size(key, &value)?;
            let put = PutRequest {
                key: self.absolute(key),
                value,
                ..PutRequest::default()
            };
            self.replace(key, expected, Op::RequestPut(put)).await
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> Answer<'a, Revision> {
        Box::pin(async move {
            let delete = DeleteRangeRequest {
                key: self.absolute(key),
                ..DeleteRangeRequest::default()
            };
            self.replace(key, expected, Op::RequestDeleteRange(delete))
                .await
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Answer<'a, Watch> {
        Box::pin(follow::watch(self.clone(), self.absolute(prefix), after))
    }

    fn revision(&self) -> Answer<'_, Revision> {
        Box::pin(async move {
            let request = RangeRequest {
                count_only: true,
                ..one(self.absolute(""))
            };
            Ok(self.range(request).await?.1)
        })
    }

    fn compact(&self, revision: Revision) -> Answer<'_, ()> {
        Box::pin(async move {
            let (chosen, channel) = self.channel();
            let Some(channel) = channel else {
                return Err(StoreError::unavailable("no etcd member"));
            };
            let mut client = client(channel);
            let request = CompactionRequest {
                revision: signed(revision),
                physical: false,
            };
            match timely(client.compact(deadline(request))).await {
                Ok(_) => Ok(()),
                // Compacted already: what was asked for is so.
                Err(status) if is_compacted(&status) => Ok(()),
                Err(status) => {
                    if is_unreachable(&status) {
                        self.turn_from(chosen);
                    }
                    Err(failure(status, signed(revision)))
                }
            }
        })
    }
}

fn client(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

fn deadline<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    // Tells etcd to stop as well.
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The call, or `Unavailable` when a member hangs.
async fn timely<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(Status::unavailable("etcd did not answer in time")))
}

fn is_unreachable(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
    )
}

fn is_compacted(status: &Status) -> bool {
    // etcd has no code for this; the text is fixed in its `rpctypes` package.
    status.code() == Code::OutOfRange && status.message().contains("compacted")
}

fn failure(status: Status, asked: i64) -> StoreError {
    let asked = unsigned(asked);
    match status.code() {
        Code::OutOfRange if is_compacted(&status) => StoreError::Compacted {
            asked,
            // etcd does not say; anything later is right, and callers list again.
            oldest: asked + 1,
        },
        Code::OutOfRange => StoreError::Future { asked, current: 0 },
        Code::ResourceExhausted => StoreError::Full {
            reason: status.message().to_owned(),
        },
        _ => StoreError::unavailable(status),
    }
}

/// Above etcd's default election timeout of 1 s and its request time of 5 s plus two elections.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// A list of large objects must fit; etcd itself sets no limit to its answers.
const MAX_MESSAGE: usize = 512 * 1024 * 1024;
