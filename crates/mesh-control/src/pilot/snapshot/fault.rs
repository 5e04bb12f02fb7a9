//! Faults made on purpose, to test callers.

use mesh_model::istio::shared::Percent;
use mesh_model::istio::virtual_service::{Abort, Delay, Fault};
use mesh_proto::envoy::extensions::filters::common::fault::v3::FaultDelay;
use mesh_proto::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use mesh_proto::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use mesh_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};

use super::wire;

/// The fault filter's configuration of one route.
pub(super) fn of(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.as_ref().and_then(delay),
        abort: fault.abort.as_ref().and_then(abort),
        ..Default::default()
    }
}

fn delay(delay: &Delay) -> Option<FaultDelay> {
    let percent = match (delay.percentage, delay.percent) {
        (Some(percentage), _) => percentage.value,
        (None, 0) => 100.0,
        (None, percent) => percent.into(),
    };
    Some(FaultDelay {
        percentage: Some(wire::fraction(percent)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(wire::duration(
            delay.fixed_delay?.as_std(),
        )?)),
    })
}

fn abort(abort: &Abort) -> Option<FaultAbort> {
    let error = match (abort.http_status, &abort.grpc_status) {
        (Some(status), _) => ErrorType::HttpStatus(status),
        (None, Some(name)) => ErrorType::GrpcStatus(grpc_code(name)?),
        (None, None) => return None,
    };
    let share = abort.percentage.map_or(100.0, |Percent { value }| value);
    Some(FaultAbort {
        percentage: Some(wire::fraction(share)),
        error_type: Some(error),
        ..Default::default()
    })
}

/// The number of a gRPC status by its name, as in gRPC's own list of status codes.
fn grpc_code(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|code| u32::try_from(code).ok())
}
