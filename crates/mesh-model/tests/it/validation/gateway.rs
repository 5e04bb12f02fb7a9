//! Rules for what is served to the outside.

use mesh_model::istio::IstioKind::Gateway;

use super::{refuses, takes};
use crate::checked;

const HTTP: &str = "port: { number: 80, name: http, protocol: HTTP }, hosts: ['*']";

/// One server of HTTPS with these settings.
fn secured(tls: &str) -> String {
    let port = "port: { number: 443, name: https, protocol: HTTPS }";
    format!("{{ selector: {{ a: b }}, servers: [{{ {port}, hosts: [a.b], tls: {{ {tls} }} }}] }}")
}

#[test]
fn servers_that_are_supported_are_taken() {
    let plain = format!("{{ selector: {{ a: b }}, servers: [{{ {HTTP} }}] }}");
    let redirect = format!(
        "{{ selector: {{ a: b }}, servers: [{{ {HTTP}, tls: {{ httpsRedirect: true }} }}] }}"
    );
    let simple = secured("mode: SIMPLE, credentialName: shop");
    let mutual = secured(
        "mode: MUTUAL, credentialName: shop, minProtocolVersion: TLSV1_2, \
         maxProtocolVersion: TLSV1_3, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256], \
         subjectAltNames: [client.a.b]",
    );
    let passed = secured("mode: PASSTHROUGH");
    let hosts = plain.replace("'*'", "'shop/*.a.b', './c.d', '*/e.f', g");
    let tcp = plain.replace("HTTP", "TCP");
    takes(
        Gateway,
        &[&plain, &redirect, &simple, &mutual, &passed, &hosts, &tcp],
    );
}

#[test]
fn servers_that_are_wrong_are_refused() {
    let server = |text: &str| format!("{{ selector: {{ a: b }}, servers: [{{ {text} }}] }}");
    let port = |text: &str| server(&format!("port: {{ {text} }}, hosts: [a.b]"));
    let hosts = |text: &str| server(&HTTP.replace("'*'", text));
    let cases = [
        ("{ selector: { a: b } }".to_owned(), "spec.servers"),
        (server("hosts: [a.b]"), "spec.servers[0].port"),
        (
            port("number: 0, name: a, protocol: HTTP"),
            "spec.servers[0].port.number",
        ),
        (
            port("number: 15021, name: a, protocol: HTTP"),
            "spec.servers[0].port.number",
        ),
        (
            port("number: 80, protocol: HTTP"),
            "spec.servers[0].port.name",
        ),
        (
            port("number: 80, name: a, protocol: UDP"),
            "spec.servers[0].port.protocol",
        ),
        (
            port("number: 80, name: a, protocol: HTTP, targetPort: 81"),
            "spec.servers[0].port.targetPort",
        ),
        (
            port("number: 443, name: a, protocol: HTTPS"),
            "spec.servers[0].tls",
        ),
        (
            port("number: 80, name: a, protocol: HTTP").replace("hosts: [a.b]", "hosts: []"),
            "spec.servers[0].hosts",
        ),
        (hosts("'a b'"), "spec.servers[0].hosts[0]"),
        (hosts("'-/a.b'"), "spec.servers[0].hosts[0]"),
        (hosts("'*a.b'"), "spec.servers[0].hosts[0]"),
        (hosts("a.b, A.B"), "spec.servers[0].hosts[1]"),
        (
            server(&format!("{HTTP}, tls: {{ mode: SIMPLE }}")),
            "spec.servers[0].tls",
        ),
        (
            server(&format!("{HTTP}, bind: 127.0.0.1")),
            "spec.servers[0].bind",
        ),
        (
            format!("{{ selector: {{ a: b }}, servers: [{{ {HTTP} }}, {{ {HTTP} }}] }}"),
            "spec.servers[1].port.name",
        ),
    ];
    for (spec, path) in &cases {
        refuses(Gateway, &[(spec, path)]);
    }
}

#[test]
fn settings_of_tls_that_are_wrong_or_not_supported_are_refused() {
    for (tls, path) in [
        ("mode: SIMPLE", "credentialName"),
        ("mode: SIMPLE, credentialName: A", "credentialName"),
        ("mode: ISTIO_MUTUAL, credentialName: a", "mode"),
        ("mode: AUTO_PASSTHROUGH, credentialName: a", "mode"),
        ("mode: OPTIONAL_MUTUAL, credentialName: a", "mode"),
        (
            "mode: SIMPLE, credentialName: a, httpsRedirect: true",
            "httpsRedirect",
        ),
        (
            "mode: SIMPLE, credentialName: a, subjectAltNames: [b]",
            "subjectAltNames",
        ),
        (
            "mode: MUTUAL, credentialName: a, verifyCertificateHash: [b]",
            "verifyCertificateHash[0]",
        ),
        (
            "mode: MUTUAL, credentialName: a, verifyCertificateSpki: [b]",
            "verifyCertificateSpki[0]",
        ),
        (
            "mode: SIMPLE, credentialName: a, cipherSuites: [RC4]",
            "cipherSuites[0]",
        ),
        (
            "mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2",
            "minProtocolVersion",
        ),
        (
            "mode: SIMPLE, credentialName: a, privateKey: /etc/key",
            "privateKey",
        ),
        ("mode: SIMPLE, credentialName: a, caCrl: /etc/crl", "caCrl"),
        (
            "mode: MUTUAL, credentialName: a, insecureSkipVerify: true",
            "insecureSkipVerify",
        ),
    ] {
        refuses(
            Gateway,
            &[(&secured(tls), &format!("spec.servers[0].tls.{path}"))],
        );
    }
}

#[test]
fn servers_of_one_port_must_go_together() {
    let two = |second: &str| {
        format!("{{ selector: {{ a: b }}, servers: [{{ {HTTP} }}, {{ hosts: [a.b], {second} }}] }}")
    };
    let http = two("port: { number: 80, name: b, protocol: HTTP2 }");
    takes(Gateway, &[&http]);
    let tcp = two("port: { number: 80, name: b, protocol: TCP }");
    let tls = two("port: { number: 80, name: b, protocol: TLS }, tls: {}");
    for spec in [&tcp, &tls] {
        refuses(Gateway, &[(spec, "spec.servers[1].port.protocol")]);
    }
}

#[test]
fn an_object_for_every_gateway_says_so() {
    let warnings = checked(Gateway, &format!("{{ servers: [{{ {HTTP} }}] }}")).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}
