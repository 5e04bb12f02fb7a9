//! What Kubernetes' own kinds must be.

use serde_json::Value;

use super::Findings;
use crate::api::kind::Kind;

pub(super) fn check(_kind: Kind, _object: &Value, _findings: &mut Findings) {}
