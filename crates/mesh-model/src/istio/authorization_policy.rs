//! `AuthorizationPolicy`: who may call a workload.

mod validate;

use super::message::{choice, message};
use super::shared::WorkloadSelector;

message! {
    /// Who may call workloads, and what for.
    ///
    /// What is not supported here is refused: a condition that is dropped makes a policy weaker.
    /// Source: <https://istio.io/latest/docs/reference/config/security/authorization-policy/>.
    pub struct AuthorizationPolicy {
        /// The workloads of this object's namespace that it holds for; all of them unless set, and
        /// all of the mesh in the root namespace.
        pub selector: Option<WorkloadSelector>,
        /// Not supported: refused. A gateway or service instead of workloads.
        pub target_ref: Option<TargetRef>,
        /// Not supported: refused. Gateways or services instead of workloads.
        pub target_refs: Vec<TargetRef>,
        /// Rules, of which one must match; none never matches, an empty one always does.
        pub rules: Vec<Rule>,
        /// What happens to requests that match.
        pub action: Action,
        /// Not supported: refused. Who is asked for `CUSTOM`.
        pub provider: Option<Provider>,
    }

    /// A gateway or a service.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["kind", "name"])))]
    pub struct TargetRef {
        /// The group of its kind.
        pub group: String,
        /// Its kind.
        pub kind: String,
        /// Its name.
        pub name: String,
        /// Its namespace.
        pub namespace: String,
    }

    /// Who is asked for `CUSTOM`.
    pub struct Provider {
        /// Its name.
        pub name: String,
    }

    /// Conditions on the caller, the operation and the rest, which must all hold.
    pub struct Rule {
        /// Callers, of which one must match; any unless set.
        pub from: Vec<RuleFrom>,
        /// Operations, of which one must match; any unless set.
        pub to: Vec<RuleTo>,
        /// Further conditions, which must all hold.
        pub when: Vec<Condition>,
    }

    /// A caller.
    pub struct RuleFrom {
        /// The caller.
        pub source: Option<Source>,
    }

    /// An operation.
    pub struct RuleTo {
        /// The operation.
        pub operation: Option<Operation>,
    }

    /// Conditions on a caller, which must all hold; of the values of one, any.
    ///
    /// Values may begin or end with `*`; `*` alone is any that is there.
    pub struct Source {
        /// Identities `<trust domain>/ns/<namespace>/sa/<service account>` that mutual TLS proved.
        pub principals: Vec<String>,
        /// Identities that it must not be.
        pub not_principals: Vec<String>,
        /// Not supported: refused. Identities of tokens.
        pub request_principals: Vec<String>,
        /// Not supported: refused. Identities of tokens that it must not be.
        pub not_request_principals: Vec<String>,
        /// Namespaces of the caller's identity.
        pub namespaces: Vec<String>,
        /// Namespaces that it must not be in.
        pub not_namespaces: Vec<String>,
        /// Service accounts `<namespace>/<service account>`, or of this object's namespace; not
        /// together with principals and namespaces, no `*`.
        pub service_accounts: Vec<String>,
        /// Service accounts that it must not be.
        pub not_service_accounts: Vec<String>,
        /// Not supported: refused. Trust domains of the caller's identity.
        pub trust_domains: Vec<String>,
        /// Not supported: refused. Trust domains that it must not be of.
        pub not_trust_domains: Vec<String>,
        /// Addresses and networks that the connection comes from.
        pub ip_blocks: Vec<String>,
        /// Addresses and networks that it must not come from.
        pub not_ip_blocks: Vec<String>,
        /// Not supported: refused. The first caller's addresses, as proxies in between say.
        pub remote_ip_blocks: Vec<String>,
        /// Not supported: refused. The same, which it must not be.
        pub not_remote_ip_blocks: Vec<String>,
    }

    /// Conditions on an operation, which must all hold; of the values of one, any.
    ///
    /// Values may begin or end with `*`; `*` alone is any that is there. All but ports are of HTTP.
    pub struct Operation {
        /// Hosts that the caller asked for, without regard to case.
        pub hosts: Vec<String>,
        /// Hosts that it must not be.
        pub not_hosts: Vec<String>,
        /// Ports of the workload.
        pub ports: Vec<String>,
        /// Ports that it must not be.
        pub not_ports: Vec<String>,
        /// Methods.
        pub methods: Vec<String>,
        /// Methods that it must not be.
        pub not_methods: Vec<String>,
        /// Paths, normalised, without the query; `{*}` stands for one segment, `{**}` for any.
        pub paths: Vec<String>,
        /// Paths that it must not be.
        pub not_paths: Vec<String>,
    }

    /// A further condition.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["key"])))]
    pub struct Condition {
        /// What is looked at: `request.headers[NAME]`, `source.ip`, `source.namespace`,
        /// `source.principal`, `source.serviceAccount`, `destination.ip`, `destination.port` or
        /// `connection.sni`.
        pub key: String,
        /// Values, of which one must match.
        pub values: Vec<String>,
        /// Values of which none may match.
        pub not_values: Vec<String>,
    }
}

choice! {
    /// What happens to requests that match.
    pub enum Action {
        /// They are allowed, and those that no such policy matches are not.
        #[default]
        Allow,
        /// They are refused.
        Deny,
        /// Not supported: refused. They are logged.
        Audit,
        /// Not supported: refused. Somebody else is asked.
        Custom,
    }
}

/// What a [`Condition`] looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Key<'a> {
    /// A header of the request, by its name.
    Header(&'a str),
    /// The address that the connection comes from.
    SourceIp,
    /// The namespace of the caller's identity.
    SourceNamespace,
    /// The caller's identity, as in [`Source::principals`].
    SourcePrincipal,
    /// The caller's service account, as in [`Source::service_accounts`].
    SourceServiceAccount,
    /// The address that the connection goes to.
    DestinationIp,
    /// The port that the connection goes to.
    DestinationPort,
    /// The server name that TLS asks for.
    Sni,
}

impl<'a> Key<'a> {
    /// What a key of Istio's means; `None` when this mesh does not support it.
    pub fn of(key: &'a str) -> Option<Self> {
        Some(match key {
            "source.ip" => Self::SourceIp,
            "source.namespace" => Self::SourceNamespace,
            "source.principal" => Self::SourcePrincipal,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            _ => {
                let name = key.strip_prefix("request.headers[")?.strip_suffix(']')?;
                return (!name.is_empty()).then_some(Self::Header(name));
            }
        })
    }
}

/// Whether a path of an [`Operation`] is a template, with `{*}` or `{**}` in it.
pub fn is_template(path: &str) -> bool {
    path.contains("{*}") || path.contains("{**}")
}
