//! `Gateway`: what a proxy at the edge of the mesh serves to callers outside of it.

mod validate;

use std::collections::BTreeMap;

use super::message::{choice, message};

message! {
    /// What the proxies at the edge of the mesh serve to callers outside of it.
    ///
    /// Source: <https://istio.io/latest/docs/reference/config/networking/gateway/>.
    pub struct Gateway {
        /// Its servers.
        pub servers: Vec<Server>,
        /// Labels that a gateway workload must have to serve them, each with this value, in
        /// whatever namespace it is; none selects every gateway.
        pub selector: BTreeMap<String, String>,
    }

    /// A port, and the hosts that are served on it.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["hosts", "port"])))]
    pub struct Server {
        /// The port at which the proxy listens.
        pub port: Option<ServerPort>,
        /// Not supported: refused. A server listens on every address of its gateway.
        pub bind: String,
        /// The hosts, as callers outside name them; the first label may be `*`. What stands before
        /// a `/` is the namespace whose `VirtualService`s may be bound to them: a name, `.` for
        /// this object's own, `*` for any, which is the default.
        pub hosts: Vec<String>,
        /// How TLS is spoken.
        pub tls: Option<ServerTls>,
        /// Not supported: refused, as by Istio, which never supported it.
        pub default_endpoint: String,
        /// A name for people.
        pub name: String,
    }

    /// The port of a server.
    #[cfg_attr(feature = "schema", schemars(extend("required" = ["name", "number", "protocol"])))]
    pub struct ServerPort {
        /// The number.
        pub number: u16,
        /// What is spoken: HTTP, HTTP2, GRPC, HTTPS, TCP or TLS.
        pub protocol: String,
        /// The name, unique in the object.
        pub name: String,
        /// Not supported: refused. The gateway listens at `number` itself.
        pub target_port: Option<u16>,
    }

    /// How TLS is spoken with callers.
    pub struct ServerTls {
        /// Whether requests of HTTP are answered with a redirect to HTTPS and nothing else.
        pub https_redirect: bool,
        /// Who ends TLS, and whether callers need certificates.
        pub mode: ServerTlsMode,
        /// Not supported: refused. Certificates are Secrets, named by `credentialName`.
        pub server_certificate: String,
        /// Not supported: refused. Keys are Secrets, named by `credentialName`.
        pub private_key: String,
        /// Not supported: refused. Roots for callers are in the Secrets that `credentialName` leads to.
        pub ca_certificates: String,
        /// Not supported: refused.
        pub ca_crl: String,
        /// Names of which a caller's certificate must have one, with `MUTUAL`.
        pub subject_alt_names: Vec<String>,
        /// The Secret of key and certificate, in the namespace of the gateway's workload.
        pub credential_name: String,
        /// Not supported: refused. One `credentialName` for each server.
        pub credential_names: Vec<String>,
        /// Not supported: refused. The roots for callers are found by `credentialName`.
        pub ca_cert_credential_name: String,
        /// Not supported: refused. Certificates are Secrets, named by `credentialName`.
        pub tls_certificates: Vec<ServerCertificate>,
        /// SHA-256 of public keys, in base64, of which a caller must have one, with `MUTUAL`.
        pub verify_certificate_spki: Vec<String>,
        /// SHA-256 of certificates, in hex, of which a caller must have one, with `MUTUAL`.
        pub verify_certificate_hash: Vec<String>,
        /// The oldest version that is spoken; 1.2 unless set.
        pub min_protocol_version: TlsVersion,
        /// The newest version that is spoken; 1.3 unless set.
        pub max_protocol_version: TlsVersion,
        /// The cipher suites of versions up to 1.2, in the order of preference; the proxy's own
        /// unless set.
        pub cipher_suites: Vec<String>,
        /// Not supported: refused.
        pub ecdh_curves: Vec<String>,
        /// Refused when true: a caller's certificate is always verified.
        pub insecure_skip_verify: Option<bool>,
    }

    /// Files of key and certificate.
    pub struct ServerCertificate {
        /// The certificate.
        pub server_certificate: String,
        /// The key.
        pub private_key: String,
        /// The roots for callers.
        pub ca_certificates: String,
    }
}

choice! {
    /// Who ends TLS, and whether callers need certificates.
    pub enum ServerTlsMode {
        /// The service that is called; the gateway goes by the server name alone.
        #[default]
        Passthrough,
        /// The gateway; callers need no certificate.
        Simple,
        /// The gateway; callers need a certificate of a root that is known.
        Mutual,
        /// Not supported: refused.
        AutoPassthrough,
        /// Not supported: refused. Callers of the mesh need no gateway.
        IstioMutual,
        /// Not supported: refused.
        OptionalMutual,
    }

    /// A version of TLS.
    pub enum TlsVersion {
        /// The default.
        #[default]
        TlsAuto,
        /// 1.0.
        Tlsv1_0,
        /// 1.1.
        Tlsv1_1,
        /// 1.2.
        Tlsv1_2,
        /// 1.3.
        Tlsv1_3,
    }
}

/// What a server speaks with its callers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServerProtocol {
    /// Requests in plaintext: HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    /// Requests over TLS that the gateway ends.
    Https,
    /// Bytes.
    Tcp,
    /// Bytes over TLS, ended by the gateway or, with `PASSTHROUGH`, by the service.
    Tls,
}

// === impl Server ===

impl Server {
    /// What is spoken; `None` for what is not supported.
    pub fn protocol(&self) -> Option<ServerProtocol> {
        let port = self.port.as_ref()?;
        Some(match port.protocol.to_ascii_uppercase().as_str() {
            "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => ServerProtocol::Http,
            "HTTPS" => {
                let mode = self.tls.as_ref().map(|tls| tls.mode);
                if mode == Some(ServerTlsMode::Passthrough) {
                    ServerProtocol::Tls
                } else {
                    ServerProtocol::Https
                }
            }
            "TCP" => ServerProtocol::Tcp,
            "TLS" => ServerProtocol::Tls,
            _ => return None,
        })
    }

    /// Whether every request is answered with a redirect to HTTPS.
    pub fn redirects(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.https_redirect)
    }
}

/// Whether a server of this protocol looks at TLS before anything else.
fn secured(protocol: ServerProtocol) -> bool {
    matches!(protocol, ServerProtocol::Https | ServerProtocol::Tls)
}

/// The name of the Secret in which the roots for callers are, where the server's own has no
/// `ca.crt`.
///
/// ```
/// # use mesh_model::istio::gateway::roots_name;
/// assert_eq!(roots_name("shop"), "shop-cacert");
/// ```
pub fn roots_name(credential_name: &str) -> String {
    format!("{credential_name}-cacert")
}
