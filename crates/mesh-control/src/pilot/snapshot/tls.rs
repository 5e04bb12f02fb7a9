//! Mutual TLS of the mesh, at both ends, with certificates from the agent.
//!
//! A caller offers the application protocol [`MARKER`], so that the other side's listener can tell
//! mesh TLS from the application's own before it takes the connection. The server advertises no
//! protocol: what it negotiated would decide which HTTP it reads, while the filter chain is chosen
//! by what was offered. So the marker stays what it is, and HTTP/1 and HTTP/2 are told apart by
//! their first bytes.

use bytes::Bytes;
use mesh_model::istio::destination_rule::{ClientTls, TlsMode};
use mesh_model::istio::gateway::{ServerTls, TlsVersion};
use mesh_model::{SpiffeId, TrustDomain};
use mesh_proto::envoy::config::core::v3::{
    DataSource, TransportSocket, data_source, transport_socket,
};
use mesh_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use mesh_proto::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use mesh_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use mesh_proto::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use mesh_proto::envoy::r#type::matcher::v3::StringMatcher;

use super::wire;
use crate::pilot::mesh::{Entry, KeyPair, Secrets};

/// The application protocol by which a sidecar's connection is known.
pub(super) const MARKER: &str = "mesh";

/// Where Debian, Ubuntu and Alpine keep the roots that the machine trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The name that Envoy gives the transport socket.
const NAME: &str = "envoy.transport_sockets.tls";

/// TLS towards sidecars of `identities`, and no others.
pub(super) fn client(trust_domain: &TrustDomain, identities: &[SpiffeId]) -> TransportSocket {
    offering(MARKER, trust_domain, identities)
}

/// TLS towards a server of the control plane: no sidecar stands before it that would know the
/// marker, and it speaks gRPC only.
pub(super) fn control_plane(
    trust_domain: &TrustDomain,
    identities: &[SpiffeId],
) -> TransportSocket {
    offering("h2", trust_domain, identities)
}

fn offering(
    protocol: &str,
    trust_domain: &TrustDomain,
    identities: &[SpiffeId],
) -> TransportSocket {
    let mut accepted: Vec<_> = identities
        .iter()
        .map(|identity| wire::exact(identity.to_string()))
        .collect();
    if accepted.is_empty() {
        // No matcher would accept every certificate of the mesh; this one accepts none, since an
        // identity always has a path.
        accepted.push(wire::exact(format!("spiffe://{trust_domain}")));
    }
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            alpn_protocols: vec![protocol.to_owned()],
            ..common(accepted)
        }),
        // A resumed session would keep a peer that validation has since come to refuse.
        max_session_keys: wire::uint(0),
        ..Default::default()
    };
    socket(wire::any(&context))
}

/// TLS from sidecars of the trust domain; a certificate is required.
pub(super) fn server(trust_domain: &TrustDomain) -> TransportSocket {
    let accepted = vec![wire::prefix(format!("spiffe://{trust_domain}/"))];
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common(accepted)),
        require_client_certificate: wire::truth(true),
        // As above: each connection is validated anew.
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(SessionTicketKeysType::DisableStatelessSessionResumption(
            true,
        )),
        ..Default::default()
    };
    socket(wire::any(&context))
}

/// TLS of a gateway with callers outside the mesh; sessions of a caller who shows no certificate may
/// be resumed.
pub(super) fn edge(settings: &ServerTls, secrets: &Secrets, is_http: bool) -> TransportSocket {
    let is_mutual = secrets.is_mutual;
    let validation = is_mutual.then(|| {
        ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(tls::CertificateValidationContext {
                verify_certificate_spki: settings.verify_certificate_spki.clone(),
                verify_certificate_hash: settings.verify_certificate_hash.clone(),
                match_typed_subject_alt_names: settings
                    .subject_alt_names
                    .iter()
                    .flat_map(|name| of_server(name))
                    .collect(),
                ..Default::default()
            }),
            validation_context_sds_secret_config: Some(by_ads(roots_name(&secrets.name))),
            ..Default::default()
        })
    });
    let protocols = if is_http {
        &["h2", "http/1.1"][..]
    } else {
        &[]
    };
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(tls::TlsParameters {
                tls_minimum_protocol_version: version(
                    settings.min_protocol_version,
                    TlsProtocol::TlSv12,
                ),
                tls_maximum_protocol_version: version(
                    settings.max_protocol_version,
                    TlsProtocol::TlSv13,
                ),
                cipher_suites: settings.cipher_suites.clone(),
                ..Default::default()
            }),
            tls_certificate_sds_secret_configs: vec![by_ads(pair_name(&secrets.name))],
            alpn_protocols: protocols.iter().map(|name| (*name).to_owned()).collect(),
            validation_context_type: validation,
            ..Default::default()
        }),
        require_client_certificate: wire::truth(is_mutual),
        disable_stateful_session_resumption: is_mutual,
        session_ticket_keys_type: is_mutual.then_some(
            SessionTicketKeysType::DisableStatelessSessionResumption(true),
        ),
        ..Default::default()
    };
    socket(wire::any(&context))
}

