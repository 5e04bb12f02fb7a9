//! Istio's rules for a `DestinationRule`.

use std::collections::BTreeSet;

use super::{
    ClientTls, ConnectionPool, ConsistentHash, DestinationRule, HttpCookie, LoadBalancer,
    OutlierDetection, PortTrafficPolicy, TlsMode, TrafficPolicy, Warmup,
};
use crate::ObjectMeta;
use crate::istio::report::Report;

/// Envoy's largest ring, in places.
const LARGEST_RING: u64 = 8_388_608;
/// Envoy's longest server name for TLS, in bytes.
const LONGEST_SNI: usize = 255;
/// Envoy's largest table for Maglev, which must also be a prime.
const LARGEST_MAGLEV: u64 = 5_000_011;

impl DestinationRule {
    /// Adds what is wrong with it and what may surprise.
    pub(in crate::istio) fn validate(&self, metadata: &ObjectMeta, report: &mut Report) {
        report.wildcard_host("spec.host", &self.host);
        if let Some(policy) = &self.traffic_policy {
            traffic_policy(policy, "spec.trafficPolicy", report);
        }
        let mut names = BTreeSet::new();
        for (index, subset) in self.subsets.iter().enumerate() {
            let path = format!("spec.subsets[{index}]");
            report.label(&format!("{path}.name"), &subset.name);
            if !names.insert(&subset.name) {
                let expected = "a name that no subset before has";
                report.wrong(format!("{path}.name"), &subset.name, expected);
            }
            report.labels(&format!("{path}.labels"), &subset.labels);
            if let Some(policy) = &subset.traffic_policy {
                traffic_policy(policy, &format!("{path}.trafficPolicy"), report);
            }
        }
        report.export_to(&metadata.namespace, &self.export_to, false);
        if let Some(selector) = &self.workload_selector {
            report.labels("spec.workloadSelector.matchLabels", &selector.match_labels);
        }
    }
}

fn traffic_policy(policy: &TrafficPolicy, path: &str, report: &mut Report) {
    if *policy == TrafficPolicy::default() {
        report.wrong(path, "", "at least one field");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        report.wrong(
            path,
            "tunnel and proxyProtocol",
            "only one of `tunnel` and `proxyProtocol`",
        );
    }
    let TrafficPolicy {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
        ..
    } = policy;
    let parts = Parts {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
    };
    parts.validate(path, report);

    report.limit(
        format!("{path}.portLevelSettings"),
        policy.port_level_settings.len(),
        4096,
    );
    let mut numbers = BTreeSet::new();
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{index}]");
        let number = settings.port.as_ref().map_or(0, |port| port.number);
        report.port(&format!("{path}.port.number"), number);
        if !numbers.insert(number) {
            let expected = "a port that has no settings before";
            report.wrong(format!("{path}.port.number"), &number.to_string(), expected);
        }
        let PortTrafficPolicy {
            load_balancer,
            connection_pool,
            outlier_detection,
            tls,
            ..
        } = settings;
        let parts = Parts {
            load_balancer,
            connection_pool,
            outlier_detection,
            tls,
        };
        if parts.is_empty() {
            report.wrong(&path, "", "at least one field besides `port`");
        }
        parts.validate(&path, report);
    }
}

/// What the policies of a host, a subset and a port have in common.
struct Parts<'a> {
    load_balancer: &'a Option<LoadBalancer>,
    connection_pool: &'a Option<ConnectionPool>,
    outlier_detection: &'a Option<OutlierDetection>,
    tls: &'a Option<ClientTls>,
}

impl Parts<'_> {
    fn is_empty(&self) -> bool {
        self.load_balancer.is_none()
            && self.connection_pool.is_none()
            && self.outlier_detection.is_none()
            && self.tls.is_none()
    }

    fn validate(&self, path: &str, report: &mut Report) {
        if let Some(outlier) = self.outlier_detection {
            outlier_detection(outlier, &format!("{path}.outlierDetection"), report);
        }
        if let Some(pool) = self.connection_pool {
            connection_pool(pool, &format!("{path}.connectionPool"), report);
        }
        if let Some(balancer) = self.load_balancer {
            load_balancer(balancer, &format!("{path}.loadBalancer"), report);
        }
        if let Some(settings) = self.tls {
            tls(settings, &format!("{path}.tls"), report);
        }
    }
}

