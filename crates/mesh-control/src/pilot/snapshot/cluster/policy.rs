//! What a `DestinationRule` says of connections, in Envoy's terms.

use mesh_model::istio::Duration;
use mesh_model::istio::destination_rule::{
    ConnectionPool, ConsistentHash, H2UpgradePolicy, HttpConnectionPool, LoadBalancer,
    OutlierDetection, PortTrafficPolicy, SimpleLoadBalancer, TcpConnectionPool,
};
use mesh_proto::envoy::config::cluster::v3 as cds;
use mesh_proto::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig,
    SlowStartConfig,
};
use mesh_proto::envoy::config::core::v3 as core;
use mesh_proto::envoy::r#type::v3::Percent;
use mesh_proto::google::protobuf;

use super::super::wire;
use super::protocol::Http;

/// Sets what a policy says of a cluster; TLS is set elsewhere.
pub(super) fn apply(cluster: &mut cds::Cluster, http: &mut Http, policy: &PortTrafficPolicy) {
    if let Some(pool) = &policy.connection_pool {
        limit(cluster, pool);
        if let Some(tcp) = &pool.tcp {
            connect(cluster, tcp);
        }
        http.common = common(pool);
        if let Some(pool) = &pool.http {
            http.upgrade = pool.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade);
            http.http2 = http2(pool);
        }
    }
    if let Some(balancer) = &policy.load_balancer
        && cluster.lb_policy() != LbPolicy::ClusterProvided
    {
        balance(cluster, balancer);
    }
    if let Some(detection) = &policy.outlier_detection {
        cluster.outlier_detection = Some(outlier(detection));
        if let Some(config) = &mut cluster.common_lb_config {
            config.healthy_panic_threshold = Some(Percent {
                value: detection.min_health_percent.into(),
            });
        }
    }
}

fn limit(cluster: &mut cds::Cluster, pool: &ConnectionPool) {
    let thresholds = cluster
        .circuit_breakers
        .iter_mut()
        .flat_map(|breakers| &mut breakers.thresholds);
    for threshold in thresholds {
        // To Istio nought is a limit that nobody set; to Envoy it would be one that lets nothing by.
        let set = |field: &mut Option<protobuf::UInt32Value>, value: Option<u32>| {
            if let Some(limit) = value.and_then(some) {
                *field = Some(limit);
            }
        };
        if let Some(tcp) = &pool.tcp {
            set(&mut threshold.max_connections, tcp.max_connections);
        }
        if let Some(http) = &pool.http {
            set(
                &mut threshold.max_pending_requests,
                http.http1_max_pending_requests,
            );
            set(&mut threshold.max_requests, http.http2_max_requests);
            set(&mut threshold.max_retries, http.max_retries);
        }
    }
}

fn connect(cluster: &mut cds::Cluster, tcp: &TcpConnectionPool) {
    if let Some(timeout) = tcp.connect_timeout {
        cluster.connect_timeout = wire::duration(timeout.as_std());
    }
    if let Some(keepalive) = &tcp.tcp_keepalive {
        let seconds = |duration: Option<Duration>| {
            let seconds = duration?.as_std().as_secs();
            wire::uint(u32::try_from(seconds).unwrap_or(u32::MAX))
        };
        cluster.upstream_connection_options = Some(cds::UpstreamConnectionOptions {
            tcp_keepalive: Some(core::TcpKeepalive {
                keepalive_probes: keepalive.probes.and_then(wire::uint),
                keepalive_time: seconds(keepalive.time),
                keepalive_interval: seconds(keepalive.interval),
            }),
            ..Default::default()
        });
    }
}

/// Limits of each connection that carries HTTP.
fn common(pool: &ConnectionPool) -> Option<core::HttpProtocolOptions> {
    let http = pool.http.as_ref();
    let tcp = pool.tcp.as_ref();
    let options = core::HttpProtocolOptions {
        idle_timeout: length(http.and_then(|http| http.idle_timeout)),
        max_connection_duration: length(tcp.and_then(|tcp| tcp.max_connection_duration)),
        max_requests_per_connection: http.and_then(|http| some(http.max_requests_per_connection)),
        ..Default::default()
    };
    (options != core::HttpProtocolOptions::default()).then_some(options)
}

fn http2(pool: &HttpConnectionPool) -> core::Http2ProtocolOptions {
    core::Http2ProtocolOptions {
        max_concurrent_streams: pool.max_concurrent_streams.and_then(some),
        connection_keepalive: pool.http2_keep_alive.as_ref().and_then(|keepalive| {
            Some(core::KeepaliveSettings {
                interval: Some(length(keepalive.interval)?),
                timeout: Some(length(keepalive.timeout)?),
                ..Default::default()
            })
        }),
        ..Default::default()
    }
}

