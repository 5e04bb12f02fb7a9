//! What an access log entry counts as.

use std::collections::BTreeMap;

use mesh_proto::envoy::data::accesslog::v3::{
    ConnectionProperties, HttpRequestProperties, HttpResponseProperties,
};
use mesh_proto::google::protobuf;

use super::*;

pub(crate) const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/shop/sa/productpage";
pub(crate) const DETAILS: &str = "spiffe://cluster.local/ns/shop/sa/details";

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(crate) fn common(tags: &[(&str, &str)]) -> AccessLogCommon {
    AccessLogCommon {
        custom_tags: tags
            .iter()
            .map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned()))
            .collect(),
        duration: Some(protobuf::Duration {
            seconds: 1,
            nanos: 500_000_000,
        }),
        ..AccessLogCommon::default()
    }
}

pub(crate) fn request(tags: &[(&str, &str)], code: u32) -> HttpAccessLogEntry {
    HttpAccessLogEntry {
        common_properties: Some(common(tags)),
        request: Some(HttpRequestProperties {
            request_headers_bytes: 100,
            request_body_bytes: 11,
            ..HttpRequestProperties::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: Some(protobuf::UInt32Value { value: code }),
            response_headers_bytes: 200,
            response_body_bytes: 22,
            ..HttpResponseProperties::default()
        }),
        ..HttpAccessLogEntry::default()
    }
}

fn labels_of(sample: Option<Sample>) -> Labels {
    match sample.unwrap() {
        Sample::Request { labels, .. }
        | Sample::Opened { labels, .. }
        | Sample::Closed { labels, .. } => labels,
    }
}

#[test]
fn both_sides_of_a_call_tell_the_same_identities() {
    let service = ("service", "details.shop.mesh");
    let at_source = request(&[("peer", DETAILS), service], 200);
    let at_destination = request(&[("peer", PRODUCTPAGE), service], 200);
    let source = labels_of(Sample::of_http(
        &at_source,
        Reporter::Source,
        &id(PRODUCTPAGE),
    ));
    let destination = labels_of(Sample::of_http(
        &at_destination,
        Reporter::Destination,
        &id(DETAILS),
    ));
    assert_eq!(source.source_principal, PRODUCTPAGE);
    assert_eq!(source.destination_principal, DETAILS);
    assert_eq!(source.destination_service_name, "details");
    assert_eq!(source.destination_service_namespace, "shop");
    assert_eq!(source.connection_security_policy, Security::MutualTls);
    let same = Labels {
        reporter: Reporter::Destination,
        ..source
    };
    assert_eq!(destination, same);
}

#[test]
fn a_request_has_its_sizes_and_duration() {
    let entry = request(&[("peer", DETAILS)], 503);
    let sample = Sample::of_http(&entry, Reporter::Source, &id(PRODUCTPAGE)).unwrap();
    let Sample::Request {
        labels,
        duration,
        request_bytes,
        response_bytes,
    } = sample
    else {
        panic!("not a request: {sample:?}");
    };
    assert_eq!(labels.response_code, "503");
    assert_eq!(duration, Duration::from_millis(1500));
    assert_eq!((request_bytes, response_bytes), (111, 222));
}

#[test]
fn who_proves_nothing_is_unknown() {
    for peer in [
        "",
        "-",
        "spiffe://x",
        "spiffe://a/ns/b/sa/c,spiffe://a/ns/b/sa/d",
    ] {
        let entry = request(&[("peer", peer), ("service", "not a host")], 200);
        let inbound = labels_of(Sample::of_http(&entry, Reporter::Destination, &id(DETAILS)));
        assert_eq!(inbound.source_principal, UNKNOWN);
        assert_eq!(inbound.connection_security_policy, Security::None);
        assert_eq!(inbound.destination_service, UNKNOWN);
        assert_eq!(inbound.destination_service_namespace, "shop");
        let outbound = labels_of(Sample::of_http(&entry, Reporter::Source, &id(DETAILS)));
        assert_eq!(outbound.destination_principal, UNKNOWN);
        assert_eq!(outbound.connection_security_policy, Security::Unknown);
    }
}