fn outlier_detection(outlier: &OutlierDetection, path: &str, report: &mut Report) {
    report.duration(
        &format!("{path}.baseEjectionTime"),
        outlier.base_ejection_time,
    );
    report.duration(&format!("{path}.interval"), outlier.interval);
    for (name, percent) in [
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ] {
        let right = percent <= 100;
        report.demand(
            right,
            format!("{path}.{name}"),
            &percent.to_string(),
            "at most 100",
        );
    }
    let local = outlier.consecutive_local_origin_failures.unwrap_or(0);
    if local > 0 && !outlier.split_external_local_origin_errors {
        let path = format!("{path}.consecutiveLocalOriginFailures");
        let expected = "used without `splitExternalLocalOriginErrors: true`";
        report.wrong(path, &local.to_string(), expected);
    }
    if outlier.consecutive_errors > 0 {
        report.warn(
            &format!("{path}.consecutiveErrors"),
            "is without effect; use `consecutiveGatewayErrors` or `consecutive5xxErrors`",
        );
    }
    for (index, code) in outlier
        .outlier_detection_http_error_codes
        .iter()
        .enumerate()
    {
        let path = format!("{path}.outlierDetectionHttpErrorCodes[{index}]");
        let right = (100..=599).contains(code);
        report.demand(right, path, &code.to_string(), "a status from 100 to 599");
    }
}

fn connection_pool(pool: &ConnectionPool, path: &str, report: &mut Report) {
    if pool.http.is_none() && pool.tcp.is_none() {
        report.wrong(path, "", "`http` or `tcp`");
    }
    // Istio's numbers are signed, and a negative one is refused when it is read.
    let number = |name: &str, number: Option<u32>, report: &mut Report| {
        let number = number.unwrap_or(0);
        let right = i32::try_from(number).is_ok();
        report.demand(
            right,
            format!("{path}.{name}"),
            &number.to_string(),
            "at most 2147483647",
        );
    };
    if let Some(tcp) = &pool.tcp {
        number("tcp.maxConnections", tcp.max_connections, report);
        report.duration(&format!("{path}.tcp.connectTimeout"), tcp.connect_timeout);
        report.duration(
            &format!("{path}.tcp.maxConnectionDuration"),
            tcp.max_connection_duration,
        );
        let idle = tcp.idle_timeout.filter(|idle| !idle.as_std().is_zero());
        report.duration(&format!("{path}.tcp.idleTimeout"), idle);
        if let Some(keepalive) = &tcp.tcp_keepalive {
            report.duration(&format!("{path}.tcp.tcpKeepalive.time"), keepalive.time);
            report.duration(
                &format!("{path}.tcp.tcpKeepalive.interval"),
                keepalive.interval,
            );
        }
    }
    if let Some(http) = &pool.http {
        number(
            "http.http1MaxPendingRequests",
            http.http1_max_pending_requests,
            report,
        );
        number("http.http2MaxRequests", http.http2_max_requests, report);
        let per_connection = Some(http.max_requests_per_connection);
        number("http.maxRequestsPerConnection", per_connection, report);
        number("http.maxRetries", http.max_retries, report);
        number(
            "http.maxConcurrentStreams",
            http.max_concurrent_streams,
            report,
        );
        report.duration(&format!("{path}.http.idleTimeout"), http.idle_timeout);
        if let Some(keepalive) = &http.http2_keep_alive {
            for (name, time) in [
                ("interval", keepalive.interval),
                ("timeout", keepalive.timeout),
            ] {
                let path = format!("{path}.http.http2KeepAlive.{name}");
                report.demand(time.is_some(), &path, "", "a duration");
                report.duration(&path, time);
            }
        }
    }
}

fn load_balancer(balancer: &LoadBalancer, path: &str, report: &mut Report) {
    let ways = [
        ("simple", balancer.simple.is_some()),
        ("consistentHash", balancer.consistent_hash.is_some()),
        ("backendUtilization", balancer.backend_utilization.is_some()),
    ];
    let found: Vec<_> = ways
        .iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| *name)
        .collect();
    if found.len() > 1 {
        let expected = "only one of `simple`, `consistentHash`, `backendUtilization`";
        report.wrong(path, &found.join(" and "), expected);
    }
    if balancer.locality_lb_setting.is_some() && balancer.zone_aware_lb_setting.is_some() {
        let expected = "only one of `localityLbSetting` and `zoneAwareLbSetting`";
        report.wrong(path, "localityLbSetting and zoneAwareLbSetting", expected);
    }
    if balancer.simple == Some(super::SimpleLoadBalancer::Passthrough) {
        report.warn(
            &format!("{path}.simple"),
            "`PASSTHROUGH` is not supported, and without effect",
        );
    }
    if let Some(hash) = &balancer.consistent_hash {
        consistent_hash(hash, &format!("{path}.consistentHash"), report);
    }
    report.duration(
        &format!("{path}.warmupDurationSecs"),
        balancer.warmup_duration_secs,
    );
    if let Some(settings) = &balancer.warmup {
        warmup(settings, &format!("{path}.warmup"), report);
    }
}

