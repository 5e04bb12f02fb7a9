//! What Envoy is told of an address that its application calls while no Pilot can be asked.
//!
//! At its first call to an address of a node Envoy asks for the cluster of just that address, by
//! name, and lets the connection wait. Without Pilot nobody knows who is there: the call goes on as
//! it is, as calls to addresses do that no service has. Where mutual TLS is demanded it is refused.

use std::time::Duration;

use mesh_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbPolicy,
};
use mesh_proto::envoy::config::cluster::v3::{CircuitBreakers, Cluster, circuit_breakers};
use mesh_proto::envoy::service::discovery::v3::Resource;
use mesh_proto::google::protobuf::{Any, UInt32Value};
use prost::{Message as _, Name as _};

/// What the names begin with, as Pilot has its listeners make them.
const PREFIX: &str = "direct|";

/// A version that Pilot never gives: it sends its own when it is back.
const VERSION: &str = "passthrough";

/// As long as Pilot's clusters take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a name is of the cluster of an address.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The cluster that leads to wherever the application went.
pub(super) fn passthrough(name: &str) -> Resource {
    let most = Some(UInt32Value { value: u32::MAX });
    let unlimited = circuit_breakers::Thresholds {
        max_connections: most,
        max_pending_requests: most,
        ..Default::default()
    };
    let cluster = Cluster {
        name: name.to_owned(),
        connect_timeout: Some(mesh_proto::google::protobuf::Duration {
            seconds: CONNECT_TIMEOUT.as_secs().try_into().unwrap_or(i64::MAX),
            nanos: 0,
        }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(
            DiscoveryType::OriginalDst.into(),
        )),
        lb_policy: LbPolicy::ClusterProvided.into(),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![unlimited],
            ..Default::default()
        }),
        ..Default::default()
    };
    Resource {
        name: name.to_owned(),
        version: VERSION.to_owned(),
        resource: Some(Any {
            type_url: Cluster::type_url(),
            value: cluster.encode_to_vec().into(),
        }),
        ..Default::default()
    }
}
