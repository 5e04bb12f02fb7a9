//! The fields that Istio has and this mesh does not act on, as data.

use serde_json::Value;

use super::IstioKind;
use super::report::Report;

/// A field that is not acted on.
struct Field {
    /// Its path below `spec`; `[]` is each element of a list.
    path: &'static str,
    /// What follows for the object.
    effect: &'static str,
}

/// Names what an object has of them: in a warning, or, in the kinds of security and at the edge, as
/// problems, because a condition that is dropped would let in more than its author wrote.
pub(super) fn report(kind: IstioKind, spec: &Value, report: &mut Report) {
    match kind {
        IstioKind::VirtualService => warn(spec, VIRTUAL_SERVICE, "", report),
        IstioKind::DestinationRule => {
            warn(spec, DESTINATION_RULE, "", report);
            for policy in ["trafficPolicy.", "subsets[].trafficPolicy."] {
                warn(spec, TRAFFIC_POLICY, policy, report);
                warn(spec, PORT_POLICY, policy, report);
                warn(
                    spec,
                    PORT_POLICY,
                    &format!("{policy}portLevelSettings[]."),
                    report,
                );
            }
        }
        IstioKind::ServiceEntry => warn(spec, WORKLOAD_ENTRY, "endpoints[].", report),
        IstioKind::WorkloadEntry => warn(spec, WORKLOAD_ENTRY, "", report),
        IstioKind::PeerAuthentication => {}
        IstioKind::AuthorizationPolicy => refuse(spec, AUTHORIZATION_POLICY, report),
        IstioKind::Gateway => refuse(spec, GATEWAY, report),
    }
}

fn refuse(spec: &Value, fields: &[Field], report: &mut Report) {
    for field in fields {
        for path in places(spec, field.path) {
            report.wrong(path, "it", field.effect);
        }
    }
}

fn warn(spec: &Value, fields: &[Field], below: &str, report: &mut Report) {
    for field in fields {
        for path in places(spec, &format!("{below}{}", field.path)) {
            report.warn(&path, field.effect);
        }
    }
}

/// The places at which a path leads to a value that is more than an empty one.
fn places(spec: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect(spec, path, "spec", &mut found);
    found
}

