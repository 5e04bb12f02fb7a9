//! Istio's standard metrics, bounded: no reporter can fill the memory with labels.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_model::SpiffeId;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::sample::{Labels, Sample};

/// Istio's standard metrics.
///
/// Source: "Istio Standard Metrics" of Istio's reference, and the buckets of its proxies.
pub struct Metrics {
    bounds: Bounds,
    requests: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    request_bytes: Family<Labels, Histogram, fn() -> Histogram>,
    response_bytes: Family<Labels, Histogram, fn() -> Histogram>,
    opened: Family<Labels, Counter>,
    closed: Family<Labels, Counter>,
    received: Family<Labels, Counter>,
    sent: Family<Labels, Counter>,
    overflowed: Counter,
    series: Mutex<Series>,
}

/// How many label sets are kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of all reporters together.
    pub total: usize,
    /// Of one reporter, so that it cannot take the room of the others.
    pub per_reporter: usize,
}

/// The label sets that have a place, with what is counted for each.
#[derive(Default)]
struct Series {
    requests: HashMap<Labels, OfRequests>,
    connections: HashMap<Labels, OfConnections>,
    per_reporter: HashMap<SpiffeId, usize>,
}

#[derive(Clone)]
struct OfRequests {
    count: Counter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

#[derive(Clone)]
struct OfConnections {
    opened: Counter,
    closed: Counter,
    received: Counter,
    sent: Counter,
}

/// Upper bounds of the histograms' buckets, milliseconds and bytes: those of Istio's proxies,
/// so that dashboards made for Istio fit.
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

// === impl Bounds ===

impl Default for Bounds {
    /// 20,000 and 2,000: some 100 MB at most, a request's set takes about 5 KB.
    fn default() -> Self {
        Self {
            total: 20_000,
            per_reporter: 2_000,
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Metrics within `bounds`, in `registry`.
    pub fn new(bounds: Bounds, registry: &mut Registry) -> Self {
        fn histogram() -> Histogram {
            Histogram::new(BUCKETS)
        }
        let histograms = || Family::new_with_constructor(histogram as fn() -> Histogram);
        let metrics = Self {
            bounds,
            requests: Family::default(),
            durations: histograms(),
            request_bytes: histograms(),
            response_bytes: histograms(),
            opened: Family::default(),
            closed: Family::default(),
            received: Family::default(),
            sent: Family::default(),
            overflowed: Counter::default(),
            series: Mutex::default(),
        };
        let mut counter = |name: &str, help: &str, family: &Family<Labels, Counter>| {
            registry.register(name, help, family.clone());
        };
        counter("istio_requests", "Requests", &metrics.requests);
        counter(
            "istio_tcp_connections_opened",
            "Connections that began",
            &metrics.opened,
        );
        counter(
            "istio_tcp_connections_closed",
            "Connections that ended",
            &metrics.closed,
        );
        counter(
            "istio_tcp_received_bytes",
            "Bytes that callers sent on connections that ended",
            &metrics.received,
        );
        counter(
            "istio_tcp_sent_bytes",
            "Bytes that callers got on connections that ended",
            &metrics.sent,
        );
        registry.register(
            "istio_request_duration_milliseconds",
            "Time from the first byte of a request to the last of its response",
            metrics.durations.clone(),
        );
        registry.register(
            "istio_request_bytes",
            "Size of requests, headers included",
            metrics.request_bytes.clone(),
        );
        registry.register(
            "istio_response_bytes",
            "Size of responses, headers included",
            metrics.response_bytes.clone(),
        );
        registry.register(
            "mesh_mixer_overflowed_samples",
            "Samples that were not counted because there were too many different label sets",
            metrics.overflowed.clone(),
        );
        metrics
    }

    /// Counts what `reporter` reports; `begins` is whether a closed connection was not seen to begin.
    pub fn record(&self, reporter: &SpiffeId, sample: Sample, begins: bool) {
        match sample {
            Sample::Request {
                labels,
                duration,
                request_bytes,
                response_bytes,
            } => {
                let Some(series) = self.of_requests(reporter, labels) else {
                    return;
                };
                series.count.inc();
                series.duration.observe(milliseconds(duration));
                series.request_bytes.observe(size(request_bytes));
                series.response_bytes.observe(size(response_bytes));
            }
            Sample::Opened { labels, .. } => {
                if let Some(series) = self.of_connections(reporter, labels) {
                    series.opened.inc();
                }
            }
            Sample::Closed {
                labels,
                received_bytes,
                sent_bytes,
                ..
            } => {
                let Some(series) = self.of_connections(reporter, labels) else {
                    return;
                };
                if begins {
                    series.opened.inc();
                }
                series.closed.inc();
                series.received.inc_by(received_bytes);
                series.sent.inc_by(sent_bytes);
            }
        }
    }

    fn of_requests(&self, reporter: &SpiffeId, labels: Labels) -> Option<OfRequests> {
        let mut series = self.series();
        if let Some(found) = series.requests.get(&labels) {
            return Some(found.clone());
        }
        self.take_place(&mut series, reporter)?;
        let made = OfRequests {
            count: self.requests.get_or_create_owned(&labels),
            duration: self.durations.get_or_create_owned(&labels),
            request_bytes: self.request_bytes.get_or_create_owned(&labels),
            response_bytes: self.response_bytes.get_or_create_owned(&labels),
        };
        series.requests.insert(labels, made.clone());
        Some(made)
    }

    fn of_connections(&self, reporter: &SpiffeId, labels: Labels) -> Option<OfConnections> {
        let mut series = self.series();
        if let Some(found) = series.connections.get(&labels) {
            return Some(found.clone());
        }
        self.take_place(&mut series, reporter)?;
        let made = OfConnections {
            opened: self.opened.get_or_create_owned(&labels),
            closed: self.closed.get_or_create_owned(&labels),
            received: self.received.get_or_create_owned(&labels),
            sent: self.sent.get_or_create_owned(&labels),
        };
        series.connections.insert(labels, made.clone());
        Some(made)
    }

    /// A place for one more label set, unless there is none: then the sample only counts as such.
    fn take_place(&self, series: &mut Series, reporter: &SpiffeId) -> Option<()> {
        let total = series.requests.len() + series.connections.len();
        let taken = series.per_reporter.get(reporter).copied().unwrap_or(0);
        if total >= self.bounds.total || taken >= self.bounds.per_reporter {
            self.overflowed.inc();
            return None;
        }
        series.per_reporter.insert(reporter.clone(), taken + 1);
        Some(())
    }

    fn series(&self) -> MutexGuard<'_, Series> {
        // A panic while it was held left at most one label set half registered.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Bytes as a histogram takes them: exact up to 2⁵³, far beyond any message.
#[expect(
    clippy::cast_precision_loss,
    reason = "a size beyond 2^53 bytes loses its last digits in the sum"
)]
fn size(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::super::sample::Reporter;
    use super::super::sample::tests::{DETAILS, PRODUCTPAGE, request};
    use super::*;

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    fn request_of(code: u32) -> Sample {
        let tags = [("peer", DETAILS), ("service", "details.shop.mesh")];
        Sample::of_http(&request(&tags, code), Reporter::Source, &id(PRODUCTPAGE)).unwrap()
    }

    #[test]
    fn requests_are_counted_as_istio_names_them() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(Bounds::default(), &mut registry);
        for _ in 0..3 {
            metrics.record(&id(PRODUCTPAGE), request_of(200), false);
        }
        metrics.record(&id(PRODUCTPAGE), request_of(503), false);
        let text = text(&registry);
        let line = "istio_requests_total{reporter=\"source\",\
            source_principal=\"spiffe://cluster.local/ns/shop/sa/productpage\",\
            source_workload_namespace=\"shop\",\
            destination_principal=\"spiffe://cluster.local/ns/shop/sa/details\",\
            destination_workload_namespace=\"shop\",\
            destination_service=\"details.shop.mesh\",destination_service_name=\"details\",\
            destination_service_namespace=\"shop\",request_protocol=\"http\",\
            response_code=\"200\",response_flags=\"-\",\
            connection_security_policy=\"mutual_tls\"} 3";
        assert!(text.contains(line), "{text}");
        for name in [
            "istio_request_duration_milliseconds_bucket",
            "istio_request_bytes_sum",
            "istio_response_bytes_count",
        ] {
            assert!(text.contains(name), "{name}");
        }
    }

