//! The fields that Istio has and this mesh does not act on, as data.

use serde_json::Value;

use super::IstioKind;

/// Paths of fields that have no effect, below `spec`; `[]` is each element of a list.
///
/// They are kept and named in a warning. In the kinds of security they are refused instead: a
/// condition that is dropped would make a policy weaker than its author wrote it.
pub(super) fn fields(kind: IstioKind) -> &'static [&'static str] {
    match kind {
        IstioKind::VirtualService => VIRTUAL_SERVICE,
        IstioKind::DestinationRule => DESTINATION_RULE,
        IstioKind::ServiceEntry => &["endpoints[].network"],
        IstioKind::WorkloadEntry => &["network"],
        IstioKind::PeerAuthentication => &[],
        IstioKind::AuthorizationPolicy => AUTHORIZATION_POLICY,
    }
}

/// The paths of `fields` that a specification has.
pub(super) fn present(spec: &Value, fields: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for field in fields {
        collect(spec, field, "spec", &mut found);
    }
    found
}

/// Adds the places at which `rest` of a path leads to a value.
fn collect(value: &Value, rest: &str, path: &str, found: &mut Vec<String>) {
    let (name, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let (name, each) = match name.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let Some(value) = value.get(name).filter(|value| !value.is_null()) else {
        return;
    };
    let path = format!("{path}.{name}");
    match (each, rest) {
        (true, _) => {
            for (index, element) in value.as_array().into_iter().flatten().enumerate() {
                collect(element, rest, &format!("{path}[{index}]"), found);
            }
        }
        (false, "") => found.push(path),
        (false, _) => collect(value, rest, &path, found),
    }
}

const VIRTUAL_SERVICE: &[&str] = &[
    "tls",
    "http[].match[].statPrefix",
    "http[].delegate",
    "http[].mirror",
    "http[].mirrors",
    "http[].mirrorPercent",
    "http[].mirror_percent",
    "http[].mirrorPercentage",
    "http[].corsPolicy",
    "http[].retries.retryRemoteLocalities",
    "http[].retries.retryIgnorePreviousHosts",
    "http[].retries.backoff",
    "http[].fault.delay.exponentialDelay",
    "http[].fault.abort.http2Error",
    "tcp[].match[].destinationSubnets",
    "tcp[].match[].sourceSubnet",
];

const DESTINATION_RULE: &[&str] = &["workloadSelector"];

const AUTHORIZATION_POLICY: &[&str] = &[
    "targetRef",
    "targetRefs",
    "provider",
    "rules[].from[].source.requestPrincipals",
    "rules[].from[].source.notRequestPrincipals",
    "rules[].from[].source.trustDomains",
    "rules[].from[].source.notTrustDomains",
    "rules[].from[].source.remoteIpBlocks",
    "rules[].from[].source.notRemoteIpBlocks",
];