#[test]
fn a_host_out_of_the_mesh_is_its_own_name() {
    let host = |host: &str| {
        let entry = request(&[("service", host)], 200);
        let labels = labels_of(Sample::of_http(&entry, Reporter::Source, &id(DETAILS)));
        (
            labels.destination_service_name,
            labels.destination_service_namespace,
        )
    };
    let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    assert_eq!(host("api.example.com"), pair("api.example.com", UNKNOWN));
    assert_eq!(host("a.b.svc.cluster.local"), pair("a", "b"));
    assert_eq!(host("a.b.c.mesh"), pair("a.b.c.mesh", UNKNOWN));
}

#[test]
fn flags_have_envoys_short_names() {
    assert_eq!(flags(None), "-");
    assert_eq!(flags(Some(&ResponseFlags::default())), "-");
    let set = ResponseFlags {
        no_healthy_upstream: true,
        upstream_retry_limit_exceeded: true,
        ..ResponseFlags::default()
    };
    assert_eq!(flags(Some(&set)), "UH,URX");
}

#[test]
fn grpc_is_told_by_its_content_type() {
    let mut entry = request(&[], 200);
    let headers = BTreeMap::from([("content-type".to_owned(), "application/grpc".to_owned())]);
    entry.request.as_mut().unwrap().request_headers = headers;
    let labels = labels_of(Sample::of_http(&entry, Reporter::Source, &id(DETAILS)));
    assert_eq!(labels.request_protocol, "grpc");
}

#[test]
fn requests_count_when_they_are_over() {
    let mut entry = request(&[], 200);
    for (kind, counts) in [
        (AccessLogType::NotSet, true),
        (AccessLogType::DownstreamEnd, true),
        (AccessLogType::DownstreamStart, false),
        (AccessLogType::DownstreamPeriodic, false),
    ] {
        entry.common_properties.as_mut().unwrap().access_log_type = kind.into();
        let sample = Sample::of_http(&entry, Reporter::Source, &id(DETAILS));
        assert_eq!(sample.is_some(), counts, "{kind:?}");
    }
    let empty = HttpAccessLogEntry::default();
    assert!(Sample::of_http(&empty, Reporter::Source, &id(DETAILS)).is_none());
}

#[test]
fn connections_open_and_close() {
    let entry = |kind: AccessLogType| TcpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            access_log_type: kind.into(),
            stream_id: "7".to_owned(),
            ..common(&[("peer", DETAILS)])
        }),
        connection_properties: Some(ConnectionProperties {
            received_bytes: 10,
            sent_bytes: 20,
        }),
    };
    let of = |kind| Sample::of_tcp(&entry(kind), Reporter::Source, &id(PRODUCTPAGE));
    assert!(matches!(
        of(AccessLogType::TcpConnectionStart),
        Some(Sample::Opened { .. })
    ));
    assert!(of(AccessLogType::TcpPeriodic).is_none());
    let closed = of(AccessLogType::TcpConnectionEnd);
    assert!(matches!(
        &closed,
        Some(Sample::Closed { stream_id, received_bytes: 10, sent_bytes: 20, .. })
            if stream_id == "7"
    ));
    assert_eq!(labels_of(closed).request_protocol, "tcp");
}

#[test]
fn times_that_make_no_sense_are_no_panic() {
    let mut entry = request(&[], 200);
    entry.common_properties.as_mut().unwrap().duration = Some(protobuf::Duration {
        seconds: i64::MAX,
        nanos: i32::MAX,
    });
    assert!(Sample::of_http(&entry, Reporter::Source, &id(DETAILS)).is_some());
    entry.common_properties.as_mut().unwrap().duration = Some(protobuf::Duration {
        seconds: -1,
        nanos: -1,
    });
    let sample = Sample::of_http(&entry, Reporter::Source, &id(DETAILS)).unwrap();
    assert!(matches!(sample, Sample::Request { duration, .. } if duration.is_zero()));
}
