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
    let error = match abort.http_status {
        Some(status) => ErrorType::HttpStatus(status),
        None => ErrorType::GrpcStatus(abort.grpc_code()?),
    };
    let share = abort.percentage.map_or(100.0, |Percent { value }| value);
    Some(FaultAbort {
        percentage: Some(wire::fraction(share)),
        error_type: Some(error),
        ..Default::default()
    })
}