fn balance(cluster: &mut cds::Cluster, balancer: &LoadBalancer) {
    if let Some(hash) = &balancer.consistent_hash {
        hashed(cluster, hash);
        return;
    }
    let slow_start = slow_start(balancer);
    let (policy, config) = match balancer.simple.unwrap_or_default() {
        SimpleLoadBalancer::RoundRobin => {
            let config = slow_start.map(|slow_start| RoundRobinLbConfig {
                slow_start_config: Some(slow_start),
            });
            (
                LbPolicy::RoundRobin,
                config.map(LbConfig::RoundRobinLbConfig),
            )
        }
        SimpleLoadBalancer::Random => (LbPolicy::Random, None),
        _ => {
            let config = slow_start.map(|slow_start| LeastRequestLbConfig {
                slow_start_config: Some(slow_start),
                ..Default::default()
            });
            (
                LbPolicy::LeastRequest,
                config.map(LbConfig::LeastRequestLbConfig),
            )
        }
    };
    cluster.lb_policy = policy.into();
    cluster.lb_config = config;
}

/// Chooses an endpoint by what the route hashes.
fn hashed(cluster: &mut cds::Cluster, hash: &ConsistentHash) {
    if let Some(maglev) = &hash.maglev {
        cluster.lb_policy = LbPolicy::Maglev.into();
        cluster.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig {
            table_size: long(maglev.table_size),
        }));
        return;
    }
    let size = hash
        .ring_hash
        .as_ref()
        .map_or(0, |ring| ring.minimum_ring_size);
    cluster.lb_policy = LbPolicy::RingHash.into();
    cluster.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
        minimum_ring_size: long(size).or_else(|| long(hash.minimum_ring_size)),
        ..Default::default()
    }));
}

/// Gives new endpoints their share little by little.
fn slow_start(balancer: &LoadBalancer) -> Option<SlowStartConfig> {
    let warmup = balancer.warmup.as_ref();
    let window = warmup.map_or(balancer.warmup_duration_secs, |warmup| warmup.duration)?;
    Some(SlowStartConfig {
        slow_start_window: length(Some(window)),
        aggression: warmup
            .and_then(|warmup| warmup.aggression)
            .map(|default_value| core::RuntimeDouble {
                default_value,
                // Envoy wants a key, though nobody sets it at run time.
                runtime_key: "upstream.slow_start.aggression".to_owned(),
            }),
        min_weight_percent: warmup
            .and_then(|warmup| warmup.minimum_percent)
            .map(|value| Percent { value }),
    })
}

fn outlier(detection: &OutlierDetection) -> cds::OutlierDetection {
    // A number of nought switches a reason off.
    let enforced = |errors: Option<u32>| wire::uint(if errors? > 0 { 100 } else { 0 });
    let counted = |errors: Option<u32>| some(errors.unwrap_or_default());
    let errors = detection.consecutive_errors;
    let of_server = detection
        .consecutive_5xx_errors
        .or_else(|| (errors > 0).then_some(errors));
    let of_gateway = detection.consecutive_gateway_errors;
    let of_connection = detection.consecutive_local_origin_failures;
    cds::OutlierDetection {
        consecutive_5xx: counted(of_server),
        enforcing_consecutive_5xx: enforced(of_server),
        consecutive_gateway_failure: counted(of_gateway),
        enforcing_consecutive_gateway_failure: enforced(of_gateway),
        split_external_local_origin_errors: detection.split_external_local_origin_errors,
        consecutive_local_origin_failure: counted(of_connection),
        enforcing_consecutive_local_origin_failure: enforced(of_connection),
        interval: length(detection.interval),
        base_ejection_time: length(detection.base_ejection_time),
        max_ejection_percent: some(detection.max_ejection_percent),
        // Statistics over all endpoints would eject some without anybody having asked for it.
        enforcing_success_rate: wire::uint(0),
        ..Default::default()
    }
}

fn length(duration: Option<Duration>) -> Option<protobuf::Duration> {
    duration.and_then(|duration| wire::duration(duration.as_std()))
}

/// A number, where nought means that none was given.
fn some(value: u32) -> Option<protobuf::UInt32Value> {
    (value > 0).then_some(protobuf::UInt32Value { value })
}

fn long(value: u64) -> Option<protobuf::UInt64Value> {
    (value > 0).then_some(protobuf::UInt64Value { value })
}