fn version(version: TlsVersion, default: TlsProtocol) -> i32 {
    match version {
        TlsVersion::Tlsv1_0 => TlsProtocol::TlSv10,
        TlsVersion::Tlsv1_1 => TlsProtocol::TlSv11,
        TlsVersion::Tlsv1_2 => TlsProtocol::TlSv12,
        TlsVersion::Tlsv1_3 => TlsProtocol::TlSv13,
        _ => default,
    }
    .into()
}

/// Certificate and key of a Secret, as the proxy asks for them.
pub(super) fn pair_secret(name: &str, pair: &KeyPair) -> tls::Secret {
    tls::Secret {
        name: pair_name(name),
        r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: Some(bytes(&pair.chain)),
            private_key: Some(bytes(&pair.key)),
            ..Default::default()
        })),
    }
}

/// Roots of a Secret, as the proxy asks for them.
pub(super) fn roots_secret(name: &str, roots: &Bytes) -> tls::Secret {
    tls::Secret {
        name: roots_name(name),
        r#type: Some(tls::secret::Type::ValidationContext(
            tls::CertificateValidationContext {
                trusted_ca: Some(bytes(roots)),
                ..Default::default()
            },
        )),
    }
}

fn pair_name(secret: &str) -> String {
    format!("certificate/{secret}")
}

fn roots_name(secret: &str) -> String {
    format!("roots/{secret}")
}

fn bytes(bytes: &Bytes) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(bytes.clone())),
        ..Default::default()
    }
}

/// A secret that Pilot itself has under this name.
fn by_ads(name: String) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig {
        name,
        sds_config: wire::ads(),
    }
}

/// TLS that the proxy speaks for the application, towards servers outside the mesh.
///
/// The server's certificate must be of the host, whatever its rule leaves out; only a rule that
/// says so in as many words goes without.
pub(super) fn origination(settings: &ClientTls, entry: &Entry, http2: bool) -> TransportSocket {
    let host = match settings.sni.as_str() {
        "" => entry.service.host.as_str(),
        sni => sni,
    };
    let names = [&settings.subject_alt_names, &entry.subject_alt_names];
    let names = names.into_iter().find(|names| !names.is_empty());
    let accepted = match names {
        Some(names) => names.iter().flat_map(|name| of_server(name)).collect(),
        None => of_server(host),
    };
    let authorities = match settings.ca_certificates.as_str() {
        "" => SYSTEM_ROOTS,
        file => file,
    };
    let validation = tls::CertificateValidationContext {
        trusted_ca: Some(file(authorities)),
        match_typed_subject_alt_names: accepted,
        ..Default::default()
    };
    let verified = settings.insecure_skip_verify != Some(true);
    let own = (settings.mode == TlsMode::Mutual).then(|| tls::TlsCertificate {
        certificate_chain: Some(file(&settings.client_certificate)),
        private_key: Some(file(&settings.private_key)),
        ..Default::default()
    });
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificates: own.into_iter().collect(),
            alpn_protocols: vec![if http2 { "h2" } else { "http/1.1" }.to_owned()],
            validation_context_type: verified
                .then_some(ValidationContextType::ValidationContext(validation)),
            ..Default::default()
        }),
        sni: host.strip_prefix("*.").unwrap_or(host).to_owned(),
        ..Default::default()
    };
    socket(wire::any(&context))
}

/// A server's name, which is a DNS name unless it is written as a URI.
fn of_server(name: &str) -> Vec<tls::SubjectAltNameMatcher> {
    let kind = if name.contains("://") {
        SanType::Uri
    } else {
        SanType::Dns
    };
    vec![tls::SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(wire::exact(name)),
        ..Default::default()
    }]
}

fn file(path: &str) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::Filename(path.to_owned())),
        ..Default::default()
    }
}

/// What both ends have in common: TLS 1.3, our certificate, the mesh's roots, and whom we accept.
fn common(accepted: Vec<StringMatcher>) -> tls::CommonTlsContext {
    tls::CommonTlsContext {
        // Envoy's client would offer no more than 1.2 if it were not told.
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(tls::CertificateValidationContext {
                    match_typed_subject_alt_names: accepted.into_iter().map(uri).collect(),
                    ..Default::default()
                }),
                validation_context_sds_secret_config: Some(secret("ROOTCA")),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

/// A secret that the agent serves under this name.
fn secret(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: wire::secrets(),
    }
}

/// Matches a URI among the subject's alternative names.
fn uri(matcher: StringMatcher) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(matcher),
        ..Default::default()
    }
}

fn socket(context: mesh_proto::google::protobuf::Any) -> TransportSocket {
    TransportSocket {
        name: NAME.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(context)),
    }
}
