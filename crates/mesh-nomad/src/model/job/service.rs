//! A service that a group or a task registers, and its checks.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::Nanoseconds;

object! {
    /// A service.
    pub struct Service {
        /// Its name in the catalogue.
        name: String = "Name",
        /// `nomad` or `consul`; Nomad takes an empty one for `consul`.
        provider: String = "Provider",
        /// The port, by its label or number.
        port_label: String = "PortLabel",
        /// Which address the catalogue gets: `auto`, `host`, `driver`, `alloc` or `alloc_ipv6`.
        address_mode: String = "AddressMode",
        /// An address of the operator's own.
        address: String = "Address",
        /// The task, for services of a task or for script checks.
        task_name: String = "TaskName",
        /// Words in the catalogue.
        tags: Vec<String> = "Tags",
        /// The same while the allocation is a canary.
        canary_tags: Vec<String> = "CanaryTags",
        /// Words of the operator. Nomad's own catalogue drops them; the job keeps them.
        meta: BTreeMap<String, String> = "Meta",
        /// Checks of its health.
        checks: Vec<Check> = "Checks",
        /// Consul's mesh.
        connect: Value = "Connect",
    }
}

object! {
    /// A check of a service's health.
    pub struct Check {
        /// Its name.
        name: String = "Name",
        /// `http`, `tcp`, `grpc`, `script` or `ttl`; Nomad's own catalogue knows the first two.
        kind: String = "Type",
        /// The path of a request.
        path: String = "Path",
        /// The method of a request.
        method: String = "Method",
        /// `http` or `https`.
        protocol: String = "Protocol",
        /// The port, if not the service's.
        port_label: String = "PortLabel",
        /// Which address is checked, if not the service's.
        address_mode: String = "AddressMode",
        /// Header fields of a request.
        header: BTreeMap<String, Vec<String>> = "Header",
        /// The body of a request.
        body: String = "Body",
        /// The service that a gRPC check asks about.
        grpc_service: String = "GRPCService",
        /// Whether a gRPC check speaks TLS.
        grpc_use_tls: bool = "GRPCUseTLS",
        /// Whether the certificate is not verified.
        tls_skip_verify: bool = "TLSSkipVerify",
        /// The name that the certificate must have.
        tls_server_name: String = "TLSServerName",
        /// Whether Consul's proxy is to let it in.
        expose: bool = "Expose",
        /// The task that a script runs in.
        task_name: String = "TaskName",
        /// How often.
        interval: Nanoseconds = "Interval",
        /// How long one may take.
        timeout: Nanoseconds = "Timeout",
    }
}
