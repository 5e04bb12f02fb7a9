//! The messages of etcd, in the terms of a [`Store`](super::Store): keys, ranges, revisions.

use bytes::Bytes;
use mesh_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use mesh_proto::etcdserverpb::request_op::Request as Op;
use mesh_proto::etcdserverpb::response_op::Response as Answered;
use mesh_proto::etcdserverpb::{Compare, RangeRequest, RequestOp, TxnResponse};

use super::{Revision, StoreError};

/// A request for one key.
pub(super) fn one(key: Bytes) -> RangeRequest {
    RangeRequest {
        key,
        ..RangeRequest::default()
    }
}

/// One operation of a transaction.
pub(super) fn op(request: Op) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

/// True in etcd if the key has this revision; 0 for a key that does not exist.
pub(super) fn at_revision(key: Bytes, revision: Revision) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(signed(revision))),
        ..Compare::default()
    }
}

/// The revision that a transaction made.
pub(super) fn written(response: &TxnResponse) -> Result<Revision, StoreError> {
    response
        .header
        .as_ref()
        .map(|header| unsigned(header.revision))
        .ok_or_else(|| StoreError::unavailable("etcd answered without header"))
}

/// The revision of the key that the range at `index` of the answer found.
pub(super) fn found(response: &TxnResponse, index: usize) -> Option<Revision> {
    match &response.responses.get(index)?.response {
        Some(Answered::ResponseRange(range)) => Some(unsigned(range.kvs.first()?.mod_revision)),
        _ => None,
    }
}

/// The end of the range of all keys with this prefix.
pub(super) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    // Every key: etcd's sign for it.
    Bytes::from_static(&[0])
}

/// Revisions are positive; etcd's type is signed.
pub(super) fn unsigned(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or_default()
}

/// The same for requests.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
