//! Istio's rules for a `Gateway`, and what of it is not supported.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gateway, Server, ServerPort, ServerTls, ServerTlsMode, TlsVersion};
use crate::ObjectMeta;
use crate::istio::report::{Report, WILDCARD_HOST};
use crate::name;

/// What a port may speak.
const PROTOCOLS: [&str; 7] = ["HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TCP", "TLS"];

/// The cipher suites that Envoy knows.
///
/// Source: `envoy.extensions.transport_sockets.tls.v3.TlsParameters`.
const CIPHER_SUITES: [&str; 16] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "AES128-GCM-SHA256",
    "AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES256-GCM-SHA384",
    "AES256-SHA",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
];

impl Gateway {
    /// Adds what is wrong with it and what may surprise.
    pub(in crate::istio) fn validate(&self, _: &ObjectMeta, report: &mut Report) {
        report.labels("spec.selector", &self.selector);
        if self.selector.is_empty() {
            report.warn("spec.selector", "has no labels and selects every gateway");
        }
        if self.servers.is_empty() {
            report.wrong("spec.servers", "", "at least one server");
        }
        let mut names = BTreeSet::new();
        let mut spoken = BTreeMap::new();
        for (index, server) in self.servers.iter().enumerate() {
            let path = format!("spec.servers[{index}]");
            server.validate(&path, report);
            let Some(port) = &server.port else { continue };
            if !port.name.is_empty() && !names.insert(&port.name) {
                let expected = "a name that no port before has";
                report.wrong(format!("{path}.port.name"), &port.name, expected);
            }
            let Some(protocol) = server.protocol() else {
                continue;
            };
            let secured = super::secured(protocol);
            let known = *spoken.entry(port.number).or_insert((secured, protocol));
            // Servers of one port are told apart by what TLS shows first, or by the request.
            if known.0 != secured || !secured && known.1 != protocol {
                let expected = "a protocol that goes with the servers before on this port";
                report.wrong(format!("{path}.port.protocol"), &port.protocol, expected);
            }
        }
    }
}

impl Server {
    fn validate(&self, path: &str, report: &mut Report) {
        match &self.port {
            None => report.wrong(format!("{path}.port"), "", "a port"),
            Some(port) => port.validate(&format!("{path}.port"), report),
        }
        if self.hosts.is_empty() {
            report.wrong(format!("{path}.hosts"), "", "at least one host");
        }
        let mut seen = BTreeSet::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let path = format!("{path}.hosts[{index}]");
            validate_host(host, &path, report);
            if !seen.insert(host.to_ascii_lowercase()) {
                report.wrong(path, host, "a host that is not in the list yet");
            }
        }
        let protocol = self.port.as_ref().map(|port| port.protocol.as_str());
        let protocol = protocol.unwrap_or_default().to_ascii_uppercase();
        let needs_tls = matches!(protocol.as_str(), "HTTPS" | "TLS");
        let tls_path = format!("{path}.tls");
        match &self.tls {
            None if needs_tls => {
                let expected = "how TLS is spoken, which HTTPS and TLS need";
                report.wrong(tls_path, "", expected);
            }
            None => {}
            Some(tls) if needs_tls => tls.validate(&tls_path, report),
            Some(tls) => {
                let https_redirect = tls.https_redirect;
                let only = ServerTls {
                    https_redirect,
                    ..ServerTls::default()
                };
                if *tls != only {
                    let expected = "nothing but `httpsRedirect`, beside a protocol without TLS";
                    report.wrong(tls_path, "it", expected);
                } else if https_redirect && protocol == "TCP" {
                    let path = format!("{tls_path}.httpsRedirect");
                    report.wrong(path, "true", "`false`, where requests are not read");
                }
            }
        }
    }
}

impl ServerPort {
    fn validate(&self, path: &str, report: &mut Report) {
        report.port(&format!("{path}.number"), self.number);
        if SIDECAR_PORTS.contains(&self.number) {
            let expected = "a port that the proxy itself does not use (15000 to 15090)";
            report.wrong(format!("{path}.number"), &self.number.to_string(), expected);
        }
        report.demand(
            !self.name.is_empty(),
            format!("{path}.name"),
            "",
            "the name of the port",
        );
        let protocol = self.protocol.to_ascii_uppercase();
        let expected = format!("one of `{}`", PROTOCOLS.join("`, `"));
        report.demand(
            PROTOCOLS.contains(&protocol.as_str()),
            format!("{path}.protocol"),
            &self.protocol,
            expected,
        );
    }
}