    #[test]
    fn a_connection_without_a_seen_beginning_counts_as_begun() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(Bounds::default(), &mut registry);
        let closed = |stream_id: &str| {
            let Sample::Request { labels, .. } = request_of(200) else {
                panic!("not a request");
            };
            Sample::Closed {
                labels,
                stream_id: stream_id.to_owned(),
                received_bytes: 10,
                sent_bytes: 20,
            }
        };
        metrics.record(&id(PRODUCTPAGE), closed("1"), true);
        metrics.record(&id(PRODUCTPAGE), closed("2"), false);
        let text = text(&registry);
        let ends = |name: &str, value: &str| {
            let found = text.lines().any(|line| {
                line.starts_with(&format!("{name}{{")) && line.ends_with(&format!("}} {value}"))
            });
            assert!(found, "{name} {value} in {text}");
        };
        ends("istio_tcp_connections_opened_total", "1");
        ends("istio_tcp_connections_closed_total", "2");
        ends("istio_tcp_received_bytes_total", "20");
        ends("istio_tcp_sent_bytes_total", "40");
    }

    #[test]
    fn one_reporter_cannot_take_the_room_of_another() {
        let mut registry = Registry::default();
        let bounds = Bounds {
            total: 100,
            per_reporter: 10,
        };
        let metrics = Metrics::new(bounds, &mut registry);
        for code in 0..1000 {
            metrics.record(&id(PRODUCTPAGE), request_of(code), false);
        }
        metrics.record(&id(DETAILS), request_of(1000), false);
        let text = text(&registry);
        let count = text
            .lines()
            .filter(|line| line.starts_with("istio_requests_total{"))
            .count();
        assert_eq!(count, 11);
        assert!(text.contains("mesh_mixer_overflowed_samples_total 990"));
        // What has its place goes on being counted.
        metrics.record(&id(PRODUCTPAGE), request_of(0), false);
        let found = self::text(&registry);
        let again = found
            .lines()
            .any(|line| line.contains("response_code=\"0\"") && line.ends_with("} 2"));
        assert!(again, "{found}");
    }
}