fn collect(value: &Value, rest: &str, path: &str, found: &mut Vec<String>) {
    let (name, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let (name, each) = match name.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let Some(value) = value.get(name).filter(|value| !is_zero(value)) else {
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

/// What protobuf takes for an absent field.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

const fn ignored(path: &'static str) -> Field {
    Field {
        path,
        effect: "not supported, and without effect",
    }
}

const fn refused(path: &'static str) -> Field {
    Field {
        path,
        effect: "a condition that this mesh supports",
    }
}

/// Of a server at the edge.
const fn unserved(path: &'static str) -> Field {
    Field {
        path,
        effect: "a setting that this mesh supports",
    }
}

const GATEWAY: &[Field] = &[
    unserved("servers[].bind"),
    unserved("servers[].defaultEndpoint"),
    unserved("servers[].port.targetPort"),
    unserved("servers[].tls.serverCertificate"),
    unserved("servers[].tls.privateKey"),
    unserved("servers[].tls.caCertificates"),
    unserved("servers[].tls.caCrl"),
    unserved("servers[].tls.credentialNames"),
    unserved("servers[].tls.caCertCredentialName"),
    unserved("servers[].tls.tlsCertificates"),
    unserved("servers[].tls.ecdhCurves"),
];

const VIRTUAL_SERVICE: &[Field] = &[
    Field {
        path: "tls",
        effect: "routes gateways only: in the mesh, TLS of applications is passed on unrouted",
    },
    ignored("http[].match[].statPrefix"),
    Field {
        path: "http[].delegate",
        effect: "not supported: the route is passed over",
    },
    ignored("http[].mirror"),
    ignored("http[].mirrors"),
    ignored("http[].mirrorPercent"),
    ignored("http[].mirror_percent"),
    ignored("http[].mirrorPercentage"),
    ignored("http[].corsPolicy"),
    ignored("http[].retries.retryRemoteLocalities"),
    ignored("http[].retries.retryIgnorePreviousHosts"),
    ignored("http[].retries.backoff"),
    Field {
        path: "tcp[].match[].destinationSubnets",
        effect: "not supported: the condition never holds",
    },
    ignored("tcp[].match[].sourceSubnet"),
];

const DESTINATION_RULE: &[Field] = &[Field {
    path: "workloadSelector",
    effect: "not supported: the rule is not applied",
}];

/// Of the policy of a host or subset.
const TRAFFIC_POLICY: &[Field] = &[
    ignored("tunnel"),
    ignored("proxyProtocol"),
    ignored("retryBudget"),
];

/// Of the policy of a host, a subset or a port.
const PORT_POLICY: &[Field] = &[
    ignored("loadBalancer.backendUtilization"),
    ignored("loadBalancer.localityLbSetting"),
    ignored("loadBalancer.zoneAwareLbSetting"),
    ignored("connectionPool.http.useClientProtocol"),
    ignored("outlierDetection.outlierDetectionHttpErrorCodes"),
    ignored("tls.credentialName"),
];

const WORKLOAD_ENTRY: &[Field] = &[ignored("network")];

const AUTHORIZATION_POLICY: &[Field] = &[
    refused("targetRef"),
    refused("targetRefs"),
    refused("provider"),
    refused("rules[].from[].source.requestPrincipals"),
    refused("rules[].from[].source.notRequestPrincipals"),
    refused("rules[].from[].source.trustDomains"),
    refused("rules[].from[].source.notTrustDomains"),
    refused("rules[].from[].source.remoteIpBlocks"),
    refused("rules[].from[].source.notRemoteIpBlocks"),
];

#[cfg(all(test, feature = "schema"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::istio::schema::schema;

    /// Paths of all fields whose description says that they are not supported.
    fn described(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let description = field["description"].as_str().unwrap_or_default();
            if description.starts_with("Not supported") {
                found.insert(path);
            } else if field["items"].is_object() {
                described(&field["items"], &format!("{path}[]"), found);
            } else {
                described(field, &path, found);
            }
        }
    }

    fn listed(kind: IstioKind) -> BTreeSet<String> {
        let of = |below: &str, fields: &[Field]| -> Vec<String> {
            fields
                .iter()
                .map(|field| format!("{below}{}", field.path))
                .collect()
        };
        let all = match kind {
            IstioKind::VirtualService => of("", VIRTUAL_SERVICE),
            IstioKind::DestinationRule => {
                let policies = ["trafficPolicy.", "subsets[].trafficPolicy."];
                let per_policy = policies.into_iter().flat_map(|policy| {
                    let ports = format!("{policy}portLevelSettings[].");
                    [
                        of(policy, TRAFFIC_POLICY),
                        of(policy, PORT_POLICY),
                        of(&ports, PORT_POLICY),
                    ]
                });
                per_policy
                    .flatten()
                    .chain(of("", DESTINATION_RULE))
                    .collect()
            }
            IstioKind::ServiceEntry => of("endpoints[].", WORKLOAD_ENTRY),
            IstioKind::WorkloadEntry => of("", WORKLOAD_ENTRY),
            IstioKind::PeerAuthentication => Vec::new(),
            IstioKind::AuthorizationPolicy => of("", AUTHORIZATION_POLICY),
            IstioKind::Gateway => of("", GATEWAY),
        };
        all.into_iter().collect()
    }

    #[test]
    fn what_is_listed_is_what_the_documentation_says() {
        for kind in IstioKind::ALL {
            let mut found = BTreeSet::new();
            described(&schema(kind)["properties"]["spec"], "", &mut found);
            assert_eq!(found, listed(kind), "{}", kind.as_str());
        }
    }
}