impl ServerTls {
    fn validate(&self, path: &str, report: &mut Report) {
        if self.https_redirect {
            let path = format!("{path}.httpsRedirect");
            report.wrong(path, "true", "`false`, beside a protocol with TLS");
        }
        let mode = match self.mode {
            ServerTlsMode::Passthrough => return self.passes(path, report),
            ServerTlsMode::Simple => "SIMPLE",
            ServerTlsMode::Mutual => "MUTUAL",
            ServerTlsMode::AutoPassthrough => "AUTO_PASSTHROUGH",
            ServerTlsMode::IstioMutual => "ISTIO_MUTUAL",
            ServerTlsMode::OptionalMutual => "OPTIONAL_MUTUAL",
        };
        if !matches!(self.mode, ServerTlsMode::Simple | ServerTlsMode::Mutual) {
            let expected = "a mode that this mesh supports (`PASSTHROUGH`, `SIMPLE`, `MUTUAL`)";
            report.wrong(format!("{path}.mode"), mode, expected);
        }
        if !name::is_subdomain(&self.credential_name) {
            let expected = "the name of a Secret in the namespace of the gateway's workload";
            report.wrong(
                format!("{path}.credentialName"),
                &self.credential_name,
                expected,
            );
        }
        if self.mode != ServerTlsMode::Mutual {
            for (name, list) in self.of_callers() {
                let expected = "used with `MUTUAL`, where callers have certificates";
                let path = format!("{path}.{name}");
                report.demand(list.is_empty(), path, "it", expected);
            }
        }
        if self.insecure_skip_verify == Some(true) {
            let expected = "`false`: a caller's certificate is always verified";
            report.wrong(format!("{path}.insecureSkipVerify"), "true", expected);
        }
        self.fingerprints(path, report);
        let (least, most) = (self.min_protocol_version, self.max_protocol_version);
        if most != TlsVersion::TlsAuto && least as u8 > most as u8 {
            let expected = "a version that `maxProtocolVersion` allows";
            report.wrong(format!("{path}.minProtocolVersion"), "it", expected);
        }
        for (index, suite) in self.cipher_suites.iter().enumerate() {
            let path = format!("{path}.cipherSuites[{index}]");
            let known = CIPHER_SUITES.contains(&suite.as_str());
            report.demand(known, path, suite, "a cipher suite that Envoy knows");
        }
    }

    /// What TLS needs that is not ended here: nothing.
    fn passes(&self, path: &str, report: &mut Report) {
        let https_redirect = self.https_redirect;
        let only = Self {
            https_redirect,
            ..Self::default()
        };
        if *self != only {
            let expected = "nothing but the mode, where TLS is passed on as it is";
            report.wrong(path, "it", expected);
        }
    }

    fn of_callers(&self) -> [(&'static str, &[String]); 3] {
        [
            ("subjectAltNames", &self.subject_alt_names),
            ("verifyCertificateSpki", &self.verify_certificate_spki),
            ("verifyCertificateHash", &self.verify_certificate_hash),
        ]
    }

    /// Envoy refuses a whole listener for one that is none.
    fn fingerprints(&self, path: &str, report: &mut Report) {
        use base64::Engine as _;
        for (index, key) in self.verify_certificate_spki.iter().enumerate() {
            let decoded = base64::prelude::BASE64_STANDARD.decode(key);
            let path = format!("{path}.verifyCertificateSpki[{index}]");
            let is_right = decoded.is_ok_and(|bytes| bytes.len() == 32);
            report.demand(is_right, path, key, "a SHA-256 in base64");
        }
        for (index, hash) in self.verify_certificate_hash.iter().enumerate() {
            let digits: Vec<u8> = hash.bytes().filter(|byte| *byte != b':').collect();
            let is_right = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
            let path = format!("{path}.verifyCertificateHash[{index}]");
            report.demand(is_right, path, hash, "a SHA-256 in hex (64 digits)");
        }
        for (index, name) in self.subject_alt_names.iter().enumerate() {
            let path = format!("{path}.subjectAltNames[{index}]");
            report.demand(!name.is_empty(), path, "", "a name of a certificate");
        }
    }
}

/// A host, possibly with the namespace whose `VirtualService`s may be bound to it.
fn validate_host(text: &str, path: &str, report: &mut Report) {
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (namespace, host),
        None => ("*", text),
    };
    if !matches!(namespace, "*" | ".") && !name::is_label(namespace) {
        let expected = "a host, or `<namespace>/<host>` with `.`, `*` or a namespace";
        report.wrong(path, text, expected);
    } else if host != "*" && !name::is_wildcard_domain(host) {
        report.wrong(path, text, WILDCARD_HOST);
    } else if host.starts_with('*') && host != "*" && !host.starts_with("*.") {
        // A server name has a star for a whole label only.
        report.wrong(path, text, "a host whose `*` stands for a whole label");
    }
}

/// What the proxy itself listens at.
const SIDECAR_PORTS: std::ops::RangeInclusive<u16> = 15000..=15090;