fn warmup(warmup: &Warmup, path: &str, report: &mut Report) {
    let over = format!("{path}.duration");
    report.demand(warmup.duration.is_some(), &over, "", "a duration");
    report.duration(&over, warmup.duration);
    let share = warmup.minimum_percent.unwrap_or(0.0);
    let path_of_share = format!("{path}.minimumPercent");
    let right = (0.0..=100.0).contains(&share);
    report.demand(right, path_of_share, &share.to_string(), "from 0 to 100");
    let growth = warmup.aggression.unwrap_or(1.0);
    let right = growth >= 1.0 && growth.is_finite();
    report.demand(
        right,
        format!("{path}.aggression"),
        &growth.to_string(),
        "at least 1",
    );
}

fn consistent_hash(hash: &ConsistentHash, path: &str, report: &mut Report) {
    let keys = [
        ("httpHeaderName", hash.http_header_name.is_some()),
        ("httpCookie", hash.http_cookie.is_some()),
        ("useSourceIp", hash.use_source_ip.is_some()),
        (
            "httpQueryParameterName",
            hash.http_query_parameter_name.is_some(),
        ),
    ];
    let found: Vec<_> = keys
        .iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| *name)
        .collect();
    if found.len() != 1 {
        let expected = "one of `httpHeaderName`, `httpCookie`, `useSourceIp`, \
                        `httpQueryParameterName`";
        report.wrong(path, &found.join(" and "), expected);
    }
    if let Some(name) = &hash.http_header_name {
        // `:authority` and its like are hashed as headers are.
        let plain = name.strip_prefix(':').unwrap_or(name);
        report.header_name(&format!("{path}.httpHeaderName"), plain);
    }
    if hash.http_query_parameter_name.as_deref() == Some("") {
        report.wrong(format!("{path}.httpQueryParameterName"), "", "a name");
    }
    if let Some(of_cookie) = &hash.http_cookie {
        cookie(of_cookie, &format!("{path}.httpCookie"), report);
    }
    let ring = hash.ring_hash.as_ref();
    for (name, size) in [
        ("minimumRingSize", hash.minimum_ring_size),
        (
            "ringHash.minimumRingSize",
            ring.map_or(0, |ring| ring.minimum_ring_size),
        ),
    ] {
        let right = size <= LARGEST_RING;
        let expected = "at most 8388608";
        report.demand(right, format!("{path}.{name}"), &size.to_string(), expected);
    }
    let tables = [
        hash.minimum_ring_size > 0,
        hash.ring_hash.is_some(),
        hash.maglev.is_some(),
    ];
    if tables.iter().filter(|is| **is).count() > 1 {
        let expected = "only one of `minimumRingSize`, `ringHash`, `maglev`";
        report.wrong(path, "more than one", expected);
    }
    if let Some(maglev) = &hash.maglev {
        let size = maglev.table_size;
        let right = size < LARGEST_MAGLEV && is_prime(size);
        let expected = "a prime below 5000011";
        report.demand(
            right,
            format!("{path}.maglev.tableSize"),
            &size.to_string(),
            expected,
        );
    }
}

/// Its parts become parts of a `Set-Cookie` header.
fn cookie(cookie: &HttpCookie, path: &str, report: &mut Report) {
    report.header_name(&format!("{path}.name"), &cookie.name);
    report.header_text(&format!("{path}.path"), &cookie.path);
    for (index, attribute) in cookie.attributes.iter().enumerate() {
        let path = format!("{path}.attributes[{index}]");
        report.header_name(&format!("{path}.name"), &attribute.name);
        report.header_text(&format!("{path}.value"), &attribute.value);
    }
}

fn tls(tls: &ClientTls, path: &str, report: &mut Report) {
    let by_name = !tls.credential_name.is_empty();
    report.limit(format!("{path}.sni"), tls.sni.len(), LONGEST_SNI);
    report.header_text(&format!("{path}.sni"), &tls.sni);
    for (index, name) in tls.subject_alt_names.iter().enumerate() {
        let path = format!("{path}.subjectAltNames[{index}]");
        report.demand(!name.is_empty(), &path, "", "a name");
        report.header_text(&path, name);
    }
    if tls.insecure_skip_verify == Some(true)
        && matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual)
        && (!tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty())
    {
        let expected = "used without `caCertificates` and `subjectAltNames`, which it would undo";
        report.wrong(format!("{path}.insecureSkipVerify"), "true", expected);
    }
    if tls.mode == TlsMode::Mutual && !by_name {
        for (name, file) in [
            ("clientCertificate", &tls.client_certificate),
            ("privateKey", &tls.private_key),
        ] {
            report.demand(
                !file.is_empty(),
                format!("{path}.{name}"),
                "",
                "a file, for `MUTUAL`",
            );
        }
    }
    if by_name && matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual) {
        for (name, file) in [
            ("clientCertificate", &tls.client_certificate),
            ("privateKey", &tls.private_key),
            ("caCertificates", &tls.ca_certificates),
            ("caCrl", &tls.ca_crl),
        ] {
            let expected = "used without `credentialName`, which stands for it";
            report.demand(file.is_empty(), format!("{path}.{name}"), file, expected);
        }
    }
}

fn is_prime(number: u64) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}
